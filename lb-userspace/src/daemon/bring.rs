//! From what is wanted to the kernel, so that what cannot be written for one service holds no other one up.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Instant;

use lb_common::map::ServiceKey;
use tracing::{debug, info, warn};

use super::kernel::Kernel;
use super::{Daemon, now};
use crate::api::events::{Cause, EventKind};
use crate::bpf::error::KernelError;
use crate::bpf::program::Balancer;
use crate::journal::Note;
use crate::plan::{Scope, WantedService};

/// Attempts in one go: a kernel that refuses everything must not keep the loop.
const MOST_ATTEMPTS: usize = 256;

impl Daemon {
    /// Brings the kernel to what is wanted for the services that something has changed for.
    pub(super) fn converge(&mut self) {
        // An interface that takes no packets makes backends unreachable: who serves then is decided anew.
        while self.converge_once() {}
    }

    /// Says whether an interface was found that takes no packets.
    fn converge_once(&mut self) -> bool {
        let ready: BTreeSet<String> = self.stale.iter().filter(|name| !self.is_held(name)).cloned().collect();
        if ready.is_empty() {
            return false;
        }
        self.positions.stale = true;
        let now = now();
        for name in &ready {
            let changes = self.world.decide(name, now);
            self.tell_changes(name, changes);
        }
        let services = ready.iter().filter_map(|name| self.world.service(name));
        let wanted: Vec<(String, WantedService)> = services
            .filter_map(|service| Some((service.name.clone(), self.world.wanted(service)?)))
            .collect();
        let mut blocked = false;
        for (ifindex, error) in self.kernel.allow_redirects(wanted.iter().map(|(_, wanted)| wanted)) {
            warn!(ifindex, %error, "no packets can be sent by this interface: backends behind it are out");
            blocked |= !self.world.blocked.contains_key(&ifindex);
            let concerned = self.world.block(ifindex, error.to_string());
            self.stale.extend(concerned);
        }
        if blocked {
            return true;
        }
        let begun = Instant::now();
        // Those that could not be written before are tried after the others.
        let (again, first): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(name, _)| self.stuck.contains_key(name));
        let mut failed = BTreeMap::new();
        let mut moved = 0;
        let mut changed = HashSet::new();
        for (names, wanted) in [first, again].map(|group| group.into_iter().unzip::<_, _, Vec<_>, Vec<_>>()) {
            let mut left = MOST_ATTEMPTS;
            let mut write = |some: &[WantedService]| -> Result<(), String> {
                for (key, slots) in write(&mut self.kernel, some)? {
                    moved += slots;
                    changed.insert(key);
                }
                let keys = some.iter().map(|service| service.key);
                self.transitions.services.extend(keys);
                Ok(())
            };
            failed.extend(each_that_can(&names, &wanted, &mut left, &mut write));
        }
        self.note_slots(&changed);
        let micros = begun.elapsed().as_micros();
        debug!(
            services = ready.len(),
            slots_moved = moved,
            failed = failed.len(),
            micros,
            "kernel brought up to date"
        );
        let done = |name: &String| ready.contains(name) && !failed.contains_key(name);
        self.stale.retain(|name| !done(name));
        self.held.retain(|name, _| !done(name));
        self.note_stuck(&ready, failed);
        false
    }

    /// Notes which services could not be written; they are tried again at the next event, a second from now at the latest.
    fn note_stuck(&mut self, tried: &BTreeSet<String>, failed: BTreeMap<String, String>) {
        let new = failed.iter().filter(|(name, why)| self.stuck.get(*name) != Some(why));
        let new: Vec<String> = new.map(|(name, why)| format!("service {name:?}: {why}")).collect();
        let before = !self.stuck.is_empty();
        self.stuck.retain(|name, _| !tried.contains(name));
        self.stuck.extend(failed);
        if let Some(first) = new.first() {
            let others = new.len() - 1;
            let why = if others == 0 {
                first.clone()
            } else {
                format!("{first}; and {others} others")
            };
            warn!(services = new.len(), why, "the kernel does not hold what is wanted");
            self.tell(Note::new(EventKind::KernelBehind, Cause::Daemon).because(why));
        } else if before && self.stuck.is_empty() {
            self.tell(Note::new(EventKind::KernelCaughtUp, Cause::Daemon));
        }
    }

    /// Tries interfaces again that took no packets; called every second.
    pub(super) fn tend_blocked(&mut self) {
        let blocked: Vec<u32> = self.world.blocked.keys().copied().collect();
        for ifindex in blocked {
            if !self.world.leads_by(ifindex) || self.kernel.allow_redirect(ifindex).is_ok() {
                info!(ifindex, "this interface takes packets again, or none are to go there");
                let concerned = self.world.unblock(ifindex);
                self.stale.extend(concerned);
            }
        }
    }

    /// What the kernel does not hold though it is wanted, and by which interfaces no packet can go; a sentence each.
    pub(super) fn behind(&self) -> Vec<String> {
        let stuck = self.stuck.iter();
        let stuck =
            stuck.map(|(name, why)| format!("the kernel does not hold what is wanted for service {name:?}: {why}"));
        let blocked = self.world.blocked.iter();
        let blocked = blocked.map(|(ifindex, why)| {
            format!("no packets can be sent by the interface with index {ifindex}, backends behind it are out: {why}")
        });
        stuck.chain(blocked).collect()
    }
}

/// Brings some services to what is wanted; says how many slots of each went to another owner.
fn write(kernel: &mut Kernel, wanted: &[WantedService]) -> Result<Vec<(ServiceKey, usize)>, String> {
    let plan = kernel
        .plan(wanted, Scope::TheseOnly)
        .map_err(|error| error.to_string())?;
    kernel.apply(&plan).map_err(|error| error.to_string())?;
    Ok(plan.moved)
}

/// Writes all at once, or if that fails each half, down to the single ones; says which cannot be written, and why.
fn each_that_can<S>(
    names: &[String],
    services: &[S],
    left: &mut usize,
    write: &mut impl FnMut(&[S]) -> Result<(), String>,
) -> Vec<(String, String)> {
    if services.is_empty() {
        return Vec::new();
    }
    let all = |why: String| names.iter().map(|name| (name.clone(), why.clone())).collect();
    if *left == 0 {
        return all("not tried: too many others failed".to_owned());
    }
    *left -= 1;
    match write(services) {
        Ok(()) => Vec::new(),
        Err(why) if services.len() == 1 => all(why),
        Err(_) => {
            let middle = services.len() / 2;
            let mut failed = each_that_can(&names[..middle], &services[..middle], left, write);
            failed.extend(each_that_can(&names[middle..], &services[middle..], left, write));
            failed
        }
    }
}

/// The interfaces that packets leave by, other than the one they came by. A backend that nothing leads to needs none: what its row keeps of its
/// last way may name an interface that is gone.
fn redirects<'a>(wanted: impl Iterator<Item = &'a WantedService>) -> BTreeSet<u32> {
    let mut needed = BTreeSet::new();
    for service in wanted {
        let mut owners: Option<HashSet<u16>> = None;
        for (number, backend) in service.backends.iter().enumerate() {
            let ifindex = backend.rewrite.ifindex;
            if ifindex == 0 || needed.contains(&ifindex) {
                continue;
            }
            let mut owns = || {
                let owners = owners.get_or_insert_with(|| service.owners.iter().copied().collect());
                u16::try_from(number).is_ok_and(|number| owners.contains(&number))
            };
            if backend.serves || owns() {
                needed.insert(ifindex);
            }
        }
    }
    needed
}

/// Lets packets leave by all of these interfaces; returns those that cannot be.
pub(super) fn allow_redirects<'a>(
    balancer: &mut Balancer,
    allowed: &mut HashSet<u32>,
    wanted: impl IntoIterator<Item = &'a WantedService>,
) -> Vec<(u32, KernelError)> {
    let mut failed = Vec::new();
    for ifindex in redirects(wanted.into_iter()) {
        if !allowed.contains(&ifindex) {
            match balancer.allow_redirect(ifindex) {
                Ok(()) => drop(allowed.insert(ifindex)),
                Err(error) => failed.push((ifindex, error)),
            }
        }
    }
    failed
}

#[cfg(test)]
mod tests {
    use lb_common::map::{NOBODY, Rewrite};

    use super::*;
    use crate::plan::WantedBackend;
    use crate::plan::transition::Rule;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|n| n.to_string()).collect()
    }

    #[test]
    fn one_that_cannot_be_written_holds_no_other_up() {
        let services: Vec<usize> = (0..500).collect();
        let (mut written, mut left) = (Vec::new(), MOST_ATTEMPTS);
        let mut write = |some: &[usize]| {
            if some.contains(&123) || some.contains(&499) {
                return Err("full".to_owned());
            }
            written.extend_from_slice(some);
            Ok(())
        };
        let failed = each_that_can(&names(500), &services, &mut left, &mut write);
        let full = |name: &str| (name.to_owned(), "full".to_owned());
        assert_eq!(failed, [full("123"), full("499")]);
        assert_eq!(written.len(), 498);
        assert!(MOST_ATTEMPTS - left < 40, "{left}");
    }

    #[test]
    fn a_kernel_that_refuses_everything_is_not_asked_for_ever() {
        let mut left = MOST_ATTEMPTS;
        let mut asked = 0;
        let mut write = |_: &[usize]| {
            asked += 1;
            Err("no".to_owned())
        };
        let failed = each_that_can(&names(10_000), &(0..10_000).collect::<Vec<_>>(), &mut left, &mut write);
        assert_eq!((failed.len(), asked), (10_000, MOST_ATTEMPTS));
    }

    #[test]
    fn a_backend_that_nothing_leads_to_needs_no_interface() {
        let backend = |ifindex, serves| WantedBackend {
            identity: u64::from(ifindex),
            rewrite: Rewrite {
                ifindex,
                ..Rewrite::default()
            },
            serves,
        };
        let service = WantedService {
            key: crate::config::parse(
                "[node]\ninterfaces = [\"lo\"]\n[[service]]\nname = \"web\"\nvip = \"192.0.2.1\"\nprotocol = \"tcp\"\nport = 80\n",
                "test",
            )
            .expect("good")
            .model
            .services[0]
                .key(),
            flags: 0,
            inserts: 0,
            idle: 1,
            rule: Rule::Adaptive,
            ring_size: 3,
            // Serves; is out; owns a slot all the same; is draining; leaves by where packets came from.
            backends: vec![backend(1, true), backend(2, false), backend(3, false), backend(4, true), backend(0, true)],
            owners: vec![0, 2, NOBODY],
        };
        assert_eq!(redirects([&service].into_iter()), [1, 3, 4].into());
    }
}
