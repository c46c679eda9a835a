//! Flows that are remembered, on the host: what the program's look-up, insert and bound should do.
//!
//! Decided purely: [`World::owner`] says where a packet goes and what changes, [`Memory::apply`] changes it.

use std::collections::HashMap;

use lb_common::map::{BackendNumber, FlowEntry, InsertWindow, NOBODY, ServiceEntry, flag};
use lb_common::parse::{is_syn, transport};

use super::{Found, World};

/// What the program remembers on one CPU.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// By the hash of address and port.
    pub(crate) flows: HashMap<u64, FlowEntry>,
    /// By the index that a service's entry names.
    windows: HashMap<u32, InsertWindow>,
}

impl Memory {
    /// Makes a packet's change.
    pub(crate) fn apply(&mut self, change: &Change) {
        self.flows.extend(change.entry);
        if let Some(hash) = change.forgotten {
            self.flows.remove(&hash);
        }
        self.windows.extend(change.window);
    }
}

/// How a packet's backend was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Way {
    /// No slot was asked.
    #[default]
    None,
    /// The slot is stable.
    Stable,
    /// UDP that nobody asked to be remembered.
    Datagram,
    /// By memory.
    Remembered,
    /// By memory, although it began a connection: there was no room for a new memory.
    RememberedForWantOfRoom,
    /// A new connection at a moving slot's owner, remembered.
    Begins,
    /// A new connection at a moving slot's previous owner: there was no room to remember it elsewhere.
    BeginsAtPrevious,
    /// A flow from before at a moving slot's previous owner, remembered.
    Stays,
    /// The same, and not remembered.
    StaysForNow,
    /// A settled slot's owner.
    Settled,
    /// The same, for a new connection with the ports of one that was remembered.
    SettledAfresh,
    /// The same, for a flow whose memory does not count any more.
    SettledForgotten,
    /// A settled slot's owner, remembered: every flow is.
    SettledRemembered,
    /// As settled, but there was no room.
    SettledForNow,
    /// A moving slot that is nobody's.
    Nobody,
}

/// What a packet changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// How its backend was found.
    pub(crate) way: Way,
    /// The flow, if memory was asked about it.
    pub(crate) flow: Option<u64>,
    /// An entry that is new, or seen again.
    pub(crate) entry: Option<(u64, FlowEntry)>,
    /// A flow that is remembered no more.
    pub(crate) forgotten: Option<u64>,
    /// A window that has counted.
    pub(crate) window: Option<(u32, InsertWindow)>,
}

impl World<'_> {
    /// The backend of a flow.
    pub(super) fn owner(&self, frame: &[u8], found: &Found) -> (BackendNumber, Change) {
        let Found {
            service, slot, hash, ..
        } = found;
        let (current, previous) = (slot.current(), slot.previous());
        let plain = |way| Change {
            way,
            ..Change::default()
        };
        if current == previous {
            return (current, plain(Way::Stable));
        }
        let always = service.flags & flag::TRACK_ALWAYS != 0;
        let transport = transport(frame).expect("a frame that was parsed");
        if !transport.tcp && !always {
            return (current, plain(Way::Datagram));
        }
        let begins = transport.tcp && is_syn(frame, transport.offset);
        let moving = previous != NOBODY;
        let key = self.key(found);
        let known = self.known(service, key);
        let mut change = Change {
            way: Way::Remembered,
            flow: Some(key),
            entry: known.map(|entry| {
                (
                    key,
                    FlowEntry {
                        seen: self.now,
                        ..entry
                    },
                )
            }),
            forgotten: None,
            window: None,
        };
        if let Some(entry) = known
            && !begins
        {
            return (entry.number, change);
        }
        let (to, way, without_room) = match (moving, begins) {
            (true, true) => (current, Way::Begins, Way::BeginsAtPrevious),
            (true, false) => (previous, Way::Stays, Way::StaysForNow),
            (false, _) if always => (current, Way::SettledRemembered, Way::SettledForNow),
            (false, _) => {
                change.way = Way::Settled;
                if self.memory.flows.contains_key(&key) {
                    change.way = if begins {
                        Way::SettledAfresh
                    } else {
                        Way::SettledForgotten
                    };
                    change.forgotten = Some(key);
                    change.entry = None;
                }
                return (current, change);
            }
        };
        if to == NOBODY {
            change.way = Way::Nobody;
            return (NOBODY, change);
        }
        let row = service.backend_base() + u32::from(to);
        let life = if row < self.tables.lengths().rows {
            self.tables.row(row).life
        } else {
            0
        };
        if life != 0 && self.room(service, begins, &mut change) {
            let entry = FlowEntry {
                life,
                place: (hash >> 32) as u32,
                seen: self.now,
                number: to,
                reserved: 0,
            };
            change.entry = Some((key, entry));
            change.way = way;
            return (to, change);
        }
        change.way = without_room;
        match known {
            Some(entry) if begins => {
                change.way = Way::RememberedForWantOfRoom;
                (entry.number, change)
            }
            _ if begins && moving => (previous, change),
            _ => (to, change),
        }
    }

    /// The backend that a look-up tells: what is remembered, else that of a flow that begins now.
    pub(super) fn peek(&self, frame: &[u8], found: &Found) -> BackendNumber {
        let Found { service, slot, .. } = found;
        let tcp = transport(frame).is_ok_and(|transport| transport.tcp);
        let tracked = !slot.is_stable() && (tcp || service.flags & flag::TRACK_ALWAYS != 0);
        let begins = tcp && transport(frame).is_ok_and(|transport| is_syn(frame, transport.offset));
        match self.known(service, self.key(found)) {
            Some(entry) if tracked && !begins => entry.number,
            _ => slot.current(),
        }
    }

    /// What a flow is remembered by: address and port, whatever of them the ring hashes.
    pub(super) fn key(&self, found: &Found) -> u64 {
        let whole = ServiceEntry {
            flags: flag::HASH_FLOW,
            ..found.service
        };
        self.hash(&whole, &found.flow)
    }

    /// What is remembered of a flow, if it counts: the backend is in the same life, and the flow has not been silent for too long.
    fn known(&self, service: &ServiceEntry, key: u64) -> Option<FlowEntry> {
        let entry = *self.memory.flows.get(&key)?;
        let row = service.backend_base() + u32::from(entry.number);
        if row >= self.tables.lengths().rows {
            return None;
        }
        // The clock here may be behind that of the packet that was remembered.
        let silent = i64::from(self.now) - i64::from(entry.seen);
        let young = silent.rem_euclid(1 << 32) <= i64::from(service.idle) || silent.rem_euclid(1 << 32) >= 1 << 31;
        (young && self.tables.row(row).life == entry.life).then_some(entry)
    }

    /// Whether one more flow may be remembered within the present unit of time.
    fn room(&self, service: &ServiceEntry, begins: bool, change: &mut Change) -> bool {
        let counted = self.memory.windows.get(&service.window).copied();
        let mut window = counted
            .filter(|window| window.unit == self.now)
            .unwrap_or(InsertWindow {
                unit: self.now,
                ..InsertWindow::default()
            });
        let count = if begins {
            &mut window.new
        } else {
            &mut window.established
        };
        let room = *count < service.inserts;
        if room {
            *count += 1;
        }
        change.window = Some((service.window, window));
        room
    }
}
