//! Where a backend stands by its service's policy, and how a service is served.

use serde::{Deserialize, Serialize};

use crate::policy::{self, Mode};

/// Where a backend stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// In a word.
    pub state: StandingState,
    /// Until when, where that is known.
    pub until_unix_ms: Option<u64>,
}

/// Where a backend stands, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StandingState {
    /// Its checks have said nothing yet.
    Starting,
    /// It serves with its whole share.
    Serving,
    /// It is coming back, with a part of its share.
    Rising,
    /// It is down, and its share goes to others step by step.
    Falling,
    /// It is down, and serves until an operator confirms the failover.
    Pending,
    /// It is down.
    Down,
    /// There is no way to it.
    Unreachable,
    /// It is up, and held out because it changed too often.
    Damped,
    /// It is up, and waits for a time or an operator before it serves.
    Waiting,
    /// It is up, and other tiers serve.
    Standby,
    /// It is up, and serves only when nothing else is.
    Sorry,
    /// It gets no new connections.
    Draining,
    /// It gets no packets.
    Disabled,
    /// Its weight is 0.
    Weightless,
}

/// How a service is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceMode {
    /// Nobody serves, but the checks of some have said nothing yet.
    Starting,
    /// By backends that are up.
    Normal,
    /// By all, because too few are healthy.
    Panic,
    /// By backends that are up and would be held out if there were others.
    LastResort,
    /// By the sorry backends.
    Sorry,
    /// By nobody: packets are dropped.
    Nobody,
}

impl StandingState {
    /// Its name in JSON and tables.
    pub const fn name(self) -> &'static str {
        match self {
            StandingState::Starting => "starting",
            StandingState::Serving => "serving",
            StandingState::Rising => "rising",
            StandingState::Falling => "falling",
            StandingState::Pending => "pending",
            StandingState::Down => "down",
            StandingState::Unreachable => "unreachable",
            StandingState::Damped => "damped",
            StandingState::Waiting => "waiting",
            StandingState::Standby => "standby",
            StandingState::Sorry => "sorry",
            StandingState::Draining => "draining",
            StandingState::Disabled => "disabled",
            StandingState::Weightless => "weightless",
        }
    }
}

impl From<&policy::Standing> for StandingState {
    fn from(standing: &policy::Standing) -> Self {
        match standing {
            policy::Standing::Starting => StandingState::Starting,
            policy::Standing::Serving => StandingState::Serving,
            policy::Standing::Rising => StandingState::Rising,
            policy::Standing::Falling => StandingState::Falling,
            policy::Standing::Pending => StandingState::Pending,
            policy::Standing::Down => StandingState::Down,
            policy::Standing::Unreachable => StandingState::Unreachable,
            policy::Standing::Damped { .. } => StandingState::Damped,
            policy::Standing::Waiting { .. } => StandingState::Waiting,
            policy::Standing::Standby => StandingState::Standby,
            policy::Standing::Sorry => StandingState::Sorry,
            policy::Standing::Draining => StandingState::Draining,
            policy::Standing::Disabled => StandingState::Disabled,
            policy::Standing::Weightless => StandingState::Weightless,
        }
    }
}

impl From<Mode> for ServiceMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Starting => ServiceMode::Starting,
            Mode::Normal => ServiceMode::Normal,
            Mode::Panic => ServiceMode::Panic,
            Mode::LastResort => ServiceMode::LastResort,
            Mode::Sorry => ServiceMode::Sorry,
            Mode::Nobody => ServiceMode::Nobody,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_one_name() {
        use StandingState::*;
        for state in [
            Starting,
            Serving,
            Rising,
            Falling,
            Pending,
            Down,
            Unreachable,
            Damped,
            Waiting,
            Standby,
            Sorry,
            Draining,
            Disabled,
            Weightless,
        ] {
            assert_eq!(serde_json::to_value(state).expect("a word"), state.name());
        }
    }
}
