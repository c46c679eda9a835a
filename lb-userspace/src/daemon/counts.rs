//! What is counted for the API: packets, slots, backends by their states.

use std::collections::HashMap;

use lb_common::map::{Counter, NOBODY};

use super::Daemon;
use super::rates::sum;
use crate::api::types::{Admin, BackendCounts, Rate};
use crate::bpf::error::KernelError;
use crate::health::State as HealthState;
use crate::model::{self, identity};
use crate::plan::layout::{InstalledService, Layout};
use crate::policy::Standing;
use crate::ring::Share;

impl Daemon {
    pub(super) fn pairs_of<'s>(
        &self,
        service: &'s model::Service,
        layout: &Layout,
    ) -> Result<Vec<(&'s model::Backend, Counter)>, KernelError> {
        let rows = layout.services.get(&service.key()).map(rows).unwrap_or_default();
        let pair = |backend: &'s model::Backend| {
            let row = rows.get(&identity(&backend.name));
            let counter = row.map_or(Ok(Counter::default()), |row| self.kernel.balancer.pair(*row))?;
            Ok((backend, counter))
        };
        service.backends.iter().map(pair).collect()
    }

    /// How many slots each identity owns.
    pub(super) fn slots_of(&self, service: &model::Service, layout: &Layout) -> HashMap<u64, u32> {
        let mut counts = HashMap::new();
        if let Some(InstalledService { entry, identities, .. }) = layout.services.get(&service.key()) {
            for n in 0..entry.ring_size {
                let number = self.kernel.balancer.tables.slot(entry.ring_base() + n).current();
                if number != NOBODY
                    && let Some(identity) = identities.get(usize::from(number))
                {
                    *counts.entry(*identity).or_insert(0) += 1;
                }
            }
        }
        counts
    }

    /// How many slots are moving, and how many are settled.
    pub(super) fn restless_of(&self, service: &model::Service, layout: &Layout) -> (u32, u32) {
        let (mut moving, mut settled) = (0, 0);
        if let Some(InstalledService { entry, .. }) = layout.services.get(&service.key()) {
            for n in 0..entry.ring_size {
                let slot = self.kernel.balancer.tables.slot(entry.ring_base() + n);
                settled += u32::from(slot.is_settled());
                moving += u32::from(!slot.is_stable() && !slot.is_settled());
            }
        }
        (moving, settled)
    }

    /// How many backends of a service are in which state.
    pub(super) fn counts_of(&self, service: &model::Service) -> BackendCounts {
        let mut counts = BackendCounts {
            total: service.backends.len() as u32,
            ..BackendCounts::default()
        };
        for backend in &service.backends {
            match self.world.health_of(service, &backend.name) {
                HealthState::Up => counts.up += 1,
                HealthState::Down => counts.down += 1,
                HealthState::Starting => counts.starting += 1,
            }
            match self
                .world
                .overridden(&service.name, &backend.name)
                .and_then(|one| one.admin)
            {
                Some(Admin::Draining) => counts.draining += 1,
                Some(Admin::Disabled) => counts.disabled += 1,
                Some(Admin::Enabled) | None => {}
            }
            match self.world.backend_now(service, backend) {
                Err(_) => counts.unresolved += 1,
                Ok(now) => counts.serving += u32::from(now.share != Share::OUT),
            }
            match self
                .world
                .decision(service, &backend.name)
                .map(|decision| decision.standing)
            {
                Some(Standing::Standby | Standing::Sorry) => counts.standby += 1,
                Some(Standing::Damped { .. } | Standing::Waiting { .. }) => counts.held += 1,
                _ => {}
            }
        }
        counts
    }

    pub(super) fn rate_of(&self, service: &model::Service) -> Rate {
        sum(service
            .backends
            .iter()
            .map(|backend| self.rates.of(service.key(), identity(&backend.name))))
    }
}

/// Rows by identity.
pub(super) fn rows(service: &InstalledService) -> HashMap<u64, u32> {
    let base = service.entry.backend_base();
    let used = service
        .identities
        .iter()
        .zip(base..)
        .filter(|(identity, _)| **identity != 0);
    used.map(|(identity, row)| (*identity, row)).collect()
}

pub(super) fn add(sum: &mut BackendCounts, more: &BackendCounts) {
    sum.total += more.total;
    sum.up += more.up;
    sum.down += more.down;
    sum.starting += more.starting;
    sum.draining += more.draining;
    sum.disabled += more.disabled;
    sum.unresolved += more.unresolved;
    sum.serving += more.serving;
    sum.standby += more.standby;
    sum.held += more.held;
}
