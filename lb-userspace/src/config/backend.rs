//! `[[service.backend]]`, as typed.

use std::net::IpAddr;

use toml::de::DeTable;

use super::findings::{Findings, Label, Place, Span};
use super::scalar::is_name;
use super::service::forward;
use super::table::{self, At, Key, Reader};
use crate::model::Forward;

/// `[[service.backend]]`.
#[derive(Debug)]
pub(super) struct Backend<'r> {
    pub(super) header: Span,
    /// How errors name it.
    pub(super) place: Place<'r>,
    pub(super) name: Key<&'r str>,
    pub(super) address: Key<IpAddr>,
    pub(super) weight: Key<u32>,
    pub(super) forward: Key<Forward>,
    pub(super) priority: Key<u32>,
    pub(super) sorry: Key<bool>,
}

/// Reads the backend that is number `index` in its service, from 0.
pub(super) fn read<'r>(
    table: &At<&'r DeTable<'r>>,
    service: Label<'r>,
    index: usize,
    found: &mut Findings<'_>,
) -> Backend<'r> {
    let name = table
        .value
        .get("name")
        .and_then(|name| name.get_ref().as_str())
        .filter(|name| is_name(name));
    let place = Place::Backend(service, name.map_or(Label::Number(index + 1), Label::Name));
    let reader = Reader::new(table.value, table.span, place, table::BACKEND, found);
    Backend {
        header: table.span,
        place,
        name: reader.required("name", "a string, unique in the service", found, |value| value.name()),
        address: reader.required("address", "where its packets go", found, |value| value.address(false)),
        weight: reader.key("weight", found, |value| value.integer(0, u16::MAX.into())),
        forward: reader.key("forward", found, forward),
        priority: reader.key("priority", found, |value| value.integer(0, 255)),
        sorry: reader.key("sorry", found, |value| value.boolean()),
    }
}
