//! Services whose full-size packets do not fit the path to some backend, by the MTU of routes and interfaces or by full-size probes: found
//! anew each second, reported when it begins and ends.

use std::collections::{BTreeMap, HashMap};

use super::Daemon;
use super::world::World;
use crate::api::events::{Cause, EventKind};
use crate::fit::{TooSmall, full_size, sentence};
use crate::health::TargetId;
use crate::health::full_size::Notable;
use crate::journal::Note;
use crate::model::{Backend, Service};
use crate::netlink::link_by_name;

/// Backends whose path is too small, by service and name.
type Found = BTreeMap<String, BTreeMap<String, TooSmall>>;

/// What was found last.
#[derive(Default)]
pub(super) struct Fits(Found);

/// What is to be reported of a service, by its name.
#[derive(Debug, PartialEq, Eq)]
enum Transition {
    /// The paths to more of its backends are too small.
    TooSmall(String),
    /// The paths to all of its backends are large enough again.
    Fits(String),
}

impl Fits {
    /// Replaces what was found by what is found now; returns what changed.
    fn update(&mut self, now: Found) -> Vec<Transition> {
        let before = std::mem::replace(&mut self.0, now);
        let grown = self.0.iter().filter(|(service, backends)| {
            let known = before.get(*service);
            backends
                .keys()
                .any(|backend| !known.is_some_and(|known| known.contains_key(backend)))
        });
        let grown = grown.map(|(service, _)| Transition::TooSmall(service.clone()));
        let mended = before.keys().filter(|service| !self.0.contains_key(*service));
        let mended = mended.map(|service| Transition::Fits(service.clone()));
        grown.chain(mended).collect()
    }
}

/// The backends whose path is too small for packets of `full` bytes, or for smaller ones where `probed` knows that users send no larger.
fn find(world: &World, full: u32, probed: &HashMap<TargetId, Notable>) -> Found {
    let mut found = Found::new();
    let small = world.small_ways(full);
    // The usual case needs no walk over all backends.
    if small.is_empty() && probed.is_empty() {
        return found;
    }
    for service in &world.model.services {
        for backend in &service.backends {
            let probed = probed.get(&TargetId::new(&service.name, &backend.name));
            let mtu = small.get(&backend.address).copied();
            if let Some(problem) = problem(backend, full, mtu, probed) {
                let backends = found.entry(service.name.clone()).or_default();
                backends.insert(backend.name.clone(), problem);
            }
        }
    }
    found
}

/// What is wrong with the path to a backend, by the MTU of its route or interface, if that is small, and by its probes.
fn problem(backend: &Backend, full: u32, mtu: Option<u32>, probed: Option<&Notable>) -> Option<TooSmall> {
    let size = probed.map_or(full, |probed| probed.size.min(full));
    let known = mtu.and_then(|mtu| TooSmall::of(size, backend, mtu));
    let probed = probed.filter(|probed| probed.too_small);
    let probed = probed.map(|probed| TooSmall::probed(size, backend, probed.passes));
    // The smallest link counts, as far as it is known.
    known
        .into_iter()
        .chain(probed)
        .min_by_key(|found| found.mtu.unwrap_or(u32::MAX))
}

impl Daemon {
    /// Compares the paths with what clients can send.
    pub(super) async fn tick_fits(&mut self) {
        let mut mtus = Vec::new();
        for name in self.kernel.attachments().iter().map(|attachment| &attachment.interface) {
            // `status` reports one that is gone.
            mtus.extend(link_by_name(name).await.map(|link| link.mtu));
        }
        let Some(full) = full_size(mtus) else { return };
        self.full_size.set_full(full);
        let found = find(&self.world, full, &self.full_size.notable());
        for transition in self.fits.update(found) {
            let note = match transition {
                Transition::TooSmall(name) => {
                    let why = self.world.service(&name).and_then(|service| self.misfit(service));
                    let note = Note::new(EventKind::PathMtuTooSmall, Cause::Network).service(&name);
                    note.change("ok", "too small").because(why.unwrap_or_default())
                }
                Transition::Fits(name) => {
                    let note = Note::new(EventKind::PathMtuOk, Cause::Network).service(&name);
                    let why = format!(
                        "clients' packets, of {full} bytes at most, fit the paths to all backends as far as this host knows"
                    );
                    note.change("too small", "ok").because(why)
                }
            };
            self.tell(note);
        }
    }

    /// What is wrong with a service's paths, in a sentence.
    pub(super) fn misfit(&self, service: &Service) -> Option<String> {
        let backends = self.fits.0.get(&service.name)?;
        let concerned: Vec<(&str, TooSmall)> = backends.iter().map(|(name, found)| (name.as_str(), *found)).collect();
        sentence(service, &concerned)
    }

    /// What is wrong with the path to a backend.
    pub(super) fn misfit_of(&self, service: &Service, backend: &Backend) -> Option<TooSmall> {
        self.fits.0.get(&service.name)?.get(&backend.name).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::FoundBy;
    use crate::daemon::world::tests::world;
    use crate::model::Forward;

    #[test]
    fn probes_know_more_than_routes() {
        let (world, _) = world("", 1);
        let service = world.service("web").unwrap();
        let tunnel = Backend {
            forward: Forward::Ipip,
            ..service.backends[0].clone()
        };
        let probed = |size, passes| Notable {
            size,
            too_small: passes != Some(size),
            passes,
        };
        let check = |mtu, probed: Option<Notable>, needed_and_mtu| {
            let found = problem(&tunnel, 1_500, mtu, probed.as_ref());
            assert_eq!(
                found.map(|found| (found.needed, found.mtu.unwrap_or(UNKNOWN), found.found_by)),
                needed_and_mtu
            );
        };
        const UNKNOWN: u32 = 0;
        use FoundBy::{Probe, Route};
        check(None, None, None);
        check(Some(1_500), None, Some((1_520, 1_500, Route)));
        check(None, Some(probed(1_500, Some(1_380))), Some((1_520, 1_400, Probe)));
        check(None, Some(probed(1_500, None)), Some((1_520, UNKNOWN, Probe)));
        check(Some(1_510), Some(probed(1_500, None)), Some((1_520, 1_510, Route)));
        // The smaller link counts.
        check(
            Some(1_500),
            Some(probed(1_500, Some(1_380))),
            Some((1_520, 1_400, Probe)),
        );
        check(
            Some(1_300),
            Some(probed(1_500, Some(1_380))),
            Some((1_520, 1_300, Route)),
        );
        // The backend asks for segments that fit.
        check(Some(1_500), Some(probed(1_480, Some(1_480))), None);
        check(
            Some(1_500),
            Some(probed(1_481, Some(1_481))),
            Some((1_501, 1_500, Route)),
        );
    }

    #[test]
    fn a_finding_is_reported_when_it_begins_grows_and_ends() {
        // Paths of 1,500 bytes, without a tunnel.
        let (world, _) = world("", 2);
        assert_eq!(find(&world, 1_500, &HashMap::new()), Found::new());
        let both = find(&world, 1_501, &HashMap::new());
        assert_eq!(both["web"].len(), 2);
        assert_eq!(both["web"]["b1"].needed, 1_501);

        let mut one = both.clone();
        one.get_mut("web").unwrap().remove("b2");
        let (web, mut fits) = ("web".to_owned(), Fits::default());
        assert_eq!(fits.update(Found::new()), []);
        assert_eq!(fits.update(one.clone()), [Transition::TooSmall(web.clone())]);
        assert_eq!(fits.update(one.clone()), []);
        assert_eq!(fits.update(both), [Transition::TooSmall(web.clone())]);
        // Some are mended, others are not.
        assert_eq!(fits.update(one), []);
        assert_eq!(fits.update(Found::new()), [Transition::Fits(web)]);
        assert_eq!(fits.update(Found::new()), []);
    }
}
