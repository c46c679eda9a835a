//! The packet's way: parse → service → addressee → flow hash → slot → backend → rewrite → `XDP_TX` or redirect.
//!
//! [`balance`] reads top to bottom as a packet goes. What is not for a VIP is passed as early as possible, untouched. A way out
//! other than to a backend is a [`Reason`], which is also its counter; a forwarded packet is counted once, in the row
//! of its (service, backend) pair.
#![no_std]
#![no_main]
// For `tables::in_register`. The linters look at this crate as one for the host, by a stable compiler.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod encapsulate;
mod frame;
mod rewrite;
mod tables;
mod track;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::hash::{flow_hash, slot};
use lb_common::local_mac::is_group;
use lb_common::map::{BackendNumber, BackendRow, NOBODY, ServiceEntry, Slot, flag};
use lb_common::parse::{Candidate, Family, Flow, Packet, destination, family, ipv4, ipv6};
use lb_common::reason::Reason;

use crate::frame::{Frame, Plain};
use crate::tables::{Access, ByKey, LargeRing, Whole};
use crate::track::Asked;

/// The program that is attached to the interfaces, for tables that are one value each.
#[xdp(frags)]
pub fn balance(ctx: XdpContext) -> u32 {
    first(&ctx, Whole)
}

/// The same for rings that are too long for one value.
#[xdp(frags)]
pub fn balance_large_ring(ctx: XdpContext) -> u32 {
    first(&ctx, LargeRing)
}

/// The same for tables that are looked up by key.
#[xdp(frags)]
pub fn balance_by_key(ctx: XdpContext) -> u32 {
    first(&ctx, ByKey)
}

/// Why a packet was not forwarded.
enum Stop {
    /// It is counted and passed or dropped.
    For(Reason),
    /// It is no plain packet of a slot at rest, and is read again by what knows all kinds.
    Unusual,
}

impl From<Reason> for Stop {
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        Stop::For(reason)
    }
}

/// The short way, of nearly all packets. It calls nothing before the packet is chosen a backend: a call that might happen
/// makes the compiler keep on the stack what it would keep in registers, for every packet.
#[inline(always)]
fn first<T: Tables>(ctx: &XdpContext, tables: T) -> u32 {
    let frame = Plain(Frame::of(ctx));
    match forward(ctx, &frame, tables) {
        Ok(action) => action,
        Err(Stop::Unusual | Stop::For(Reason::Truncated | Reason::BadIpHeader)) => tables.second(ctx),
        Err(Stop::For(reason)) => stop(reason),
    }
}

/// The whole way, for a packet that the short one left.
#[inline(always)]
fn second<T: Tables>(ctx: *mut xdp_md, tables: T) -> u32 {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::of(&ctx);
    match forward(&ctx, &frame, tables) {
        Ok(action) => action,
        Err(Stop::For(reason)) => stop(reason),
        Err(Stop::Unusual) => stop(Reason::BrokenTable),
    }
}

#[inline(always)]
fn stop(reason: Reason) -> u32 {
    tables::count_reason(reason);
    if reason.is_drop() { XDP_DROP } else { XDP_PASS }
}

/// Each family has the whole way to itself, so that the compiler folds what it knows of one family into every stage.
#[inline(always)]
fn forward<P: Packet, T: Tables>(ctx: &XdpContext, frame: &P, tables: T) -> Result<u32, Stop> {
    match family(frame)? {
        Family::V4 => send(ctx, frame, &ipv4(frame)?, tables),
        Family::V6 => send(ctx, frame, &ipv6(frame)?, tables),
    }
}

#[inline(always)]
fn send<P: Packet, T: Tables>(ctx: &XdpContext, frame: &P, candidate: &Candidate, tables: T) -> Result<u32, Stop> {
    let Choice {
        flow,
        hash,
        row_index,
        row,
    } = choose(ctx, frame, candidate, tables, false)?;
    let action = rewrite::rewrite(ctx, row, &flow, hash)?;
    tables::count_pair(tables, row_index, flow.length);
    Ok(action)
}

/// What was decided for a packet before a byte of it is changed.
struct Choice {
    flow: Flow,
    hash: u64,
    row_index: u64,
    row: &'static BackendRow,
}

#[inline(always)]
fn choose<P: Packet, T: Tables>(
    ctx: &XdpContext,
    frame: &P,
    candidate: &Candidate,
    tables: T,
    peek: bool,
) -> Result<Choice, Stop> {
    let service = tables::service(tables, candidate.key, candidate.v6()).ok_or(Reason::NotAVip)?;
    addressed(ctx, frame, peek)?;
    let flow = candidate.complete(frame)?;
    let hash = hash_for(service, &flow);
    // One load: a service that moves changes both bases at once.
    let bases = tables::bases(service);
    let slot = tables.slot((bases & 0xFFFF_FFFF) + u64::from(slot(hash, service.ring_size)))?;
    let mut number = slot.current();
    if !slot.is_stable() {
        if P::PLAIN {
            return Err(Stop::Unusual);
        }
        let flow = whole_hash(service, &flow, hash);
        let asked = Asked { slot, peek, hash, flow };
        number = tables.owner(ctx, service, asked);
    }
    if number == NOBODY {
        return Err(Reason::NoBackend.into());
    }
    let row_index = (bases >> 32) + u64::from(number);
    // The short way has it in a register all along.
    let row = tables.backend(if P::PLAIN {
        row_index
    } else {
        tables::in_register(row_index)
    })?;
    Ok(Choice {
        flow,
        hash,
        row_index,
        row,
    })
}

/// Whether the frame is for this host at all: a switch that floods shows it to every host on the link.
///
/// With `peek` there is no interface that it came by: then only what is for a group is nobody's.
#[inline(always)]
fn addressed<P: Packet>(ctx: &XdpContext, frame: &P, peek: bool) -> Result<(), Stop> {
    let head = destination(frame)?;
    if peek {
        return if is_group(head) {
            Err(Reason::OtherHost.into())
        } else {
            Ok(())
        };
    }
    if tables::is_local_at_once(ctx, head) {
        return Ok(());
    }
    if P::PLAIN {
        return Err(Stop::Unusual);
    }
    if tables::is_local(head, ctx.ingress_ifindex() as u32) {
        Ok(())
    } else {
        Err(Reason::OtherHost.into())
    }
}

#[inline(always)]
fn hash_for(service: &ServiceEntry, flow: &Flow) -> u64 {
    let keys = tables::hash_keys(flow.v6);
    let (mut high, mut low, mut port) = (flow.source_high, flow.source_low, flow.source_port);
    // A branch, and not masks always applied: predicted, it keeps the hash independent of the service's entry.
    if service.flags != flag::HASH_FLOW {
        if service.flags & flag::HASH_ADDRESS == 0 {
            (high, low) = (0, 0);
        }
        if service.flags & flag::HASH_PORT == 0 {
            port = 0;
        }
    }
    flow_hash(&keys, service.salt, flow.v6, high, low, port)
}

/// The hash of address and port, whatever of them the service hashes.
#[inline(always)]
fn whole_hash(service: &ServiceEntry, flow: &Flow, hash: u64) -> u64 {
    if service.flags & flag::HASH_FLOW == flag::HASH_FLOW {
        return hash;
    }
    let keys = tables::hash_keys(flow.v6);
    let (high, low, port) = (flow.source_high, flow.source_low, flow.source_port);
    flow_hash(&keys, service.salt, flow.v6, high, low, port)
}

/// Tells which backend a frame's flow has, or would have if it began now, by the same tables and the same code, and changes and
/// counts nothing.
///
/// Run by userspace through `BPF_PROG_TEST_RUN`, never attached. The answer overwrites the frame's first 8 bytes: the row's
/// index and the reason's number ([`Reason::Forwarded`] if there is a row), both 4 bytes in the machine's order.
#[xdp]
pub fn lookup(ctx: XdpContext) -> u32 {
    tell(&ctx, Whole)
}

/// The same for rings that are too long for one value.
#[xdp]
pub fn lookup_large_ring(ctx: XdpContext) -> u32 {
    tell(&ctx, LargeRing)
}

/// The same for tables that are looked up by key.
#[xdp]
pub fn lookup_by_key(ctx: XdpContext) -> u32 {
    tell(&ctx, ByKey)
}

#[inline(always)]
fn tell<T: Tables>(ctx: &XdpContext, tables: T) -> u32 {
    let (row_index, reason) = match ask(ctx, tables) {
        Ok(choice) => (choice.row_index as u32, Reason::Forwarded),
        Err(Stop::For(reason)) => (0, reason),
        Err(Stop::Unusual) => (0, Reason::BrokenTable),
    };
    match frame::answer(ctx, row_index, reason as u32) {
        Some(()) => XDP_PASS,
        None => XDP_DROP,
    }
}

#[inline(always)]
fn ask<T: Tables>(ctx: &XdpContext, tables: T) -> Result<Choice, Stop> {
    let frame = Frame::of(ctx);
    // Split as in `forward`: merged, the verifier would not know which header a candidate has.
    match family(&frame)? {
        Family::V4 => choose(ctx, &frame, &ipv4(&frame)?, tables, true),
        Family::V6 => choose(ctx, &frame, &ipv6(&frame)?, tables, true),
    }
}

/// What differs with how the kernel holds the tables: how an element is found, and the functions of their own that need to know.
///
pub trait Tables: Access {
    /// The way of a packet that is not plain.
    fn second(self, ctx: &XdpContext) -> u32;

    /// The stage for slots that are not stable; see [`track::decide`].
    fn owner(self, ctx: &XdpContext, service: &ServiceEntry, asked: Asked) -> BackendNumber;
}

macro_rules! functions {
    ($($tables:ident: $second:ident, $owner:ident;)+) => {
        $(
            impl Tables for $tables {
                #[inline(always)]
                fn second(self, ctx: &XdpContext) -> u32 {
                    $second(ctx.as_ptr().cast())
                }

                #[inline(always)]
                fn owner(self, ctx: &XdpContext, service: &ServiceEntry, asked: Asked) -> BackendNumber {
                    // A BPF function takes five arguments.
                    let slot = u64::from(asked.slot.0) | u64::from(asked.peek) << 32;
                    $owner(ctx.as_ptr().cast(), service, slot, asked.hash, asked.flow) as BackendNumber
                }
            }

            #[inline(never)]
            fn $second(ctx: *mut xdp_md) -> u32 {
                second(ctx, $tables)
            }

            #[inline(never)]
            fn $owner(ctx: *mut xdp_md, service: &ServiceEntry, slot: u64, hash: u64, flow: u64) -> u64 {
                let (slot, peek) = (Slot(slot as u32), slot >> 32 != 0);
                track::decide(ctx, service, Asked { slot, peek, hash, flow }, $tables)
            }
        )+
    };
}

functions! {
    Whole: second_whole, owner_whole;
    LargeRing: second_large_ring, owner_large_ring;
    ByKey: second_by_key, owner_by_key;
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
