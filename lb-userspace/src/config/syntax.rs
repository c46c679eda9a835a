//! Errors of TOML itself: what they say to somebody who does not think in TOML's grammar, and whether the rest of the
//! file was read as it was meant.

use toml::de::{DeTable, DeValue, Error};

use super::findings::{Findings, Span};
use super::problem::Problem;
use super::secrets::{HIDDEN, secret_from};

/// A value that is neither a list nor a table.
struct Leaf {
    span: Span,
    in_list: bool,
}

/// A text up to this length is read to its end, in bytes.
const SHORT: usize = 256 << 10;
/// The beginning of a longer one, which is read first: nothing more is, if it has [`MANY`] errors.
const HEAD: usize = 128 << 10;
const MANY: usize = 1_000;
/// How far a longer one is read behind its first error: the parser keeps each error, and a million of them is much memory.
const BEHIND: usize = 64 << 10;

/// The part of a text that is to be read for its errors, and whether that is not all.
pub(super) fn bounded(text: &str) -> (&str, bool) {
    if text.len() <= SHORT {
        return (text, false);
    }
    let head = text.as_bytes().get(..HEAD).unwrap_or_default();
    let head = head.iter().rposition(|&byte| byte == b'\n');
    let head = head.and_then(|end| text.get(..=end)).unwrap_or_default();
    // The cut itself makes only a few.
    if DeTable::parse_recoverable(head).1.len() >= MANY {
        return (head, true);
    }
    // Keeps the first error alone.
    let Err(error) = DeTable::parse(text) else {
        return (text, false);
    };
    let from = error.span().map_or(0, |span| span.start) + BEHIND;
    let rest = text.as_bytes().get(from..).unwrap_or_default();
    match rest.iter().position(|&byte| byte == b'\n') {
        // The byte before is the end of a line, and so of a character.
        Some(at) => (text.get(..=from + at).unwrap_or(text), true),
        None => (text, false),
    }
}

/// Says that a text was not read to its end.
pub(super) fn report_cut(text: &str, found: &mut Findings<'_>) {
    let start = text.len().saturating_sub(1);
    let span = Span { start, end: text.len() };
    let what = "the file is long and has errors, so that what follows is not read";
    found.misread(span, Problem::Syntax(what.to_owned()));
}

/// Reports `errors`, after which the parser made `root` of what there was.
pub(super) fn report(root: &DeTable<'_>, errors: &[Error], found: &mut Findings<'_>) {
    if errors.is_empty() {
        return;
    }
    let mut leaves = Vec::new();
    for value in root.values() {
        collect(value.get_ref(), value.span().into(), false, &mut leaves);
    }
    leaves.sort_by_key(|leaf| (leaf.span.start, leaf.span.end));
    for error in errors {
        let span = Span::from(error.span().unwrap_or(0..0));
        if error.message() == "duplicate key" {
            report_duplicate(span, found);
        } else if let Some(leaf) = leaf_of(span, &leaves).filter(|leaf| !found.raw(leaf.span).contains('\n')) {
            report_value(error.message(), span, leaf.span, found);
        } else {
            found.misread(span, Problem::Syntax(error.message().to_owned()));
        }
    }
}

/// The parser limits how deep tables and lists are nested, and with it this recursion.
fn collect(value: &DeValue<'_>, span: Span, in_list: bool, leaves: &mut Vec<Leaf>) {
    match value {
        DeValue::Table(table) => {
            table
                .values()
                .for_each(|value| collect(value.get_ref(), value.span().into(), false, leaves));
        }
        DeValue::Array(array) => {
            array
                .iter()
                .for_each(|value| collect(value.get_ref(), value.span().into(), true, leaves));
        }
        _ => leaves.push(Leaf { span, in_list }),
    }
}

/// The value that an error is in. An error just behind a value is the value's, but in a list it may be the list's.
fn leaf_of(error: Span, leaves: &[Leaf]) -> Option<&Leaf> {
    let before = leaves.partition_point(|leaf| leaf.span.start <= error.start);
    let leaf = leaves.get(before.checked_sub(1)?)?;
    let end = if leaf.in_list {
        leaf.span.end.saturating_sub(1)
    } else {
        leaf.span.end
    };
    (error.start <= end && error.end <= leaf.span.end).then_some(leaf)
}

fn report_duplicate(key: Span, found: &mut Findings<'_>) {
    let name = found.typed(key);
    let header = found.line_at(key.start).trim();
    if !header.starts_with('[') {
        found.broken(key, Problem::Syntax(format!("the key {name} is there already")));
        return;
    }
    let hint = match name.as_str() {
        "service" => ": write [[service]], as there can be several",
        "backend" => ": write [[service.backend]], as there can be several",
        _ => "",
    };
    found.misread(key, Problem::Syntax(format!("the table {name} is there already{hint}")));
}

/// An error in one value of one line, which leaves all else as it was meant.
fn report_value(message: &str, error: Span, value: Span, found: &mut Findings<'_>) {
    let is_quoted = found.raw(value).starts_with(['"', '\'']);
    let is_vague = message.starts_with("invalid") || message.starts_with("string values must be quoted");
    if is_quoted || !is_vague {
        found.broken(error, Problem::Syntax(message.to_owned()));
    } else if value.start == value.end {
        found.broken(value, Problem::Syntax("a value is missing".to_owned()));
    } else {
        let what = format!("{} is neither a number nor text in quotes", shown(value, found));
        found.broken(value, Problem::Syntax(what));
    }
}

/// A value as an error may show it.
fn shown(value: Span, found: &Findings<'_>) -> String {
    let (line, start) = (found.line_at(value.start), found.line_start(value.start));
    match secret_from(line) {
        Some(at) if start + at < value.end => HIDDEN.to_owned(),
        _ => found.typed(value),
    }
}
