//! Carries out a plan. It makes no choice.

use lb_common::map::{Counter, Slot};

use super::{Plan, Write};
use crate::bpf::grace;
use crate::bpf::tables::Tables;

/// Makes every write of the plan, in order.
///
/// `count` tells what a row has counted ever since the tables were made; the counters of a row that is filled begin there.
///
/// # Errors
/// The first of `count`. The tables are then at a prefix of the plan, which is a sound state.
pub fn apply<E>(plan: &Plan, tables: &Tables, count: impl Fn(u32) -> Result<Counter, E>) -> Result<(), E> {
    for write in &plan.writes {
        step(write, tables, &count)?;
    }
    Ok(())
}

/// Makes one write.
///
/// # Errors
/// That of `count`.
pub fn step<E>(write: &Write, tables: &Tables, count: &impl Fn(u32) -> Result<Counter, E>) -> Result<(), E> {
    match write {
        Write::FillRow {
            row,
            identity,
            rewrite,
            life,
            continues,
        } => {
            let mut baseline = count(*row)?;
            if let Some(old) = continues {
                let (raw, from) = (count(*old)?, tables.baseline(*old));
                baseline.packets = baseline.packets.wrapping_sub(raw.packets.wrapping_sub(from.packets));
                baseline.bytes = baseline.bytes.wrapping_sub(raw.bytes.wrapping_sub(from.bytes));
            }
            tables.set_baseline(*row, baseline);
            tables.fill_row(*row, *identity, *rewrite, *life);
        }
        Write::SetNextLife { life } => tables.set_next_life(*life),
        Write::SetLife { row, life } => tables.set_life(*row, *life),
        Write::SetRewrite { row, rewrite } => tables.set_rewrite(*row, *rewrite),
        Write::FillRing { position, slots } => set_all(tables, (*position..).zip(slots.iter().copied())),
        Write::SetSlots { slots } => set_all(tables, slots.iter().copied()),
        Write::Insert { place, entry } => tables.insert_service(*place, *entry),
        Write::Remove { place } => tables.remove_service(*place),
        Write::SetOverflow { place, overflow } => tables.set_overflow(*place, *overflow),
        Write::SetBases { place, bases } => tables.set_bases(*place, *bases),
        Write::SetRingSize { place, ring_size } => tables.set_ring_size(*place, *ring_size),
        Write::SetRooms {
            place,
            ring_room,
            backend_room,
        } => tables.set_rooms(*place, *ring_room, *backend_room),
        Write::SetFlags {
            place,
            flags,
            inserts,
            idle,
        } => tables.set_flags(*place, *flags, *inserts, *idle),
        Write::Grace => grace::period(),
        Write::FreeRow { row } => tables.free_row(*row),
    }
    Ok(())
}

fn set_all(tables: &Tables, slots: impl Iterator<Item = (u32, Slot)>) {
    for (position, slot) in slots {
        tables.set_slot(position, slot);
    }
}

/// One more than the highest row that a plan fills; 0 if it fills none.
pub fn rows_used(plan: &Plan) -> u32 {
    let rows = plan.writes.iter().map(|write| match write {
        Write::FillRow { row, .. } => row + 1,
        _ => 0,
    });
    rows.max().unwrap_or(0)
}
