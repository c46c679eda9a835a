//! What a probe does, as typed: the keys of `[service.health]` that belong to some kinds only, and what they mean.

use std::path::Path;

use toml::de::DeValue;

use super::alert::named_user;
use super::findings::{Findings, Span};
use super::problem::Problem;
use super::scalar::{ALL_BUILT, Value};
use super::table::{Key, Reader};
use crate::health::probe::dns::{RCODES, RECORDS};
use crate::model::{Check, Dns, Exec, Grpc, Http, Protocol, Statuses, Tls, Udp};
use crate::run_as::NamedUser;

/// The kind, and the keys that some kinds have.
#[derive(Debug)]
pub(super) struct Keys<'r> {
    header: Span,
    pub(super) kind: Key<Kind>,
    path: Key<&'r str>,
    host: Key<&'r str>,
    expect_status: Key<&'r DeValue<'r>>,
    expect_body: Key<&'r str>,
    tls: Key<bool>,
    server_name: Key<&'r str>,
    ca_file: Key<&'r str>,
    verify: Key<bool>,
    grpc_service: Key<&'r str>,
    query: Key<&'r str>,
    record: Key<u16>,
    expect_rcode: Key<u8>,
    expect_answer: Key<&'r str>,
    send: Key<&'r str>,
    send_hex: Key<&'r str>,
    expect: Key<&'r str>,
    expect_hex: Key<&'r str>,
    program: Key<&'r str>,
    args: Key<&'r DeValue<'r>>,
    user: Key<&'r str>,
    run_as: Option<NamedUser>,
}

/// What a probe does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    Http,
    Https,
    Grpc,
    Dns,
    Udp,
    Icmp,
    Exec,
}

const KINDS: [(&str, Kind); 8] = [
    ("tcp", Kind::Tcp),
    ("http", Kind::Http),
    ("https", Kind::Https),
    ("grpc", Kind::Grpc),
    ("dns", Kind::Dns),
    ("udp", Kind::Udp),
    ("icmp", Kind::Icmp),
    ("exec", Kind::Exec),
];

/// Bytes that a datagram, or what is looked for, may have.
const MOST_BYTES: usize = 1_024;

pub(super) fn read<'r>(reader: &Reader<'r>, found: &mut Findings<'_>) -> Keys<'r> {
    const WANT: &str = "\"tcp\", \"http\", \"https\", \"grpc\", \"dns\", \"udp\", \"icmp\" or \"exec\"";
    let mut run_as = None;
    let keys = Keys {
        header: reader.header,
        kind: reader.required("kind", WANT, found, |value| value.choice(&KINDS, &ALL_BUILT)),
        path: reader.key("path", found, |value| value.http_path()),
        host: reader.key("host", found, |value| value.http_host()),
        expect_status: reader.key("expect_status", found, |value| statuses(value).map(|_| value.toml)),
        expect_body: reader.key("expect_body", found, |value| {
            value.text("a text of 1 to 1024 bytes", MOST_BYTES)
        }),
        tls: reader.key("tls", found, |value| value.boolean()),
        server_name: reader.key("server_name", found, |value| value.http_host()),
        ca_file: reader.key("ca_file", found, absolute),
        verify: reader.key("verify", found, |value| value.boolean()),
        grpc_service: reader.key("grpc_service", found, |value| {
            value.text("a gRPC service's name: 1 to 255 bytes", 255)
        }),
        query: reader.key("query", found, domain),
        record: reader.key("record", found, |value| value.choice(&RECORDS, &ALL_BUILT)),
        expect_rcode: reader.key("expect_rcode", found, |value| value.choice(&RCODES, &ALL_BUILT)),
        expect_answer: reader.key("expect_answer", found, |value| {
            value.text("an address or a name: 1 to 255 bytes", 255)
        }),
        send: reader.key("send", found, |value| {
            value.text("a text of 1 to 1024 bytes", MOST_BYTES)
        }),
        send_hex: reader.key("send_hex", found, |value| hex(value).map(|(text, _)| text)),
        expect: reader.key("expect", found, |value| {
            value.text("a text of 1 to 1024 bytes", MOST_BYTES)
        }),
        expect_hex: reader.key("expect_hex", found, |value| hex(value).map(|(text, _)| text)),
        program: reader.key("program", found, absolute),
        args: reader.key("args", found, |value| args(value).map(|_| value.toml)),
        user: reader.key("user", found, |value| {
            run_as = Some(named_user(value)?);
            value.string("a string")
        }),
        run_as,
    };
    if let (Some(user), Some(span)) = (&keys.run_as, span(&keys.user)) {
        found.unknown_user(reader.place, span, user);
    }
    keys.belong(reader, found);
    keys
}

impl Keys<'_> {
    /// Reports keys of other kinds, and those that this kind needs and does not have.
    fn belong(&self, reader: &Reader<'_>, found: &mut Findings<'_>) {
        use Kind::{Dns, Exec, Grpc, Http, Https, Udp};
        let Some(kind) = self.kind.typed() else { return };
        let kind = kind.value;
        let name = KINDS
            .iter()
            .find(|(_, known)| *known == kind)
            .map_or("", |(name, _)| name);
        let web = "http and https";
        let tls = "https, and grpc with tls = true";
        let all: [(&'static str, Option<Span>, &'static str, &[Kind]); 20] = [
            ("path", span(&self.path), web, &[Http, Https]),
            ("host", span(&self.host), "http, https and grpc", &[Http, Https, Grpc]),
            ("expect_status", span(&self.expect_status), web, &[Http, Https]),
            ("expect_body", span(&self.expect_body), web, &[Http, Https]),
            ("tls", span(&self.tls), "grpc", &[Grpc]),
            ("server_name", span(&self.server_name), tls, &[Https, Grpc]),
            ("ca_file", span(&self.ca_file), tls, &[Https, Grpc]),
            ("verify", span(&self.verify), tls, &[Https, Grpc]),
            ("grpc_service", span(&self.grpc_service), "grpc", &[Grpc]),
            ("query", span(&self.query), "dns", &[Dns]),
            ("record", span(&self.record), "dns", &[Dns]),
            ("expect_rcode", span(&self.expect_rcode), "dns", &[Dns]),
            ("expect_answer", span(&self.expect_answer), "dns", &[Dns]),
            ("send", span(&self.send), "udp", &[Udp]),
            ("send_hex", span(&self.send_hex), "udp", &[Udp]),
            ("expect", span(&self.expect), "udp", &[Udp]),
            ("expect_hex", span(&self.expect_hex), "udp", &[Udp]),
            ("program", span(&self.program), "exec", &[Exec]),
            ("args", span(&self.args), "exec", &[Exec]),
            ("user", span(&self.user), "exec", &[Exec]),
        ];
        for (key, typed, only, kinds) in all {
            if let Some(span) = typed.filter(|_| !kinds.contains(&kind)) {
                found.error(reader.place, span, Problem::NotForKind { key, only, kind: name });
            }
        }
        if kind == Grpc && !self.tls.typed().is_some_and(|tls| tls.value) {
            for (key, typed) in [
                ("server_name", span(&self.server_name)),
                ("ca_file", span(&self.ca_file)),
                ("verify", span(&self.verify)),
            ] {
                if let Some(span) = typed {
                    let with = "tls = true";
                    found.error(reader.place, span, Problem::OnlyWith { key, with });
                }
            }
        }
        let mut needed = |key: &'static str, want| {
            if !reader.has(key) {
                found.error(reader.place, self.header, Problem::Missing { key, want });
            }
        };
        match kind {
            Dns => needed("query", "the name that is asked for, such as \"www.example\""),
            Exec => needed("program", "the absolute path of a program"),
            Udp if !reader.has("send_hex") => needed("send", "what is sent; or send_hex"),
            _ => {}
        }
        for (text, hex) in [("send", self.send_hex), ("expect", self.expect_hex)] {
            if let (true, Some(hex)) = (reader.has(text), hex.typed()) {
                found.error(reader.place, hex.span, Problem::TextAndHex { key: text });
            }
        }
    }

    /// What it means, for a service of this protocol; nothing if a key was refused.
    pub(super) fn check(&self, protocol: Protocol) -> Option<Check> {
        let owned = |key: &Key<&str>| Some(key.optional()?.map(str::to_owned));
        let tls = || {
            Some(Tls {
                server_name: owned(&self.server_name)?,
                ca_file: self.ca_file.optional()?.map(Into::into),
                verify: self.verify.or(true)?,
            })
        };
        let kind = self.kind.typed()?.value;
        Some(match kind {
            Kind::Tcp => Check::Tcp,
            Kind::Icmp => Check::Icmp,
            Kind::Http | Kind::Https => Check::Http(Http {
                path: self.path.or("/")?.to_owned(),
                host: owned(&self.host)?,
                statuses: match self.expect_status.optional()? {
                    Some(typed) => parse_statuses(typed)?,
                    None => Statuses::default(),
                },
                body: owned(&self.expect_body)?,
                tls: if kind == Kind::Https { Some(tls()?) } else { None },
            }),
            Kind::Grpc => Check::Grpc(Grpc {
                service: self.grpc_service.or("")?.to_owned(),
                host: owned(&self.host)?,
                tls: if self.tls.or(false)? { Some(tls()?) } else { None },
            }),
            Kind::Dns => Check::Dns(Dns {
                name: self.query.typed()?.value.to_owned(),
                record: self.record.or(1)?,
                rcode: self.expect_rcode.or(0)?,
                answer: owned(&self.expect_answer)?,
                over: protocol,
            }),
            Kind::Udp => Check::Udp(Udp {
                send: bytes(&self.send, &self.send_hex)??,
                expect: bytes(&self.expect, &self.expect_hex)?,
            }),
            Kind::Exec => Check::Exec(Exec {
                program: self.program.typed()?.value.into(),
                args: match self.args.optional()? {
                    Some(DeValue::Array(args)) => args
                        .iter()
                        .filter_map(|arg| arg.get_ref().as_str().map(str::to_owned))
                        .collect(),
                    _ => Vec::new(),
                },
                run_as: self.user.optional()?.and_then(|_| self.run_as.clone()),
            }),
        })
    }
}

fn span<T: Copy>(key: &Key<T>) -> Option<Span> {
    key.typed().map(|at| at.span)
}

fn bytes(text: &Key<&str>, hex: &Key<&str>) -> Option<Option<Vec<u8>>> {
    if let Some(hex) = hex.optional()? {
        return Some(Some(parse_hex(hex)?));
    }
    Some(text.optional()?.map(|text| text.as_bytes().to_vec()))
}

fn statuses(value: &Value<'_, '_>) -> Result<Statuses, Problem> {
    parse_statuses(value.toml).ok_or_else(|| {
        value.malformed("a status or a list of statuses and ranges from 100 to 599, such as 200 or \"200-299,301\"")
    })
}

fn parse_statuses(value: &DeValue<'_>) -> Option<Statuses> {
    let text = match value {
        DeValue::Integer(integer) => integer.to_string(),
        DeValue::String(text) => text.to_string(),
        _ => return None,
    };
    let number = |text: &str| text.parse::<u16>().ok().filter(|status| (100..=599).contains(status));
    let range = |part: &str| {
        let part = part.trim();
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let range = (number(first.trim())?, number(last.trim())?);
        (range.0 <= range.1).then_some(range)
    };
    text.split(',').map(range).collect::<Option<_>>().map(Statuses)
}

fn hex<'r>(value: &Value<'r, '_>) -> Result<(&'r str, Vec<u8>), Problem> {
    const WANT: &str = "1 to 1024 bytes, each as two hexadecimal digits, such as \"0a ff\"";
    let text = value.string(WANT)?;
    let bytes = parse_hex(text).filter(|bytes| (1..=MOST_BYTES).contains(&bytes.len()));
    bytes.map(|bytes| (text, bytes)).ok_or_else(|| value.malformed(WANT))
}

fn parse_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').collect();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some((digit(*high)? * 16 + digit(*low)?) as u8),
        _ => None,
    };
    digits.chunks(2).map(pair).collect()
}

/// A DNS name: labels of 1 to 63 visible bytes, 255 in all.
fn domain<'r>(value: &Value<'r, '_>) -> Result<&'r str, Problem> {
    const WANT: &str = "a domain name, such as \"www.example\"";
    let text = value.string(WANT)?;
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_graphic());
    if text == "." || name.len() <= 253 && name.split('.').all(label) {
        Ok(text)
    } else {
        Err(value.malformed(WANT))
    }
}

pub(super) fn absolute<'r>(value: &Value<'r, '_>) -> Result<&'r str, Problem> {
    const WANT: &str = "an absolute path";
    let text = value.string(WANT)?;
    if Path::new(text).is_absolute() && text.len() <= 4_095 && !text.contains('\0') {
        Ok(text)
    } else {
        Err(value.malformed(WANT))
    }
}

fn args(value: &Value<'_, '_>) -> Result<(), Problem> {
    const WANT: &str = "a list of at most 64 texts, such as [\"-v\", \"web\"],";
    let DeValue::Array(array) = value.toml else {
        return Err(value.wrong_type(WANT));
    };
    let good = |arg: &DeValue<'_>| {
        arg.as_str()
            .is_some_and(|text| text.len() <= 4_096 && !text.contains('\0'))
    };
    if array.len() <= 64 && array.iter().all(|arg| good(arg.get_ref())) {
        Ok(())
    } else {
        Err(value.malformed("a list of at most 64 texts"))
    }
}
