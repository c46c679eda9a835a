//! The kernel's settings that decide whether this host speaks for its VIPs: ARP, and the check of a packet's way back.
//!
//! For each of them the kernel takes the larger one of `conf/all` and `conf/DEV`, DEV being the interface that the packet came by
//! (`arp_ignore`, `rp_filter`) or leaves by (`arp_announce`); see `ip-sysctl.rst`.

use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use serde::{Deserialize, Serialize};

const ROOT: &str = "/proc/sys/net/ipv4/conf";

/// One setting of one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sysctl {
    /// The interface.
    pub interface: String,
    /// The setting's name.
    pub name: String,
}

/// A setting that was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Which.
    pub sysctl: Sysctl,
    /// Its value before.
    pub before: u32,
    /// The value that it was given.
    pub set: u32,
}

/// What to do about a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// It already does what is needed.
    Keep,
    /// The interface's own value has to become this.
    Set(u32),
    /// What is set for all interfaces overrules any useful value: the operator has to decide.
    Overruled {
        /// The value for all interfaces.
        all: u32,
    },
}

/// `arp_ignore`: answer only for addresses of the interface asked (1, 2), or none at all (8). 3 stays silent about addresses of
/// scope host, as VIPs have. 0 answers for all, and so do 4 to 7, which mean nothing.
pub fn arp_ignore(all: u32, interface: u32) -> Advice {
    match (all, all.max(interface)) {
        (_, 1 | 2 | 3 | 8) => Advice::Keep,
        (0..=3 | 8, _) => Advice::Set(1),
        _ => Advice::Overruled { all },
    }
}

/// `arp_announce`: with 2, ARP requests never name a VIP as their sender, though the answers to clients have it as source.
pub fn arp_announce(all: u32, interface: u32) -> Advice {
    if all.max(interface) >= 2 {
        Advice::Keep
    } else {
        Advice::Set(2)
    }
}

/// Whether `rp_filter` is strict: then a packet is dropped unless the way to its source leads back by the same interface.
pub fn rp_filter_is_strict(all: u32, interface: u32) -> bool {
    all.max(interface) == 1
}

/// A setting's value for all interfaces and for one.
pub fn read_pair(name: &str, interface: &str) -> io::Result<(u32, u32)> {
    let read = |interface: &str| Sysctl::new(interface, name).read();
    Ok((read("all")?, read(interface)?))
}

impl Sysctl {
    /// The setting `name` of `interface`.
    pub fn new(interface: &str, name: &str) -> Self {
        Sysctl {
            interface: interface.to_owned(),
            name: name.to_owned(),
        }
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        // Names of interfaces may have dots, but no slashes: a file's path is safer than sysctl's dotted name.
        Path::new(ROOT).join(&self.interface).join(&self.name)
    }

    /// Its value.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no such interface any more.
    pub fn read(&self) -> io::Result<u32> {
        let text = fs::read_to_string(self.path())?;
        text.trim()
            .parse()
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{:?} is no number", text.trim())))
    }

    /// Gives it a value.
    ///
    /// # Errors
    ///
    /// As [`Sysctl::read`], or if the process may not.
    pub fn write(&self, value: u32) -> io::Result<()> {
        fs::write(self.path(), value.to_string())
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net.ipv4.conf.{}.{}", self.interface, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_value_counts() {
        let check =
            |all, interface, expected| assert_eq!(arp_ignore(all, interface), expected, "{all} and {interface}");
        check(0, 0, Advice::Set(1));
        check(0, 1, Advice::Keep);
        check(1, 0, Advice::Keep);
        check(0, 2, Advice::Keep);
        check(3, 0, Advice::Keep);
        check(0, 8, Advice::Keep);
        check(8, 0, Advice::Keep);
        // 4 to 7 mean nothing: an interface's own value can be replaced, that of all interfaces cannot be lowered.
        check(0, 4, Advice::Set(1));
        check(1, 5, Advice::Set(1));
        check(4, 1, Advice::Overruled { all: 4 });
        check(2, 7, Advice::Set(1));
        check(4, 8, Advice::Keep);
        assert_eq!(arp_announce(0, 0), Advice::Set(2));
        assert_eq!(arp_announce(1, 1), Advice::Set(2));
        assert_eq!(arp_announce(2, 0), Advice::Keep);
        assert_eq!(arp_announce(0, 2), Advice::Keep);
        assert!(rp_filter_is_strict(1, 0));
        assert!(rp_filter_is_strict(0, 1));
        assert!(!rp_filter_is_strict(2, 1));
        assert!(!rp_filter_is_strict(0, 0));
    }
}
