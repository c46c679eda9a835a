//! The operator's word on a backend, and what it leads to with time: drains that end, weights that arrive.

use super::clock::steady_ms;
use super::configure::refused;
use super::state::Override;
use super::{Daemon, world::Overrides};
use crate::api::error::{ApiError, ErrorKind};
use crate::api::events::{Cause, EventKind};
use crate::api::report::{BackendAction, BackendChanged, Confirmed};
use crate::api::types::Admin;
use crate::journal::Note;
use crate::policy::Confirm;
use crate::policy::ramp::Ramp;

/// The largest weight, as in the file.
const MOST_WEIGHT: u32 = 65_535;
/// The longest drain or ramp: 30 days.
const LONGEST_MS: u64 = 30 * 24 * 3600 * 1000;

impl Daemon {
    /// Does what the operator says; it holds from now on, also after a restart.
    pub(super) fn override_backend(
        &mut self,
        service: &str,
        backend: &str,
        action: BackendAction,
    ) -> Result<BackendChanged, ApiError> {
        let before = self.backend_detail(service, backend)?;
        judge(action)?;
        let now = steady_ms();
        let mut overrides = self.world.overrides.clone();
        say(&mut overrides, (service, backend), action, before.weight, now);
        self.keep(overrides).map_err(refused)?;
        self.stale.insert(service.to_owned());
        self.tell_of_operator(service, backend, action, &before);
        self.converge();
        let detail = self.backend_detail(service, backend)?;
        Ok(BackendChanged {
            service: service.to_owned(),
            backend: detail,
            warnings: self.warnings_of(service),
        })
    }

    /// Confirms a failover or a failback that waits for it.
    pub(super) fn confirm(
        &mut self,
        service: &str,
        backend: Option<&str>,
        what: Confirm,
    ) -> Result<Confirmed, ApiError> {
        match backend {
            Some(backend) => drop(self.find(service, backend)?),
            None => drop(self.find_service(service)?),
        }
        let backends = self.world.confirm(service, what, backend);
        if backends.is_empty() {
            let whom = backend.map_or(String::new(), |backend| format!(" of backend {backend:?}"));
            let what = match what {
                Confirm::Failover => "failover",
                Confirm::Failback => "failback",
            };
            return Err(refused(format!(
                "no {what}{whom} of service {service:?} waits for a word"
            )));
        }
        self.stale.insert(service.to_owned());
        self.converge();
        Ok(Confirmed {
            service: service.to_owned(),
            backends,
            warnings: self.warnings_of(service),
        })
    }

    /// Ends drains and ramps whose time is over; called every second.
    pub(super) fn tend_overrides(&mut self) {
        let mut overrides = self.world.overrides.clone();
        let ended = end_overrides(&mut overrides, steady_ms());
        if ended.is_empty() {
            return;
        }
        self.keep_later(overrides);
        for (service, backend, end) in ended {
            let note = |kind| Note::new(kind, Cause::Operator).backend(&service, &backend);
            self.tell(match end {
                Ended::Drain => note(EventKind::BackendDrained)
                    .change("draining", "disabled")
                    .because("its time to drain is over"),
                Ended::Ramp(ramp) => note(EventKind::BackendWeight)
                    .change(ramp.from, ramp.to)
                    .because("its weight has arrived"),
            });
            self.stale.insert(service);
        }
    }

    /// Puts overrides in force that time has changed. They are kept soon: only an operator's own word waits for the disk.
    pub(super) fn keep_later(&mut self, mut overrides: Overrides) {
        overrides.retain(|_, backends| !backends.is_empty());
        self.take_over(overrides);
        self.store.save_later(self.state.clone());
    }

    fn keep(&mut self, mut overrides: Overrides) -> Result<(), super::state::StateError> {
        overrides.retain(|_, backends| !backends.is_empty());
        let mut state = self.state.clone();
        state.overrides = overrides.clone();
        // What time has changed may have waited to be kept.
        let unkept = |_: &_| self.store.save_later(self.state.clone());
        self.store.save(&state).inspect_err(unkept)?;
        self.take_over(overrides);
        Ok(())
    }

    fn take_over(&mut self, overrides: Overrides) {
        self.state.overrides = overrides.clone();
        self.world.overrides = overrides;
        self.world.populate_rings();
    }

    fn warnings_of(&self, name: &str) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(service) = self.world.service(name)
            && self.counts_of(service).serving == 0
        {
            warnings.push(format!(
                "no backend of service {name:?} serves now: its packets are dropped"
            ));
        }
        warnings.extend(self.behind());
        warnings
    }
}

/// Refuses what is out of range.
fn judge(action: BackendAction) -> Result<(), ApiError> {
    let invalid = |message| Err(ApiError::new(ErrorKind::InvalidRequest, message));
    let (weight, time) = match action {
        BackendAction::Weight { weight, over_ms } => (weight, over_ms),
        BackendAction::Drain { timeout_ms } => (0, timeout_ms),
        _ => (0, None),
    };
    if weight > MOST_WEIGHT {
        return invalid(format!("weight {weight} is out of range: 0 to {MOST_WEIGHT}"));
    }
    match time {
        Some(time) if time > LONGEST_MS => invalid(format!("{time} ms is too long: {LONGEST_MS} ms, 30 days, at most")),
        _ => Ok(()),
    }
}

/// What time has ended.
pub(super) enum Ended {
    /// A drain: the backend is disabled.
    Drain,
    /// A weight on its way has arrived.
    Ramp(Ramp),
}

/// Ends drains and ramps whose time is over; says whose, by service and backend.
pub(super) fn end_overrides(overrides: &mut Overrides, now: u64) -> Vec<(String, String, Ended)> {
    let mut ended = Vec::new();
    for (service, backends) in overrides {
        for (backend, one) in backends {
            let mut end = |what| ended.push((service.clone(), backend.clone(), what));
            if one.admin == Some(Admin::Draining) && one.drain_until_unix_ms.is_some_and(|until| now >= until) {
                (one.admin, one.drain_until_unix_ms) = (Some(Admin::Disabled), None);
                end(Ended::Drain);
            }
            if let Some(ramp) = one.ramp.filter(|ramp| ramp.is_over(now)) {
                one.ramp = None;
                end(Ended::Ramp(ramp));
            }
        }
    }
    ended
}

/// Puts the operator's word on a backend among the overrides. `weight` is the one in force.
pub(super) fn say(
    overrides: &mut Overrides,
    (service, backend): (&str, &str),
    action: BackendAction,
    weight: u32,
    now: u64,
) {
    let backends = overrides.entry(service.to_owned()).or_default();
    let one = backends.get(backend).copied().unwrap_or_default();
    let one = said(one, action, weight, now);
    if one.admin.is_none() && one.weight.is_none() {
        backends.remove(backend);
    } else {
        backends.insert(backend.to_owned(), one);
    }
}

/// An override after the operator's word. `weight` is the one in force.
fn said(one: Override, action: BackendAction, weight: u32, now: u64) -> Override {
    let one = Override {
        since_unix_ms: now,
        ..one
    };
    match action {
        BackendAction::Drain { timeout_ms } => Override {
            admin: Some(Admin::Draining),
            drain_until_unix_ms: timeout_ms.map(|timeout| now + timeout),
            ..one
        },
        BackendAction::Disable => Override {
            admin: Some(Admin::Disabled),
            drain_until_unix_ms: None,
            ..one
        },
        BackendAction::Enable => Override {
            admin: None,
            drain_until_unix_ms: None,
            ..one
        },
        BackendAction::Weight { weight: to, over_ms } => Override {
            weight: Some(to),
            ramp: over_ms.filter(|over| *over > 0 && to != weight).map(|over| Ramp {
                from: weight,
                to,
                begin_unix_ms: now,
                end_unix_ms: now + over,
            }),
            ..one
        },
        BackendAction::Reset => Override {
            since_unix_ms: now,
            ..Override::default()
        },
    }
}
