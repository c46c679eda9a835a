//! Who is told of events.

use std::path::PathBuf;
use std::time::Duration;

use super::SecretSource;
use crate::api::events::{EventKind, Severity};
use crate::run_as::NamedUser;

/// One receiver of alerts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Unique among the receivers.
    pub name: String,
    /// How it is told.
    pub way: AlertWay,
    /// Only events that matter this much.
    pub least: Severity,
    /// Only these kinds; empty: all.
    pub kinds: Vec<EventKind>,
    /// When an attempt has failed: 100 ms ..= 5 min.
    pub timeout: Duration,
}

/// How a receiver is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlertWay {
    /// A POST of the event as JSON.
    Webhook {
        /// `http://…` or `https://…`; it may hold a token.
        url: SecretSource,
        /// The authorities that its server may have a certificate of, instead of this host's.
        ca_file: Option<PathBuf>,
    },
    /// A mail.
    Smtp {
        /// Name or address of the mail server.
        server: String,
        /// Its port.
        port: u16,
        /// Whether the connection is encrypted.
        tls: SmtpTls,
        /// Who sends it.
        from: String,
        /// Who gets it; at least one.
        to: Vec<String>,
        /// Who logs in, and the file whose first line is the password.
        login: Option<(String, PathBuf)>,
        /// As a webhook's.
        ca_file: Option<PathBuf>,
    },
    /// A program, with the event as JSON on its standard input.
    Exec {
        /// Program and arguments; at least the program, by its full path.
        command: Vec<String>,
        /// Who it runs as, instead of the daemon's own user.
        run_as: Option<NamedUser>,
    },
}

/// Whether a mail server's connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmtpTls {
    /// From the start.
    Wrapped,
    /// After STARTTLS, or not at all.
    StartTls,
    /// Not.
    None,
}
