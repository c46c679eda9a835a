//! Packets and bits per second, from counters read at intervals.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use lb_common::map::{Counter, ServiceKey};
use lb_common::reason::Reason;

use super::kernel::Kernel;
use crate::api::types::Rate;

/// One reading of all counters.
struct Sample {
    at: Instant,
    pairs: HashMap<(ServiceKey, u64), Counter>,
    received: u64,
}

/// The last two readings.
#[derive(Default)]
pub(super) struct Rates {
    last: Option<Sample>,
    before: Option<Sample>,
    /// No reading before this: reading counters must not cost more than a hundredth of the time.
    rest_until: Option<Instant>,
}

impl Rates {
    /// Takes a reading, if it is time.
    pub(super) fn sample(&mut self, kernel: &Kernel) {
        let at = Instant::now();
        if self.rest_until.is_some_and(|until| at < until) {
            return;
        }
        let Ok(reasons) = kernel.balancer.reasons() else { return };
        let mut pairs = HashMap::new();
        for (key, service) in kernel.layout().services {
            let base = service.entry.backend_base();
            for (row, identity) in (base..)
                .zip(&service.identities)
                .filter(|(_, identity)| **identity != 0)
            {
                if let Ok(counter) = kernel.balancer.pair(row) {
                    pairs.insert((key, *identity), counter);
                }
            }
        }
        let sample = Sample {
            at,
            pairs,
            received: reasons.iter().sum(),
        };
        self.before = self.last.replace(sample);
        self.rest_until = Some(at + (at.elapsed() * 100).min(Duration::from_secs(60)));
    }

    /// Of one backend of one service.
    pub(super) fn of(&self, key: ServiceKey, identity: u64) -> Rate {
        let (Some(before), Some(last)) = (&self.before, &self.last) else {
            return Rate::default();
        };
        let (Some(from), Some(to)) = (before.pairs.get(&(key, identity)), last.pairs.get(&(key, identity))) else {
            return Rate::default();
        };
        let seconds = (last.at - before.at).as_secs_f64().max(0.001);
        Rate {
            packets_per_second: to.packets.saturating_sub(from.packets) as f64 / seconds,
            bits_per_second: to.bytes.saturating_sub(from.bytes) as f64 * 8.0 / seconds,
        }
    }

    /// Packets received per second.
    pub(super) fn received(&self) -> f64 {
        let (Some(before), Some(last)) = (&self.before, &self.last) else {
            return 0.0;
        };
        last.received.saturating_sub(before.received) as f64 / (last.at - before.at).as_secs_f64().max(0.001)
    }
}

/// Both together.
pub(super) fn sum(rates: impl IntoIterator<Item = Rate>) -> Rate {
    rates.into_iter().fold(Rate::default(), |sum, rate| Rate {
        packets_per_second: sum.packets_per_second + rate.packets_per_second,
        bits_per_second: sum.bits_per_second + rate.bits_per_second,
    })
}

/// What a packet's fate adds to.
pub(super) fn by_fate(reasons: &[u64; Reason::COUNT], fate: lb_common::reason::Fate) -> u64 {
    Reason::ALL
        .iter()
        .filter(|reason| reason.fate() == fate)
        .map(|reason| reasons[*reason as usize])
        .sum()
}
