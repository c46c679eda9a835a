//! What takes long about another configuration, done beside the loop: it is read, parsed, and its rings are populated. One after the other, in
//! the order of their coming.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;

use super::Event;
use super::accepted::hash;
use super::configure::{internal, refused};
use super::world::{Overrides, Rings, World};
use crate::api::call::Answer;
use crate::api::error::ApiError;
use crate::api::report::{ApplyReport, PlanReport};
use crate::config::{self, Parsed, finding};

/// What is to become of a configuration, and who waits for that.
pub(super) enum Purpose {
    /// What it would change is to be shown.
    Plan(Answer<PlanReport>),
    /// It is to be the one in force.
    Apply(Answer<ApplyReport>),
    /// It is the daemon's own file, and is to be in force; who asked, if not by a signal.
    Reload(Option<Answer<ApplyReport>>),
}

/// Where a configuration is.
pub(super) enum Source {
    /// Here, and the name of the file that it came from, if it did.
    Text(String, Option<String>),
    /// In the daemon's own file.
    OwnFile,
}

/// A configuration on which the loop can decide.
pub(super) struct Ready {
    pub(super) purpose: Purpose,
    /// The file's name; nothing: it came from a pipe.
    pub(super) file: Option<String>,
    /// Nothing if the file could not be read.
    pub(super) toml: Option<String>,
    /// Hash of the daemon's own file, taken before; nothing: it could not be read.
    pub(super) own_file: Option<u64>,
    pub(super) read: Result<Understood, ApiError>,
}

/// What a configuration says.
pub(super) struct Understood {
    pub(super) parsed: Parsed,
    /// As they are to be if no operator says anything else meanwhile.
    pub(super) rings: Rings,
    /// When it was asked for.
    pub(super) asked: Instant,
}

/// The thread that does it.
pub(super) struct Ahead {
    jobs: Sender<Job>,
}

struct Job {
    /// What is in force.
    rings: Rings,
    overrides: Overrides,
    source: Source,
    purpose: Purpose,
    asked: Instant,
}

impl Ahead {
    /// It ends with what this returns.
    pub(super) fn start(own_file: PathBuf, events: UnboundedSender<Event>) -> io::Result<Self> {
        let (jobs, waiting) = channel();
        let thread = thread::Builder::new().name("configuration".to_owned());
        thread.spawn(move || work(&waiting, &own_file, &events))?;
        Ok(Self { jobs })
    }

    /// Has a configuration read, which the loop is then told of.
    pub(super) fn read(&self, world: &World, source: Source, purpose: Purpose) {
        let job = Job {
            rings: world.rings(),
            overrides: world.overrides.clone(),
            source,
            purpose,
            asked: Instant::now(),
        };
        // The thread outlives this: it takes jobs as long as there can be any.
        let _ = self.jobs.send(job);
    }
}

fn work(jobs: &Receiver<Job>, own_file: &Path, events: &UnboundedSender<Event>) {
    for job in jobs {
        let Job {
            rings,
            overrides,
            source,
            purpose,
            asked,
        } = job;
        let own_bytes = std::fs::read(own_file);
        let own_hash = own_bytes.as_ref().ok().map(|bytes| hash(bytes));
        let (file, text) = match source {
            Source::Text(text, file) => (file, Ok(text)),
            Source::OwnFile => {
                let name = own_file.display().to_string();
                let cannot = |error: &dyn std::fmt::Display| refused(format!("cannot read {name}: {error}"));
                let text = own_bytes.map_err(|error| cannot(&error));
                let text = text.and_then(|bytes| String::from_utf8(bytes).map_err(|error| cannot(&error.utf8_error())));
                (Some(name), text)
            }
        };
        let (toml, read) = match text {
            Ok(text) => {
                let understand = || {
                    let parsed = parse(&text, file.as_deref().unwrap_or("-"))?;
                    let rings = rings.become_those_of(parsed.model.clone(), overrides);
                    Ok(Understood { parsed, rings, asked })
                };
                let crashed = "reading the configuration crashed, which is a bug; nothing was changed";
                let read = catch_unwind(AssertUnwindSafe(understand)).unwrap_or_else(|_| Err(internal(crashed)));
                (Some(text), read)
            }
            Err(error) => (None, Err(error)),
        };
        let ready = Ready {
            purpose,
            file,
            toml,
            own_file: own_hash,
            read,
        };
        if events.send(Event::Ready(Box::new(ready))).is_err() {
            return;
        }
    }
}

fn parse(toml: &str, name: &str) -> Result<Parsed, ApiError> {
    config::parse(toml, name).map_err(|errors| ApiError::invalid_config(name, errors.iter().map(finding).collect()))
}
