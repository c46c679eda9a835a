//! `[node]` and `[node.capacity]`, as typed.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use lb_common::encap::Mac;
use toml::de::{DeTable, DeValue};

use super::MAX_RING_SLOTS;
use super::findings::{Findings, Place, Span};
use super::problem::Problem;
use super::scalar::{ALL_BUILT, Value};
use super::table::{self, At, Key, Reader};
use crate::model::{Offloads, XdpMode};

/// `[node]`.
#[derive(Debug)]
pub(super) struct Node<'r> {
    pub(super) header: Span,
    /// At least one, no two alike; nothing if one of them was refused.
    pub(super) interfaces: Option<Vec<&'r str>>,
    pub(super) xdp_mode: Key<XdpMode>,
    pub(super) offloads: Key<Offloads>,
    pub(super) hash_seed: Key<u64>,
    pub(super) gateway_mac: Key<Mac>,
    pub(super) tunnel_source_v4: Key<Ipv4Addr>,
    pub(super) tunnel_source_v6: Key<Ipv6Addr>,
    pub(super) capacity: Capacity,
}

/// `[node.capacity]`.
#[derive(Debug)]
pub(super) struct Capacity {
    pub(super) services: Key<u32>,
    pub(super) backends: Key<u32>,
    /// Nothing: as many as are needed.
    pub(super) ring_slots: Key<Option<u32>>,
    pub(super) flows: Key<u32>,
}

pub(super) fn read<'r>(table: &At<&'r DeTable<'r>>, found: &mut Findings<'_>) -> Node<'r> {
    let reader = Reader::new(table.value, table.span, Place::Node, table::NODE, found);
    let modes = [
        ("auto", XdpMode::Auto),
        ("native", XdpMode::Native),
        ("generic", XdpMode::Generic),
    ];
    let offloads = [
        ("disable", Offloads::Disable),
        ("refuse", Offloads::Refuse),
        ("keep", Offloads::Keep),
    ];
    Node {
        header: table.span,
        interfaces: read_interfaces(&reader, found),
        xdp_mode: reader.key("xdp_mode", found, |value| value.choice(&modes, &ALL_BUILT)),
        offloads: reader.key("offloads", found, |value| value.choice(&offloads, &ALL_BUILT)),
        hash_seed: reader.key("hash_seed", found, |value| value.seed()),
        gateway_mac: reader.key("gateway_mac", found, |value| value.mac()),
        tunnel_source_v4: reader.key("tunnel_source_v4", found, |value| value.source_v4()),
        tunnel_source_v6: reader.key("tunnel_source_v6", found, |value| value.source_v6()),
        capacity: read_capacity(&reader, found),
    }
}

fn read_interfaces<'r>(reader: &Reader<'r>, found: &mut Findings<'_>) -> Option<Vec<&'r str>> {
    const KEY: &str = "interfaces";
    const WANT: &str = "a list of at least one, such as [\"eth0\"]";
    let array = reader.required(KEY, WANT, found, |value| match value.toml {
        DeValue::Array(array) if array.is_empty() => Err(Problem::Empty { key: KEY, want: WANT }),
        DeValue::Array(array) => Ok(array),
        _ => Err(value.wrong_type("a list, such as [\"eth0\"],")),
    });
    let mut names = Vec::new();
    let mut first_at: HashMap<&str, usize> = HashMap::new();
    let mut all_good = true;
    for element in array.typed()?.value.iter() {
        let span = Span::from(element.span());
        let typed = &|| found.typed(span);
        let name = Value {
            key: "interface",
            toml: element.get_ref(),
            typed,
        }
        .interface();
        let problem = match name {
            Ok(name) => match first_at.get(name) {
                None => {
                    first_at.insert(name, span.start);
                    names.push(name);
                    continue;
                }
                Some(&first) => Problem::Duplicate {
                    key: "interface",
                    value: typed(),
                    line: found.line_number(first),
                    scope: "each is named once",
                },
            },
            Err(problem) => problem,
        };
        found.error(Place::Node, span, problem);
        all_good = false;
    }
    all_good.then_some(names)
}

fn read_capacity(node: &Reader<'_>, found: &mut Findings<'_>) -> Capacity {
    let Some(table) = node.table("capacity", found) else {
        return Capacity {
            services: Key::Absent,
            backends: Key::Absent,
            ring_slots: Key::Absent,
            flows: Key::Absent,
        };
    };
    let reader = Reader::new(table.value, table.span, Place::Capacity, table::CAPACITY, found);
    Capacity {
        services: reader.key("services", found, |value| value.integer(1, 1_000_000)),
        backends: reader.key("backends", found, |value| value.integer(1, 4_000_000)),
        ring_slots: reader.key("ring_slots", found, |value| match value.toml {
            DeValue::String(word) if word == "auto" => Ok(None),
            DeValue::String(_) => Err(value.wrong_type("a number or \"auto\"")),
            _ => value.integer(2, MAX_RING_SLOTS).map(Some),
        }),
        flows: reader.key("flows", found, |value| value.integer(1_024, 16_777_216)),
    }
}
