//! Standard output and standard error: terminal or not, colours or not, table or JSON.

use std::io::{self, IsTerminal, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::args::{Output, When};
use super::render::{self, View};
use super::{Failure, FailureJson};
use crate::api::client::ClientError;
use crate::api::error::ErrorKind;
use crate::api::report::Finding;

/// Prints answers and failures the way the command line asks for.
pub(super) struct Printer {
    pub(super) output: Output,
    pub(super) color: When,
}

/// Writes to standard output at once.
pub(super) fn write(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

impl Printer {
    pub(super) fn new(output: Output, color: When) -> Self {
        Self { output, color }
    }

    /// Prints an answer.
    pub(super) fn print<T: Serialize>(&self, answer: &T, table: impl FnOnce(&T, &View) -> String) -> io::Result<()> {
        match self.output {
            Output::Json => self.json(answer),
            Output::Table => write(table(answer, &self.view()).as_bytes()),
        }
    }

    /// Prints an answer for programs.
    pub(super) fn json<T: Serialize>(&self, answer: &T) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(answer)?;
        text.push(b'\n');
        write(&text)
    }

    /// Says what is worth saying about a file that was accepted. Programs have it in the answer.
    pub(super) fn findings(&self, file: &str, text: &str, findings: &[Finding]) {
        if self.output == Output::Table {
            complain(&render::findings(
                file,
                text,
                findings,
                render::Severity::Warning,
                &self.error_view(),
            ));
        }
    }

    /// Says what is unusual about an answer; it goes beside the answer, not into it.
    pub(super) fn warning(&self, text: &str) {
        complain(&format!("warning: {text}\n"));
    }

    /// Says why it failed.
    pub(super) fn failure(&self, failure: &Failure) {
        match self.output {
            Output::Table => complain(&self.failure_text(failure)),
            Output::Json => {
                let json = serde_json::to_string_pretty(&failure_json(failure));
                complain(&(json.unwrap_or_else(|error| error.to_string()) + "\n"));
            }
        }
    }

    fn failure_text(&self, failure: &Failure) -> String {
        let view = self.error_view();
        match failure {
            Failure::Config {
                message,
                file,
                text,
                findings,
            } => {
                render::findings(file, text, findings, render::Severity::Error, &view)
                    + &render::failure(message, &[], &view)
            }
            Failure::Client(ClientError::Api(error)) => render::failure(&error.message, &error.suggestions, &view),
            failure => render::failure(&failure.to_string(), &[], &view),
        }
    }

    /// Standard output.
    pub(super) fn view(&self) -> View {
        let terminal = io::stdout().is_terminal();
        View {
            width: terminal.then(|| size().0),
            colour: self.colour(terminal),
            now_unix_ms: now_unix_ms(),
        }
    }

    /// Standard error.
    fn error_view(&self) -> View {
        let terminal = io::stderr().is_terminal();
        View {
            width: terminal.then(|| size().0),
            colour: self.colour(terminal),
            now_unix_ms: now_unix_ms(),
        }
    }

    fn colour(&self, terminal: bool) -> bool {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        match self.color {
            When::Always => true,
            When::Never => false,
            When::Auto => terminal && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb"),
        }
    }
}

/// Columns and rows of the terminal.
pub(super) fn size() -> (usize, usize) {
    match terminal_size::terminal_size() {
        Some((width, height)) if width.0 > 0 && height.0 > 0 => (width.0.into(), height.0.into()),
        _ => (80, 24),
    }
}

/// When standard error is gone, there is nobody left to tell.
fn complain(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

fn failure_json(failure: &Failure) -> FailureJson<'_> {
    let (kind, details, suggestions): (_, &[Finding], &[String]) = match failure {
        Failure::Read { .. } | Failure::NotText { .. } | Failure::TooLong { .. } => ("file", &[], &[]),
        Failure::Config { findings, .. } => (ErrorKind::InvalidConfig.name(), findings, &[]),
        Failure::Client(ClientError::Api(error)) => (error.kind.name(), &error.details, &error.suggestions),
        Failure::Client(ClientError::NoDaemon(_)) => ("no_daemon", &[], &[]),
        Failure::Client(ClientError::NotPermitted(_)) => ("not_permitted", &[], &[]),
        Failure::Client(ClientError::Timeout { .. }) => (ErrorKind::Timeout.name(), &[], &[]),
        Failure::Client(_) => ("connection", &[], &[]),
        Failure::Simulation(_) => ("simulation", &[], &[]),
        Failure::Output(_) => ("output", &[], &[]),
    };
    FailureJson {
        error: failure.to_string(),
        kind,
        details,
        suggestions,
    }
}

fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
