//! The planner: a pure function of the tables and the wish.

use std::collections::{HashMap, HashSet};

use lb_common::hash::{service_places, service_salt};
use lb_common::map::{BackendNumber, ROWS_OF_A_GROUP, ServiceEntry, ServiceKey, Slot, flag};

use super::layout::{InstalledService, Layout};
use super::places;
use super::transition::transition;
use super::{Plan, PlanError, Scope, WantedBackend, WantedService, Write, fresh_slot, number_of};
use crate::bpf::tables::{MOST_BACKENDS_OF_A_SERVICE, Tables, groups, overflow_mark};

/// Plans the way from what the tables hold to what is wanted.
///
/// # Errors
/// If a table is full; then nothing may be written.
pub fn plan(tables: &Tables, wanted: &[WantedService], scope: Scope) -> Result<Plan, PlanError> {
    let mut maker = Maker {
        tables,
        layout: Layout::read(tables),
        plan: Plan::default(),
        freed: Vec::new(),
        next_life: tables.next_life(),
    };
    maker.clear_duplicates();
    for service in wanted {
        match maker.layout.services.get(&service.key).cloned() {
            Some(installed) => maker.change(installed, service)?,
            None => maker.add(service, wanted.len())?,
        }
    }
    if scope == Scope::Everything {
        let keys: HashSet<ServiceKey> = wanted.iter().map(|service| service.key).collect();
        maker.remove_all_but(&keys);
    }
    maker.finish();
    Ok(maker.plan)
}

struct Maker<'a> {
    tables: &'a Tables,
    /// What will be installed once all writes planned so far are made.
    layout: Layout,
    plan: Plan,
    /// Rows that nothing will point to; freed at the end, after a grace period.
    freed: Vec<u32>,
    next_life: u32,
}

impl Maker<'_> {
    fn push(&mut self, write: Write) {
        self.plan.writes.push(write);
    }

    fn clear_duplicates(&mut self) {
        for place in std::mem::take(&mut self.layout.duplicates) {
            self.layout.places[place as usize] = None;
            self.push(Write::Remove { place });
        }
        if !self.plan.writes.is_empty() {
            self.push(Write::Grace);
        }
    }

    fn add(&mut self, service: &WantedService, wanted: usize) -> Result<(), PlanError> {
        let room = rows_for(service.backends.len())?;
        let row_base = self.take_rows(room)?;
        let ring_room = service.ring_size.next_multiple_of(SLOTS_OF_A_LINE);
        let ring_base = self.take_slots(ring_room)?;
        let numbers: Vec<BackendNumber> = (0..service.backends.len())
            .map(|number| number as BackendNumber)
            .collect();
        for (number, backend) in service.backends.iter().enumerate() {
            self.fill_row(row_base + number as u32, backend, None);
        }
        let slots = service
            .owners
            .iter()
            .map(|owner| fresh_slot(*owner, &numbers, service.rule))
            .collect();
        self.push(Write::FillRing {
            position: ring_base,
            slots,
        });
        let entry = ServiceEntry {
            address_high: service.key.address_high,
            address_low: service.key.address_low,
            word: service.key.word,
            ring_size: service.ring_size,
            bases: ServiceEntry::pack_bases(ring_base, row_base),
            salt: service_salt(service.key),
            flags: service.flags,
            inserts: service.inserts,
            idle: service.idle,
            ring_room,
            backend_groups: groups(room),
            ..ServiceEntry::default()
        };
        self.place(service.key, entry, wanted)?;
        let mut identities = vec![0; room as usize];
        for (identity, backend) in identities.iter_mut().zip(&service.backends) {
            *identity = backend.identity;
        }
        if let Some(installed) = self.layout.services.get_mut(&service.key) {
            installed.identities = identities;
        }
        self.plan.summary.services_added += 1;
        self.plan.summary.backends_added += service.backends.len();
        Ok(())
    }

    /// Puts a new service into one of its two places, moving others to their second ones if it must.
    fn place(&mut self, key: ServiceKey, entry: ServiceEntry, wanted: usize) -> Result<(), PlanError> {
        let mask = self.tables.service_mask();
        let (moves, place) = places::find(&self.layout, key, mask).ok_or_else(|| PlanError::Services {
            places: mask + 1,
            wanted,
            fit: mask.div_ceil(2),
        })?;
        for step in moves {
            let Some(entry) = self.layout.services.get(&step.key).map(|service| service.entry) else {
                continue;
            };
            // For a moment it is in both places, and found in either.
            self.insert(step.key, step.to, entry);
            self.push(Write::Remove { place: step.from });
            self.push(Write::Grace);
            self.layout.places[step.from as usize] = None;
        }
        self.insert(key, place, entry);
        Ok(())
    }

    fn insert(&mut self, key: ServiceKey, place: u32, entry: ServiceEntry) {
        let (first, _) = service_places(key, self.tables.service_mask());
        if place != first {
            let overflow = self.layout.overflow[first as usize] + 1;
            self.layout.overflow[first as usize] = overflow;
            self.push(Write::SetOverflow { place: first, overflow });
        }
        self.push(Write::Insert { place, entry });
        self.layout.places[place as usize] = Some(key);
        let service = self.layout.services.entry(key).or_insert(InstalledService {
            place,
            entry,
            identities: Vec::new(),
        });
        service.place = place;
    }

    fn change(&mut self, mut installed: InstalledService, wanted: &WantedService) -> Result<(), PlanError> {
        let before = self.plan.writes.len();
        let place = installed.place;
        let (numbers, room) = assign_numbers(&installed.identities, &wanted.backends)?;
        let old_row_base = installed.entry.backend_base();
        let mut ring_base = installed.entry.ring_base();
        let mut row_base = old_row_base;
        let leaving: Vec<BackendNumber> = leaving(&installed.identities, &wanted.backends);
        let resized = wanted.ring_size != installed.entry.ring_size;
        let rehashed = (wanted.flags ^ installed.entry.flags) & flag::HASH_FLOW != 0;
        // While no backend serves, nothing that is remembered counts, and no slot has a flow that could break.
        let rows = old_row_base..old_row_base + installed.identities.len() as u32;
        let none_serves = rows.into_iter().all(|row| self.tables.row(row).life == 0);
        // What is remembered says nothing of slots that other flows are in, or that nobody watched.
        let forgets = wanted.idle != 0 && (resized || rehashed || installed.entry.idle == 0);
        if forgets || wanted.idle == 0 {
            let entry = installed.entry;
            self.set_flags(&mut installed, entry.flags, entry.inserts, 0);
        }

        if room > installed.entry.backend_room() {
            row_base = self.take_rows(room)?;
            // All of the old ones come along, also those that leave: slots still name them until the ring is written.
            for (number, identity) in installed
                .identities
                .iter()
                .enumerate()
                .filter(|(_, identity)| **identity != 0)
            {
                let old = old_row_base + number as u32;
                let now = self.tables.row(old);
                let stays = wanted.backends.iter().find(|backend| backend.identity == *identity);
                let backend = stays.copied().unwrap_or(WantedBackend {
                    identity: *identity,
                    rewrite: now.rewrites[(now.active & 1) as usize],
                    serves: false,
                });
                self.fill_row(row_base + number as u32, &backend, Some(old));
                self.freed.push(old);
            }
        }
        for (backend, number) in wanted.backends.iter().zip(&numbers) {
            let row = row_base + u32::from(*number);
            if installed.identities.get(usize::from(*number)) != Some(&backend.identity) {
                self.fill_row(row, backend, None);
                self.plan.summary.backends_added += 1;
            } else {
                let now = self.tables.row(old_row_base + u32::from(*number));
                if now.rewrites[(now.active & 1) as usize] != backend.rewrite {
                    self.plan.summary.rewrites_changed += 1;
                    if row_base == old_row_base {
                        self.push(Write::SetRewrite {
                            row,
                            rewrite: backend.rewrite,
                        });
                    }
                }
                if row_base == old_row_base && (now.life != 0) != backend.serves {
                    self.set_life(row, backend);
                }
            }
        }

        let mut ring_room = installed.entry.ring_room;
        if resized {
            // Long enough for either size: for a moment packets pick slots by the old size from the new ring.
            ring_room = wanted
                .ring_size
                .max(installed.entry.ring_size)
                .next_multiple_of(SLOTS_OF_A_LINE);
            ring_base = self.take_slots(ring_room)?;
            let slots = wanted.owners.iter().cycle().take(ring_room as usize);
            let slots = slots.map(|owner| fresh_slot(*owner, &numbers, wanted.rule)).collect();
            self.push(Write::FillRing {
                position: ring_base,
                slots,
            });
        }
        // Rows first: slots of the new ring may have numbers beyond the old room.
        let backend_room = room.max(installed.entry.backend_room());
        let (old_ring, old_ring_room) = (installed.entry.ring_base(), installed.entry.ring_room);
        self.move_to(&mut installed, row_base, backend_room, old_ring, old_ring_room);
        self.move_to(&mut installed, row_base, backend_room, ring_base, ring_room);
        if resized {
            // No packet may take the new size to the old ring.
            self.push(Write::Grace);
            self.push(Write::SetRingSize {
                place,
                ring_size: wanted.ring_size,
            });
            installed.entry.ring_size = wanted.ring_size;
        } else {
            self.change_slots(wanted, &numbers, &installed, rehashed || none_serves);
        }
        if forgets {
            self.set_flags(&mut installed, wanted.flags, wanted.inserts, 0);
            // What packets on their way still remember is of the lives that end.
            self.push(Write::Grace);
            for (backend, number) in wanted.backends.iter().zip(&numbers).filter(|(one, _)| one.serves) {
                self.set_life(row_base + u32::from(*number), backend);
            }
        }
        self.set_flags(&mut installed, wanted.flags, wanted.inserts, wanted.idle);
        self.freed
            .extend(leaving.iter().map(|number| row_base + u32::from(*number)));
        self.plan.summary.backends_removed += leaving.len();
        if self.plan.writes.len() > before || !leaving.is_empty() {
            self.plan.summary.services_changed += 1;
        }
        installed.identities.resize(room as usize, 0);
        for (backend, number) in wanted.backends.iter().zip(&numbers) {
            installed.identities[usize::from(*number)] = backend.identity;
        }
        self.layout.services.insert(wanted.key, installed);
        Ok(())
    }

    fn move_to(&mut self, service: &mut InstalledService, rows: u32, backend_room: u32, ring: u32, ring_room: u32) {
        let InstalledService { place, entry, .. } = service;
        let bases = ServiceEntry::pack_bases(ring, rows);
        if bases == entry.bases {
            return;
        }
        // A daemon that stops between the two leaves regions that seem shorter than they are, and nothing in the rest.
        self.push(Write::SetBases { place: *place, bases });
        self.push(Write::SetRooms {
            place: *place,
            ring_room,
            backend_room,
        });
        *entry = ServiceEntry {
            bases,
            ring_room,
            backend_groups: groups(backend_room),
            ..*entry
        };
    }

    fn set_flags(&mut self, service: &mut InstalledService, flags: u32, inserts: u32, idle: u32) {
        let InstalledService { place, entry, .. } = service;
        if (flags, inserts, idle) == (entry.flags, entry.inserts, entry.idle) {
            return;
        }
        self.push(Write::SetFlags {
            place: *place,
            flags,
            inserts,
            idle,
        });
        *entry = ServiceEntry {
            flags,
            inserts,
            idle,
            ..*entry
        };
    }

    /// Gives slots to their owners. Other flows are in a slot that is `rehashed`: nothing of before is kept.
    fn change_slots(
        &mut self,
        wanted: &WantedService,
        numbers: &[BackendNumber],
        installed: &InstalledService,
        fresh: bool,
    ) {
        // The slots are where they were before this plan, whatever became of the rows: a ring that stays is not moved.
        let base = installed.entry.ring_base();
        let serving = wanted
            .backends
            .iter()
            .zip(numbers)
            .filter(|(backend, _)| backend.serves);
        let serving: HashSet<BackendNumber> = serving.map(|(_, number)| *number).collect();
        let slots: Vec<(u32, Slot)> = (base..)
            .zip(&wanted.owners)
            .filter_map(|(position, owner)| {
                let now = self.tables.slot(position);
                let alive = |number| serving.contains(&number);
                let next = if fresh {
                    fresh_slot(*owner, numbers, wanted.rule)
                } else {
                    transition(now, number_of(*owner, numbers), wanted.rule, alive)
                };
                (next != now).then_some((position, next))
            })
            .collect();
        self.plan.summary.slots_kept += wanted.owners.len() - slots.len();
        self.plan.summary.slots_moved += slots.len();
        if !slots.is_empty() {
            self.plan.moved.push((wanted.key, slots.len()));
            self.push(Write::SetSlots { slots });
        }
    }

    fn remove_all_but(&mut self, keys: &HashSet<ServiceKey>) {
        let mut leaving: Vec<(ServiceKey, InstalledService)> = self
            .layout
            .services
            .iter()
            .filter(|(key, _)| !keys.contains(key))
            .map(|(k, s)| (*k, s.clone()))
            .collect();
        leaving.sort_by_key(|(_, service)| service.place);
        for (key, service) in leaving {
            self.push(Write::Remove { place: service.place });
            self.layout.places[service.place as usize] = None;
            self.layout.services.remove(&key);
            let base = service.entry.backend_base();
            let rows = (base..)
                .zip(&service.identities)
                .filter(|(_, identity)| **identity != 0)
                .map(|(row, _)| row);
            self.freed.extend(rows);
            self.plan.summary.services_removed += 1;
        }
    }

    fn finish(&mut self) {
        let needs_grace = |write: &Write| matches!(write, Write::SetRewrite { .. } | Write::Remove { .. });
        let since_grace = self
            .plan
            .writes
            .rsplit(|write| *write == Write::Grace)
            .next()
            .unwrap_or_default();
        if !self.freed.is_empty() || since_grace.iter().any(needs_grace) {
            self.push(Write::Grace);
        }
        for row in std::mem::take(&mut self.freed) {
            self.push(Write::FreeRow { row });
        }
        // Before any of them is given: a daemon that stops halfway gives none again.
        if self.next_life != self.tables.next_life() {
            self.plan.writes.insert(0, Write::SetNextLife { life: self.next_life });
        }
        // Marks were only raised above; those that are too high now come down to what is true.
        let mask = self.tables.service_mask();
        let mut counts: HashMap<u32, u32> = HashMap::new();
        for (place, key) in self.layout.places.iter().enumerate() {
            if let Some(key) = key {
                let (first, _) = service_places(*key, mask);
                if first != place as u32 {
                    *counts.entry(first).or_default() += 1;
                }
            }
        }
        for place in 0..self.layout.overflow.len() {
            let overflow = counts.get(&(place as u32)).copied().unwrap_or(0);
            let overflow = u32::from(overflow_mark(overflow));
            if self.layout.overflow[place] != overflow {
                self.push(Write::SetOverflow {
                    place: place as u32,
                    overflow,
                });
            }
        }
    }

    /// A life that no row was ever in.
    fn new_life(&mut self) -> u32 {
        let life = self.next_life;
        self.next_life = life.wrapping_add(1).max(1);
        life
    }

    fn set_life(&mut self, row: u32, backend: &WantedBackend) {
        let life = if backend.serves { self.new_life() } else { 0 };
        self.push(Write::SetLife { row, life });
    }

    /// Fills a row that a slot may name later; its backend goes on with the life that it has in another one, if so.
    fn fill_row(&mut self, row: u32, backend: &WantedBackend, continues: Option<u32>) {
        let goes_on = continues.map(|old| self.tables.row(old).life).filter(|life| *life != 0);
        let life = match goes_on {
            _ if !backend.serves => 0,
            Some(life) => life,
            None => self.new_life(),
        };
        self.push(Write::FillRow {
            row,
            identity: backend.identity,
            rewrite: backend.rewrite,
            life,
            continues,
        });
    }

    fn take_rows(&mut self, wanted: u32) -> Result<u32, PlanError> {
        let free = self.layout.rows.longest();
        let rows = self.tables.lengths().rows;
        let base = self.layout.rows.take(wanted);
        let base = base.ok_or(PlanError::Rows { rows, wanted, free })?;
        // A daemon that stopped before it freed them has left backends there, who would be taken for the service's own.
        for row in (base..base + wanted).filter(|row| self.tables.row(*row).identity != 0) {
            self.push(Write::FreeRow { row });
        }
        Ok(base)
    }

    fn take_slots(&mut self, wanted: u32) -> Result<u32, PlanError> {
        let free = self.layout.slots.longest();
        let slots = self.tables.lengths().slots;
        self.layout
            .slots
            .take(wanted)
            .ok_or(PlanError::Slots { slots, wanted, free })
    }
}

/// Rings begin on cache lines of 64 bytes.
const SLOTS_OF_A_LINE: u32 = 16;

fn rows_for(backends: usize) -> Result<u32, PlanError> {
    let rows = backends.max(1).next_multiple_of(ROWS_OF_A_GROUP as usize);
    if backends > MOST_BACKENDS_OF_A_SERVICE as usize {
        Err(PlanError::Numbers(backends))
    } else {
        Ok(rows as u32)
    }
}

/// A number for each wanted backend, its own if it has one, and the room that they need.
fn assign_numbers(identities: &[u64], backends: &[WantedBackend]) -> Result<(Vec<BackendNumber>, u32), PlanError> {
    let known: HashMap<u64, usize> = identities
        .iter()
        .enumerate()
        .filter(|(_, id)| **id != 0)
        .map(|(number, id)| (*id, number))
        .collect();
    let mut free = (0..).filter(|number| identities.get(*number).is_none_or(|identity| *identity == 0));
    let mut room = identities.len();
    let mut numbers = Vec::with_capacity(backends.len());
    for backend in backends {
        let number = match known.get(&backend.identity) {
            Some(number) => *number,
            None => free.next().unwrap_or(usize::MAX),
        };
        if number >= MOST_BACKENDS_OF_A_SERVICE as usize {
            return Err(PlanError::Numbers(number.saturating_add(1)));
        }
        if number >= room {
            room = (number + 1).next_multiple_of(ROWS_OF_A_GROUP as usize);
        }
        numbers.push(number as BackendNumber);
    }
    Ok((numbers, room as u32))
}

fn leaving(identities: &[u64], backends: &[WantedBackend]) -> Vec<BackendNumber> {
    let stay: HashSet<u64> = backends.iter().map(|backend| backend.identity).collect();
    let leaving = identities
        .iter()
        .enumerate()
        .filter(|(_, identity)| **identity != 0 && !stay.contains(identity));
    leaving.map(|(number, _)| number as BackendNumber).collect()
}
