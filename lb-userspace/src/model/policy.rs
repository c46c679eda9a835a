//! How a service's backends are taken out of service, brought back, and weighed.

use std::time::Duration;

/// A service's policy. The default does what is known at once, and nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// What follows when a backend goes down.
    pub failover: Failover,
    /// What follows when it is up again.
    pub failback: Failback,
    /// How long a backend that comes back takes to get its whole share: 0, or 1 s ..= 24 h.
    pub slow_start: Duration,
    /// The next tier serves, too, while fewer than this are up: 1 ..= 65,535.
    pub min_healthy: u32,
    /// In thousandths: when a smaller share of the backends is healthy, all are used. 0 ..= 1,000; 0: never.
    pub panic_threshold: u16,
    /// Whether a backend that changes state too often stays out, and for how long.
    pub damping: Option<Damping>,
    /// What else than the file's weight a backend's share depends on.
    pub weights: Weights,
}

/// What follows when a backend goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failover {
    /// It is out at once.
    Fast,
    /// Its share goes to others in steps.
    Gradual {
        /// How long that takes: 1 s ..= 24 h.
        over: Duration,
    },
    /// It serves on until an operator confirms.
    Manual,
}

/// What follows when a backend is up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failback {
    /// It serves.
    Auto,
    /// It serves after having been up for some time.
    Delay {
        /// How long: 1 s ..= 24 h.
        after: Duration,
    },
    /// It stays out until an operator confirms.
    Manual,
}

/// How changes of state are damped, in the manner of RFC 2439: each one adds to a penalty, which halves again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damping {
    /// So many times down in a short time, and the backend stays out: 2 ..= 100.
    pub changes: u32,
    /// The time in which the penalty halves: 1 s ..= 1 h.
    pub half_life: Duration,
    /// It does not stay out for longer than this after its last change: 1 s ..= 24 h, at least `half_life`.
    pub max_out: Duration,
}

/// What else than the file's weight a backend's share depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// Nothing.
    Static,
    /// How fast it answers its checks, compared with the fastest.
    Latency,
    /// What it says itself when it is asked.
    Agent {
        /// The TCP port of its agent.
        port: u16,
        /// How often it is asked: 100 ms ..= 1 h.
        interval: Duration,
    },
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            failover: Failover::Fast,
            failback: Failback::Auto,
            slow_start: Duration::ZERO,
            min_healthy: 1,
            panic_threshold: 0,
            damping: None,
            weights: Weights::Static,
        }
    }
}
