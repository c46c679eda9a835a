//! `[service.health]`, as typed.

use std::time::Duration;

use toml::de::DeTable;

use super::check::{self, Kind};
use super::findings::{Findings, Label, Place};
use super::problem::Problem;
use super::scalar::ALL_BUILT;
use super::table::{self, At, Key, Reader};
use crate::model::Via;

/// `[service.health]`.
#[derive(Debug)]
pub(super) struct Health<'r> {
    /// How errors name it.
    pub(super) place: Place<'r>,
    pub(super) check: check::Keys<'r>,
    pub(super) port: Key<u16>,
    pub(super) interval: Key<Duration>,
    pub(super) fast_interval: Key<Duration>,
    pub(super) timeout: Key<Duration>,
    pub(super) rise: Key<u32>,
    pub(super) fall: Key<u32>,
    pub(super) jitter: Key<f64>,
    pub(super) via: Key<Via>,
}

pub(super) fn read<'r>(table: &At<&'r DeTable<'r>>, service: Label<'r>, found: &mut Findings<'_>) -> Health<'r> {
    let place = Place::Health(service);
    let reader = Reader::new(table.value, table.span, place, table::HEALTH, found);
    let health = Health {
        place,
        check: check::read(&reader, found),
        port: reader.key("port", found, |value| value.port()),
        interval: reader.key("interval", found, |value| {
            value.duration(Duration::from_millis(10), "10ms to 1h", Duration::from_secs(3600))
        }),
        fast_interval: reader.key("fast_interval", found, |value| {
            value.duration(
                Duration::from_millis(10),
                "10ms to the interval",
                Duration::from_secs(3600),
            )
        }),
        timeout: reader.key("timeout", found, |value| {
            value.duration(
                Duration::from_millis(1),
                "1ms to the interval",
                Duration::from_secs(3600),
            )
        }),
        rise: reader.key("rise", found, |value| value.integer(1, 100)),
        fall: reader.key("fall", found, |value| value.integer(1, 100)),
        jitter: reader.key("jitter", found, |value| value.fraction(0.5)),
        via: reader.key("via", found, |value| {
            value.choice(&[("vip", Via::Vip), ("direct", Via::Direct)], &ALL_BUILT)
        }),
    };
    if let (Some(Kind::Exec), Some(At { value: Via::Vip, span })) =
        (health.check.kind.typed().map(|kind| kind.value), health.via.typed())
    {
        found.error(place, span, Problem::ExecByVip);
    }
    health
}
