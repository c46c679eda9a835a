//! The users' path: how a health probe reaches one backend as a client's packet would.
//!
//! A probe is addressed to the VIP, carries the header bytes of its backend's row, leaves by that backend's next hop, and its answer
//! comes back to this host by direct return. So a VIP missing on the backend, a missing decapsulator or a firewall on the tunnel fails it.
//!
//! - [`wire`] makes the prober's place: a network namespace without a name, joined to this host's by a pair of virtual
//!   interfaces. In it nothing is known but one interface, so a VIP that is this host's own, its firewall, its reverse path filter and its
//!   connection tracking are not in a probe's way;
//! - [`program`] loads the three programs that carry packets to and fro (`lb-ebpf/src/probe.rs`).
//!
//! The address that probes come from is chosen by [`crate::netlink::source`].
//!
//! Nothing is pinned. The namespace ends with the process, however that ends, and takes the interfaces with it. What may stay behind on a
//! kernel before 6.6 are filters named `lb_probe_answer` that match nothing any more: the next start and `lbd detach` remove them.

pub mod program;
pub mod wire;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;

use lb_common::map::Rewrite;
use thiserror::Error;

use program::{Hook, Programs};
pub use wire::Namespace;
use wire::Wire;

/// Why probes cannot take the users' path.
#[derive(Debug, Error)]
pub enum PathError {
    /// The kernel refused a step of making the prober's place.
    #[error("cannot {step}: {source}{}", hint(.source))]
    Step {
        /// What was to be done.
        step: &'static str,
        /// Why it was not.
        source: io::Error,
    },
    /// The name is taken.
    #[error("there is an interface {name} that is not lbd's: rename or remove it")]
    NameTaken {
        /// Which.
        name: &'static str,
    },
    /// The programs were refused.
    #[error("the kernel refuses the probe programs: {0}")]
    Program(String),
    /// A program could not be put on an interface.
    #[error("cannot put {program} on interface {interface}: {problem}")]
    Attach {
        /// Which program.
        program: &'static str,
        /// Where.
        interface: String,
        /// What the kernel said.
        problem: String,
    },
    /// A target could not be written.
    #[error("target {number} of the probes: {problem}")]
    Target {
        /// Its number.
        number: u32,
        /// What the kernel said.
        problem: String,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => "; it takes root, or CAP_SYS_ADMIN and CAP_NET_ADMIN",
        Some(libc::EOPNOTSUPP) => "; the module veth is needed",
        _ => "",
    }
}

/// The users' path, set up.
pub struct UsersPath {
    wire: Wire,
    programs: Programs,
    rows: HashMap<u32, Rewrite>,
    sources: HashSet<IpAddr>,
}

impl UsersPath {
    /// Makes it, in place of what an earlier daemon may have left. It blocks for some 10 ms.
    ///
    /// # Errors
    /// If the kernel refuses; nothing is left then.
    pub fn set_up(object: &[u8], hook: Hook) -> Result<Self, PathError> {
        program::clear();
        let mut programs = Programs::load(object, hook)?;
        let wire = Wire::lay(&mut programs)?;
        programs.attach_send()?;
        Ok(Self {
            wire,
            programs,
            rows: HashMap::new(),
            sources: HashSet::new(),
        })
    }

    /// Where the probes' sockets must be made.
    pub fn namespace(&self) -> Namespace {
        self.wire.namespace.clone()
    }

    /// Whether nobody has taken the interface away.
    pub fn is_whole(&self) -> bool {
        self.wire.is_whole()
    }

    /// Makes `interfaces` (indices) those where answers are expected. One that is gone is no error.
    ///
    /// # Errors
    /// If one does not take the program; the others do then.
    pub fn expect_answers(&mut self, interfaces: &HashSet<u32>) -> Result<(), PathError> {
        self.programs.attach_answer(interfaces)
    }

    /// Forgets interfaces where answers were expected and which the kernel has removed; says whether there were any.
    pub fn forget_interfaces(&mut self, gone: impl Fn(u32) -> bool) -> bool {
        self.programs.forget_answers(gone)
    }

    /// Interfaces where answers are expected, and from which somebody has taken the program.
    pub fn lost_interfaces(&self) -> HashSet<u32> {
        self.programs.lost_answers()
    }

    /// Lets probes come from these addresses, besides those before.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_sources(&mut self, sources: impl IntoIterator<Item = IpAddr>) -> Result<(), PathError> {
        let new: Vec<IpAddr> = sources
            .into_iter()
            .filter(|source| !self.sources.contains(source))
            .collect();
        if !new.is_empty() {
            self.wire.add_addresses(&new)?;
            self.sources.extend(new);
        }
        Ok(())
    }

    /// Makes these the targets: header bytes by number. In each, `ifindex` is the interface that packets leave by, never 0.
    ///
    /// # Errors
    /// The kernel's; the other targets are written then.
    pub fn set_targets(&mut self, wanted: HashMap<u32, Rewrite>) -> Result<(), PathError> {
        let mut first = Ok(());
        for number in self.rows.keys().filter(|number| !wanted.contains_key(number)) {
            first = first.and(self.programs.remove_target(*number));
        }
        for (number, rewrite) in &wanted {
            if self.rows.get(number) != Some(rewrite) {
                first = first.and(self.programs.set_target(*number, rewrite));
            }
        }
        self.rows = wanted;
        first
    }
}

/// Removes whatever an earlier daemon of this network namespace left on its interfaces.
///
/// # Errors
/// If the interface cannot be removed.
pub fn clear() -> Result<(), PathError> {
    program::clear();
    wire::clear()
}
