//! Health checking: who of the backends answers.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`state`] | rise and fall: from results to up and down. Pure |
//! | `roster` | who is probed, when next, and what is known of everyone. Pure: the time is passed in |
//! | `probe` | one probe of each kind, over the network |
//! | [`checker`] | the thread that starts due probes and reports changes |
//! | [`full_size`] | whether packets of users' full size get through the tunnels |
//! | `lanes` | more threads for the probes, where one is not enough |
//! | [`mod@unreachable`] | ICMP errors about tunnelled packets |
//! | [`via`] | how probes travel |
//! | [`limits`] | how many sockets there may be |
//!
//! Results only ever leave as a [`HealthEvent`] (a change of state) or in a [`Status`] (what is known now). What follows from
//! them is not decided here.

pub mod checker;
pub mod full_size;
mod lanes;
pub mod limits;
pub(crate) mod probe;
#[cfg(test)]
pub(crate) mod rehearsal;
mod roster;
pub mod state;
pub mod unreachable;
pub mod via;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use checker::{Checker, StartError};
pub use full_size::{FullSize, FullSizeState};
pub use limits::raise_file_limit;
pub use state::{Judge, Outcome, State, Transition};
pub use via::{Via, VipPath};

use crate::model;

/// Which backend of which service: what a verdict is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetId {
    /// The service's name.
    pub service: Arc<str>,
    /// The backend's name.
    pub backend: Arc<str>,
}

impl TargetId {
    /// From both names.
    pub fn new(service: &str, backend: &str) -> Self {
        Self {
            service: service.into(),
            backend: backend.into(),
        }
    }
}

/// A backend that is to be checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Unique in a set.
    pub id: TargetId,
    /// The backend's address; the port is in `health`.
    pub address: IpAddr,
    /// How the probe gets there.
    pub via: Via,
    /// What the probe does, when, and what its results mean.
    pub health: model::Health,
    /// What is known from before a restart: serving or not. Nothing: it begins as [`State::Starting`].
    pub initial: Option<bool>,
}

/// A backend's state changed.
#[derive(Clone, Debug)]
pub struct HealthEvent {
    /// Whose.
    pub id: TargetId,
    /// What was probed. An event made before a new set of targets may be read after it: one whose address is no longer the
    /// backend's is about its predecessor.
    pub address: SocketAddr,
    /// From what to what.
    pub transition: Transition,
    /// The result that decided, for people: `connection refused`, `status 500 (expected 200 to 399)`.
    pub reason: Arc<str>,
    /// When.
    pub at: Instant,
}

/// What is known of one target.
#[derive(Clone, Debug)]
pub struct Status {
    /// Who.
    pub id: TargetId,
    /// What is probed.
    pub address: SocketAddr,
    /// The verdict.
    pub state: State,
    /// When that state began.
    pub since: Instant,
    /// Results in a row that speak against it.
    pub run: u32,
    /// Probes that passed, since the target was added.
    pub passed: u64,
    /// Probes that failed.
    pub failed: u64,
    /// Probes that this host could not make.
    pub skipped: u64,
    /// The latest result; none before the first probe has ended.
    pub last: Option<LastProbe>,
}

/// The latest result of a probe.
#[derive(Clone, Debug)]
pub struct LastProbe {
    /// How it ended.
    pub outcome: Outcome,
    /// The same for people: `status 200`, `no connection within 100ms`.
    pub text: Arc<str>,
    /// From its start to the answer, or until it was given up.
    pub took: Duration,
    /// When it ended.
    pub at: Instant,
}
