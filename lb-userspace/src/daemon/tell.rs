//! What has happened, as events.

use std::net::IpAddr;
use std::time::Instant;

use tracing::debug;

use super::Daemon;
use super::configure::unix_ms;
use super::wayless::News;
use crate::alerts::Brimming;
use crate::api::events::{Cause, EventKind};
use crate::api::report::BackendAction;
use crate::api::types::BackendDetail;
use crate::journal::Note;
use crate::netlink::Answer;
use crate::policy::Change;

/// An address in more places than this is told of once, for the node.
const PLACES: usize = 16;

impl Daemon {
    /// Takes in an event.
    pub(super) fn tell(&mut self, note: Note) {
        let event = self.journal.add(note, unix_ms());
        let brimming = self.alerts.as_ref().map_or(Vec::new(), |alerts| alerts.send(&event));
        // For the journal alone: the receiver has the count.
        for Brimming { alert, severity, bound } in brimming {
            let severity = severity.name();
            let why =
                format!("{bound} {severity} events wait for alert {alert:?}: further ones are counted, not named");
            let note = Note::new(EventKind::AlertsLost, Cause::Daemon);
            self.journal.add(note.because(why), unix_ms());
        }
    }

    /// Tells of what a service's policy has changed.
    pub(super) fn tell_changes(&mut self, service: &str, changes: Vec<Change>) {
        for change in changes {
            let note = Note::new(change.kind, Cause::Policy).service(service);
            let note = Note {
                backend: change.backend,
                ..note
            };
            self.tell(note.change(change.from, change.to).because(change.why));
        }
    }

    /// Tells of a way that is lost or found again. One that only changes is for the log.
    pub(super) fn tell_of_way(&mut self, address: IpAddr, way: &Answer) {
        debug!(%address, ?way, "way");
        let before = self.world.way(address);
        match (self.wayless.take_in(address, before, way, Instant::now()), way) {
            (Some(News::Lost), Err(unreachable)) => self.tell_of_loss(address, unreachable.to_string()),
            (Some(News::Found), Ok(way)) => {
                let note = Note::new(EventKind::WayFound, Cause::Network).change("unreachable", "reachable");
                self.tell_everywhere(address, note.because(format!("{address} by {}", way.neighbour)));
            }
            _ => {}
        }
    }

    /// Tells of the way that is in force, if that has not been done.
    pub(super) fn tell_of_present_way(&mut self, address: IpAddr) {
        if let Some(way) = self.world.way(address).cloned() {
            self.tell_of_way(address, &way);
        }
    }

    /// Tells that there is no way to an address.
    pub(super) fn tell_of_loss(&mut self, address: IpAddr, why: String) {
        let note = Note::new(EventKind::WayLost, Cause::Network).change("reachable", "unreachable");
        self.tell_everywhere(address, note.because(why));
    }

    /// Tells of something about an address, for every backend that has it.
    fn tell_everywhere(&mut self, address: IpAddr, note: Note) {
        let mut places = Vec::new();
        for service in &self.world.model.services {
            let at = service.backends.iter().filter(|backend| backend.address == address);
            places.extend(at.map(|backend| (service.name.clone(), backend.name.clone())));
        }
        if places.len() > PLACES {
            let why = format!("{} in {} places", note.why, places.len());
            return self.tell(note.because(why));
        }
        for (service, backend) in places {
            self.tell(note.clone().backend(&service, &backend));
        }
    }

    /// Tells of an operator's word that has been carried out.
    pub(super) fn tell_of_operator(
        &mut self,
        service: &str,
        backend: &str,
        action: BackendAction,
        before: &BackendDetail,
    ) {
        let (kind, from, to) = match action {
            BackendAction::Drain { .. } => (
                EventKind::BackendDraining,
                before.admin.to_string(),
                "draining".to_owned(),
            ),
            BackendAction::Disable => (
                EventKind::BackendDisabled,
                before.admin.to_string(),
                "disabled".to_owned(),
            ),
            BackendAction::Enable => (
                EventKind::BackendEnabled,
                before.admin.to_string(),
                "enabled".to_owned(),
            ),
            BackendAction::Weight { weight, .. } => {
                (EventKind::BackendWeight, before.weight.to_string(), weight.to_string())
            }
            BackendAction::Reset => (EventKind::BackendReset, String::new(), "as the file has it".to_owned()),
        };
        let seconds = |ms: Option<u64>| ms.map(|ms| format!("{} s", ms as f64 / 1000.0));
        let why = match action {
            BackendAction::Drain { timeout_ms } => seconds(timeout_ms).map(|time| format!("disabled after {time}")),
            BackendAction::Weight { over_ms, .. } => seconds(over_ms).map(|time| format!("over {time}")),
            _ => None,
        };
        let note = Note::new(kind, Cause::Operator).backend(service, backend);
        self.tell(note.change(from, to).because(why.unwrap_or_default()));
    }
}
