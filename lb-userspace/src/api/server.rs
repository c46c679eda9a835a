//! The API's server: HTTP on one side, the daemon's single loop on the other.
//!
//! A handler turns its request into a [`Call`], sends it to the loop and waits for the answer. It knows nothing and decides
//! nothing. When a client goes away, what it asked for is done all the same.

use std::future::Future;
use std::io;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::MAX_REQUEST;
use super::call::{Answer, Call};
use super::error::{ApiError, ErrorKind};
use super::events::{Event, EventQuery};
use super::report::{ApplyReport, BackendChanged, Confirmation, Confirmed, PlanReport};
use super::socket::Bound;
use super::types::{Lookup, ServiceDetail, ServiceSummary, Stats, Status};
use crate::policy::Confirm;

/// How long a handler waits for the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For what only reads.
    pub read: Duration,
    /// For a plan, an apply or an operator's word.
    pub change: Duration,
    /// For the whole of a request, its body included.
    pub request: Duration,
}

/// How long requests under way may go on when the daemon stops.
const GRACE: Duration = Duration::from_secs(1);

/// Serves until `stop` is ready, then lets requests under way finish for a second and removes the socket.
pub async fn serve(
    bound: Bound,
    calls: mpsc::Sender<Call>,
    timeouts: Timeouts,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let Bound { listener, file: _file } = bound;
    let (stopping, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, router(calls, timeouts)).with_graceful_shutdown(async {
        // Sent or dropped: both mean that it is over.
        let _ = stopped.await;
    });
    let mut server = std::pin::pin!(server.into_future());
    tokio::select! {
        result = &mut server => result,
        () = stop => {
            drop(stopping);
            tokio::time::timeout(GRACE, server).await.unwrap_or(Ok(()))
        }
    }
}

/// The API's paths.
fn router(calls: mpsc::Sender<Call>, timeouts: Timeouts) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/services", get(services))
        .route("/v1/services/{service}", get(service))
        .route("/v1/services/{service}/lookup", get(lookup))
        .route("/v1/services/{service}/backends/{backend}", post(backend))
        .route("/v1/services/{service}/failover", post(failover))
        .route("/v1/services/{service}/failback", post(failback))
        .route("/v1/stats", get(stats))
        .route("/v1/events", get(events))
        .route("/v1/plan", post(plan))
        .route("/v1/apply", post(apply))
        .route("/v1/reload", post(reload))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .layer(middleware::from_fn_with_state(timeouts.request, within))
        .with_state(Loop { calls, timeouts })
}

/// The daemon's loop, as the handlers reach it.
#[derive(Clone)]
struct Loop {
    calls: mpsc::Sender<Call>,
    timeouts: Timeouts,
}

impl Loop {
    async fn read<T>(&self, call: impl FnOnce(Answer<T>) -> Call) -> Result<T, ApiError> {
        self.ask(self.timeouts.read, call).await
    }

    async fn change<T>(&self, call: impl FnOnce(Answer<T>) -> Call) -> Result<T, ApiError> {
        self.ask(self.timeouts.change, call).await
    }

    async fn ask<T>(&self, timeout: Duration, call: impl FnOnce(Answer<T>) -> Call) -> Result<T, ApiError> {
        let (sender, receiver) = oneshot::channel();
        let asked = async {
            self.calls.send(call(Answer(sender))).await.map_err(|_| stopping())?;
            receiver.await.map_err(|_| stopping())?
        };
        match tokio::time::timeout(timeout, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(too_slow(timeout)),
        }
    }
}

type Handled<T> = Result<Json<T>, ApiError>;

async fn status(State(daemon): State<Loop>) -> Handled<Status> {
    daemon.read(Call::Status).await.map(Json)
}

async fn services(State(daemon): State<Loop>) -> Handled<Vec<ServiceSummary>> {
    daemon.read(Call::Services).await.map(Json)
}

async fn service(State(daemon): State<Loop>, name: Result<Path<String>, PathRejection>) -> Handled<ServiceDetail> {
    let Path(name) = name?;
    daemon.read(|answer| Call::Service { name, answer }).await.map(Json)
}

async fn stats(State(daemon): State<Loop>) -> Handled<Stats> {
    daemon.read(Call::Stats).await.map(Json)
}

#[derive(Deserialize)]
struct LookupQuery {
    source: String,
}

async fn lookup(
    State(daemon): State<Loop>,
    service: Result<Path<String>, PathRejection>,
    query: Result<Query<LookupQuery>, QueryRejection>,
) -> Handled<Lookup> {
    let Path(service) = service?;
    let Query(LookupQuery { source }) = query?;
    let source = source.parse().map_err(|_| {
        let message =
            format!("source {source:?} is not an address with a port: 198.51.100.7:40000 or [2001:db8::7]:40000");
        ApiError::new(ErrorKind::InvalidRequest, message)
    })?;
    daemon
        .read(|answer| Call::Lookup {
            service,
            source,
            answer,
        })
        .await
        .map(Json)
}

async fn events(State(daemon): State<Loop>, query: Result<Query<EventQuery>, QueryRejection>) -> Handled<Vec<Event>> {
    let Query(query) = query?;
    daemon.read(|answer| Call::Events { query, answer }).await.map(Json)
}

#[derive(Deserialize)]
struct FileQuery {
    file: Option<String>,
}

async fn plan(
    State(daemon): State<Loop>,
    query: Result<Query<FileQuery>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Handled<PlanReport> {
    let Query(FileQuery { file }) = query?;
    let toml = text(&body?)?;
    daemon
        .change(|answer| Call::Plan { toml, file, answer })
        .await
        .map(Json)
}

async fn apply(
    State(daemon): State<Loop>,
    query: Result<Query<FileQuery>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Handled<ApplyReport> {
    let Query(FileQuery { file }) = query?;
    let toml = text(&body?)?;
    daemon
        .change(|answer| Call::Apply { toml, file, answer })
        .await
        .map(Json)
}

async fn reload(State(daemon): State<Loop>) -> Handled<ApplyReport> {
    daemon.change(Call::Reload).await.map(Json)
}

async fn backend(
    State(daemon): State<Loop>,
    names: Result<Path<(String, String)>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Handled<BackendChanged> {
    let Path((service, backend)) = names?;
    let action = serde_json::from_slice(&body?).map_err(|error| {
        let expected = r#"{"action": "drain" | "enable" | "disable" | "reset"} or {"action": "weight", "weight": N}; drain may have "timeout_ms", weight "over_ms""#;
        ApiError::new(
            ErrorKind::InvalidRequest,
            format!("the body must be {expected}: {error}"),
        )
    })?;
    let call = |answer| Call::Backend {
        service,
        backend,
        action,
        answer,
    };
    daemon.change(call).await.map(Json)
}

async fn failover(
    State(daemon): State<Loop>,
    service: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Handled<Confirmed> {
    confirm(&daemon, service, body, Confirm::Failover).await
}

async fn failback(
    State(daemon): State<Loop>,
    service: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Handled<Confirmed> {
    confirm(&daemon, service, body, Confirm::Failback).await
}

async fn confirm(
    daemon: &Loop,
    service: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
    what: Confirm,
) -> Handled<Confirmed> {
    let Path(service) = service?;
    let body = body?;
    let confirmation = if body.is_empty() {
        Ok(Confirmation::default())
    } else {
        serde_json::from_slice(&body)
    };
    let Confirmation { backend } = confirmation.map_err(|error| {
        let expected = r#"empty, or {"backend": "NAME"}"#;
        ApiError::new(
            ErrorKind::InvalidRequest,
            format!("the body must be {expected}: {error}"),
        )
    })?;
    let call = |answer| Call::Confirm {
        service,
        backend,
        what,
        answer,
    };
    daemon.change(call).await.map(Json)
}

async fn unknown_path(request: Request) -> ApiError {
    let message = format!(
        "there is no {}; the paths begin with /v1/status, /v1/services, /v1/stats, /v1/events, /v1/plan, /v1/apply, /v1/reload",
        request.uri().path()
    );
    ApiError::new(ErrorKind::NotFound, message)
}

async fn wrong_method(request: Request) -> Response {
    let message = format!("{} does not answer to {}", request.uri().path(), request.method());
    let error = ApiError::new(ErrorKind::InvalidRequest, message);
    (StatusCode::METHOD_NOT_ALLOWED, Json(error)).into_response()
}

/// Bounds a whole request: a client that stops in the middle of its body does not hold it for ever.
async fn within(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => too_slow(limit).into_response(),
    }
}

fn text(body: &Bytes) -> Result<String, ApiError> {
    match str::from_utf8(body) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => {
            let message = format!(
                "the configuration is not UTF-8: byte {} is not part of a character",
                error.valid_up_to()
            );
            Err(ApiError::new(ErrorKind::InvalidRequest, message))
        }
    }
}

fn stopping() -> ApiError {
    ApiError::new(ErrorKind::Unavailable, "the daemon is stopping")
}

fn too_slow(limit: Duration) -> ApiError {
    let message = format!(
        "no answer within {} s; what was asked may still be done",
        limit.as_secs_f64()
    );
    ApiError::new(ErrorKind::Timeout, message)
}

/// An answer's body.
struct Json<T>(T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
            // Only a map with keys that are not strings can fail, and no answer has one.
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self)).into_response()
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        ApiError::new(ErrorKind::InvalidRequest, rejection.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        ApiError::new(ErrorKind::InvalidRequest, rejection.body_text())
    }
}

impl From<BytesRejection> for ApiError {
    fn from(rejection: BytesRejection) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            let message = format!("the body is longer than {} MiB", MAX_REQUEST >> 20);
            return ApiError::new(ErrorKind::TooLarge, message);
        }
        ApiError::new(ErrorKind::InvalidRequest, rejection.body_text())
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            read: Duration::from_secs(5),
            change: Duration::from_secs(60),
            request: Duration::from_secs(90),
        }
    }
}
