//! `[[service]]`, as typed.

use std::net::IpAddr;
use std::time::Duration;

use toml::de::DeTable;

use super::backend::{self, Backend};
use super::findings::{Findings, Label, Place, Span};
use super::health::{self, Health};
use super::policy::{self, Policy};
use super::prime::{MAX_RING_SIZE, is_prime, next_prime, previous_prime};
use super::problem::Problem;
use super::scalar::{ALL_BUILT, NotBuilt, Value, is_name};
use super::table::{self, At, Key, Reader};
use crate::model::{Forward, HashInput, Protocol, Tracking};

/// `[[service]]`.
#[derive(Debug)]
pub(super) struct Service<'r> {
    pub(super) header: Span,
    /// How errors name it.
    pub(super) label: Label<'r>,
    pub(super) name: Key<&'r str>,
    pub(super) vip: Key<IpAddr>,
    pub(super) protocol: Key<Protocol>,
    pub(super) port: Key<u16>,
    pub(super) forward: Key<Forward>,
    pub(super) hash: Key<HashInput>,
    pub(super) tracking: Key<Tracking>,
    pub(super) drain_time: Key<Duration>,
    pub(super) flow_inserts: Key<u32>,
    pub(super) ring_size: Key<u32>,
    pub(super) policy: Policy<'r>,
    pub(super) health: Option<Health<'r>>,
    pub(super) backends: Vec<Backend<'r>>,
}

/// Reads the service that is number `index` in the file, from 0.
pub(super) fn read<'r>(table: &At<&'r DeTable<'r>>, index: usize, found: &mut Findings<'_>) -> Service<'r> {
    let name = table
        .value
        .get("name")
        .and_then(|name| name.get_ref().as_str())
        .filter(|name| is_name(name));
    let label = name.map_or(Label::Number(index + 1), Label::Name);
    let reader = Reader::new(table.value, table.span, Place::Service(label), table::SERVICE, found);
    let protocols = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
    let hashes = [
        ("5-tuple", HashInput::FiveTuple),
        ("source", HashInput::Source),
        ("source-dport", HashInput::SourceDport),
        ("dport", HashInput::Dport),
    ];
    let trackings = [
        ("adaptive", Tracking::Adaptive),
        ("always", Tracking::Always),
        ("never", Tracking::Never),
    ];
    Service {
        header: table.span,
        label,
        name: reader.required("name", "a string, unique among the services", found, |value| {
            value.name()
        }),
        vip: reader.required("vip", "the address that clients use", found, |value| value.vip()),
        protocol: reader.required("protocol", "\"tcp\" or \"udp\"", found, |v| {
            v.choice(&protocols, &ALL_BUILT)
        }),
        port: reader.required("port", "1 to 65535", found, |value| value.service_port()),
        forward: reader.key("forward", found, forward),
        hash: reader.key("hash", found, |value| value.choice(&hashes, &ALL_BUILT)),
        tracking: reader.key("tracking", found, |value| value.choice(&trackings, &ALL_BUILT)),
        drain_time: reader.key("drain_time", found, |value| {
            value.duration(Duration::from_secs(1), "1s to 24h", Duration::from_secs(24 * 3600))
        }),
        flow_inserts: reader.key("flow_inserts", found, |value| value.integer(1, 10_000_000)),
        ring_size: reader.key("ring_size", found, ring_size),
        policy: policy::read(&reader, label, found),
        health: reader
            .table("health", found)
            .map(|table| health::read(&table, label, found)),
        backends: reader
            .tables("backend", "[[service.backend]]", found)
            .iter()
            .enumerate()
            .map(|(index, table)| backend::read(table, label, index, found))
            .collect(),
    }
}

/// How packets go to a backend; a service's and a backend's key.
pub(super) fn forward(value: &Value<'_, '_>) -> Result<Forward, Problem> {
    let later = NotBuilt {
        words: &["gue", "fou", "gre"],
        has: "this version has l2 and ipip",
    };
    value.choice(&[("l2", Forward::L2), ("ipip", Forward::Ipip)], &later)
}

fn ring_size(value: &Value<'_, '_>) -> Result<u32, Problem> {
    let size = value.integer(2, MAX_RING_SIZE)?;
    if is_prime(size) {
        return Ok(size);
    }
    let neighbours: Vec<String> = [previous_prime(size), next_prime(size)]
        .into_iter()
        .flatten()
        .map(|prime| prime.to_string())
        .collect();
    Err(Problem::NotPrime {
        value: (value.typed)(),
        nearest: neighbours.join(" and "),
    })
}
