//! Services whose full-size packets do not fit the path to some backend: found anew each second, reported when it begins and ends.

use std::collections::BTreeMap;

use super::Daemon;
use super::world::World;
use crate::api::events::{Cause, EventKind};
use crate::fit::{TooSmall, full_size, sentence};
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

/// The backends whose path is too small for packets of `full` bytes.
fn find(world: &World, full: u32) -> Found {
    let mut found = Found::new();
    let small = world.small_ways(full);
    // The usual case needs no walk over all backends.
    if small.is_empty() {
        return found;
    }
    for service in &world.model.services {
        for backend in &service.backends {
            let mtu = small.get(&backend.address);
            if let Some(problem) = mtu.and_then(|mtu| TooSmall::of(full, backend, *mtu)) {
                let backends = found.entry(service.name.clone()).or_default();
                backends.insert(backend.name.clone(), problem);
            }
        }
    }
    found
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
        for transition in self.fits.update(find(&self.world, full)) {
            let note = match transition {
                Transition::TooSmall(name) => {
                    let why = self.world.service(&name).and_then(|service| self.misfit(service));
                    let note = Note::new(EventKind::PathMtuTooSmall, Cause::Network).service(&name);
                    note.change("ok", "too small").because(why.unwrap_or_default())
                }
                Transition::Fits(name) => {
                    let note = Note::new(EventKind::PathMtuOk, Cause::Network).service(&name);
                    let why =
                        format!("packets of {full} bytes fit the paths to all backends as far as this host knows");
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
    use crate::daemon::world::tests::world;

    #[test]
    fn a_finding_is_reported_when_it_begins_grows_and_ends() {
        // Paths of 1,500 bytes, without a tunnel.
        let (world, _) = world("", 2);
        assert_eq!(find(&world, 1_500), Found::new());
        let both = find(&world, 1_501);
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
