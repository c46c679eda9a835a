//! `[[alert]]`: who is told of events, as typed and as meant.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use lettre::message::Mailbox;
use toml::de::{DeTable, DeValue};

use super::check::absolute;
use super::findings::{Findings, Label, Place, Span};
use super::problem::Problem;
use super::scalar::{ALL_BUILT, Value, is_name};
use super::suggest::nearest;
use super::table::{self, At, Key, Reader};
use crate::api::events::{EventKind, Severity};
use crate::model::{Alert, AlertWay, Secret, SecretSource, SmtpTls};
use crate::run_as::NamedUser;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Webhook,
    Smtp,
    Exec,
}

const WEBHOOK: (&[Kind], &str) = (&[Kind::Webhook], "kind = \"webhook\"");
const SMTP: (&[Kind], &str) = (&[Kind::Smtp], "kind = \"smtp\"");
const EXEC: (&[Kind], &str) = (&[Kind::Exec], "kind = \"exec\"");
const SMTP_OR_EXEC: (&[Kind], &str) = (&[Kind::Smtp, Kind::Exec], "kind = \"smtp\" or \"exec\"");

/// Keys that belong to some kinds only, and these.
const KEYS: &[(&str, (&[Kind], &str))] = &[
    ("url", WEBHOOK),
    ("url_file", WEBHOOK),
    ("server", SMTP),
    ("port", SMTP),
    ("tls", SMTP),
    ("from", SMTP),
    ("to", SMTP),
    // Who logs in, or who the program runs as.
    ("user", SMTP_OR_EXEC),
    ("password_file", SMTP),
    ("command", EXEC),
];
/// Where `ca_file` has a meaning.
const ENCRYPTED: &str = "an https:// url, or tls = \"starttls\" or \"tls\"";

/// Reads all receivers; nothing if one of them is wrong.
pub(super) fn read(tables: &[At<&DeTable<'_>>], found: &mut Findings<'_>) -> Option<Vec<Alert>> {
    let mut names: HashMap<String, Span> = HashMap::new();
    let alerts: Vec<Option<Alert>> = tables
        .iter()
        .enumerate()
        .map(|(index, table)| one(table, index, &mut names, found))
        .collect();
    let mut alerts: Vec<Alert> = alerts.into_iter().collect::<Option<_>>()?;
    alerts.sort_by(|a, b| a.name.cmp(&b.name));
    Some(alerts)
}

fn one<'r>(
    table: &At<&'r DeTable<'r>>,
    index: usize,
    names: &mut HashMap<String, Span>,
    found: &mut Findings<'_>,
) -> Option<Alert> {
    let name = table.value.get("name").and_then(|name| name.get_ref().as_str());
    let label = name
        .filter(|name| is_name(name))
        .map_or(Label::Number(index + 1), Label::Name);
    let place = Place::Alert(label);
    let reader = Reader::new(table.value, table.span, place, table::ALERT, found);
    let name = reader.required("name", "a string, unique among the alerts", found, |value| value.name());
    unique(name, names, place, found);
    let kinds = [("webhook", Kind::Webhook), ("smtp", Kind::Smtp), ("exec", Kind::Exec)];
    let kind = reader.required("kind", "\"webhook\", \"smtp\" or \"exec\"", found, |value| {
        value.choice(&kinds, &ALL_BUILT)
    });
    let severities = [
        ("info", Severity::Info),
        ("warning", Severity::Warning),
        ("critical", Severity::Critical),
    ];
    let least = reader.key("severity", found, |value| value.choice(&severities, &ALL_BUILT));
    let events = reader.key("events", found, kinds_of_event);
    let timeout = reader.key("timeout", found, |value| {
        value.duration(Duration::from_millis(100), "100ms to 5m", Duration::from_secs(300))
    });
    let kind = kind.typed()?.value;
    for (key, (kinds, with)) in KEYS {
        if !kinds.contains(&kind)
            && let Some((typed, _)) = table.value.get_key_value(*key)
        {
            found.error(place, Span::from(typed.span()), Problem::OnlyWith { key, with });
        }
    }
    let ca_file = reader.key("ca_file", found, absolute);
    let way = match kind {
        Kind::Webhook => webhook(&reader, &ca_file, found)?,
        Kind::Smtp => smtp(&reader, &ca_file, found)?,
        Kind::Exec => exec(&reader, found)?,
    };
    let encrypted = match &way {
        AlertWay::Webhook {
            url: SecretSource::Inline(url),
            ..
        } => url.expose().starts_with("https:"),
        // Its file is read when an event is sent.
        AlertWay::Webhook {
            url: SecretSource::File(_),
            ..
        } => true,
        AlertWay::Smtp { tls, .. } => *tls != SmtpTls::None,
        AlertWay::Exec { .. } => false,
    };
    if let Key::Typed(file) = &ca_file
        && !encrypted
    {
        let key = "ca_file";
        found.error(place, file.span, Problem::OnlyWith { key, with: ENCRYPTED });
        return None;
    }
    Some(Alert {
        name: name.typed()?.value.to_owned(),
        way,
        least: least.or(Severity::Warning)?,
        kinds: match events {
            Key::Absent => Vec::new(),
            Key::Bad => return None,
            Key::Typed(at) => at.value,
        },
        timeout: timeout.or(DEFAULT_TIMEOUT)?,
    })
}

fn webhook(reader: &Reader<'_>, ca_file: &Key<&str>, found: &mut Findings<'_>) -> Option<AlertWay> {
    let file = reader.key("url_file", found, full_path);
    let url = match file {
        Key::Absent => {
            let url = reader.required("url", "where the events are sent, or url_file", found, url);
            SecretSource::Inline(Secret::from(url.into_value()?))
        }
        Key::Bad => return None,
        Key::Typed(file) => {
            if reader.has("url") {
                let (key, other) = ("url_file", "url");
                found.error(reader.place, file.span, Problem::Exclusive { key, other });
                return None;
            }
            SecretSource::File(file.value)
        }
    };
    Some(AlertWay::Webhook {
        url,
        ca_file: ca_file.optional()?.map(Into::into),
    })
}

fn smtp(reader: &Reader<'_>, ca_file: &Key<&str>, found: &mut Findings<'_>) -> Option<AlertWay> {
    let words = [
        ("starttls", SmtpTls::StartTls),
        ("tls", SmtpTls::Wrapped),
        ("none", SmtpTls::None),
    ];
    let server = reader.required("server", "the mail server", found, host);
    let port = reader.key("port", found, |value| value.port());
    let tls = reader.key("tls", found, |value| value.choice(&words, &ALL_BUILT));
    let from = reader.required("from", "who sends it", found, |value| mailbox(value).map(str::to_owned));
    let to = reader.required("to", "a list of who gets it", found, mailboxes);
    let user = reader.key("user", found, |value| value.string("a string").map(str::to_owned));
    let file = reader.key("password_file", found, full_path);
    match (&user, &file) {
        (Key::Typed(user), Key::Absent) => {
            let problem = Problem::Needed {
                key: "password_file",
                setting: "user",
            };
            found.error(reader.place, user.span, problem);
        }
        (Key::Absent, Key::Typed(file)) => {
            let problem = Problem::Needed {
                key: "user",
                setting: "password_file",
            };
            found.error(reader.place, file.span, problem);
        }
        _ => {}
    }
    let tls = tls.or(SmtpTls::StartTls)?;
    let usual = match tls {
        SmtpTls::None => 25,
        SmtpTls::StartTls => 587,
        SmtpTls::Wrapped => 465,
    };
    let login = match (user, file) {
        (Key::Absent, Key::Absent) => None,
        (Key::Typed(user), Key::Typed(file)) => Some((user.value, file.value)),
        _ => return None,
    };
    Some(AlertWay::Smtp {
        server: server.into_value()?,
        port: port.or(usual)?,
        tls,
        from: from.into_value()?,
        to: to.into_value()?,
        login,
        ca_file: ca_file.optional()?.map(Into::into),
    })
}

fn exec(reader: &Reader<'_>, found: &mut Findings<'_>) -> Option<AlertWay> {
    const WANT: &str = "a list: the program's full path, and its arguments";
    let command = reader.required("command", WANT, found, command);
    let run_as = reader.key("user", found, named_user);
    Some(AlertWay::Exec {
        command: command.into_value()?,
        run_as: match run_as {
            Key::Absent => None,
            Key::Bad => return None,
            Key::Typed(At { value, span }) => {
                found.unknown_user(reader.place, span, &value);
                Some(value)
            }
        },
    })
}

fn unique(name: Key<&str>, names: &mut HashMap<String, Span>, place: Place<'_>, found: &mut Findings<'_>) {
    let Some(At { value, span }) = name.typed() else { return };
    let Some(first) = names.get(value) else {
        names.insert(value.to_owned(), span);
        return;
    };
    let problem = Problem::Duplicate {
        key: "name",
        value: found.typed(span),
        line: found.line_number(first.start),
        scope: "each alert has its own",
    };
    found.error(place, span, problem);
}

fn strings<'r>(value: &Value<'r, '_>, want: &'static str) -> Result<Vec<&'r str>, Problem> {
    let DeValue::Array(array) = value.toml else {
        return Err(value.wrong_type(want));
    };
    let strings: Option<Vec<&str>> = array.iter().map(|element| element.get_ref().as_str()).collect();
    strings
        .filter(|strings| !strings.is_empty())
        .ok_or_else(|| value.malformed(want))
}

fn kinds_of_event(value: &Value<'_, '_>) -> Result<Vec<EventKind>, Problem> {
    let names = strings(
        value,
        "a list of kinds of events, such as [\"failover\", \"panic_on\"],",
    )?;
    let kind = |name: &str| {
        let known = EventKind::ALL.iter().find(|kind| kind.name() == name);
        known.copied().ok_or_else(|| {
            let near = nearest(name, EventKind::ALL.iter().map(|kind| kind.name()));
            let near = near
                .map(|near| format!("did you mean \"{near}\"? "))
                .unwrap_or_default();
            Problem::UnknownChoice {
                key: "events",
                value: format!("{name:?}"),
                hint: format!("{near}docs/api.md lists them"),
            }
        })
    };
    names.into_iter().map(kind).collect()
}

fn full_path(value: &Value<'_, '_>) -> Result<PathBuf, Problem> {
    let path = value.string("a string")?;
    if path.starts_with('/') {
        Ok(PathBuf::from(path))
    } else {
        Err(value.malformed("a file's full path"))
    }
}

fn url(value: &Value<'_, '_>) -> Result<String, Problem> {
    let text = value.string("a string")?;
    if is_webhook_url(text) {
        Ok(text.to_owned())
    } else {
        Err(value.malformed(WEBHOOK_URL))
    }
}

/// What a webhook's address must be.
pub const WEBHOOK_URL: &str = "an address that begins with http:// or https:// and has a host, and no user";

/// Whether a webhook's address is [`WEBHOOK_URL`].
pub fn is_webhook_url(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else {
        return false;
    };
    let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
    let user = uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'));
    scheme && uri.host().is_some_and(|host| !host.is_empty()) && !user
}

fn host(value: &Value<'_, '_>) -> Result<String, Problem> {
    let text = value.string("a string")?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-:".contains(&byte);
    if (1..=255).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err(value.malformed("a server's name or address"))
    }
}

fn mailbox<'r>(value: &Value<'r, '_>) -> Result<&'r str, Problem> {
    let text = value.string("a string")?;
    match text.parse::<Mailbox>() {
        Ok(_) => Ok(text),
        Err(_) => Err(value.malformed("a mail address, such as \"edge@example.com\"")),
    }
}

fn mailboxes(value: &Value<'_, '_>) -> Result<Vec<String>, Problem> {
    const WANT: &str = "a list of mail addresses, such as [\"ops@example.com\"]";
    let texts = strings(value, WANT)?;
    if texts.iter().all(|text| text.parse::<Mailbox>().is_ok()) {
        Ok(texts.into_iter().map(str::to_owned).collect())
    } else {
        Err(value.malformed(WANT))
    }
}

pub(super) fn named_user(value: &Value<'_, '_>) -> Result<NamedUser, Problem> {
    value.string("the name of a user of this host").map(NamedUser::look_up)
}

fn command(value: &Value<'_, '_>) -> Result<Vec<String>, Problem> {
    const WANT: &str = "a list: the program's full path, and its arguments";
    let words = strings(value, WANT)?;
    if words[0].starts_with('/') && words.iter().all(|word| !word.contains('\0')) {
        Ok(words.into_iter().map(str::to_owned).collect())
    } else {
        Err(value.malformed(WANT))
    }
}
