//! What a daemon starts with: the file named on the command line, or what was accepted last.

use std::fmt;
use std::path::{Path, PathBuf};

use tracing::{error, info};

use super::accepted::{self, Accepted, Choice, FileNow, OnRecord, choose, hash};
use super::positions;
use super::start::DaemonError;
use super::state::{self, StateError};
use crate::api::events::{Cause, EventKind};
use crate::api::types::Acceptance;
use crate::config::{self, Errors, Parsed, Warning};
use crate::journal::Note;
use crate::model::Model;
use crate::private;

/// The file named on the command line, as it was read at the start.
pub(super) struct OwnFile {
    bytes: Vec<u8>,
    read: Result<Parsed, DaemonError>,
}

impl OwnFile {
    /// Reads it.
    pub(super) fn read(path: &Path) -> Self {
        match config::read(path) {
            Ok(bytes) => Self {
                read: config::parse_at_start(&bytes, &path.display().to_string()).map_err(DaemonError::Config),
                bytes,
            },
            Err(errors) => Self {
                bytes: Vec::new(),
                read: Err(DaemonError::Unreadable(errors)),
            },
        }
    }
}

/// What the daemon starts with.
pub(super) struct Chosen {
    pub(super) model: Model,
    pub(super) about: About,
    /// What it starts with if this host refuses that.
    pub(super) fallback: Option<Fallback>,
}

/// What is to be said of a configuration, and kept.
pub(super) struct About {
    pub(super) warnings: Vec<Warning>,
    pub(super) accepted: Accepted,
    /// Why the file does not count, though it should.
    pub(super) problem: Option<String>,
    /// What is to be told.
    pub(super) notes: Vec<Note>,
}

/// What was accepted last, while the file says something else.
pub(super) struct Fallback {
    file: String,
    last: Accepted,
    parsed: Parsed,
}

impl Fallback {
    /// It is served, as this host refuses the file, which has no error by itself.
    pub(super) fn instead_of(self, refused: &dyn fmt::Display) -> (Model, About) {
        let name = &self.file;
        let why = format!("this host refuses {name}");
        let cure = format!("mend the file or the host, then `lbctl reload`; the error is: {refused}");
        self.serve(&why, &cure)
    }

    fn serve(self, why: &str, cure: &str) -> (Model, About) {
        let Self { last, parsed, .. } = self;
        let from = last.file.as_deref().unwrap_or("standard input");
        let problem = format!("{why}, so what was accepted last is served, from {from}: {cure}");
        error!("{problem}");
        let about = About {
            warnings: parsed.warnings,
            accepted: last,
            notes: vec![Note::new(EventKind::ConfigFallback, Cause::File).because(&problem)],
            problem: Some(problem),
        };
        (parsed.model, about)
    }
}

/// Carries out what [`choose`] says.
///
/// # Errors
/// Those of the file, if there is nothing else.
pub(super) fn choose_at_start(
    file: &Path,
    own: OwnFile,
    last: Option<Accepted>,
    now_unix_ms: u64,
) -> Result<Chosen, DaemonError> {
    let name = file.display().to_string();
    let OwnFile { bytes, read } = own;
    let last = last.map(|last| {
        let parsed = config::parse_at_start(last.toml.as_bytes(), last.file.as_deref().unwrap_or("-"));
        (last, parsed)
    });
    let now = match &read {
        Ok(_) => FileNow::Good(hash(&bytes)),
        Err(_) => FileNow::Bad,
    };
    let on_record = last.as_ref().map(|(last, parsed)| OnRecord {
        by: last.by,
        text: hash(last.toml.as_bytes()),
        own_file: last.own_file,
        good: parsed.is_ok(),
    });
    let applied = |last: &Accepted| match &last.file {
        Some(applied) => format!("{applied}, which `lbctl apply` brought,"),
        None => "what `lbctl apply` brought from standard input".to_owned(),
    };
    match (choose(now, on_record), read, last) {
        (Choice::Applied, _, Some((last, Ok(parsed)))) => {
            info!(
                file = name,
                "{} is in force: the file has not changed since",
                applied(&last)
            );
            Ok(Chosen {
                model: parsed.model,
                about: About {
                    warnings: parsed.warnings,
                    accepted: last,
                    problem: None,
                    notes: Vec::new(),
                },
                fallback: None,
            })
        }
        (
            Choice::LastGood,
            Err(DaemonError::Config(errors) | DaemonError::Unreadable(errors)),
            Some((last, Ok(parsed))),
        ) => {
            error!("{name} is not accepted:\n{errors}");
            let cure = format!(
                "mend the file, see `lbctl check {name}`, then `lbctl reload`; the first error is {}",
                first_of(&errors)
            );
            let why = format!("{name} is bad");
            let file = name;
            let (model, about) = Fallback { file, last, parsed }.serve(&why, &cure);
            Ok(Chosen {
                model,
                about,
                fallback: None,
            })
        }
        (choice, Ok(parsed), last) => {
            let dropped = match (choice, &last) {
                (Choice::FileChanged, Some((last, _))) => Some(format!(
                    "{} is dropped: {name} has changed since, and is in force",
                    applied(last)
                )),
                (Choice::AppliedRefused, Some((last, Err(errors)))) => Some(format!(
                    "{} is dropped, as this version does not accept it; {name} is in force: {}",
                    applied(last),
                    first_of(errors),
                )),
                _ => None,
            };
            let note = |why| Note::new(EventKind::ConfigDropped, Cause::File).because(why);
            let accepted = Accepted {
                own_file: Some(hash(&bytes)),
                toml: String::from_utf8_lossy(&bytes).into_owned(),
                file: Some(name.clone()),
                by: Acceptance::Start,
                accepted_unix_ms: now_unix_ms,
            };
            let fallback = match last {
                Some((last, Ok(parsed))) if last.toml != accepted.toml => Some(Fallback {
                    file: name,
                    last,
                    parsed,
                }),
                _ => None,
            };
            Ok(Chosen {
                model: parsed.model,
                about: About {
                    warnings: parsed.warnings,
                    accepted,
                    problem: None,
                    notes: dropped.into_iter().map(note).collect(),
                },
                fallback,
            })
        }
        (_, Err(error), _) => Err(error),
    }
}

/// Says that what an earlier version kept as applied does not count.
pub(super) fn old_applied(file: &Path) -> Note {
    let file = file.display();
    let why = format!(
        "what `lbctl apply` brought to an earlier version of lbd is dropped, as this version does not read its record; \
         {file} is in force: apply again what is to differ from it"
    );
    Note::new(EventKind::ConfigDropped, Cause::File).because(why)
}

fn first_of(errors: &Errors) -> String {
    let first = errors.as_slice().first();
    first.map(|first| first.headline().to_string()).unwrap_or_default()
}

/// What is kept of a daemon, if it can be understood. A file that cannot is moved away, and [`set_aside`] says so: a daemon that does not start
/// helps nobody.
///
/// # Errors
/// If it cannot be read, or not be moved.
pub(super) fn unless_unreadable<T: Default>(loaded: Result<T, StateError>, path: &Path) -> Result<T, StateError> {
    match loaded {
        Err(StateError::Unreadable { problem, .. }) => {
            error!(path = %path.display(), %problem, "not what this version writes: it is moved away and does not count");
            private::set_aside(path).map_err(|source| private::ReplaceError {
                action: "move away",
                path: path.to_owned(),
                source,
            })?;
            Ok(T::default())
        }
        loaded => loaded,
    }
}

/// The files that a daemon keeps in its state folder, besides the events.
pub(super) fn kept_files(folder: &Path) -> [PathBuf; 3] {
    [
        state::path_in(folder),
        accepted::path_in(folder),
        positions::path_in(folder),
    ]
}

/// Which of them could not be read at a start, a sentence each, until somebody has looked at them.
pub(super) fn set_aside(folder: &Path) -> Vec<String> {
    let lost = [
        "the operator's overrides in it do not count",
        "what was accepted before it is not known",
        positions::LOST,
    ];
    let files = kept_files(folder)
        .into_iter()
        .map(|path| private::aside(&path))
        .zip(lost);
    let there = files.filter(|(path, _)| path.exists());
    there
        .map(|(path, lost)| {
            format!(
                "{} could not be read at a start: {lost}; look at it, then remove it",
                path.display()
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toml(name: &str) -> String {
        format!(
            "[node]\ninterfaces = [\"lo\"]\n[[service]]\nname = \"{name}\"\nvip = \"192.0.2.1\"\nprotocol = \"tcp\"\nport = 80\n"
        )
    }

    fn served(chosen: &Chosen) -> &str {
        &chosen.model.services[0].name
    }

    #[test]
    fn what_does_not_count_is_said() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("edge.toml");
        std::fs::write(&path, toml("file")).expect("written");
        let start = |last: Option<Accepted>| choose_at_start(&path, OwnFile::read(&path), last, 5);
        let first = start(None).expect("good");
        assert_eq!(
            (served(&first), first.about.accepted.by, &first.about.problem),
            ("file", Acceptance::Start, &None)
        );
        let applied = Accepted {
            toml: toml("applied"),
            file: Some("other.toml".into()),
            by: Acceptance::Apply,
            accepted_unix_ms: 7,
            own_file: first.about.accepted.own_file,
        };
        let second = start(Some(applied.clone())).expect("good");
        assert_eq!(
            (served(&second), second.about.accepted.clone(), second.about.notes.len()),
            ("applied", applied.clone(), 0)
        );

        std::fs::write(&path, toml("edited")).expect("written");
        let third = start(Some(applied.clone())).expect("good");
        assert_eq!(
            (served(&third), third.about.notes[0].kind),
            ("edited", EventKind::ConfigDropped)
        );
        assert!(
            third.about.notes[0].why.contains("other.toml"),
            "{}",
            third.about.notes[0].why
        );

        // The last good one is there, should this host refuse what was chosen.
        assert!(first.fallback.is_none() && second.fallback.is_none());
        let (model, about) = third.fallback.expect("another text").instead_of(&"no such driver");
        assert_eq!(
            (model.services[0].name.as_str(), about.accepted, about.notes[0].kind),
            ("applied", applied.clone(), EventKind::ConfigFallback)
        );
        let said = about.problem.expect("said");
        assert!(said.contains("refuses") && said.contains("no such driver"), "{said}");
        let same = Accepted {
            toml: toml("edited"),
            by: Acceptance::Reload,
            ..applied.clone()
        };
        assert!(start(Some(same)).expect("good").fallback.is_none());

        std::fs::write(&path, &toml("half")[..60]).expect("written");
        let fourth = start(Some(applied.clone())).expect("the last good one");
        assert_eq!(
            (served(&fourth), fourth.about.notes[0].kind),
            ("applied", EventKind::ConfigFallback)
        );
        assert!(fourth.about.problem.expect("said").contains("is bad"));
        assert!(start(None).is_err());
        let older = Accepted {
            toml: "?".into(),
            ..applied
        };
        assert!(start(Some(older.clone())).is_err());
        std::fs::write(&path, toml("mended")).expect("written");
        assert!(start(Some(older)).expect("good").fallback.is_none());
    }

    #[test]
    fn what_may_come_is_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("edge.toml");
        let start = |last: Option<Accepted>| choose_at_start(&path, OwnFile::read(&path), last, 5);
        // It may be on a disk that is not there yet.
        assert!(matches!(start(None), Err(DaemonError::Unreadable(_))));
        std::fs::write(&path, "x").expect("written");
        assert!(matches!(start(None), Err(DaemonError::Config(_))));

        // Users may come from a server that is not up yet, in the file and in what was accepted last.
        let users = "[service.health]\nkind = \"exec\"\nprogram = \"/bin/true\"\nuser = \"no-such-user\"\n\
             [[alert]]\nname = \"run\"\nkind = \"exec\"\ncommand = [\"/bin/true\"]\nuser = \"no-such-user\"\n";
        let text = toml("file") + users;
        std::fs::write(&path, &text).expect("written");
        let chosen = start(None).expect("served");
        let unknown = chosen.about.warnings.iter().filter(|warning| {
            let said = &warning.problem;
            said.contains("\"no-such-user\" is unknown") && said.contains("does not run")
        });
        assert_eq!((served(&chosen), unknown.count()), ("file", 2));
        std::fs::write(&path, "x").expect("written");
        assert_eq!(served(&start(Some(chosen.about.accepted)).expect("served")), "file");
        // Somebody who applies it is there to correct it.
        assert_eq!(config::parse(&text, "f").expect_err("refused").as_slice().len(), 2);
    }
}
