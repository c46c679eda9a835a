//! The packet's way: parse → service → flow hash → slot → backend → rewrite → `XDP_TX` or redirect.
//!
//! [`balance`] reads top to bottom as a packet goes. What is not for a VIP is passed as early as possible, untouched. A way out
//! other than to a backend is a [`Reason`], which is also its counter; a forwarded packet is counted once, in the row
//! of its (service, backend) pair.
#![no_std]
#![no_main]

mod frame;
mod rewrite;
mod tables;
mod track;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::hash::{flow_hash, slot};
use lb_common::map::{BackendRow, NOBODY, ServiceEntry, flag};
use lb_common::parse::{Candidate, Family, Flow, family, ipv4, ipv6};
use lb_common::reason::Reason;

use crate::frame::Frame;

/// The program that is attached to the interfaces.
#[xdp(frags)]
pub fn balance(ctx: XdpContext) -> u32 {
    match forward(&ctx) {
        Ok(action) => action,
        Err(reason) => {
            tables::count_reason(reason);
            if reason.is_drop() { XDP_DROP } else { XDP_PASS }
        }
    }
}

/// Each family has the whole way to itself, so that the compiler folds what it knows of one family into every stage.
#[inline(always)]
fn forward(ctx: &XdpContext) -> Result<u32, Reason> {
    let frame = Frame::of(ctx);
    match family(&frame)? {
        Family::V4 => send(ctx, &frame, &ipv4(&frame)?),
        Family::V6 => send(ctx, &frame, &ipv6(&frame)?),
    }
}

#[inline(always)]
fn send(ctx: &XdpContext, frame: &Frame, candidate: &Candidate) -> Result<u32, Reason> {
    let Choice {
        flow,
        hash,
        row_index,
        row,
    } = choose(ctx, frame, candidate, false)?;
    let action = rewrite::rewrite(ctx, row, &flow, hash)?;
    tables::count_pair(row_index, flow.length);
    Ok(action)
}

/// What was decided for a packet before a byte of it is changed.
struct Choice {
    flow: Flow,
    hash: u64,
    row_index: u32,
    row: &'static BackendRow,
}

#[inline(always)]
fn choose(ctx: &XdpContext, frame: &Frame, candidate: &Candidate, peek: bool) -> Result<Choice, Reason> {
    let service = tables::service(candidate.key, candidate.v6()).ok_or(Reason::NotAVip)?;
    let flow = candidate.complete(frame)?;
    let hash = hash_for(service, &flow);
    // One load: a service that moves changes both bases at once.
    let bases = tables::bases(service);
    let slot = tables::slot((bases & 0xFFFF_FFFF) + u64::from(slot(hash, service.ring_size)))?;
    let mut number = slot.current();
    if !slot.is_stable() {
        number = track::owner(ctx, service, slot, hash, peek);
    }
    if number == NOBODY {
        return Err(Reason::NoBackend);
    }
    let row_index = (bases >> 32) as u32 + u32::from(number);
    let row = tables::backend(row_index)?;
    Ok(Choice {
        flow,
        hash,
        row_index,
        row,
    })
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

/// Tells which backend a frame's flow has, or would have if it began now, by the same tables and the same code, and changes and
/// counts nothing.
///
/// Run by userspace through `BPF_PROG_TEST_RUN`, never attached. The answer overwrites the frame's first 8 bytes: the row's
/// index and the reason's number ([`Reason::Forwarded`] if there is a row), both 4 bytes in the machine's order.
#[xdp]
pub fn lookup(ctx: XdpContext) -> u32 {
    let choice = ask(&ctx);
    let (row_index, reason) = match choice {
        Ok(choice) => (choice.row_index, Reason::Forwarded),
        Err(reason) => (0, reason),
    };
    match frame::answer(&ctx, row_index, reason as u32) {
        Some(()) => XDP_PASS,
        None => XDP_DROP,
    }
}

#[inline(always)]
fn ask(ctx: &XdpContext) -> Result<Choice, Reason> {
    let frame = Frame::of(ctx);
    // Split as in `forward`: merged, the verifier would not know which header a candidate has.
    match family(&frame)? {
        Family::V4 => choose(ctx, &frame, &ipv4(&frame)?, true),
        Family::V6 => choose(ctx, &frame, &ipv6(&frame)?, true),
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
