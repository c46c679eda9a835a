//! Whether the program is on the interfaces that are configured: what is seen, what it means, what is news. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::api::types::Detached;
use crate::bpf::link_fd::LinkState;

/// What is seen of a configured interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// The index of the interface that has the name.
    pub by_name: Option<u32>,
    /// What holds the program on it.
    pub held: Option<Held>,
}

/// The link through which the program was attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// The interface's index then.
    pub ifindex: u32,
    /// The name that the interface of this index has now, in this network namespace.
    pub name_now: Option<String>,
    /// What the kernel says of the link; nothing if it cannot be asked.
    pub link: Option<LinkState>,
}

/// What that means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// The program is on the interface.
    Attached,
    /// It is, and the interface has this name now: packets are still balanced, but the next start will look for the configured name.
    Renamed(String),
    /// It is not.
    Detached(Loss),
}

/// Why the program is not on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// No interface has the name: it was removed, or moved to another network namespace.
    Missing,
    /// The interface of that name is another one.
    Remade,
    /// The interface is there, and the program was taken off. The kernel does not tell this from an interface made again under its index.
    Detached,
    /// Somebody has put another program in our link.
    Replaced {
        /// Its number in the kernel.
        program: u32,
    },
    /// The interface is there, and has not had the program yet.
    New,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loss::Missing => f.write_str("there is no interface of this name"),
            Loss::Remade => f.write_str("the interface was removed and made again"),
            Loss::Detached => f.write_str("the program was detached from it"),
            Loss::Replaced { program } => write!(f, "another program (id {program}) was put in its place"),
            Loss::New => f.write_str("the interface is new"),
        }
    }
}

/// What is so of an interface; `ours` is the number of the program that it should have.
pub(super) fn condition(seen: &Seen, ours: u32) -> Condition {
    let Some(held) = &seen.held else {
        return Condition::Detached(seen.by_name.map_or(Loss::Missing, |_| Loss::New));
    };
    // One that was moved to another network namespace keeps program and link.
    let live = held.link.filter(|link| link.ifindex == held.ifindex);
    match (seen.by_name, live) {
        (Some(index), Some(link)) if index == held.ifindex => match link.program {
            program if program == ours => Condition::Attached,
            program => Condition::Detached(Loss::Replaced { program }),
        },
        (Some(index), None) if index == held.ifindex => Condition::Detached(Loss::Detached),
        (Some(_), _) => Condition::Detached(Loss::Remade),
        (None, Some(link)) if link.program == ours => match &held.name_now {
            Some(name) => Condition::Renamed(name.clone()),
            None => Condition::Detached(Loss::Missing),
        },
        (None, _) => Condition::Detached(Loss::Missing),
    }
}

/// Which configured interfaces have no program, and which have another name.
#[derive(Debug, Default)]
pub(super) struct Attached {
    lost: BTreeMap<String, Detached>,
    renamed: BTreeMap<String, String>,
}

/// What is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// The program is not on the interface any more.
    Lost,
    /// It still is not, for another reason.
    Still,
    /// It is again.
    Back,
    /// The interface has another name now.
    Renamed,
}

impl Attached {
    /// The interface has no program, and why.
    pub(super) fn lost(&mut self, name: &str, message: String, now_unix_ms: u64) -> Option<News> {
        self.renamed.remove(name);
        match self.lost.get_mut(name) {
            Some(known) if known.message == message => None,
            Some(known) => {
                known.message = message;
                Some(News::Still)
            }
            None => {
                let detached = Detached {
                    interface: name.to_owned(),
                    message,
                    since_unix_ms: now_unix_ms,
                };
                self.lost.insert(name.to_owned(), detached);
                Some(News::Lost)
            }
        }
    }

    /// Whether it is known that an interface has no program.
    pub(super) fn is_lost(&self, name: &str) -> bool {
        self.lost.contains_key(name)
    }

    /// It has it; under another name, if one is given.
    pub(super) fn has(&mut self, name: &str, other: Option<String>) -> Option<News> {
        let back = self.lost.remove(name).map(|_| News::Back);
        let renamed = match other {
            Some(other) => {
                let before = self.renamed.insert(name.to_owned(), other.clone());
                (before.as_ref() != Some(&other)).then_some(News::Renamed)
            }
            None => {
                self.renamed.remove(name);
                None
            }
        };
        back.or(renamed)
    }

    /// Forgets interfaces that are not configured any more.
    pub(super) fn retain(&mut self, configured: &[String]) {
        self.lost.retain(|name, _| configured.contains(name));
        self.renamed.retain(|name, _| configured.contains(name));
    }

    /// Those without the program.
    pub(super) fn detached(&self) -> Vec<Detached> {
        self.lost.values().cloned().collect()
    }

    /// Those that another configuration need not find: they are missing already.
    pub(super) fn awaited(&self) -> BTreeSet<String> {
        self.lost.keys().chain(self.renamed.keys()).cloned().collect()
    }

    /// A sentence for each that has another name.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        self.renamed.iter().map(|(name, other)| {
            format!(
                "interface {name} is named {other} now: its packets are still balanced, but the next start will look for \
                 {name}; write {other} into node.interfaces, or rename it back"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: u32 = 77;

    fn held(name_now: Option<&str>, link: Option<(u32, u32)>) -> Option<Held> {
        Some(Held {
            ifindex: 5,
            name_now: name_now.map(str::to_owned),
            link: link.map(|(ifindex, program)| LinkState { ifindex, program }),
        })
    }

    #[test]
    fn what_is_seen_means() {
        let check = |by_name, held, expected| {
            let seen = Seen { by_name, held };
            assert_eq!(condition(&seen, OURS), expected, "{seen:?}");
        };
        let lost = Condition::Detached;
        check(Some(5), held(Some("eth0"), Some((5, OURS))), Condition::Attached);
        check(
            Some(5),
            held(Some("eth0"), Some((5, 9))),
            lost(Loss::Replaced { program: 9 }),
        );
        // Detached by force, or made again under its index: the link is an empty shell.
        check(Some(5), held(Some("eth0"), Some((0, OURS))), lost(Loss::Detached));
        check(Some(5), held(Some("eth0"), None), lost(Loss::Detached));
        check(Some(8), held(None, Some((0, OURS))), lost(Loss::Remade));
        // Renamed, and another one has the name now: the name counts.
        check(Some(8), held(Some("old"), Some((5, OURS))), lost(Loss::Remade));
        check(None, held(None, Some((0, OURS))), lost(Loss::Missing));
        // In another network namespace, where it may have another index.
        check(None, held(None, Some((5, OURS))), lost(Loss::Missing));
        check(None, held(None, Some((2, OURS))), lost(Loss::Missing));
        check(
            None,
            held(Some("eth9"), Some((5, OURS))),
            Condition::Renamed("eth9".into()),
        );
        // The index is somebody else's now.
        check(None, held(Some("eth9"), Some((0, OURS))), lost(Loss::Missing));
        check(None, None, lost(Loss::Missing));
        check(Some(5), None, lost(Loss::New));
    }

    #[test]
    fn a_loss_is_news_once() {
        let mut attached = Attached::default();
        assert_eq!(attached.has("eth0", None), None);
        assert_eq!(attached.lost("eth0", "gone".into(), 1_000), Some(News::Lost));
        assert_eq!(attached.lost("eth0", "gone".into(), 2_000), None);
        assert_eq!(attached.lost("eth0", "busy".into(), 3_000), Some(News::Still));
        let [shown] = &attached.detached()[..] else {
            panic!("{attached:?}");
        };
        assert_eq!((shown.message.as_str(), shown.since_unix_ms), ("busy", 1_000));
        assert_eq!(attached.awaited(), ["eth0".to_owned()].into());
        assert_eq!(attached.has("eth0", None), Some(News::Back));
        assert_eq!(attached.has("eth0", None), None);
        assert_eq!(attached.has("eth0", Some("eth9".into())), Some(News::Renamed));
        assert_eq!(attached.has("eth0", Some("eth9".into())), None);
        assert_eq!(attached.awaited().len(), 1);
        assert_eq!(attached.warnings().count(), 1);
        assert_eq!(attached.has("eth0", None), None);
        assert!(attached.awaited().is_empty());
        attached.lost("eth0", "gone".into(), 1_000);
        attached.retain(&["eth1".into()]);
        assert!(attached.detached().is_empty());
    }
}
