//! Drains that have ended: no slot leads to the backend any more, and no remembered flow.

use std::collections::HashSet;
use std::time::Instant;

use lb_common::map::BackendNumber;

use super::Daemon;
use super::configure::unix_ms;
use crate::api::events::{Cause, EventKind};
use crate::api::types::Admin;
use crate::journal::Note;
use crate::model::identity;

/// A backend that is draining.
#[derive(Clone, Copy, Debug)]
pub(super) enum Drain {
    /// Slots lead to it.
    Named,
    /// None does, since then; flows may be remembered.
    Unnamed(Instant),
    /// It has ended, and that was told.
    Over,
}

impl Daemon {
    /// Looks after backends that are draining; called every second.
    pub(super) fn tend_drains(&mut self) {
        let overrides = self.world.overrides.iter();
        let draining: HashSet<(String, String)> = overrides
            .flat_map(|(service, backends)| {
                let draining = backends.iter().filter(|(_, one)| one.admin == Some(Admin::Draining));
                draining.map(|(backend, _)| (service.clone(), backend.clone()))
            })
            .collect();
        self.drains.retain(|pair, _| draining.contains(pair));
        if draining.is_empty() {
            return;
        }
        let layout = self.kernel.layout();
        let mut ended = Vec::new();
        for pair in draining {
            let Some(service) = self.world.service(&pair.0) else {
                continue;
            };
            let key = service.key();
            let Some(installed) = layout.services.get(&key) else {
                continue;
            };
            let identity = identity(&pair.1);
            let number = installed.identities.iter().position(|other| *other == identity);
            let base = installed.entry.ring_base();
            let tables = &self.kernel.balancer.tables;
            let leads = |number: usize| {
                let slots = base..base + installed.entry.ring_size;
                slots
                    .map(|position| tables.slot(position))
                    .any(|slot| [slot.current(), slot.previous()].contains(&(number as BackendNumber)))
            };
            let before = self.drains.get(&pair).copied();
            let next = match before {
                Some(Drain::Over) => Drain::Over,
                _ if number.is_some_and(leads) => Drain::Named,
                Some(Drain::Unnamed(since)) => {
                    let swept = self.transitions.swept.is_some_and(|swept| swept > since);
                    let at_rest = !self.transitions.services.contains(&key);
                    let left = self.transitions.remembered_of(key, identity);
                    if at_rest || swept && left == 0 {
                        ended.push(pair.clone());
                        Drain::Over
                    } else {
                        Drain::Unnamed(since)
                    }
                }
                _ => Drain::Unnamed(Instant::now()),
            };
            self.drains.insert(pair, next);
        }
        for (service, backend) in ended {
            self.end_drain(&service, &backend);
        }
    }

    /// A drain with a time ends as a disabled backend; one without goes on, and keeps the backend free of connections.
    fn end_drain(&mut self, service: &str, backend: &str) {
        let mut overrides = self.world.overrides.clone();
        let one = overrides
            .get_mut(service)
            .and_then(|backends| backends.get_mut(backend));
        let mut to = "draining";
        if let Some(one) = one
            && one.drain_until_unix_ms.take().is_some()
        {
            one.admin = Some(Admin::Disabled);
            one.since_unix_ms = unix_ms();
            to = "disabled";
            self.keep_later(overrides);
            self.stale.insert(service.to_owned());
        }
        let note = Note::new(EventKind::BackendDrained, Cause::Operator).backend(service, backend);
        self.tell(
            note.change("draining", to)
                .because("no connection is left that is known of"),
        );
    }
}
