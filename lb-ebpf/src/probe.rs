//! The probes' way: packets of marked sockets go to one backend as the balancer's would, and the answers come back to the prober.
//!
//! ```text
//!  prober's namespace            host                               backend
//!  socket ─▶ label ══ veth ══▶ send ─▶ eth1 ────────────────────▶ (decapsulates)
//!         ◀────────────────────────── answer ◀─ eth0 ◀─────────── (answers directly)
//! ```
//!
//! Programs of tc, attached as tcx (Linux 6.6) or to a clsact qdisc. Neither host nor prober look at a route to the VIP, so it may be the
//! host's own address.
#![no_std]
#![no_main]

mod encapsulate;

use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, TC_ACT_OK, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::{
    bpf_redirect, bpf_redirect_peer, bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_load_bytes_relative,
};
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::{HashMap, LruHashMap};
use aya_ebpf::programs::TcContext;
use lb_common::encap::ETH_LEN;
use lb_common::map::{FAMILY_V4, FAMILY_V6, Rewrite};
use lb_common::probe::{Direction, Label, ProbeFlow, flow_v4, flow_v6, is_unreachable};

use crate::encapsulate::{Front, encapsulate};

/// Room for every pair of service and backend that a node may have; without preallocation it costs nothing.
const TARGETS: u32 = 4_000_000;
/// Four times as many as probes can be under way, because an LRU drops the oldest only roughly.
const FLOWS: u32 = 65_536;

#[map]
static PROBES: HashMap<u32, Rewrite> = HashMap::with_max_entries(TARGETS, BPF_F_NO_PREALLOC);
#[map]
static PROBE_FLOWS: LruHashMap<ProbeFlow, u32> = LruHashMap::with_max_entries(FLOWS, 0);

/// Writes the socket's mark, the number of the target, into the frame, and its priority, the length up to which the packet is padded: they
/// do not leave the namespace themselves.
#[classifier]
pub fn lb_probe_label(ctx: TcContext) -> i32 {
    // SAFETY: fields of the program's own context.
    let (number, priority) = unsafe { ((*ctx.skb.skb).mark, (*ctx.skb.skb).priority) };
    let padded = priority as u16;
    match ctx.skb.store(0, &Label { number, padded }.bytes(), 0) {
        Ok(()) => TC_ACT_OK,
        Err(_) => TC_ACT_SHOT,
    }
}

/// Sends a labelled packet to its target. Its frames come from the prober's end through no XDP program, so they begin with the Ethernet
/// header; one that does not has no label.
#[classifier]
pub fn lb_probe_send(ctx: TcContext) -> i32 {
    match send(&ctx) {
        Some(ifindex) => {
            // SAFETY: a plain call.
            unsafe { bpf_redirect(ifindex, 0) as i32 }
        }
        // Nothing else has business on this wire.
        None => TC_ACT_SHOT,
    }
}

#[inline(always)]
fn send(ctx: &TcContext) -> Option<u32> {
    let label = Label::read(&ctx.load(0).ok()?)?;
    // SAFETY: an entry that is replaced meanwhile stays readable until the program has ended.
    let rewrite = unsafe { PROBES.get(label.number) }?;
    let packet = packet(ctx, Direction::Out)?;
    // SAFETY: a field of the program's own context: the end of the wire that leads to the prober.
    let wire = unsafe { (*ctx.skb.skb).ifindex };
    // SAFETY: as above. To look is cheaper than to write, and the first packet of a flow has written.
    if unsafe { PROBE_FLOWS.get(packet.flow) } != Some(&wire) {
        PROBE_FLOWS.insert(packet.flow, wire, 0).ok()?;
    }
    let length = pad(ctx, packet.length, label.padded)?;
    // One flow label for all probes: it need not differ.
    encapsulate(ctx, rewrite, length, packet.traffic_class, 0).ok()?;
    Some(rewrite.ifindex)
}

/// Appends zeros to a packet of `length` bytes until it has `padded`; returns its length then.
///
/// The packet itself stays as it is, and so does its answer: the outer header counts the zeros, and the inner header does not. A receiver
/// cuts off what lies behind a packet's own length (RFC 894 for Ethernet's padding; Linux: `ip_rcv_core`, `ip6_rcv_core`). So routers
/// see a packet of that size, and no server gets a byte that its client did not send.
#[inline(always)]
fn pad(ctx: &TcContext, length: u32, padded: u16) -> Option<u32> {
    let padded = u32::from(padded);
    if padded <= length {
        return Some(length);
    }
    // SAFETY: the context is the program's own. On the way in, the length is bounded by the kernel's 16 KiB and no MTU. Linux 4.9.
    let failed = unsafe { bpf_skb_change_tail(ctx.skb.skb, ETH_LEN as u32 + padded, 0) };
    (failed == 0).then_some(padded)
}

/// Hands to the prober what belongs to one of its flows, and leaves everything else alone.
#[classifier]
pub fn lb_probe_answer(ctx: TcContext) -> i32 {
    // SAFETY: a field of the program's own context.
    let to = unsafe { (*ctx.skb.skb).pkt_type };
    // An answer is for one host. What is marked as another's may be for a macvlan of this one's, and has a prober's address and port.
    if matches!(to, PACKET_BROADCAST | PACKET_MULTICAST) {
        return TC_ACT_UNSPEC;
    }
    let wire = packet(&ctx, Direction::Back)
        // SAFETY: as in `send`.
        .and_then(|packet| unsafe { PROBE_FLOWS.get(packet.flow) });
    match wire {
        // SAFETY: a plain call. Linux 5.10.
        Some(wire) => unsafe { bpf_redirect_peer(*wire, 0) as i32 },
        None => TC_ACT_UNSPEC,
    }
}

struct Packet {
    flow: ProbeFlow,
    length: u32,
    traffic_class: u8,
}

/// Bytes of the packet, counted from its network header.
///
/// Not from the packet's beginning. That is the Ethernet header, but behind generic XDP it may be the network header: the kernel copies
/// a packet with too little headroom, or in several pieces, and the copy lacks the length of its Ethernet header (`mac_len`, Linux 6.9),
/// by which tc goes back. Linux 4.18.
///
/// The helper reads the linear part alone. A driver may hand up a packet whose headers lie in a page: then they are pulled into that part.
#[inline(always)]
fn load<const N: usize>(ctx: &TcContext, offset: u32) -> Option<[u8; N]> {
    linear(ctx, offset).or_else(|| {
        // SAFETY: a field of the program's own context.
        let length = unsafe { (*ctx.skb.skb).len }.min(MOST_HEADERS);
        ctx.pull_data(length).ok()?;
        linear(ctx, offset)
    })
}

/// An Ethernet header, the longest that is read behind it: IPv6, ICMP, and the same again in its payload.
const MOST_HEADERS: u32 = ETH_LEN as u32 + 2 * (40 + 8);

#[inline(always)]
fn linear<const N: usize>(ctx: &TcContext, offset: u32) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: the helper writes at most `N` bytes to `bytes`, which has as many.
    let failed = unsafe {
        bpf_skb_load_bytes_relative(
            ctx.skb.skb.cast(),
            offset,
            bytes.as_mut_ptr().cast(),
            N as u32,
            BPF_HDR_START_NET,
        )
    };
    (failed == 0).then_some(bytes)
}

#[inline(always)]
fn packet(ctx: &TcContext, direction: Direction) -> Option<Packet> {
    match (ctx.skb.protocol() as u16).to_be() {
        ETH_P_IP => {
            let header: [u8; 20] = load(ctx, 0)?;
            let transport: [u8; 8] = load(ctx, 20)?;
            let flow = if direction == Direction::Back && is_unreachable(FAMILY_V4, header[9], &transport) {
                flow_v4(&load(ctx, 28)?, &load(ctx, 48)?, Direction::Out)
            } else {
                flow_v4(&header, &transport, direction)
            };
            Some(Packet {
                flow: flow?,
                length: u16::from_be_bytes([header[2], header[3]]).into(),
                traffic_class: header[1],
            })
        }
        ETH_P_IPV6 => {
            let header: [u8; 40] = load(ctx, 0)?;
            let transport: [u8; 8] = load(ctx, 40)?;
            let flow = if direction == Direction::Back && is_unreachable(FAMILY_V6, header[6], &transport) {
                flow_v6(&load(ctx, 48)?, &load(ctx, 88)?, Direction::Out)
            } else {
                flow_v6(&header, &transport, direction)
            };
            Some(Packet {
                flow: flow?,
                length: 40 + u32::from(u16::from_be_bytes([header[4], header[5]])),
                traffic_class: header[0] << 4 | header[1] >> 4,
            })
        }
        _ => None,
    }
}

impl Front for TcContext {
    #[inline(always)]
    fn grow(&self, bytes: usize) -> bool {
        // SAFETY: the context is the program's own. For tc since Linux 5.8.
        unsafe { bpf_skb_change_head(self.skb.skb, bytes as u32, 0) == 0 }
    }

    #[inline(always)]
    fn head<T>(&self) -> Option<*mut T> {
        let start = self.data();
        if start + size_of::<T>() > self.data_end() {
            return None;
        }
        Some(start as *mut T)
    }
}

/// `PACKET_BROADCAST` and `PACKET_MULTICAST` of `linux/if_packet.h`.
const PACKET_BROADCAST: u32 = 1;
const PACKET_MULTICAST: u32 = 2;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86DD;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
