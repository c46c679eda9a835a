//! Offloads that hide from the program what it would have to see: tags that are stripped, packets that are put together. They are switched
//! off where the program is, by `[node] offloads`, and on again where it is taken off.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::Daemon;
use crate::api::events::{Cause, EventKind};
use crate::ethtool::{Ethtool, Feature};
use crate::journal::Note;
use crate::model::Offloads as Policy;

/// Their names in the kernel: VLAN tags (802.1Q, 802.1ad) are taken out of the frame; TCP segments of one connection are joined.
const HIDING: [&str; 4] = ["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse", "rx-lro", "rx-gro-hw"];
/// Where is kept what was switched off.
const FILE: &str = "offloads.json";

/// Features of interfaces, by the interface's name.
type Features = BTreeMap<String, BTreeSet<String>>;

/// What is to be done about an interface's offloads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Decision {
    /// Those to switch off.
    pub off: BTreeSet<String>,
    /// Those that hide something and stay on: they cannot be switched, or are not to be.
    pub stay: BTreeSet<String>,
}

/// What is to be done.
pub(super) fn decide(features: &[Feature], policy: Policy) -> Decision {
    let hides = |feature: &&Feature| feature.active && HIDING.contains(&feature.name.as_str());
    let (off, stay): (Vec<&Feature>, Vec<&Feature>) = features
        .iter()
        .filter(hides)
        .partition(|feature| policy == Policy::Disable && feature.changeable);
    let names = |features: Vec<&Feature>| features.into_iter().map(|feature| feature.name.clone()).collect();
    Decision {
        off: names(off),
        stay: names(stay),
    }
}

/// Whether the program may be put on an interface.
///
/// # Errors
/// In words, if `offloads = "refuse"` and one is on.
pub(super) fn allow(interface: &str, policy: Policy) -> Result<(), String> {
    if policy != Policy::Refuse {
        return Ok(());
    }
    match read(interface).map(|(_, features)| decide(&features, policy).stay) {
        Ok(on) if !on.is_empty() => Err(format!(
            "interface {interface}: {} hides VLAN tags or joins packets before the program sees them, and offloads = \"refuse\": \
             switch it off (ethtool -K {interface} {} off), or set offloads = \"disable\"",
            list(&on),
            list(&on).replace(", ", " off ")
        )),
        // One whose driver has no such features hides nothing.
        _ => Ok(()),
    }
}

fn read(interface: &str) -> io::Result<(Ethtool, Vec<Feature>)> {
    let ethtool = Ethtool::open(interface)?;
    let features = ethtool.features(interface)?;
    Ok((ethtool, features))
}

fn list(features: &BTreeSet<String>) -> String {
    features.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// What was switched off, and what is on.
#[derive(Debug)]
pub(super) struct Offloads {
    path: PathBuf,
    /// On record, so that they are switched on again, if by the next process.
    switched_off: Features,
    /// Said already.
    on: Features,
    /// Ticks until the next look.
    rest: u32,
}

/// Ticks between two looks: somebody may switch one on.
const EVERY: u32 = 3;

impl Offloads {
    /// What an earlier daemon has switched off.
    pub(super) fn load(state: &Path) -> Self {
        let path = state.join(FILE);
        let switched_off = fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self {
            path,
            switched_off: switched_off.unwrap_or_default(),
            on: Features::new(),
            rest: 0,
        }
    }

    fn save(&self) {
        let written = if self.switched_off.is_empty() {
            match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        } else {
            let new = self.path.with_extension("new");
            serde_json::to_vec(&self.switched_off)
                .map_err(io::Error::other)
                .and_then(|bytes| fs::write(&new, bytes))
                .and_then(|()| fs::rename(&new, &self.path))
        };
        if let Err(error) = written {
            warn!(path = %self.path.display(), %error, "which offloads were switched off is not kept");
        }
    }

    /// Switches on again what was switched off on interfaces that `keep` does not name.
    pub(super) fn restore(&mut self, keep: &[String]) {
        let gone: Vec<String> = self
            .switched_off
            .keys()
            .filter(|name| !keep.contains(name))
            .cloned()
            .collect();
        for interface in &gone {
            let features = self.switched_off.remove(interface).unwrap_or_default();
            let names: Vec<&str> = features.iter().map(String::as_str).collect();
            let done = Ethtool::open(interface).and_then(|ethtool| ethtool.switch(interface, &names, true));
            match done {
                Ok(()) => info!(interface, offloads = list(&features), "switched on again, as before"),
                // An interface that is gone has nothing to restore.
                Err(error) => info!(interface, offloads = list(&features), %error, "not switched on again"),
            }
            self.on.remove(interface);
        }
        if !gone.is_empty() {
            self.save();
        }
    }

    /// Those that were switched off on an interface.
    pub(super) fn switched_off(&self, interface: &str) -> Vec<String> {
        self.switched_off
            .get(interface)
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }

    /// Those that are on.
    pub(super) fn on(&self, interface: &str) -> Vec<String> {
        self.on.get(interface).into_iter().flatten().cloned().collect()
    }

    /// Looks at an interface and switches off what is to be; says what is news.
    fn look(&mut self, interface: &str, policy: Policy) -> Vec<(EventKind, String)> {
        let mut news = Vec::new();
        let Ok((ethtool, features)) = read(interface) else {
            // Gone, or its driver has no features: what can be said of it, others say.
            self.on.remove(interface);
            return news;
        };
        let Decision { off, mut stay } = decide(&features, policy);
        if !off.is_empty() {
            // On record first: a process that ends here has switched nothing off unseen.
            self.switched_off
                .entry(interface.to_owned())
                .or_default()
                .extend(off.clone());
            self.save();
            let names: Vec<&str> = off.iter().map(String::as_str).collect();
            let failed = ethtool.switch(interface, &names, false).err();
            let after = ethtool.features(interface).unwrap_or_default();
            let active = |name: &&String| after.iter().any(|feature| feature.name == **name && feature.active);
            let (still, done): (Vec<&String>, Vec<&String>) = off.iter().partition(active);
            stay.extend(still.into_iter().cloned());
            let done: BTreeSet<String> = done.into_iter().cloned().collect();
            if !done.is_empty() {
                news.push((
                    EventKind::OffloadDisabled,
                    format!("interface {interface}: {}", list(&done)),
                ));
            }
            if let Some(error) = failed {
                warn!(interface, offloads = list(&off), %error, "cannot be switched off");
            }
        }
        if stay.is_empty() {
            self.on.remove(interface);
        } else if self.on.get(interface) != Some(&stay) {
            news.push((
                EventKind::OffloadActive,
                format!("interface {interface}: {}", list(&stay)),
            ));
            self.on.insert(interface.to_owned(), stay);
        }
        news
    }

    /// A sentence for each interface where one is on.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        self.on.iter().map(|(interface, features)| {
            format!(
                "interface {interface}: {} is on: VLAN tags are stripped or packets joined before the program sees them, so frames \
                 of any VLAN are balanced; ethtool -K {interface} {} off",
                list(features),
                list(features).replace(", ", " off ")
            )
        })
    }
}

/// Switches on again what was switched off on any interface.
pub(super) fn restore_all(state: &Path) {
    Offloads::load(state).restore(&[]);
}

impl Daemon {
    /// Looks after the offloads; called every second.
    pub(super) fn tick_offloads(&mut self) {
        if self.offloads.rest > 0 {
            self.offloads.rest -= 1;
            return;
        }
        self.check_offloads();
    }

    /// Switches off what hides something from the program, and tells of it.
    pub(super) fn check_offloads(&mut self) {
        self.offloads.rest = EVERY;
        let node = &self.world.model.node;
        let (configured, policy) = (node.interfaces.clone(), node.offloads);
        // What is to be kept as it is, is to be as it was.
        self.offloads
            .restore(if policy == Policy::Disable { &configured } else { &[] });
        for interface in &configured {
            for (kind, message) in self.offloads.look(interface, policy) {
                match kind {
                    EventKind::OffloadDisabled => {
                        info!("{message}: switched off, because it hides something from the program")
                    }
                    _ => warn!("{message}: on, and hides something from the program"),
                }
                self.tell(Note::new(kind, Cause::Daemon).because(message));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feature(name: &str, active: bool, changeable: bool) -> Feature {
        Feature {
            name: name.to_owned(),
            active,
            changeable,
        }
    }

    #[test]
    fn what_hides_something_is_switched_off_if_it_can_and_may_be() {
        let features = [
            feature("rx-vlan-hw-parse", true, true),
            feature("rx-lro", false, true),
            feature("rx-gro-hw", true, false),
            feature("rx-gro", true, true),
        ];
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let check = |policy, off: &[&str], stay: &[&str]| {
            let expected = Decision {
                off: set(off),
                stay: set(stay),
            };
            assert_eq!(decide(&features, policy), expected, "{policy:?}");
        };
        check(Policy::Disable, &["rx-vlan-hw-parse"], &["rx-gro-hw"]);
        check(Policy::Keep, &[], &["rx-gro-hw", "rx-vlan-hw-parse"]);
        check(Policy::Refuse, &[], &["rx-gro-hw", "rx-vlan-hw-parse"]);
    }
}
