//! What is asked of the daemon and what comes of it: what would change, what has changed, what is wrong with a file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::types::{BackendDetail, Detached};

/// Something to say about a place in a configuration file: an error or a warning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Line, from 1; nothing if it is about the file as a whole.
    pub line: Option<u32>,
    /// Column in characters, from 1.
    pub column: Option<u32>,
    /// What is wrong, with the value and what is allowed.
    pub message: String,
}

/// What a configuration file is worth, without a daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// The file, as it was named.
    pub file: String,
    /// Whether a daemon would take it: `errors` is empty.
    pub valid: bool,
    /// Its services; 0 if it is not valid.
    pub services: u32,
    /// Its pairs of service and backend; 0 if it is not valid.
    pub backends: u32,
    /// Every error in it.
    pub errors: Vec<Finding>,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Finding>,
    /// As a plan's, if a daemon answers.
    #[serde(default)]
    pub disruptions: Vec<String>,
}

/// What a configuration would change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlanReport {
    /// What is different from the configuration in force; empty if nothing is.
    pub changes: Vec<Change>,
    /// The rings that change.
    pub rings: Vec<RingChange>,
    /// Writes to the kernel's maps, by what is written (`services`, `backends`, `ring slots`).
    pub writes: BTreeMap<String, u64>,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Finding>,
    /// Changes that break nearly all connections of a service, a sentence each.
    #[serde(default)]
    pub disruptions: Vec<String>,
}

/// One thing that is different.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What happens to it.
    pub action: ChangeAction,
    /// The service; nothing: the node's own settings.
    pub service: Option<String>,
    /// The backend; nothing: the service itself.
    pub backend: Option<String>,
    /// What of it is different; empty if it is removed.
    pub fields: Vec<FieldChange>,
}

/// What happens to a service, a backend or the node's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeAction {
    /// It is new.
    Add,
    /// It goes.
    Remove,
    /// It stays, but not as it was.
    Change,
}

/// One setting that is different, named as in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Name of the setting.
    pub field: String,
    /// Its value in the configuration in force; nothing if it has none.
    pub before: Option<String>,
    /// Its value in the new one; nothing if it has none.
    pub after: Option<String>,
}

/// How much of a ring changes owner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RingChange {
    /// The service.
    pub service: String,
    /// Slots that have another owner afterwards.
    pub moved: u32,
    /// Slots of the ring.
    pub ring_size: u32,
    /// The part of the service's packets that these slots get now, by each backend's rate: 0.0 ..= 1.0. Nothing while it gets none.
    /// New connections of that part go elsewhere; what becomes of the others, `tracking` says.
    pub traffic: Option<f64>,
}

/// A configuration was accepted and is in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApplyReport {
    /// Its number.
    pub generation: u64,
    /// Milliseconds from the daemon having the request until the maps were written.
    pub took_ms: u64,
    /// What has changed.
    pub plan: PlanReport,
    /// Configured interfaces without the program: what is in force reaches none of their packets.
    pub detached: Vec<Detached>,
}

/// What an operator wants of a backend; it holds until the operator says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "lowercase", deny_unknown_fields)]
pub enum BackendAction {
    /// No new connections.
    Drain {
        /// Milliseconds after which it is disabled; nothing: it drains until the operator says otherwise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_ms: Option<u64>,
    },
    /// It serves if it is healthy: takes back `Drain` and `Disable`.
    Enable,
    /// No packets at once.
    Disable,
    /// Another weight than the file's.
    Weight {
        /// 0 ..= 65,535; 0: no traffic.
        weight: u32,
        /// Milliseconds in which the weight moves there; nothing: at once.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        over_ms: Option<u64>,
    },
    /// All as the file has it.
    Reset,
}

/// The backend as it is after an operator's word.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendChanged {
    /// The service.
    pub service: String,
    /// The backend.
    pub backend: BackendDetail,
    /// What the operator should know: that no backend of the service serves any more, say.
    pub warnings: Vec<String>,
}

/// A failover or failback was confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmed {
    /// The service.
    pub service: String,
    /// The backends that it was about.
    pub backends: Vec<String>,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// Whom a failover or failback is confirmed for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmation {
    /// The backend; nothing: all that wait.
    pub backend: Option<String>,
}

/// What the program did with one packet of a capture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SimulatedPacket {
    /// What the program returned.
    pub verdict: Verdict,
    /// Why, as [`lb_common::reason::Reason::name`] names it.
    pub reason: String,
    /// The service that it belongs to, if to any.
    pub service: Option<String>,
    /// The backend that it went to, if to any.
    pub backend: Option<String>,
    /// Length of the frame as it came, in bytes.
    pub len_in: u32,
    /// Length of the frame as it left, in bytes.
    pub len_out: u32,
}

/// What the program returned for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Out of the interface that it came from: `XDP_TX`.
    Tx,
    /// Out of another interface: `XDP_REDIRECT`.
    Redirect,
    /// To the host's own network stack: `XDP_PASS`.
    Pass,
    /// Nowhere: `XDP_DROP`.
    Drop,
}

impl PlanReport {
    /// Whether the new configuration says the same as the one in force.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.rings.is_empty() && self.writes.values().all(|count| *count == 0)
    }
}
