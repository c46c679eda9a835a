//! A configuration file: TOML text → as typed → [`Model`], or every error in it with its place.
//!
//! Two steps. First each key's own value is read (`node`, `service`, `backend`, `health`: the structs hold what was typed, and
//! where). Then what the values mean together is judged (`meaning`): no two services alike, timeouts within intervals, tables
//! large enough. Both report what they find and go on, so that one run shows all there is to mend. A value that was
//! refused is not judged again: one mistake is one error.
//!
//! A file that is not valid TOML is read as far as that makes sense, see `findings` and `syntax`.

mod address;
mod alert;
mod backend;
mod check;
mod error;
mod exposed;
mod findings;
mod health;
mod meaning;
mod node;
mod policy;
mod prime;
mod problem;
mod report;
mod scalar;
mod secrets;
mod service;
mod suggest;
mod syntax;
mod table;
#[cfg(test)]
mod tests;
mod tracking;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use toml::de::DeTable;

use self::findings::{Findings, Place, Span, UnknownUsers};
use self::node::Node;
use self::problem::Problem;
use self::service::Service;
use self::table::Reader;
use crate::model::{Alert, Model};

pub use self::address::mac;
pub use self::alert::{WEBHOOK_URL, is_webhook_url};
pub use self::error::{ConfigError, Errors, SOURCE_LEN, Warning};
pub use self::exposed::exposed;
pub use self::prime::{MAX_RING_SIZE, next_prime};
pub use self::report::{check, finding};
pub use self::secrets::without_secrets;

/// A ring's slots when a service does not say: the 65,537 of the Maglev paper (NSDI'16).
pub const DEFAULT_RING_SIZE: u32 = 65_537;
/// How long unremembered flows stay with a slot's old owner when a service does not say.
pub const DEFAULT_DRAIN_TIME: Duration = Duration::from_secs(300);
/// Flows remembered in a second at most, of each kind, when a service does not say.
pub const MAX_DEFAULT_FLOW_INSERTS: u32 = 5_000;
/// Slots that all rings together can have: 4 GiB of them.
pub const MAX_RING_SLOTS: u32 = 1 << 30;
/// Backends of one service: their numbers have 16 bits, and one of these is "nobody".
pub const MAX_BACKENDS: usize = 65_535;
/// Length of the longest file that [`load`] reads, in bytes.
pub const MAX_FILE: u64 = 1 << 29;

/// A file that has no error.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// What it says.
    pub model: Model,
    /// What is allowed, but probably not meant; in the order of the file.
    pub warnings: Vec<Warning>,
}

/// Reads the file at `path`. A file that cannot be read or is longer than [`MAX_FILE`] is an error without a place.
pub fn load(path: &Path) -> Result<Parsed, Errors> {
    parse_bytes(&read(path)?, &path.display().to_string())
}

/// The bytes of the file at `path`, as [`load`] reads them.
pub fn read(path: &Path) -> Result<Vec<u8>, Errors> {
    bytes(path).map_err(|problem| Errors::unplaced(&path.display().to_string(), &problem))
}

fn bytes(path: &Path) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
        .map_err(|error| Problem::Unreadable(error.to_string()))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Problem::TooLong { max: MAX_FILE });
    }
    Ok(bytes)
}

/// A number and its unit, as durations stand in the file: `200ms`, `1.5s`, `10m`, `2h`.
pub fn duration(text: &str) -> Option<Duration> {
    scalar::duration(text)?
}

/// As [`parse`]; bytes that are not UTF-8 are an error at the first of them.
pub fn parse_bytes(bytes: &[u8], file_name: &str) -> Result<Parsed, Errors> {
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(text, file_name),
        Err(error) => Err(Errors::not_utf8(bytes, error.valid_up_to(), file_name)),
    }
}

/// As [`parse_bytes`], for a daemon that starts: a user that this host does not have at the moment is a warning, as it may come from a server
/// that is not up yet, and packets are to be balanced meanwhile.
pub fn parse_at_start(bytes: &[u8], file_name: &str) -> Result<Parsed, Errors> {
    match std::str::from_utf8(bytes) {
        Ok(text) => read_text(text, file_name, UnknownUsers::Awaited),
        Err(error) => Err(Errors::not_utf8(bytes, error.valid_up_to(), file_name)),
    }
}

/// Reads a configuration; `file_name` is for the errors only.
pub fn parse(text: &str, file_name: &str) -> Result<Parsed, Errors> {
    read_text(text, file_name, UnknownUsers::Refused)
}

fn read_text(text: &str, file_name: &str, users: UnknownUsers) -> Result<Parsed, Errors> {
    let (text, is_cut) = syntax::bounded(text);
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut found = Findings::new(text);
    syntax::report(root.get_ref(), &errors, &mut found);
    drop(errors);
    if is_cut {
        syntax::report_cut(text, &mut found);
    }
    let (node, services, alerts) = read_root(root.get_ref(), &mut found);
    let model = if found.is_whole() {
        meaning::judge(node, services, &mut found).and_then(|model| {
            Some(Model {
                alerts: alerts?,
                ..model
            })
        })
    } else {
        None
    };
    found.finish(model, file_name, users)
}

/// What stands at the top; nothing: it is missing or wrong.
type Root<'r> = (Option<Node<'r>>, Vec<Service<'r>>, Option<Vec<Alert>>);

fn read_root<'r>(root: &'r DeTable<'r>, found: &mut Findings<'_>) -> Root<'r> {
    let start = Span { start: 0, end: 0 };
    let reader = Reader::new(root, start, Place::File, table::ROOT, found);
    let node = reader.table("node", found).map(|table| node::read(&table, found));
    if !reader.has("node") {
        let want = "a table with at least interfaces = [\"eth0\"]";
        found.error(Place::File, start, Problem::Missing { key: "[node]", want });
    }
    let services = reader
        .tables("service", "[[service]]", found)
        .iter()
        .enumerate()
        .map(|(index, table)| service::read(table, index, found))
        .collect();
    let alerts = alert::read(&reader.tables("alert", "[[alert]]", found), found);
    (node, services, alerts)
}
