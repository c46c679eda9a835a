//! Words from closed lists: protocols, modes, states. One name each, in JSON, tables and configuration files.

use serde::{Deserialize, Serialize};

use crate::health::FullSizeState;
use crate::model;

/// How the program is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// In the driver.
    Native,
    /// In the network stack: works with any driver, at a fraction of the speed.
    Generic,
}

/// How a configuration came to be in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Acceptance {
    /// Read when the daemon started.
    Start,
    /// Sent by `lbctl apply`.
    Apply,
    /// Read again because the file changed, or on SIGHUP.
    Reload,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A forward mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Forward {
    /// New Ethernet addresses, nothing else.
    L2,
    /// IP in IP.
    Ipip,
}

/// What of a packet chooses its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HashInput {
    /// Both addresses, both ports, the protocol.
    #[serde(rename = "5-tuple")]
    FiveTuple,
    /// The client's address.
    Source,
    /// The client's address and the destination port.
    SourceDport,
    /// The destination port.
    Dport,
}

/// Which flows are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tracking {
    /// Those of slots that change owner while the old owner serves.
    Adaptive,
    /// All.
    Always,
    /// None.
    Never,
}

/// How probes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// To the VIP, as a client's packet would reach the backend.
    Vip,
    /// To the backend's own address.
    Direct,
}

/// What a backend's checks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// It answers.
    Up,
    /// It does not.
    Down,
    /// Not known yet.
    Starting,
}

/// What an operator says of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admin {
    /// It serves if it is healthy.
    Enabled,
    /// It gets no new connections.
    Draining,
    /// It gets no packets.
    Disabled,
}

/// How a path was found to be too small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FoundBy {
    /// By the MTU of the route or of the interface.
    Route,
    /// By a full-size probe.
    Probe,
}

/// What full-size probes say of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FullSize {
    /// There are none: it has no tunnel, or no check by the users' path that this host makes itself.
    NotProbed,
    /// Nothing is known yet.
    Pending,
    /// Packets of full size are answered.
    Passed,
    /// They are not, and small ones are.
    TooSmall,
    /// No padded packet is answered, large or small: nothing can be told.
    Unanswered,
}

/// Makes an enumeration's name in the JSON its name in tables, too, and converts it from the model's.
macro_rules! names {
    ($($type:ident { $($variant:ident = $name:literal),+ $(,)? })+) => {$(
        impl $type {
            /// Its name in JSON, tables and configuration files.
            pub const fn name(self) -> &'static str {
                match self {
                    $($type::$variant => $name,)+
                }
            }

            #[cfg(test)]
            const ALL: &[$type] = &[$($type::$variant),+];
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }
    )+};
}

names! {
    Acceptance { Start = "start", Apply = "apply", Reload = "reload" }
    AttachMode { Native = "native", Generic = "generic" }
    Protocol { Tcp = "tcp", Udp = "udp" }
    Forward { L2 = "l2", Ipip = "ipip" }
    HashInput { FiveTuple = "5-tuple", Source = "source", SourceDport = "source-dport", Dport = "dport" }
    Tracking { Adaptive = "adaptive", Always = "always", Never = "never" }
    Via { Vip = "vip", Direct = "direct" }
    Health { Up = "up", Down = "down", Starting = "starting" }
    FoundBy { Route = "route", Probe = "probe" }
    FullSize {
        NotProbed = "not-probed", Pending = "pending", Passed = "passed", TooSmall = "too-small",
        Unanswered = "unanswered",
    }
    Admin { Enabled = "enabled", Draining = "draining", Disabled = "disabled" }
}

impl From<FullSizeState> for FullSize {
    fn from(state: FullSizeState) -> Self {
        match state {
            FullSizeState::Pending => FullSize::Pending,
            FullSizeState::Passed => FullSize::Passed,
            FullSizeState::TooSmall => FullSize::TooSmall,
            FullSizeState::Unanswered => FullSize::Unanswered,
        }
    }
}

impl From<model::Protocol> for Protocol {
    fn from(protocol: model::Protocol) -> Self {
        match protocol {
            model::Protocol::Tcp => Protocol::Tcp,
            model::Protocol::Udp => Protocol::Udp,
        }
    }
}

impl From<model::Forward> for Forward {
    fn from(forward: model::Forward) -> Self {
        match forward {
            model::Forward::L2 => Forward::L2,
            model::Forward::Ipip => Forward::Ipip,
        }
    }
}

impl From<Forward> for model::Forward {
    fn from(forward: Forward) -> Self {
        match forward {
            Forward::L2 => model::Forward::L2,
            Forward::Ipip => model::Forward::Ipip,
        }
    }
}

impl From<model::HashInput> for HashInput {
    fn from(hash: model::HashInput) -> Self {
        match hash {
            model::HashInput::FiveTuple => HashInput::FiveTuple,
            model::HashInput::Source => HashInput::Source,
            model::HashInput::SourceDport => HashInput::SourceDport,
            model::HashInput::Dport => HashInput::Dport,
        }
    }
}

impl From<model::Tracking> for Tracking {
    fn from(tracking: model::Tracking) -> Self {
        match tracking {
            model::Tracking::Adaptive => Tracking::Adaptive,
            model::Tracking::Always => Tracking::Always,
            model::Tracking::Never => Tracking::Never,
        }
    }
}

impl From<model::Via> for Via {
    fn from(via: model::Via) -> Self {
        match via {
            model::Via::Vip => Via::Vip,
            model::Via::Direct => Via::Direct,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Copy + Serialize + std::fmt::Display>(all: &[T]) {
        for value in all {
            let json = serde_json::to_string(value).expect("an enumeration without data is a string");
            assert_eq!(json, format!("\"{value}\""));
        }
    }

    #[test]
    fn names_in_tables_are_the_names_in_json() {
        check(Acceptance::ALL);
        check(AttachMode::ALL);
        check(Protocol::ALL);
        check(Forward::ALL);
        check(HashInput::ALL);
        check(Tracking::ALL);
        check(Via::ALL);
        check(Health::ALL);
        check(FoundBy::ALL);
        check(FullSize::ALL);
        check(Admin::ALL);
    }
}
