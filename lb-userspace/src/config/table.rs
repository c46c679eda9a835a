//! One table of the file: its keys, each read once and by one function, and those that do not belong there.

use std::fmt;

use toml::de::{DeTable, DeValue};

use super::findings::{Findings, Place, Span};
use super::problem::Problem;
use super::scalar::Value;
use super::suggest::nearest;

pub(super) const ROOT: &[&str] = &["node", "service", "alert"];
pub(super) const ALERT: &[&str] = &[
    "name",
    "kind",
    "severity",
    "events",
    "timeout",
    "url",
    "url_file",
    "server",
    "port",
    "tls",
    "from",
    "to",
    "user",
    "password_file",
    "ca_file",
    "command",
];
pub(super) const NODE: &[&str] = &[
    "interfaces",
    "xdp_mode",
    "offloads",
    "hash_seed",
    "gateway_mac",
    "tunnel_source_v4",
    "tunnel_source_v6",
    "capacity",
];
pub(super) const CAPACITY: &[&str] = &["services", "backends", "ring_slots", "flows"];
pub(super) const SERVICE: &[&str] = &[
    "name",
    "vip",
    "protocol",
    "port",
    "forward",
    "hash",
    "tracking",
    "drain_time",
    "flow_inserts",
    "ring_size",
    "failover",
    "failover_time",
    "failback",
    "failback_delay",
    "slow_start",
    "min_healthy",
    "panic_threshold",
    "weights",
    "agent_port",
    "agent_interval",
    "damping",
    "health",
    "backend",
];
pub(super) const DAMPING: &[&str] = &["changes", "half_life", "max_out"];
pub(super) const HEALTH: &[&str] = &[
    "kind",
    "port",
    "interval",
    "fast_interval",
    "timeout",
    "rise",
    "fall",
    "jitter",
    "via",
    "path",
    "host",
    "expect_status",
    "expect_body",
    "tls",
    "server_name",
    "ca_file",
    "verify",
    "grpc_service",
    "query",
    "record",
    "expect_rcode",
    "expect_answer",
    "send",
    "send_hex",
    "expect",
    "expect_hex",
    "program",
    "args",
    "user",
];
pub(super) const BACKEND: &[&str] = &["name", "address", "weight", "forward", "priority", "sorry"];

/// Where a key belongs that was found elsewhere; the likeliest table first.
const TABLES: &[(&str, &[&str])] = &[
    ("[[service]]", SERVICE),
    ("[[service.backend]]", BACKEND),
    ("[service.health]", HEALTH),
    ("[service.damping]", DAMPING),
    ("[node]", NODE),
    ("[node.capacity]", CAPACITY),
    ("[[alert]]", ALERT),
];

/// A value and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Span,
}

/// What became of a key.
#[derive(Clone, Copy, Debug)]
pub(super) enum Key<T> {
    /// It is not in the file.
    Absent,
    /// It is, but was refused; the error is reported.
    Bad,
    /// It is, and by itself it is right.
    Typed(At<T>),
}

impl<T: Copy> Key<T> {
    /// The value, or `default` if none was typed; nothing if it was refused.
    pub(super) fn or(&self, default: T) -> Option<T> {
        match self {
            Key::Absent => Some(default),
            Key::Bad => None,
            Key::Typed(at) => Some(at.value),
        }
    }

    /// The value, or `Some(None)` if none was typed; nothing if it was refused.
    pub(super) fn optional(&self) -> Option<Option<T>> {
        match self {
            Key::Absent => Some(None),
            Key::Bad => None,
            Key::Typed(at) => Some(Some(at.value)),
        }
    }

    /// The value if it was typed and right.
    pub(super) fn typed(&self) -> Option<At<T>> {
        match self {
            Key::Typed(at) => Some(*at),
            _ => None,
        }
    }

    /// Where the value stands, else `header`.
    pub(super) fn span_or(&self, header: Span) -> Span {
        self.typed().map_or(header, |at| at.span)
    }
}

impl<T> Key<T> {
    /// The value if it was typed and right, of any type.
    pub(super) fn into_value(self) -> Option<T> {
        match self {
            Key::Typed(at) => Some(at.value),
            _ => None,
        }
    }
}

/// Reads one table.
pub(super) struct Reader<'r> {
    table: &'r DeTable<'r>,
    /// The table's header, or the whole of an inline table.
    pub(super) header: Span,
    /// How errors name the table.
    pub(super) place: Place<'r>,
    /// Keys that are there under a misspelt name, which is error enough.
    misspelt: Vec<&'static str>,
}

impl<'r> Reader<'r> {
    /// Reports the keys that are not in `allowed`.
    pub(super) fn new(
        table: &'r DeTable<'r>,
        header: Span,
        place: Place<'r>,
        allowed: &'static [&'static str],
        found: &mut Findings<'_>,
    ) -> Self {
        let mut misspelt = Vec::new();
        for (key, value) in table.iter() {
            if allowed.contains(&key.get_ref().as_ref()) {
                continue;
            }
            let span = Span::from(key.span());
            let hint = hint(key.get_ref(), value.get_ref(), allowed);
            if let Hint::DidYouMean(meant) = hint {
                misspelt.push(meant);
            }
            let hint = hint.to_string();
            let key = found.typed(span);
            found.error(place, span, Problem::UnknownKey { key, hint });
        }
        Reader {
            table,
            header,
            place,
            misspelt,
        }
    }

    /// Whether the key is there, if only under a misspelt name.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key) || self.misspelt.contains(&key)
    }

    /// Reads a key's value with `read`.
    pub(super) fn key<T>(
        &self,
        key: &'static str,
        found: &mut Findings<'_>,
        read: impl FnOnce(&Value<'r, '_>) -> Result<T, Problem>,
    ) -> Key<T> {
        let Some(spanned) = self.table.get(key) else {
            return if self.misspelt.contains(&key) {
                Key::Bad
            } else {
                Key::Absent
            };
        };
        let span = Span::from(spanned.span());
        let typed = &|| found.typed(span);
        match read(&Value {
            key,
            toml: spanned.get_ref(),
            typed,
        }) {
            Ok(value) => Key::Typed(At { value, span }),
            Err(problem) => {
                found.error(self.place, span, problem);
                Key::Bad
            }
        }
    }

    /// As [`key`](Self::key), for a key that has to be there; `want` says what.
    pub(super) fn required<T>(
        &self,
        key: &'static str,
        want: &'static str,
        found: &mut Findings<'_>,
        read: impl FnOnce(&Value<'r, '_>) -> Result<T, Problem>,
    ) -> Key<T> {
        if !self.has(key) {
            found.error(self.place, self.header, Problem::Missing { key, want });
            return Key::Bad;
        }
        self.key(key, found, read)
    }

    /// The table under a key.
    pub(super) fn table(&self, key: &'static str, found: &mut Findings<'_>) -> Option<At<&'r DeTable<'r>>> {
        self.key(key, found, |value| match value.toml {
            DeValue::Table(table) => Ok(table),
            _ => Err(value.wrong_type("a table")),
        })
        .typed()
    }

    /// The tables under a key, of which each begins with `header`. A single table is an error, but read.
    pub(super) fn tables(
        &self,
        key: &'static str,
        header: &'static str,
        found: &mut Findings<'_>,
    ) -> Vec<At<&'r DeTable<'r>>> {
        let Some(spanned) = self.table.get(key) else {
            return Vec::new();
        };
        let mut tables = Vec::new();
        let mut take = |value: &'r DeValue<'r>, span: Span, found: &mut Findings<'_>| match value {
            DeValue::Table(table) => tables.push(At { value: table, span }),
            _ => {
                let problem = Value {
                    key,
                    toml: value,
                    typed: &|| found.typed(span),
                }
                .wrong_type("a table");
                found.error(self.place, span, problem);
            }
        };
        let span = Span::from(spanned.span());
        match spanned.get_ref() {
            DeValue::Array(array) => {
                for element in array.iter() {
                    take(element.get_ref(), element.span().into(), found);
                }
            }
            value => {
                if matches!(value, DeValue::Table(_)) {
                    let key = header.trim_matches(['[', ']']);
                    found.error(self.place, span, Problem::OneTable { key, header });
                }
                take(value, span, found);
            }
        }
        tables
    }
}

/// What to do about an unknown key.
enum Hint {
    DidYouMean(&'static str),
    BelongsIn(&'static str),
    Allowed(&'static [&'static str]),
}

fn hint(key: &str, value: &DeValue<'_>, allowed: &'static [&'static str]) -> Hint {
    let near = || nearest(key, allowed.iter().copied()).map(Hint::DidYouMean);
    let elsewhere = || {
        TABLES
            .iter()
            .find(|(_, keys)| keys.contains(&key))
            .map(|(header, _)| Hint::BelongsIn(header))
    };
    // A misspelt table is not a number of [node.capacity].
    let is_table = matches!(value, DeValue::Table(_) | DeValue::Array(_));
    let hint = if is_table {
        near().or_else(elsewhere)
    } else {
        elsewhere().or_else(near)
    };
    hint.unwrap_or(Hint::Allowed(allowed))
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hint::DidYouMean(key) => write!(f, "did you mean {key}?"),
            Hint::BelongsIn(header) => write!(f, "it belongs in {header}"),
            Hint::Allowed(keys) => write!(f, "allowed: {}", keys.join(", ")),
        }
    }
}
