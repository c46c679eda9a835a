//! The stage for packets of slots that are not stable: which backend has the flow.
//!
//! Out of the way of all others: a function of its own, called only when a slot is moving or settled, or the service remembers every
//! flow. Here, and only here, are a hash map and a clock.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use aya_ebpf::programs::XdpContext;
use lb_common::map::{BackendNumber, FlowEntry, NOBODY, ServiceEntry, Slot, flag, row_flag, time_unit};
use lb_common::parse::{Transport, is_syn, transport};

use crate::frame::Frame;
use crate::tables::{self, Access};

/// The backend of a flow whose slot is not stable; [`NOBODY`] if it has none.
///
/// With `peek` it is the backend that is remembered, else that of a flow that begins now, and nothing is remembered. The headers
/// are read again here: a stable slot's packet need not keep what it does not use.
#[inline(always)]
pub fn decide<T: Access>(ctx: *mut xdp_md, service: &ServiceEntry, slot: u32, hash: u64, peek: u64, tables: T) -> u64 {
    let ctx = XdpContext::new(ctx);
    let (slot, peek) = (Slot(slot), peek != 0);
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
    let entry = tables::flow(hash);
    let known = entry.and_then(|entry| remembered(tables, bases, entry, now, peek));
    let moving = !slot.is_stable() && !slot.is_settled();
    // A new connection with the ports of an earlier one begins afresh, where it can be remembered. Without ports in the hash, a
    // client's connections share one entry: the earlier ones still count.
    let own_entry = service.flags & flag::HASH_PORT != 0;
    let afresh = syn && own_entry && slot.current() != NOBODY;
    if let Some(known) = known
        && !afresh
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
    // A settled slot makes no new memories: they would keep it from becoming stable. That of an earlier connection would lead the new
    // one's next packets away, now or when its backend serves again.
    if slot.is_settled() && !always {
        if afresh && entry.is_some() {
            tables::forget_flow(hash);
        }
        return to.into();
    }
    if !remember(tables, service, bases, hash, to, syn, now) && afresh {
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

/// The backend that an entry remembers, if it still serves.
#[inline(always)]
fn remembered<T: Access>(tables: T, bases: u64, entry: *mut FlowEntry, now: u32, peek: bool) -> Option<BackendNumber> {
    // SAFETY: a live element of the map: it may be reused for another flow at any time, and then holds that one's values,
    // which the identity tells. Each field is read and written in one piece.
    unsafe {
        let FlowEntry { identity, number, .. } = *entry;
        let row = tables.backend((bases >> 32) + u64::from(number)).ok()?;
        if row.identity as u32 != identity || row.flags & row_flag::SERVES == 0 {
            return None;
        }
        if !peek && (*entry).seen != now {
            (*entry).seen = now;
        }
        Some(number)
    }
}

/// Remembers a flow, within the service's bound; false if it could not be.
#[inline(always)]
fn remember<T: Access>(
    tables: T,
    service: &ServiceEntry,
    bases: u64,
    hash: u64,
    number: BackendNumber,
    new: bool,
    now: u32,
) -> bool {
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
    let Ok(row) = tables.backend((bases >> 32) + u64::from(number)) else {
        return false;
    };
    let entry = FlowEntry {
        identity: row.identity as u32,
        service: service.salt as u32,
        seen: now,
        number,
        reserved: 0,
    };
    tables::insert_flow(hash, &entry)
}
