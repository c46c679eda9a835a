//! Flows that are remembered, on the host: what the program's look-up, insert and bound should do.
//!
//! Decided purely: [`World::owner`] says where a packet goes and what changes, [`Memory::apply`] changes it.

use std::collections::HashMap;

use lb_common::map::{BackendNumber, FlowEntry, InsertWindow, NOBODY, ServiceEntry, Slot, flag, row_flag};
use lb_common::parse::{is_syn, transport};

use super::World;

/// What the program remembers on one CPU.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// By flow hash.
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
    pub(super) fn owner(&self, frame: &[u8], service: &ServiceEntry, slot: Slot, hash: u64) -> (BackendNumber, Change) {
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
        let known = self.known(service, hash);
        let mut change = Change {
            way: Way::Remembered,
            flow: Some(hash),
            entry: known.map(|entry| {
                (
                    hash,
                    FlowEntry {
                        seen: self.now,
                        ..entry
                    },
                )
            }),
            forgotten: None,
            window: None,
        };
        // Connections that share an entry cannot begin afresh: there is no telling them apart.
        let afresh = begins && current != NOBODY && service.flags & flag::HASH_PORT != 0;
        if let Some(entry) = known
            && !afresh
        {
            return (entry.number, change);
        }
        let (to, way, without_room) = match (moving, begins) {
            (true, true) => (current, Way::Begins, Way::BeginsAtPrevious),
            (true, false) => (previous, Way::Stays, Way::StaysForNow),
            (false, _) if always => (current, Way::SettledRemembered, Way::SettledForNow),
            (false, _) => {
                change.way = Way::Settled;
                if afresh && self.memory.flows.contains_key(&hash) {
                    change.way = Way::SettledAfresh;
                    change.forgotten = Some(hash);
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
        if self.room(service, begins, &mut change) && row < self.tables.lengths().rows {
            let row = self.tables.row(row);
            let entry = FlowEntry {
                identity: row.identity as u32,
                service: service.salt as u32,
                seen: self.now,
                number: to,
                reserved: 0,
            };
            change.entry = Some((hash, entry));
            change.way = way;
            return (to, change);
        }
        change.way = without_room;
        match known {
            Some(entry) if afresh => {
                change.way = Way::RememberedForWantOfRoom;
                (entry.number, change)
            }
            _ if afresh && moving => (previous, change),
            _ => (to, change),
        }
    }

    /// The backend that a look-up tells: what is remembered, else that of a flow that begins now.
    pub(super) fn peek(&self, frame: &[u8], service: &ServiceEntry, slot: Slot, hash: u64) -> BackendNumber {
        let tcp = transport(frame).is_ok_and(|transport| transport.tcp);
        let tracked = !slot.is_stable() && (tcp || service.flags & flag::TRACK_ALWAYS != 0);
        let begins = tcp && transport(frame).is_ok_and(|transport| is_syn(frame, transport.offset));
        let afresh = begins && slot.current() != NOBODY && service.flags & flag::HASH_PORT != 0;
        match self.known(service, hash) {
            Some(entry) if tracked && !afresh => entry.number,
            _ => slot.current(),
        }
    }

    /// What is remembered of a flow, as long as that backend serves and is the same.
    fn known(&self, service: &ServiceEntry, hash: u64) -> Option<FlowEntry> {
        let entry = *self.memory.flows.get(&hash)?;
        let row = service.backend_base() + u32::from(entry.number);
        if row >= self.tables.lengths().rows {
            return None;
        }
        let row = self.tables.row(row);
        let serves = row.flags & row_flag::SERVES != 0;
        (serves && row.identity as u32 == entry.identity).then_some(entry)
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
