//! The events in memory. When there are too many, the most frequent kind loses its oldest: a flood of one kind takes nothing from the others, and
//! what is rare, as what users suffer from should be, stays for long.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use crate::api::events::{Event, EventKind, Severity};

/// Events that are kept, some 25 MB: one outage of 10,000 backends, each in a service of its own, and their return.
pub const MOST: usize = 60_000;
/// A critical event is as hard to push out as so many others.
const CRITICAL: usize = 4;

/// Events by their number.
#[derive(Debug, Default)]
pub(super) struct Kept {
    events: BTreeMap<u64, Arc<Event>>,
    /// The numbers of each kind, in order.
    kinds: BTreeMap<EventKind, VecDeque<u64>>,
}

impl Kept {
    /// Takes in an event with a greater number than all before.
    pub(super) fn add(&mut self, event: Arc<Event>) {
        self.kinds.entry(event.kind).or_default().push_back(event.id);
        self.events.insert(event.id, event);
        if self.events.len() > MOST {
            self.forget_one();
        }
    }

    fn forget_one(&mut self) {
        let weight = |kind: EventKind, ids: &VecDeque<u64>| match kind.severity() {
            Severity::Critical => ids.len() / CRITICAL,
            Severity::Warning | Severity::Info => ids.len(),
        };
        let most = self.kinds.iter_mut().max_by_key(|(kind, ids)| weight(**kind, ids));
        if let Some(oldest) = most.and_then(|(_, ids)| ids.pop_front()) {
            self.events.remove(&oldest);
        }
    }

    /// The number of the newest.
    pub(super) fn newest(&self) -> Option<u64> {
        self.events.last_key_value().map(|(id, _)| *id)
    }

    /// Those with a greater number.
    pub(super) fn after(&self, id: u64) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        let range = (Bound::Excluded(id), Bound::Unbounded);
        self.events.range(range).map(|(_, event)| event)
    }
}
