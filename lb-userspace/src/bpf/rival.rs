//! Another daemon in this network namespace whose folders are not these: it runs in a mount namespace with a BPF file system and a `/run` of
//! its own, so no lock tells of it. The program on an interface does.

use std::path::Path;

use aya::programs::loaded_programs;
use thiserror::Error;
use tracing::debug;

use super::link_fd;
use super::links::{self, AttachError};
use super::owner::{self, Owner};
use super::shape::Access;
use crate::netlink::Link;

/// Another daemon serves this network namespace.
#[derive(Debug, Error)]
#[error(
    "another lbd balances in this network namespace: its program (id {program}) is on interface {interface}, and it runs \
     in another mount namespace ({owner}): one balancer per namespace; stop it first, and run `lbd detach` there"
)]
pub struct Rival {
    /// Where its program is.
    pub interface: String,
    /// Its program.
    pub program: u32,
    /// Its process.
    pub owner: Owner,
}

/// Looks for a living daemon whose program is on one of these interfaces, but not through a link pinned in `pins`.
///
/// A program that a dead daemon left elsewhere is none: who wants its interface is told when it attaches.
///
/// # Errors
/// If the pins cannot be read.
pub fn find(links: &[Link], pins: &Path) -> Result<Option<Rival>, AttachError> {
    let own = links::pinned(pins)?;
    for link in links {
        let Some(program) = link.xdp.map(|xdp| xdp.program_id) else {
            continue;
        };
        let is_own = own.contains(&link.ifindex)
            && link_fd::open(&pins.join(format!("link-{}", link.ifindex)))
                .and_then(|pinned| link_fd::state(std::os::fd::AsFd::as_fd(&pinned)))
                .is_ok_and(|state| state.ifindex == link.ifindex);
        if is_own || !is_balancer(program) {
            continue;
        }
        if let Some(owner) = owner::of_program(program) {
            let interface = link.name.clone();
            return Ok(Some(Rival {
                interface,
                program,
                owner,
            }));
        }
        debug!(
            interface = link.name,
            program, "a balancer's program that no process has"
        );
    }
    Ok(None)
}

/// Whether a program has the name of one of ours; the kernel keeps 15 bytes of it.
fn is_balancer(id: u32) -> bool {
    let of_id = loaded_programs().flatten().find(|program| program.id() == id);
    let name = of_id.map(|program| String::from_utf8_lossy(program.name()).into_owned());
    let known = [Access::Whole, Access::LargeRing, Access::ByKey].map(|access| access.programs()[0]);
    name.is_some_and(|name| known.iter().any(|known| known[..known.len().min(15)] == *name))
}
