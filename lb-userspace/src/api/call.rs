//! What the server asks of the daemon's loop, and the way back.

use std::net::SocketAddr;

use tokio::sync::oneshot;

use super::error::ApiError;
use super::events::{EventQuery, Events};
use super::report::{ApplyReport, BackendAction, BackendChanged, Confirmed, PlanReport};
use super::room::Taken;
use super::types::{Lookup, ServiceDetail, ServiceSummary, Stats, Status};
use crate::policy::Confirm;

/// One request to the daemon's loop, with the way for its answer.
#[derive(Debug)]
pub enum Call {
    /// What the daemon is and does.
    Status(Answer<Status>),
    /// All services, sorted by name.
    Services(Answer<Vec<ServiceSummary>>),
    /// One service.
    Service {
        /// Its name.
        name: String,
        /// For the answer.
        answer: Answer<ServiceDetail>,
    },
    /// The counters.
    Stats(Answer<Stats>),
    /// Where a flow goes.
    Lookup {
        /// The service that the flow belongs to.
        service: String,
        /// The client.
        source: SocketAddr,
        /// For the answer.
        answer: Answer<Lookup>,
    },
    /// What has happened.
    Events {
        /// Which of it.
        query: EventQuery,
        /// For the answer.
        answer: Answer<Events>,
    },
    /// What a configuration would change.
    Plan {
        /// The configuration.
        toml: String,
        /// The file's name, for messages and for `status`; nothing: it came from a pipe.
        file: Option<String>,
        /// For the answer.
        answer: Answer<PlanReport>,
    },
    /// Makes a configuration the one in force, wholly or not at all.
    Apply {
        /// The configuration.
        toml: String,
        /// As in `Plan`.
        file: Option<String>,
        /// For the answer.
        answer: Answer<ApplyReport>,
    },
    /// Reads the file named on the command line again, and makes it the one in force, wholly or not at all.
    Reload(Answer<ApplyReport>),
    /// An operator confirms a failover or failback.
    Confirm {
        /// The service.
        service: String,
        /// The backend; nothing: all that wait.
        backend: Option<String>,
        /// Which of the two.
        what: Confirm,
        /// For the answer.
        answer: Answer<Confirmed>,
    },
    /// An operator's word on a backend.
    Backend {
        /// The service.
        service: String,
        /// The backend.
        backend: String,
        /// What is wanted of it.
        action: BackendAction,
        /// For the answer.
        answer: Answer<BackendChanged>,
    },
}

/// The way for one answer. Dropped unused, the client is told that the daemon is stopping.
#[derive(Debug)]
pub struct Answer<T> {
    pub(super) way: oneshot::Sender<Result<T, ApiError>>,
    /// The room that the request's body takes until it is answered.
    pub(super) _room: Option<Taken>,
}

impl<T> Answer<T> {
    /// Sends the answer; if the client is gone, nobody misses it.
    pub fn send(self, answer: Result<T, ApiError>) {
        let _ = self.way.send(answer);
    }
}
