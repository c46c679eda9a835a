//! What has happened: one [`Event`] for every change, and how they are asked for.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

/// One change: what or who, from, to, why, when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number: each event has one more than the one before, over restarts of the daemon too.
    pub id: u64,
    /// When.
    pub at_unix_ms: u64,
    /// What.
    pub kind: EventKind,
    /// How much it matters.
    pub severity: Severity,
    /// The service that it is about; nothing: the node.
    pub service: Option<String>,
    /// The backend that it is about; nothing: the service as a whole.
    pub backend: Option<String>,
    /// What was; empty where there is no such thing.
    pub from: String,
    /// What is.
    pub to: String,
    /// Why, for people: a probe's answer, an operator's command.
    pub why: String,
    /// Who caused it.
    pub by: Cause,
}

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Info,
    /// Less capacity or safety than there should be.
    Warning,
    /// Users suffer, or are about to, or an operator is waited for.
    Critical,
}

/// Who caused an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// A health check.
    Check,
    /// An operator, through the API.
    Operator,
    /// The service's policy.
    Policy,
    /// The configuration file.
    File,
    /// Netlink: routes and neighbours.
    Network,
    /// The daemon itself.
    Daemon,
    /// What a backend reports of its own load, or how fast it answers.
    Load,
}

/// Events on their way to who asked for them: shared with the journal, and as JSON a plain list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events(pub Vec<Arc<Event>>);

impl Serialize for Events {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|event| &**event))
    }
}

/// Which events are asked for; what is absent does not narrow them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventQuery {
    /// Only those with a greater number.
    pub after: Option<u64>,
    /// Only those at or after this time.
    pub since_unix_ms: Option<u64>,
    /// Only those about this service.
    pub service: Option<String>,
    /// Only the latest so many; with `after`, the first so many.
    pub limit: Option<usize>,
}

/// The kinds of event, their names and how much they matter.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal, $severity:ident;)+) => {
        /// What has happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum EventKind {
            $($(#[$doc])* #[serde(rename = $name)] $kind,)+
        }

        impl EventKind {
            /// All of them.
            pub const ALL: &[EventKind] = &[$(EventKind::$kind),+];

            /// Its name in JSON, tables and configuration files.
            pub const fn name(self) -> &'static str {
                match self {
                    $(EventKind::$kind => $name,)+
                }
            }

            /// How much it matters.
            pub const fn severity(self) -> Severity {
                match self {
                    $(EventKind::$kind => Severity::$severity,)+
                }
            }
        }
    };
}

kinds! {
    /// The daemon serves.
    DaemonStarted = "daemon_started", Info;
    /// The daemon stops; the kernel goes on.
    DaemonStopped = "daemon_stopped", Info;
    /// A configuration is in force.
    ConfigApplied = "config_applied", Info;
    /// A configuration was not accepted: the one before stays.
    ConfigRefused = "config_refused", Warning;
    /// The file is bad at the start: what was accepted last is served.
    ConfigFallback = "config_fallback", Critical;
    /// What was applied does not count any more: the file has changed since, or this version does not accept it.
    ConfigDropped = "config_dropped", Warning;
    /// The kernel does not hold what is wanted.
    KernelBehind = "kernel_behind", Critical;
    /// It does again.
    KernelCaughtUp = "kernel_caught_up", Info;
    /// The program is not on a configured interface: none of its packets is balanced.
    XdpDetached = "xdp_detached", Critical;
    /// It is again.
    XdpAttached = "xdp_attached", Info;
    /// Somebody removed the pin that keeps the program on an interface; it is pinned again.
    XdpPinRestored = "xdp_pin_restored", Warning;
    /// An offload that hid VLAN tags from the program, or joined packets before it saw them, was switched off.
    OffloadDisabled = "offload_disabled", Info;
    /// Such an offload is on: it cannot be switched off, or is not to be.
    OffloadActive = "offload_active", Warning;
    /// The kernel refuses the fastest program; a slower one serves.
    ProgramSlower = "program_slower", Warning;
    /// A backend answers its checks.
    BackendUp = "backend_up", Info;
    /// It does not.
    BackendDown = "backend_down", Warning;
    /// It changed so often that it stays out for a time, whatever its checks say.
    BackendDamped = "backend_damped", Warning;
    /// That time is over.
    BackendReleased = "backend_released", Info;
    /// An operator lets it end its connections.
    BackendDraining = "backend_draining", Info;
    /// It has no connection left that is known of, or its time is over.
    BackendDrained = "backend_drained", Info;
    /// An operator gives it no packets.
    BackendDisabled = "backend_disabled", Info;
    /// An operator takes back a drain or disable.
    BackendEnabled = "backend_enabled", Info;
    /// Its weight changes: an operator's word, or a ramp's beginning or end.
    BackendWeight = "backend_weight", Info;
    /// An operator takes back every override.
    BackendReset = "backend_reset", Info;
    /// What it reports of its load, or how fast it answers, changes its share.
    BackendLoad = "backend_load", Info;
    /// Its agent does not answer: what it said last holds.
    AgentSilent = "agent_silent", Warning;
    /// It answers again.
    AgentHeard = "agent_heard", Info;
    /// No way to it is known any more.
    WayLost = "way_lost", Warning;
    /// A way to it is known again.
    WayFound = "way_found", Info;
    /// Clients' full-size packets do not fit the way to some of a service's backends.
    PathMtuTooSmall = "path_mtu_too_small", Warning;
    /// They do again, to all of them.
    PathMtuOk = "path_mtu_ok", Info;
    /// Its traffic goes to others.
    Failover = "failover", Warning;
    /// It is down and serves on, until an operator confirms the failover.
    FailoverPending = "failover_pending", Critical;
    /// Its traffic comes back.
    Failback = "failback", Info;
    /// It could serve again and waits: for a time, or for an operator.
    FailbackPending = "failback_pending", Warning;
    /// Other tiers of a service serve.
    Tier = "tier", Warning;
    /// So few backends are healthy that all are used.
    PanicOn = "panic_on", Critical;
    /// Enough are healthy again.
    PanicOff = "panic_off", Info;
    /// Nothing else is up: backends that were held out serve.
    LastResort = "last_resort", Critical;
    /// Nothing else is up: the sorry backend serves.
    SorryOn = "sorry_on", Critical;
    /// Other backends serve again.
    SorryOff = "sorry_off", Info;
    /// No backend serves: packets are dropped.
    ServiceLost = "service_lost", Critical;
    /// A backend serves again.
    ServiceBack = "service_back", Info;
    /// Events did not reach a receiver of alerts, or only as a count.
    AlertsLost = "alerts_lost", Warning;
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Severity {
    /// Its name in JSON, tables and configuration files.
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

impl Cause {
    /// Its name in JSON and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Cause::Check => "check",
            Cause::Operator => "operator",
            Cause::Policy => "policy",
            Cause::File => "file",
            Cause::Network => "network",
            Cause::Daemon => "daemon",
            Cause::Load => "load",
        }
    }
}

impl Event {
    /// Whose it is: `web/web-1`, `web`, or `node`.
    pub fn subject(&self) -> String {
        match (&self.service, &self.backend) {
            (Some(service), Some(backend)) => format!("{service}/{backend}"),
            (Some(service), None) => service.clone(),
            (None, _) => "node".to_owned(),
        }
    }

    /// The event as one sentence, without its time.
    pub fn sentence(&self) -> String {
        let mut text = format!("{} {}", self.subject(), self.kind);
        match (self.from.is_empty(), self.to.is_empty()) {
            (false, false) => text.push_str(&format!(": {} → {}", self.from, self.to)),
            (true, false) => text.push_str(&format!(": {}", self.to)),
            _ => {}
        }
        if !self.why.is_empty() {
            text.push_str(&format!(" ({})", self.why));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_one_name() {
        for kind in EventKind::ALL {
            let json = serde_json::to_value(kind).expect("an enumeration without data is a string");
            assert_eq!(json, kind.name());
        }
        for (severity, name) in [
            (Severity::Info, "info"),
            (Severity::Warning, "warning"),
            (Severity::Critical, "critical"),
        ] {
            assert_eq!(serde_json::to_value(severity).expect("a string"), name);
            assert_eq!(severity.name(), name);
        }
    }
}
