//! The packet benchmark's programs: the wrapper around the program under test, and what it is compared with.
//!
//! `docs/benchmark.md` explains the method. The wrapper reaches the program under test by a tail call from a subprogram, so that
//! control comes back; it then undoes the program's growth of the packet and writes anew what forwarding changes, so that
//! every packet is the same, or the same but for its flow. Each program is there twice: a program array holds either programs
//! that take fragments (`xdp.frags`) or such as do not (`bpf_prog_map_compatible`, Linux 5.18).
#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, ProgramArray};
use aya_ebpf::programs::XdpContext;
use lb_common::bench::{PACKETS, PORTS_OF_A_CLIENT, Wrapper, bit};

#[map]
static TARGET: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
static WRAPPER: Array<Wrapper> = Array::with_max_entries(1, 0);

/// Each function as two programs: `NAME`, and `NAME_frags` that takes fragments.
macro_rules! programs {
    ($($function:ident: $plain:ident, $frags:ident;)+) => {
        $(
            #[xdp]
            fn $plain(ctx: XdpContext) -> u32 {
                $function(&ctx)
            }

            #[xdp(frags)]
            fn $frags(ctx: XdpContext) -> u32 {
                $function(&ctx)
            }
        )+
    };
}

programs! {
    wrap: wrapper, wrapper_frags;
    transmit: nothing, nothing_frags;
    parse: floor_parse, floor_parse_frags;
    encapsulate_v4: floor_v4, floor_v4_frags;
    encapsulate_v6: floor_v6, floor_v6_frags;
}

#[inline(always)]
fn wrap(ctx: &XdpContext) -> u32 {
    let Some(wrapper) = WRAPPER.get_ptr_mut(0) else {
        return XDP_ABORTED;
    };
    // SAFETY: the map's only value; the driver does not touch it while the programs run, on one CPU.
    let wrapper = unsafe { &mut *wrapper };
    for _ in 0..PACKETS {
        if one(ctx, wrapper).is_none() {
            return XDP_ABORTED;
        }
    }
    XDP_TX
}

#[inline(always)]
fn one(ctx: &XdpContext, wrapper: &mut Wrapper) -> Option<()> {
    restore(ctx, wrapper)?;
    if wrapper.flow_mask != 0 {
        vary(ctx, wrapper)?;
    }
    let length = length(ctx);
    let verdict = call(ctx.ctx);
    if wrapper.bits & bit::PAIR != 0 {
        adjust(ctx, -20)?;
        adjust(ctx, 20)?;
    }
    let growth = self::length(ctx) - length;
    wrapper.packets += 1;
    wrapper.verdicts[(verdict & 7) as usize] += 1;
    if growth != i64::from(wrapper.growth) {
        wrapper.other_growth += 1;
    }
    if growth != 0 {
        adjust(ctx, growth as i32)?;
    }
    Some(())
}

/// A call into the program under test. What it returns is the subprogram's return value.
#[inline(never)]
fn call(ctx: *mut xdp_md) -> u32 {
    let unreached = 7;
    // SAFETY: the context is the program's own.
    unsafe {
        TARGET.tail_call(&XdpContext::new(ctx), 0);
        // Reached only if there is no program. Volatile: the compiler would else tell the wrapper that it is always 7.
        core::ptr::read_volatile(&unreached)
    }
}

#[inline(always)]
fn adjust(ctx: &XdpContext, bytes: i32) -> Option<()> {
    // SAFETY: the context is the program's own.
    (unsafe { bpf_xdp_adjust_head(ctx.ctx, bytes) } == 0).then_some(())
}

#[inline(always)]
fn length(ctx: &XdpContext) -> i64 {
    ctx.data_end() as i64 - ctx.data() as i64
}

/// The first `N` bytes, for writing.
#[inline(always)]
fn head<const N: usize>(ctx: &XdpContext) -> Option<*mut u8> {
    let start = ctx.data();
    (start + N <= ctx.data_end()).then_some(start as *mut u8)
}

/// Writes what a forwarding program changes: the Ethernet header, and TTL and checksum or hop limit.
///
/// A load that reads bytes of a store still in the CPU's store buffer, and others too, waits until the store has left it, some 12
/// cycles. A real packet's header arrives whole. So whole words are written, the Ethernet header's last with the two bytes after it, and
/// IPv4's from identification to checksum: a load of up to 8 bytes at a field's own place then finds all it reads in one store.
#[inline(always)]
fn restore(ctx: &XdpContext, wrapper: &Wrapper) -> Option<()> {
    let start = head::<26>(ctx)?;
    let v4 = wrapper.bits & bit::IPV6 == 0;
    // SAFETY: `head` checked the bounds, and all reads are within the 64 bytes of `wrapper.head`. Alignment: as in `lb_common::parse`.
    unsafe {
        let pristine = wrapper.head.as_ptr().cast::<u8>();
        if wrapper.bits & bit::FIELDS == 0 {
            start.cast::<u64>().write_volatile(wrapper.head[0]);
            start.cast::<u64>().add(1).write_volatile(wrapper.head[1]);
            if v4 {
                let word = pristine.add(18).cast::<u64>().read();
                start.add(18).cast::<u64>().write_volatile(word);
            } else {
                // Payload length, next header, hop limit: the source address follows.
                let word = pristine.add(18).cast::<u32>().read();
                start.add(18).cast::<u32>().write_volatile(word);
            }
        } else {
            let from = wrapper.head.as_ptr().cast::<u16>();
            let to = start.cast::<u16>();
            let mut at = 0;
            while at < 7 {
                to.add(at).write_volatile(from.add(at).read_volatile());
                at += 1;
            }
            if v4 {
                start.add(22).write_volatile(pristine.add(22).read());
                let checksum = pristine.add(24).cast::<u16>().read();
                start.add(24).cast::<u16>().write_volatile(checksum);
            } else {
                start.add(21).write_volatile(pristine.add(21).read());
            }
        }
    }
    Some(())
}

/// Makes the packet one of the next flow: writes the client's address and port, and the VIP if there are several.
#[inline(always)]
fn vary(ctx: &XdpContext, wrapper: &Wrapper) -> Option<()> {
    let number = (wrapper.packets as u32).wrapping_mul(wrapper.stride);
    let flow = (number & wrapper.flow_mask).wrapping_add(wrapper.first_flow);
    let client = flow / PORTS_OF_A_CLIENT;
    let port = (1024 + flow % PORTS_OF_A_CLIENT * 977) as u16;
    // Of the flow's other bits, so that a flow always has the same destination.
    let spread = flow.wrapping_mul(0x9E37_79B1);
    let destination = (u64::from(spread) * u64::from(wrapper.destinations)) >> 32;
    if wrapper.bits & bit::IPV6 == 0 {
        vary_v4(ctx, wrapper, client, port, destination as u32)
    } else {
        vary_v6(ctx, wrapper, client, port, destination as u32)
    }
}

/// An IPv4 header without options: addresses at 26 and 30, ports at 34.
#[inline(always)]
fn vary_v4(ctx: &XdpContext, wrapper: &Wrapper, client: u32, port: u16, destination: u32) -> Option<()> {
    let start = head::<42>(ctx)?;
    let client = (0x0B00_0000 + client).to_be();
    // SAFETY: as in `restore`; all reads are within the 64 bytes of `head`.
    unsafe {
        let pristine = wrapper.head.as_ptr().cast::<u8>();
        let vip = u32::from_be(pristine.add(30).cast::<u32>().read())
            .wrapping_add(destination)
            .to_be();
        if wrapper.bits & bit::FIELDS == 0 {
            let addresses = u64::from(client) | u64::from(vip) << 32;
            start.add(26).cast::<u64>().write_volatile(addresses);
            let ports = pristine.add(34).cast::<u64>().read() & !0xFFFF | u64::from(port.to_be());
            start.add(34).cast::<u64>().write_volatile(ports);
        } else {
            start.add(26).cast::<u32>().write_volatile(client);
            if wrapper.destinations > 1 {
                start.add(30).cast::<u32>().write_volatile(vip);
            }
            start.add(34).cast::<u16>().write_volatile(port.to_be());
        }
    }
    Some(())
}

/// An IPv6 header without extensions: addresses at 22 and 38, ports at 54.
#[inline(always)]
fn vary_v6(ctx: &XdpContext, wrapper: &Wrapper, client: u32, port: u16, destination: u32) -> Option<()> {
    let start = head::<62>(ctx)?;
    let client = client.to_be();
    // SAFETY: as in `vary_v4`.
    unsafe {
        let pristine = wrapper.head.as_ptr().cast::<u8>();
        let vip = u32::from_be(pristine.add(50).cast::<u32>().read())
            .wrapping_add(destination)
            .to_be();
        if wrapper.bits & bit::FIELDS == 0 {
            let low = |at: usize| u64::from(pristine.add(at).cast::<u32>().read());
            start
                .add(30)
                .cast::<u64>()
                .write_volatile(low(30) | u64::from(client) << 32);
            if wrapper.destinations > 1 {
                start
                    .add(46)
                    .cast::<u64>()
                    .write_volatile(low(46) | u64::from(vip) << 32);
            }
            let ports = pristine.add(54).cast::<u64>().read() & !0xFFFF | u64::from(port.to_be());
            start.add(54).cast::<u64>().write_volatile(ports);
        } else {
            start.add(34).cast::<u32>().write_volatile(client);
            if wrapper.destinations > 1 {
                start.add(50).cast::<u32>().write_volatile(vip);
            }
            start.add(54).cast::<u16>().write_volatile(port.to_be());
        }
    }
    Some(())
}

/// What costs nothing: subtracted from every other.
#[inline(always)]
fn transmit(_: &XdpContext) -> u32 {
    XDP_TX
}

/// The least that reads a packet: the protocols, and that a transport header with a destination port is there.
#[inline(always)]
fn parse(ctx: &XdpContext) -> u32 {
    match read(ctx) {
        Ok(_) => XDP_TX,
        Err(verdict) => verdict,
    }
}

/// Reads the packet and gives its IP length: the least that an encapsulator must know.
#[inline(always)]
fn read(ctx: &XdpContext) -> Result<u16, u32> {
    const IPV4: u16 = 0x0800_u16.to_be();
    const IPV6: u16 = 0x86DD_u16.to_be();
    let start = head::<34>(ctx).ok_or(XDP_DROP)?;
    // SAFETY: each read is within the bytes that `head` has just checked.
    unsafe {
        let word = |at: usize| start.add(at).cast::<u16>().read();
        let (protocol, ports, length) = match word(12) {
            IPV4 if *start.add(14) == 0x45 && word(20) & 0x3FFF_u16.to_be() == 0 => {
                let start = head::<38>(ctx).ok_or(XDP_DROP)?;
                (*start.add(23), start.add(34), u16::from_be(word(16)))
            }
            IPV6 => {
                let start = head::<58>(ctx).ok_or(XDP_DROP)?;
                (*start.add(20), start.add(54), u16::from_be(word(18)).wrapping_add(40))
            }
            _ => return Err(XDP_PASS),
        };
        if !matches!(protocol, 6 | 17) {
            return Err(XDP_PASS);
        }
        if ports.add(2).cast::<u16>().read() == 0 {
            return Err(XDP_DROP);
        }
        Ok(length)
    }
}

/// The floor for a tunnel over IPv4: reads, grows, writes constant headers with the length and the checksum that follows from it.
#[inline(always)]
fn encapsulate_v4(ctx: &XdpContext) -> u32 {
    let length = match read(ctx) {
        Ok(length) => length.wrapping_add(20).to_be(),
        Err(verdict) => return verdict,
    };
    let Some(start) = adjust(ctx, -20).and_then(|()| head::<34>(ctx)) else {
        return XDP_DROP;
    };
    let sum = 0x4321 + u32::from(length);
    let checksum = !((sum & 0xFFFF) + (sum >> 16));
    // SAFETY: `head` checked the bounds.
    unsafe {
        let words = start.cast::<u64>();
        words.write(0x0002_0100_0000_0002);
        // MAC address, EtherType, version and header length.
        words.add(1).write(0x0045_0008_0200_0000);
        words.add(2).write(u64::from(length) | 0x0440_0000_0000_0000);
        words.add(3).write(u64::from(checksum & 0xFFFF) | 0x000A_0500_000A_0000);
        start.add(32).cast::<u16>().write(0x0B00);
    }
    XDP_TX
}

/// The floor for a tunnel over IPv6.
#[inline(always)]
fn encapsulate_v6(ctx: &XdpContext) -> u32 {
    let length = match read(ctx) {
        Ok(length) => length.to_be(),
        Err(verdict) => return verdict,
    };
    let Some(start) = adjust(ctx, -40).and_then(|()| head::<54>(ctx)) else {
        return XDP_DROP;
    };
    // SAFETY: `head` checked the bounds.
    unsafe {
        let words = start.cast::<u64>();
        words.write(0x0002_0100_0000_0002);
        words.add(1).write(0x0060_DD86_0200_0000);
        words.add(2).write(u64::from(length) << 16 | 0x00FD_4004_0000_0000);
        words.add(3).write(0);
        words.add(4).write(0x00FD_0100_0000_0000);
        words.add(5).write(0);
        start.add(48).cast::<u32>().write(0);
        start.add(52).cast::<u16>().write(0x0B00);
    }
    XDP_TX
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
