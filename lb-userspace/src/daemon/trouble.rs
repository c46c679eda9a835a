//! What does not work and would otherwise be seen only in the log: a line each, for as long as it lasts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a line is about; the next line about the same replaces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// The file of the operator's overrides.
    Overrides,
    /// The file of the configuration that was accepted last.
    LastGood,
    /// The file of positions.
    Positions,
    /// The thread of alerts.
    Alerts,
    /// The thread of agents.
    Agents,
    /// The watcher of next hops.
    Watcher,
    /// The flow table.
    Flows,
    /// The list of interfaces.
    Links,
    /// The host's own Ethernet addresses.
    OwnAddresses,
    /// The modes of files.
    Modes,
}

/// Lines by topic; clones share them, so that threads beside the loop can say something.
#[derive(Clone, Debug, Default)]
pub struct Troubles(Arc<Mutex<BTreeMap<Topic, String>>>);

impl Troubles {
    /// Notes a trouble, or that it is over.
    pub fn set(&self, topic: Topic, line: Option<String>) {
        match line {
            Some(line) => drop(self.lines_by_topic().insert(topic, line)),
            None => drop(self.lines_by_topic().remove(&topic)),
        }
    }

    /// Whether there is one.
    pub fn has(&self, topic: Topic) -> bool {
        self.lines_by_topic().contains_key(&topic)
    }

    /// All of them.
    pub fn lines(&self) -> Vec<String> {
        self.lines_by_topic().values().cloned().collect()
    }

    fn lines_by_topic(&self) -> MutexGuard<'_, BTreeMap<Topic, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
