//! What was found while reading: collected with byte offsets, handed over as lines and columns in the file's order.
//!
//! In a file that is not valid TOML, what stands behind an error may have been misread (`syntax` tells when). If so, only single
//! values before the error are judged: no key counts as missing, and nothing is compared.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use super::Parsed;
use super::error::{ConfigError, Errors, SOURCE_LEN};
use super::problem::{Caution, Problem};
use super::secrets::without_secrets;
use crate::model::Model;
use crate::run_as::{NamedUser, RunAsError};

/// A stretch of the file, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Self {
        Span {
            start: range.start,
            end: range.end,
        }
    }
}

/// A table, as errors name it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    File,
    Node,
    Capacity,
    Service(Label<'a>),
    Health(Label<'a>),
    Damping(Label<'a>),
    Alert(Label<'a>),
    Backend(Label<'a>, Label<'a>),
}

/// A service or a backend: its name, or its number in the file (from 1) if it has none that can be shown.
#[derive(Clone, Copy, Debug)]
pub(super) enum Label<'a> {
    Name(&'a str),
    Number(usize),
}

/// Errors that a file's reader is shown; of the others, how many there are.
pub(super) const MOST_SHOWN: usize = 1_000;
/// Errors that are kept until they are sorted. They come in nearly the file's order, as table after table is read.
const MOST_FOUND: usize = 100_000;

/// Collects.
pub(super) struct Findings<'t> {
    text: &'t str,
    line_starts: OnceCell<Vec<usize>>,
    errors: Vec<Found<Problem>>,
    /// Errors that were found when there were [`MOST_FOUND`], and are not kept.
    more: usize,
    warnings: Vec<Found<Caution>>,
    /// Users that this host does not have, or not now.
    users: Vec<Found<RunAsError>>,
    /// Lines with a syntax error, from 0.
    broken_lines: BTreeSet<usize>,
    /// The first line from which on tables and keys may have been misread.
    misread_from: Option<usize>,
}

struct Found<P> {
    span: Span,
    path: String,
    what: P,
}

impl<P> Found<P> {
    fn with<Q>(self, what: impl FnOnce(P) -> Q) -> Found<Q> {
        let Found { span, path, what: old } = self;
        let what = what(old);
        Found { span, path, what }
    }
}

/// What becomes of a file whose users this host does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnknownUsers {
    /// It has an error.
    Refused,
    /// It has a warning: the users may come.
    Awaited,
}

/// The last place that was turned into a column: the next one on the same line is counted from there, so that a line with a million
/// errors is counted once.
#[derive(Default)]
struct Cursor {
    offset: usize,
    /// Characters between the line's start and there.
    before: usize,
}

impl<'t> Findings<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Findings {
            text,
            line_starts: OnceCell::new(),
            errors: Vec::new(),
            more: 0,
            warnings: Vec::new(),
            users: Vec::new(),
            broken_lines: BTreeSet::new(),
            misread_from: None,
        }
    }

    /// An error of TOML that leaves all other lines as they were meant.
    pub(super) fn broken(&mut self, span: Span, what: Problem) {
        self.broken_lines.insert(self.line_index(span.start));
        self.error(Place::File, span, what);
    }

    /// An error of TOML behind which anything may have been misread.
    pub(super) fn misread(&mut self, span: Span, what: Problem) {
        let line = self.line_index(span.start);
        self.misread_from = Some(self.misread_from.map_or(line, |first| first.min(line)));
        self.broken(span, what);
    }

    /// Whether all tables and keys were read as they were meant.
    pub(super) fn is_whole(&self) -> bool {
        self.misread_from.is_none()
    }

    pub(super) fn error(&mut self, place: Place<'_>, span: Span, what: Problem) {
        if self.errors.len() >= MOST_FOUND {
            self.more += 1;
            return;
        }
        self.errors.push(Found {
            span,
            path: place.to_string(),
            what,
        });
    }

    pub(super) fn warn(&mut self, place: Place<'_>, span: Span, what: Caution) {
        self.warnings.push(Found {
            span,
            path: place.to_string(),
            what,
        });
    }

    /// Reports a user who could not be looked up.
    pub(super) fn unknown_user(&mut self, place: Place<'_>, span: Span, user: &NamedUser) {
        if let Some(problem) = user.problem() {
            self.users.push(Found {
                span,
                path: place.to_string(),
                what: problem.clone(),
            });
        }
    }

    /// The text of `span`.
    pub(super) fn raw(&self, span: Span) -> &'t str {
        self.text.get(span.start..span.end).unwrap_or_default()
    }

    /// The line of a byte, without its end.
    pub(super) fn line_at(&self, offset: usize) -> &'t str {
        self.line(self.line_index(offset))
    }

    /// Where the line of a byte begins.
    pub(super) fn line_start(&self, offset: usize) -> usize {
        self.starts().get(self.line_index(offset)).copied().unwrap_or_default()
    }

    /// The text of `span` as an error may show it: on one line, and not too long.
    pub(super) fn typed(&self, span: Span) -> String {
        const LONGEST: usize = 60;
        let text = self.raw(span);
        let mut shown: String = text
            .chars()
            .take(LONGEST)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        if text.chars().nth(LONGEST).is_some() {
            shown.push('…');
        }
        shown
    }

    /// The line of a byte, from 1.
    pub(super) fn line_number(&self, offset: usize) -> usize {
        self.line_index(offset) + 1
    }

    /// The model, if nothing but warnings was found.
    pub(super) fn finish(mut self, model: Option<Model>, file: &str, users: UnknownUsers) -> Result<Parsed, Errors> {
        let unknown = std::mem::take(&mut self.users).into_iter();
        match users {
            UnknownUsers::Refused => self.errors.extend(unknown.map(|found| found.with(Problem::User))),
            UnknownUsers::Awaited => self.warnings.extend(unknown.map(|found| found.with(Caution::User))),
        }
        let mut errors = std::mem::take(&mut self.errors);
        errors.retain(|found| self.is_sound(found));
        errors.sort_by_key(|found| (found.span.start, found.span.end));
        errors.dedup_by(|a, b| a.span == b.span && a.what == b.what);
        let mut cursor = Cursor::default();
        let more = self.more + errors.len().saturating_sub(MOST_SHOWN);
        let mut errors = errors
            .iter()
            .take(MOST_SHOWN)
            .map(|found| self.placed(file, found, false, &mut cursor));
        if let Some(first) = errors.next() {
            let errors = Errors::new(first, errors);
            return Err(if more > 0 { errors.and_more(file, more) } else { errors });
        }
        let Some(model) = model else {
            return Err(Errors::unplaced(file, &Problem::Unexplained));
        };
        let mut warnings = std::mem::take(&mut self.warnings);
        warnings.sort_by_key(|found| (found.span.start, found.span.end));
        let mut cursor = Cursor::default();
        let warnings = warnings
            .iter()
            .map(|found| self.placed(file, found, true, &mut cursor))
            .collect();
        Ok(Parsed { model, warnings })
    }

    /// Whether an error stands even if some of the file may have been misread.
    fn is_sound(&self, found: &Found<Problem>) -> bool {
        if matches!(found.what, Problem::Syntax(_)) || self.broken_lines.is_empty() {
            return true;
        }
        let line = self.line_index(found.span.start);
        if self.broken_lines.contains(&line) {
            return false;
        }
        self.misread_from
            .is_none_or(|first| line < first && !matches!(found.what, Problem::Missing { .. }))
    }

    fn placed<P: fmt::Display>(&self, file: &str, found: &Found<P>, warning: bool, cursor: &mut Cursor) -> ConfigError {
        let line = self.line_index(found.span.start);
        let source = self.line(line);
        let line_start = self.starts().get(line).copied().unwrap_or_default();
        let line_end = line_start + source.len();
        let start = found.span.start.max(line_start);
        let chars = |from: usize, to: usize| self.text.get(from..to).map_or(0, |text| text.chars().count());
        if cursor.offset < line_start {
            *cursor = Cursor {
                offset: line_start,
                before: 0,
            };
        }
        *cursor = Cursor {
            offset: start,
            before: cursor.before + chars(cursor.offset, start),
        };
        ConfigError {
            file: file.to_owned(),
            line: line + 1,
            column: cursor.before + 1,
            width: chars(start, found.span.end.min(line_end)).max(1),
            path: found.path.clone(),
            problem: found.what.to_string(),
            source: without_secrets(source).chars().take(SOURCE_LEN).collect(),
            warning,
        }
    }

    fn line_index(&self, offset: usize) -> usize {
        self.starts()
            .partition_point(|&start| start <= offset)
            .saturating_sub(1)
    }

    /// A line without its end.
    fn line(&self, index: usize) -> &'t str {
        let start = self.starts().get(index).copied().unwrap_or_default();
        let end = self.starts().get(index + 1).map_or(self.text.len(), |next| next - 1);
        self.text.get(start..end).unwrap_or_default().trim_end_matches('\r')
    }

    fn starts(&self) -> &[usize] {
        self.line_starts.get_or_init(|| {
            let first = if self.text.starts_with('\u{FEFF}') {
                '\u{FEFF}'.len_utf8()
            } else {
                0
            };
            let after_newlines = self
                .text
                .bytes()
                .enumerate()
                .filter(|&(_, byte)| byte == b'\n')
                .map(|(at, _)| at + 1);
            std::iter::once(first).chain(after_newlines).collect()
        })
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File => Ok(()),
            Place::Node => f.write_str("[node]"),
            Place::Capacity => f.write_str("[node.capacity]"),
            Place::Service(service) => write!(f, "service {service}"),
            Place::Health(service) => write!(f, "service {service}: health"),
            Place::Alert(alert) => write!(f, "alert {alert}"),
            Place::Damping(service) => write!(f, "service {service}: damping"),
            Place::Backend(service, backend) => write!(f, "service {service}: backend {backend}"),
        }
    }
}

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Label::Name(name) => write!(f, "\"{name}\""),
            Label::Number(number) => write!(f, "number {number}"),
        }
    }
}
