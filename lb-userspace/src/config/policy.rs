//! A service's keys about failing over and recovering, as typed, and what they mean together.

use std::time::Duration;

use super::findings::{Findings, Label, Place, Span};
use super::problem::{Caution, Problem};
use super::scalar::{ALL_BUILT, Value};
use super::service::Service;
use super::table::{self, Key, Reader};
use crate::model;

const DAY: Duration = Duration::from_secs(24 * 3600);
const SECOND: Duration = Duration::from_secs(1);
const DEFAULT_FAILOVER_TIME: Duration = Duration::from_secs(30);
const DEFAULT_FAILBACK_DELAY: Duration = Duration::from_secs(60);
const DEFAULT_AGENT_INTERVAL: Duration = Duration::from_secs(5);
const DEFAULT_CHANGES: u32 = 3;
const DEFAULT_HALF_LIFE: Duration = Duration::from_secs(60);
const DEFAULT_MAX_OUT: Duration = Duration::from_secs(600);

/// The keys.
#[derive(Debug)]
pub(super) struct Policy<'r> {
    pub(super) failover: Key<Failover>,
    pub(super) failover_time: Key<Duration>,
    pub(super) failback: Key<Failback>,
    pub(super) failback_delay: Key<Duration>,
    pub(super) slow_start: Key<Duration>,
    pub(super) min_healthy: Key<u32>,
    pub(super) panic_threshold: Key<f64>,
    pub(super) weights: Key<Weights>,
    pub(super) agent_port: Key<u16>,
    pub(super) agent_interval: Key<Duration>,
    pub(super) damping: Option<Damping<'r>>,
}

/// `[service.damping]`.
#[derive(Debug)]
pub(super) struct Damping<'r> {
    place: Place<'r>,
    header: Span,
    changes: Key<u32>,
    half_life: Key<Duration>,
    max_out: Key<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failover {
    Fast,
    Gradual,
    Manual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failback {
    Auto,
    Delay,
    Manual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weights {
    Static,
    Latency,
    Agent,
}

/// Reads them from a service's table.
pub(super) fn read<'r>(reader: &Reader<'r>, service: Label<'r>, found: &mut Findings<'_>) -> Policy<'r> {
    let failovers = [
        ("fast", Failover::Fast),
        ("gradual", Failover::Gradual),
        ("manual", Failover::Manual),
    ];
    let failbacks = [
        ("auto", Failback::Auto),
        ("delay", Failback::Delay),
        ("manual", Failback::Manual),
    ];
    let weights = [
        ("static", Weights::Static),
        ("latency", Weights::Latency),
        ("agent", Weights::Agent),
    ];
    Policy {
        failover: reader.key("failover", found, |value| value.choice(&failovers, &ALL_BUILT)),
        failover_time: reader.key("failover_time", found, long),
        failback: reader.key("failback", found, |value| value.choice(&failbacks, &ALL_BUILT)),
        failback_delay: reader.key("failback_delay", found, long),
        slow_start: reader.key("slow_start", found, |value| {
            value
                .duration(Duration::ZERO, "0s, or 1s to 24h", DAY)
                .and_then(|time| {
                    if time.is_zero() || time >= SECOND {
                        Ok(time)
                    } else {
                        value.duration(SECOND, "0s, or 1s to 24h", DAY)
                    }
                })
        }),
        min_healthy: reader.key("min_healthy", found, |value| value.integer(1, 65_535)),
        panic_threshold: reader.key("panic_threshold", found, |value| value.fraction(1.0)),
        weights: reader.key("weights", found, |value| value.choice(&weights, &ALL_BUILT)),
        agent_port: reader.key("agent_port", found, |value| value.port()),
        agent_interval: reader.key("agent_interval", found, |value| {
            value.duration(Duration::from_millis(100), "100ms to 1h", Duration::from_secs(3600))
        }),
        damping: reader.table("damping", found).map(|table| {
            let place = Place::Damping(service);
            let reader = Reader::new(table.value, table.span, place, table::DAMPING, found);
            Damping {
                place,
                header: table.span,
                changes: reader.key("changes", found, |value| value.integer(2, 100)),
                half_life: reader.key("half_life", found, |value| {
                    value.duration(SECOND, "1s to 1h", Duration::from_secs(3600))
                }),
                max_out: reader.key("max_out", found, long),
            }
        }),
    }
}

fn long(value: &Value<'_, '_>) -> Result<Duration, Problem> {
    value.duration(SECOND, "1s to 24h", DAY)
}

/// What they mean; nothing if one of them is wrong.
pub(super) fn judge(service: &Service<'_>, found: &mut Findings<'_>) -> Option<model::Policy> {
    let policy = &service.policy;
    let place = Place::Service(service.label);
    let failover = policy.failover.or(Failover::Fast);
    let failback = policy.failback.or(Failback::Auto);
    let weights = policy.weights.or(Weights::Static);
    // A key that goes with another one's value only, where that value is known.
    let mut goes_with = |key, span: Option<Span>, holds: Option<bool>, with| {
        if let (Some(span), Some(false)) = (span, holds) {
            found.error(place, span, Problem::OnlyWith { key, with });
        }
    };
    let time = policy.failover_time.typed().map(|at| at.span);
    goes_with(
        "failover_time",
        time,
        failover.map(|f| f == Failover::Gradual),
        "failover = \"gradual\"",
    );
    let delay = policy.failback_delay.typed().map(|at| at.span);
    goes_with(
        "failback_delay",
        delay,
        failback.map(|f| f == Failback::Delay),
        "failback = \"delay\"",
    );
    let agent = weights.map(|w| w == Weights::Agent);
    let port = policy.agent_port.typed().map(|at| at.span);
    goes_with("agent_port", port, agent, "weights = \"agent\"");
    let interval = policy.agent_interval.typed().map(|at| at.span);
    goes_with("agent_interval", interval, agent, "weights = \"agent\"");
    if agent == Some(true) && matches!(policy.agent_port, Key::Absent) {
        let setting = "weights = \"agent\"";
        let span = policy.weights.span_or(service.header);
        found.error(
            place,
            span,
            Problem::Needed {
                key: "agent_port",
                setting,
            },
        );
    }
    if service.health.is_none() {
        caution_without_checks(service, found);
    }
    let real = |backend: &&super::backend::Backend<'_>| backend.sorry.typed().is_none_or(|sorry| !sorry.value);
    let backends = service.backends.iter().filter(real).count();
    if let Some(typed) = policy.min_healthy.typed()
        && typed.value as usize > backends
    {
        let value = typed.value;
        found.warn(place, typed.span, Caution::ManyHealthy { value, backends });
    }
    let damping = match &policy.damping {
        Some(damping) => Some(judge_damping(damping, found)?),
        None => None,
    };
    Some(model::Policy {
        failover: match failover? {
            Failover::Fast => model::Failover::Fast,
            Failover::Gradual => model::Failover::Gradual {
                over: policy.failover_time.or(DEFAULT_FAILOVER_TIME)?,
            },
            Failover::Manual => model::Failover::Manual,
        },
        failback: match failback? {
            Failback::Auto => model::Failback::Auto,
            Failback::Delay => model::Failback::Delay {
                after: policy.failback_delay.or(DEFAULT_FAILBACK_DELAY)?,
            },
            Failback::Manual => model::Failback::Manual,
        },
        slow_start: policy.slow_start.or(Duration::ZERO)?,
        min_healthy: policy.min_healthy.or(1)?,
        // A fraction of 0 to 1 is at most 1,000 thousandths.
        panic_threshold: (policy.panic_threshold.or(0.0)? * 1000.0).round() as u16,
        damping,
        weights: match weights? {
            Weights::Static => model::Weights::Static,
            Weights::Latency => model::Weights::Latency,
            Weights::Agent => model::Weights::Agent {
                port: policy.agent_port.typed()?.value,
                interval: policy.agent_interval.or(DEFAULT_AGENT_INTERVAL)?,
            },
        },
    })
}

fn judge_damping(damping: &Damping<'_>, found: &mut Findings<'_>) -> Option<model::Damping> {
    let changes = damping.changes.or(DEFAULT_CHANGES);
    let half_life = damping.half_life.or(DEFAULT_HALF_LIFE)?;
    // Room for a long half-life without another key.
    let max_out = damping.max_out.or(DEFAULT_MAX_OUT.max(half_life))?;
    if max_out < half_life {
        let max_out = format!("{max_out:?}");
        let half_life = format!("{half_life:?}");
        let span = damping.max_out.span_or(damping.header);
        found.error(damping.place, span, Problem::ShortDamping { max_out, half_life });
        return None;
    }
    Some(model::Damping {
        changes: changes?,
        half_life,
        max_out,
    })
}

fn caution_without_checks(service: &Service<'_>, found: &mut Findings<'_>) {
    let policy = &service.policy;
    let place = Place::Service(service.label);
    let typed = |key: &Key<Weights>, weights| key.typed().filter(|at| at.value == weights).map(|at| at.span);
    let keys = [
        (
            "failover",
            policy
                .failover
                .typed()
                .filter(|at| at.value != Failover::Fast)
                .map(|at| at.span),
        ),
        (
            "panic_threshold",
            policy
                .panic_threshold
                .typed()
                .filter(|at| at.value > 0.0)
                .map(|at| at.span),
        ),
        ("weights", typed(&policy.weights, Weights::Latency)),
        ("damping", policy.damping.as_ref().map(|damping| damping.header)),
    ];
    for (key, span) in keys {
        if let Some(span) = span {
            found.warn(place, span, Caution::NoChecks { key });
        }
    }
}
