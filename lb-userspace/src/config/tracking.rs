//! How many flows a service may remember in a second: a flood must not fill the flow table within the time for which they are kept.

use std::time::Duration;

use super::findings::{Findings, Place};
use super::problem::Caution;
use super::service::Service;
use super::table::Key;
use super::{DEFAULT_DRAIN_TIME, MAX_DEFAULT_FLOW_INSERTS};

/// The service's bound: typed, or what a table of `flows` entries has room for. Warns of one that is more.
pub(super) fn flow_inserts(service: &Service<'_>, flows: u32, found: &mut Findings<'_>) -> Option<u32> {
    let drain_time = service.drain_time.or(DEFAULT_DRAIN_TIME)?;
    let room = room(flows, drain_time);
    if let Key::Typed(at) = &service.flow_inserts
        && at.value > room
    {
        let caution = Caution::ManyInserts {
            inserts: at.value,
            drain_time: drain_time.as_secs(),
            flows,
            room,
        };
        found.warn(Place::Service(service.label), at.span, caution);
    }
    service.flow_inserts.or(room.min(MAX_DEFAULT_FLOW_INSERTS))
}

/// How many new connections in a second fill half of the table within the drain time. The other half is for those that were there.
fn room(flows: u32, drain_time: Duration) -> u32 {
    let seconds = u32::try_from(drain_time.as_secs()).unwrap_or(u32::MAX).max(1);
    (flows / 2 / seconds).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_table_lasts_for_the_drain_time() {
        for (flows, seconds, expected) in [
            (524_288, 300, 873),
            (524_288, 5, 52_428),
            (1_024, 86_400, 1),
            (1_024, 0, 512),
        ] {
            assert_eq!(
                room(flows, Duration::from_secs(seconds)),
                expected,
                "{flows} flows, {seconds} s"
            );
        }
    }
}
