//! The operator's word on a backend.

use super::Daemon;
use super::configure::{refused, unix_ms};
use super::state::Override;
use crate::api::error::{ApiError, ErrorKind};
use crate::api::report::{BackendAction, BackendChanged};
use crate::api::types::Admin;

/// The largest weight, as in the file.
const MOST_WEIGHT: u32 = 65_535;

impl Daemon {
    /// Does what the operator says; it holds from now on, also after a restart.
    pub(super) fn override_backend(
        &mut self,
        service: &str,
        backend: &str,
        action: BackendAction,
    ) -> Result<BackendChanged, ApiError> {
        let before = self.backend_detail(service, backend)?;
        if let BackendAction::Weight { weight } = action
            && weight > MOST_WEIGHT
        {
            let message = format!("weight {weight} is out of range: 0 to {MOST_WEIGHT}");
            return Err(ApiError::new(ErrorKind::InvalidRequest, message));
        }
        let mut overrides = self.world.overrides.clone();
        let backends = overrides.entry(service.to_owned()).or_default();
        let mut one = backends.get(backend).copied().unwrap_or(Override {
            admin: None,
            weight: None,
            since_unix_ms: 0,
        });
        match action {
            BackendAction::Drain => one.admin = Some(Admin::Draining),
            BackendAction::Disable => one.admin = Some(Admin::Disabled),
            BackendAction::Enable => one.admin = None,
            BackendAction::Weight { weight } => one.weight = Some(weight),
            BackendAction::Reset => (one.admin, one.weight) = (None, None),
        }
        one.since_unix_ms = unix_ms();
        if one.admin.is_none() && one.weight.is_none() {
            backends.remove(backend);
        } else {
            backends.insert(backend.to_owned(), one);
        }
        overrides.retain(|_, backends| !backends.is_empty());
        let mut state = self.state.clone();
        state.overrides = overrides.clone();
        self.store.save(&state).map_err(refused)?;
        self.state = state;
        self.world.overrides = overrides;
        self.world.populate_rings();
        self.stale.insert(service.to_owned());
        self.converge();
        self.tell_of_operator(service, backend, action, &before);
        let detail = self.backend_detail(service, backend)?;
        Ok(BackendChanged {
            service: service.to_owned(),
            backend: detail,
            warnings: self.warnings_of(service),
        })
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
        warnings.extend(
            self.stuck
                .as_ref()
                .map(|why| format!("the kernel does not hold what is wanted: {why}")),
        );
        warnings
    }
}
