//! The stage for packets of slots that are not stable: which backend has the flow.
//!
//! Out of the way of all others: a function of its own, called only when a slot is moving or settled, or the service remembers every
//! flow. Here, and only here, are a hash map and a clock.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use aya_ebpf::programs::XdpContext;
use lb_common::map::{BackendNumber, FlowEntry, NOBODY, ServiceEntry, Slot, flag, time_unit};
use lb_common::parse::{Transport, is_syn, transport};

use crate::frame::Frame;
use crate::tables::{self, Access};

/// What the stage is asked, beside the service.
#[derive(Clone, Copy)]
pub struct Asked {
    /// The flow's slot.
    pub slot: Slot,
    /// Nothing is to be remembered: it is a look-up.
    pub peek: bool,
    /// The hash by which the ring has the flow.
    pub hash: u64,
    /// The hash by which the flow is remembered: of address and port, so that connections which share a slot are told apart.
    pub flow: u64,
}

/// The backend of a flow whose slot is not stable; [`NOBODY`] if it has none.
///
/// With `peek` it is the backend that is remembered, else that of a flow that begins now, and nothing is remembered. The headers
/// are read again here: a stable slot's packet need not keep what it does not use.
#[inline(always)]
pub fn decide<T: Access>(ctx: *mut xdp_md, service: &ServiceEntry, asked: Asked, tables: T) -> u64 {
    let ctx = XdpContext::new(ctx);
    let Asked { slot, peek, flow, .. } = asked;
    let frame = Frame::of(&ctx);
    let Ok(Transport { offset, tcp }) = transport(&frame) else {
        return NOBODY.into();
    };
    let always = service.flags & flag::TRACK_ALWAYS != 0;
    // The end of a UDP flow cannot be seen, nor its beginning: it goes where the ring says.
    if !tcp && !always {
        return slot.current().into();
    }
    let syn = tcp && is_syn(&frame, offset);
    let now = clock();
    let bases = tables::bases(service);
    let entry = tables::flow(flow);
    let known = entry.and_then(|entry| remembered(tables, bases, entry, service.idle, now, peek));
    let moving = !slot.is_stable() && !slot.is_settled();
    // A new connection with the ports of an earlier one begins afresh, where it can be remembered.
    if let Some(known) = known
        && !syn
    {
        return known.into();
    }
    // Asked about rather than seen, a flow is taken for a new connection.
    let to = if moving && !syn && !peek {
        slot.previous()
    } else {
        slot.current()
    };
    if to == NOBODY || peek {
        return to.into();
    }
    // A settled slot makes no new memories: they would keep it from becoming stable. What is here does not count: that of an earlier
    // connection would lead the new one's next packets away, and what is too old, or of a life that is over, is of no use any more.
    if slot.is_settled() && !always {
        if entry.is_some() {
            tables::forget_flow(flow);
        }
        return to.into();
    }
    if !remember(tables, service, bases, &asked, to, syn, now) && syn {
        // Its next packet will be taken for one of the flows that were there before: so must this one be.
        return known.unwrap_or(if moving { slot.previous() } else { to }).into();
    }
    to.into()
}

#[inline(always)]
fn clock() -> u32 {
    // SAFETY: a helper without arguments; the coarse clock (Linux 5.11) costs half of the fine one.
    time_unit(unsafe { bpf_ktime_get_coarse_ns() })
}

/// The backend that an entry remembers, if it counts.
#[inline(always)]
fn remembered<T: Access>(
    tables: T,
    bases: u64,
    entry: *mut FlowEntry,
    idle: u32,
    now: u32,
    peek: bool,
) -> Option<BackendNumber> {
    // SAFETY: a live element of the map: it may be reused for another flow at any time, and then holds that one's values,
    // which the life tells. Each field is read and written in one piece.
    unsafe {
        let found = *entry;
        let row = tables.backend((bases >> 32) + u64::from(found.number)).ok()?;
        if !found.counts(tables::life(row), now, idle) {
            return None;
        }
        if !peek && found.seen != now {
            (*entry).seen = now;
        }
        Some(found.number)
    }
}

/// Remembers a flow, within the service's bound; false if it could not be.
#[inline(always)]
fn remember<T: Access>(
    tables: T,
    service: &ServiceEntry,
    bases: u64,
    asked: &Asked,
    number: BackendNumber,
    new: bool,
    now: u32,
) -> bool {
    let Ok(row) = tables.backend((bases >> 32) + u64::from(number)) else {
        return false;
    };
    let life = tables::life(row);
    if life == 0 {
        return false;
    }
    let Some(window) = tables::insert_window(service.window) else {
        return false;
    };
    // SAFETY: this CPU's own copy of a live map value.
    unsafe {
        if (*window).unit != now {
            (*window).unit = now;
            (*window).new = 0;
            (*window).established = 0;
        }
        let count = if new {
            &raw mut (*window).new
        } else {
            &raw mut (*window).established
        };
        if *count >= service.inserts {
            return false;
        }
        *count += 1;
    }
    let entry = FlowEntry {
        life,
        place: (asked.hash >> 32) as u32,
        seen: now,
        number,
        reserved: 0,
    };
    tables::insert_flow(asked.flow, &entry)
}
