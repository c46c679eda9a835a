//! What a reader of the file is told: each error with its place, the value, and what is allowed.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::secrets::without_secrets;

/// One error, or one warning, and where it is.
///
/// Printed like `edge.toml:14:12: service "web": backend "web-1": weight 70000 is out of range: 0 to 65535`, then the
/// line itself with a caret under the value. [`headline`](Self::headline) is the first line alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigError {
    /// The file's name as it was given.
    pub file: String,
    /// Line, from 1; 0 if the error has no place in the file.
    pub line: usize,
    /// Column in characters, from 1; 0 if the error has no place in the file.
    pub column: usize,
    /// Characters from there on that it is about, at least 1; 0 if the error has no place in the file.
    pub width: usize,
    /// Which table: `service "web": backend "web-1"`. Empty for the file itself.
    pub path: String,
    /// What is wrong, the value as typed, and what is allowed.
    pub problem: String,
    /// The line, without its end; of a very long one, only its first [`SOURCE_LEN`] characters.
    pub source: String,
    /// Only a warning: the file is accepted.
    pub warning: bool,
}

/// What is allowed, but probably not meant.
pub type Warning = ConfigError;

/// Characters of a line that an error quotes.
pub const SOURCE_LEN: usize = 200;

impl ConfigError {
    /// The error in one line, without the quotation.
    pub fn headline(&self) -> impl fmt::Display + '_ {
        Headline(self)
    }
}

struct Headline<'e>(&'e ConfigError);

impl fmt::Display for Headline<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = self.0;
        f.write_str(&error.file)?;
        if error.line > 0 {
            write!(f, ":{}:{}", error.line, error.column)?;
        }
        f.write_str(": ")?;
        if error.warning {
            f.write_str("warning: ")?;
        }
        if !error.path.is_empty() {
            write!(f, "{}: ", error.path)?;
        }
        f.write_str(&error.problem)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.headline())?;
        let before = self.column.saturating_sub(1);
        let after = self.source.chars().count().saturating_sub(before);
        if self.line == 0 || before > SOURCE_LEN || self.source.is_empty() {
            return Ok(());
        }
        // A file may hold bytes that move a terminal's cursor. Tabs stay, so that the caret stands below the value.
        let printable = |c: char| if c.is_control() && c != '\t' { '\u{FFFD}' } else { c };
        let source: String = self.source.chars().map(printable).collect();
        let indent: String = source
            .chars()
            .take(before)
            .map(|c| if c == '\t' { c } else { ' ' })
            .collect();
        let gutter = " ".repeat(self.line.to_string().len());
        let carets = "^".repeat(self.width.clamp(1, after.max(1)));
        write!(f, "\n  {} | {source}\n  {gutter} | {indent}{carets}", self.line)
    }
}

impl std::error::Error for ConfigError {}

/// Every error of a file, in the order of the file; never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Errors(Vec<ConfigError>);

impl Errors {
    /// The errors as a slice, at least one.
    pub fn as_slice(&self) -> &[ConfigError] {
        &self.0
    }

    /// One by one, in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }

    pub(super) fn new(first: ConfigError, rest: impl IntoIterator<Item = ConfigError>) -> Self {
        Errors(std::iter::once(first).chain(rest).collect())
    }

    /// With a line that says how many there are besides.
    pub(super) fn and_more(mut self, file: &str, more: usize) -> Self {
        self.0.extend(Errors::unplaced(file, &Problem::More(more)));
        self
    }

    /// An error about the file as a whole.
    pub(super) fn unplaced(file: &str, problem: &Problem) -> Self {
        let error = ConfigError {
            file: file.to_owned(),
            line: 0,
            column: 0,
            width: 0,
            path: String::new(),
            problem: problem.to_string(),
            source: String::new(),
            warning: false,
        };
        Errors(vec![error])
    }

    /// An error at the byte `bytes[at]`, before which all is UTF-8.
    pub(super) fn not_utf8(bytes: &[u8], at: usize, file: &str) -> Self {
        let before = String::from_utf8_lossy(bytes.get(..at).unwrap_or_default());
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let rest = bytes.get(line_start..).unwrap_or_default();
        let line = rest.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let byte = bytes.get(at).copied().unwrap_or_default();
        let error = ConfigError {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            width: 1,
            path: String::new(),
            problem: Problem::NotUtf8 { byte }.to_string(),
            source: without_secrets(String::from_utf8_lossy(line).trim_end_matches('\r'))
                .chars()
                .take(SOURCE_LEN)
                .collect(),
            warning: false,
        };
        Errors(vec![error])
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

impl IntoIterator for Errors {
    type Item = ConfigError;
    type IntoIter = std::vec::IntoIter<ConfigError>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'e> IntoIterator for &'e Errors {
    type Item = &'e ConfigError;
    type IntoIter = std::slice::Iter<'e, ConfigError>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}
