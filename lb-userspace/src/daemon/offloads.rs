//! Offloads that hide from the program what it would have to see: tags that are stripped, packets that are put together. They are switched
//! off where the program is, by `[node] offloads`, and on again where it is taken off. A bond's ports run its program, so theirs are as well.

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
use crate::netlink::links::LinkTable;
use crate::netlink::ports;
use crate::private::{self, Durability};

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

/// The names of these interfaces, and of the ports that run their program.
pub(super) fn devices(links: &LinkTable, interfaces: &[String]) -> Vec<String> {
    let mut devices: Vec<String> = interfaces.to_vec();
    for link in links.values().filter(|link| interfaces.contains(&link.name)) {
        let ports = ports(links.values().map(|link| &link.own), link.ifindex);
        let names = ports.iter().filter_map(|port| links.get(port)).map(|port| &port.name);
        let new: Vec<String> = names.filter(|name| !devices.contains(name)).cloned().collect();
        devices.extend(new);
    }
    devices
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
    /// Interfaces where one could not be switched off, as they were after the try: there is no other before something has changed.
    vain: BTreeMap<String, Vec<Feature>>,
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
            vain: BTreeMap::new(),
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
            serde_json::to_vec(&self.switched_off)
                .map_err(io::Error::other)
                .and_then(|bytes| private::replace(&self.path, &bytes, Durability::Unsynced).map_err(io::Error::other))
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

    /// Says no more of interfaces that are not among these.
    fn forget_others(&mut self, devices: &[String]) {
        self.on.retain(|name, _| devices.contains(name));
        self.vain.retain(|name, _| devices.contains(name));
    }

    /// Looks again at the next tick.
    pub(super) fn look_soon(&mut self) {
        self.rest = 0;
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
        let Ok((ethtool, features)) = read(interface) else {
            // Gone, or its driver has no features: what can be said of it, others say.
            self.on.remove(interface);
            self.vain.remove(interface);
            return Vec::new();
        };
        self.judge(interface, policy, features, |names| {
            if let Err(error) = ethtool.switch(interface, names, false) {
                warn!(interface, offloads = names.join(", "), %error, "cannot be switched off");
            }
            ethtool.features(interface).unwrap_or_default()
        })
    }

    /// The same, of an interface with these features; `switch` switches those named off, and says what there is then.
    fn judge(
        &mut self,
        interface: &str,
        policy: Policy,
        features: Vec<Feature>,
        switch: impl FnOnce(&[&str]) -> Vec<Feature>,
    ) -> Vec<(EventKind, String)> {
        let mut news = Vec::new();
        let Decision { off, mut stay } = decide(&features, policy);
        if self.vain.get(interface).is_some_and(|after| *after == features) {
            stay.extend(off);
        } else if off.is_empty() {
            self.vain.remove(interface);
        } else {
            // On record first: a process that ends here has switched nothing off unseen.
            let before = self.switched_off.get(interface).cloned().unwrap_or_default();
            self.record(interface, before.union(&off).cloned().collect());
            let names: Vec<&str> = off.iter().map(String::as_str).collect();
            let after = switch(&names);
            let active = |name: &String| after.iter().any(|feature| feature.name == *name && feature.active);
            let (still, done): (BTreeSet<String>, BTreeSet<String>) = off.into_iter().partition(active);
            if !done.is_empty() {
                news.push((
                    EventKind::OffloadDisabled,
                    format!("interface {interface}: {}", list(&done)),
                ));
            }
            if still.is_empty() {
                self.vain.remove(interface);
            } else {
                let done = before.union(&done).filter(|name| !still.contains(*name));
                self.record(interface, done.cloned().collect());
                self.vain.insert(interface.to_owned(), after);
            }
            stay.extend(still);
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

    /// Keeps what is switched off on an interface.
    fn record(&mut self, interface: &str, features: BTreeSet<String>) {
        if self.switched_off.get(interface).unwrap_or(&BTreeSet::new()) == &features {
            return;
        }
        if features.is_empty() {
            self.switched_off.remove(interface);
        } else {
            self.switched_off.insert(interface.to_owned(), features);
        }
        self.save();
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
        let (devices, policy) = (devices(&self.links, &node.interfaces), node.offloads);
        // What is to be kept as it is, is to be as it was.
        self.offloads
            .restore(if policy == Policy::Disable { &devices } else { &[] });
        self.offloads.forget_others(&devices);
        for interface in &devices {
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

    #[test]
    fn what_cannot_be_switched_off_is_on_and_is_not_tried_for_ever() {
        let folder = std::env::temp_dir().join(format!("edgelb-offloads-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut offloads = Offloads::load(&folder);
        let both = |hw: bool, lro: bool| vec![feature("rx-vlan-hw-parse", hw, true), feature("rx-lro", lro, true)];
        let mut tries = 0;
        let mut look = |offloads: &mut Offloads, before: Vec<Feature>, after: Vec<Feature>| {
            let mut asked = Vec::new();
            let news = offloads.judge("eth0", Policy::Disable, before, |names| {
                tries += 1;
                asked = names.iter().map(|name| (*name).to_owned()).collect();
                after
            });
            let kinds: Vec<EventKind> = news.into_iter().map(|(kind, _)| kind).collect();
            (asked.len(), kinds)
        };
        let (disabled, active) = (EventKind::OffloadDisabled, EventKind::OffloadActive);
        // One of two stays on: it is active alone, and the file says so.
        let first = look(&mut offloads, both(true, true), both(false, true));
        assert_eq!(first, (2, vec![disabled, active]));
        assert_eq!(offloads.switched_off("eth0"), ["rx-vlan-hw-parse"]);
        assert_eq!(offloads.on("eth0"), ["rx-lro"]);
        assert_eq!(Offloads::load(&folder).switched_off("eth0"), ["rx-vlan-hw-parse"]);
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(folder.join(FILE)).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        // Nothing has changed: no try, no news.
        assert_eq!(look(&mut offloads, both(false, true), both(false, true)), (0, vec![]));
        assert_eq!(offloads.on("eth0"), ["rx-lro"]);
        // Somebody has switched the other one on: a try for both, and one is said to be off again.
        let again = look(&mut offloads, both(true, true), both(false, true));
        assert_eq!(again, (2, vec![disabled]));
        // It can be switched now, and was not on for a while.
        assert_eq!(look(&mut offloads, both(false, false), vec![]), (0, vec![]));
        assert!(offloads.on("eth0").is_empty());
        let at_last = look(&mut offloads, both(false, true), both(false, false));
        assert_eq!((at_last, tries), ((1, vec![disabled]), 3));
        assert_eq!(offloads.switched_off("eth0"), ["rx-lro", "rx-vlan-hw-parse"]);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_bond_s_ports_are_looked_at_as_well() {
        use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo};
        let bond = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bond)]);
        let links: LinkTable = [
            crate::netlink::links::link(2, "eth2", &[LinkAttribute::Controller(10)]),
            crate::netlink::links::link(3, "eth3", &[LinkAttribute::Controller(10)]),
            crate::netlink::links::link(4, "eth4", &[]),
            crate::netlink::links::link(10, "bond0", &[bond]),
        ]
        .into();
        let names = |interfaces: &[&str]| {
            devices(
                &links,
                &interfaces.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(),
            )
        };
        assert_eq!(names(&["bond0", "eth4"]), ["bond0", "eth4", "eth2", "eth3"]);
        assert_eq!(names(&["eth3", "bond0"]), ["eth3", "bond0", "eth2"]);
        assert_eq!(names(&["eth2", "gone0"]), ["eth2", "gone0"]);
    }
}
