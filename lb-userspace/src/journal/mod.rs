//! The journal: every change as an event, kept in memory and in a file.
//!
//! Nothing here can stop or slow the daemon: the file is written by a thread of its own, through a bounded queue, and a disk that
//! is full or slow costs the file some events, which is said, and nothing else.

mod file;
mod kept;

use std::path::Path;
use std::sync::Arc;

use tracing::{error, info, warn};

use crate::api::events::{Cause, Event, EventKind, EventQuery, Events, Severity};

use file::Writer;
pub use file::remove;
use kept::Kept;
pub use kept::MOST;

/// Events in order, and the way to the file.
pub struct Journal {
    recent: Kept,
    next: u64,
    writer: Writer,
}

/// An event without its number and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What.
    pub kind: EventKind,
    /// The service that it is about.
    pub service: Option<String>,
    /// The backend that it is about.
    pub backend: Option<String>,
    /// What was.
    pub from: String,
    /// What is.
    pub to: String,
    /// Why.
    pub why: String,
    /// Who caused it.
    pub by: Cause,
}

impl Note {
    /// A note about the node; the rest is added by the functions below.
    pub fn new(kind: EventKind, by: Cause) -> Self {
        Self {
            kind,
            service: None,
            backend: None,
            from: String::new(),
            to: String::new(),
            why: String::new(),
            by,
        }
    }

    /// About a service.
    pub fn service(self, name: &str) -> Self {
        Self {
            service: Some(name.to_owned()),
            ..self
        }
    }

    /// About a backend of a service.
    pub fn backend(self, service: &str, backend: &str) -> Self {
        Self {
            backend: Some(backend.to_owned()),
            ..self.service(service)
        }
    }

    /// From what to what.
    pub fn change(self, from: impl ToString, to: impl ToString) -> Self {
        Self {
            from: from.to_string(),
            to: to.to_string(),
            ..self
        }
    }

    /// Why.
    pub fn because(self, why: impl ToString) -> Self {
        Self {
            why: why.to_string(),
            ..self
        }
    }
}

impl Journal {
    /// The journal in a folder, with what an earlier daemon wrote there. A file that cannot be read is said in the log, and no more.
    pub fn open(folder: &Path) -> Self {
        let recent = file::read(folder);
        let next = recent.newest().map_or(1, |last| last + 1);
        Self {
            recent,
            next,
            writer: Writer::start(folder),
        }
    }

    /// Takes in an event: into memory, the log, and on its way to the file.
    pub fn add(&mut self, note: Note, at_unix_ms: u64) -> Arc<Event> {
        let event = Arc::new(Event {
            id: self.next,
            at_unix_ms,
            kind: note.kind,
            severity: note.kind.severity(),
            service: note.service,
            backend: note.backend,
            from: note.from,
            to: note.to,
            why: note.why,
            by: note.by,
        });
        self.next += 1;
        log(&event);
        self.writer.write(&event);
        self.recent.add(Arc::clone(&event));
        event
    }

    /// The events that are asked for, in order.
    pub fn select(&self, query: &EventQuery) -> Events {
        let wanted = |event: &&Arc<Event>| {
            query.since_unix_ms.is_none_or(|since| event.at_unix_ms >= since)
                && (query.service.is_none() || event.service == query.service)
        };
        let limit = query.limit.unwrap_or(MOST);
        let found = self.recent.after(query.after.unwrap_or(0)).filter(wanted);
        if query.after.is_some() {
            return Events(found.take(limit).cloned().collect());
        }
        let mut latest: Vec<Arc<Event>> = found.rev().take(limit).cloned().collect();
        latest.reverse();
        Events(latest)
    }

    /// What is wrong with the file, in a sentence; nothing if all is well.
    pub fn problem(&self) -> Option<String> {
        self.writer.problem()
    }
}

fn log(event: &Event) {
    let Event {
        id,
        kind,
        from,
        to,
        why,
        ..
    } = event;
    let (subject, by) = (event.subject(), event.by.name());
    match event.severity {
        Severity::Info => info!(id, %kind, %subject, from, to, by, "{why}"),
        Severity::Warning => warn!(id, %kind, %subject, from, to, by, "{why}"),
        Severity::Critical => error!(id, %kind, %subject, from, to, by, "{why}"),
    }
}

#[cfg(test)]
mod tests;
