//! The API's server: HTTP on one side, the daemon's single loop on the other.
//!
//! A handler turns its request into a [`Call`], sends it to the loop and waits for the answer. It knows nothing and decides
//! nothing. When a client goes away, what it asked for is done all the same.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::warn;

use super::call::{Answer, Call};
use super::connections::{MOST, Place, Places, Watched};
use super::error::{ApiError, ErrorKind};
use super::events::EventQuery;
use super::report::{BackendChanged, Confirmation, Confirmed};
use super::response::{Json, status_of};
use super::room::{Room, Sent, Taken};
use super::socket::Bound;
use super::types::{Lookup, Status};
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
    /// For the head of a request, from the first moment or from the end of the answer before.
    pub head: Duration,
    /// Between two parts of a body, and for 64 KiB of an answer.
    pub stall: Duration,
    /// For room in memory.
    pub room: Duration,
}

/// How long requests under way may go on when the daemon stops.
const GRACE: Duration = Duration::from_secs(1);
/// The pause after a connection that could not be taken: there may be no descriptor left.
const PAUSE: Duration = Duration::from_millis(50);
/// Events that are no long answer: who asks for a few does not wait behind those who ask for all.
const FEW: usize = 200;
/// The longest head of a request, in bytes.
const HEAD: usize = 64 << 10;

/// Serves until `stop` is ready, then lets requests under way finish for a second and removes the socket.
pub async fn serve(
    bound: Bound,
    calls: mpsc::Sender<Call>,
    timeouts: Timeouts,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let Bound { listener, file: _file } = bound;
    let (stopping, stopped) = watch::channel(());
    let places = Arc::new(Places::default());
    let room = Room::new(timeouts.room);
    let mut clients = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
            Some(_) = clients.join_next() => continue,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "cannot take a client of the API");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if places.is_full() {
            // A client that has sent a request meanwhile does not have to go.
            tokio::task::yield_now().await;
        }
        let Some(place) = places.take() else {
            turn_away(&stream);
            continue;
        };
        let daemon = Loop {
            calls: calls.clone(),
            timeouts,
            place: Arc::clone(&place),
            room: room.clone(),
        };
        let (places, stopped) = (Arc::clone(&places), stopped.clone());
        clients.spawn(async move {
            tokio::select! {
                () = converse(stream, daemon, stopped) => {}
                () = place.gone() => {}
            }
            places.leave(&place);
        });
    }
    drop(stopping);
    let _ = tokio::time::timeout(GRACE, async { while clients.join_next().await.is_some() {} }).await;
    Ok(())
}

/// All requests of one client.
async fn converse(stream: UnixStream, daemon: Loop, mut stopped: watch::Receiver<()>) {
    let timeouts = daemon.timeouts;
    let stream = Watched::new(stream, Arc::clone(&daemon.place), timeouts.stall);
    let service = TowerToHyperService::new(router(daemon));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Of an idle client too: it runs from the end of the answer before.
        .header_read_timeout(timeouts.head)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // How it ended, its client knows.
    tokio::select! {
        _ = connection.as_mut() => {}
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// Says that there is no place.
fn turn_away(stream: &UnixStream) {
    let message = format!("all {MOST} connections wait for the daemon: try again");
    let error = ApiError::new(ErrorKind::Unavailable, message);
    let status = error.kind.status();
    let body = serde_json::to_string(&error).unwrap_or_default();
    let head =
        format!("HTTP/1.1 {status} Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\n");
    let answer = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    // It fits the socket's buffer; who has gone already misses nothing.
    let _ = stream.try_write(answer.as_bytes());
}

/// The API's paths.
fn router(daemon: Loop) -> Router {
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
        .layer(middleware::from_fn_with_state(daemon.timeouts.request, within))
        .with_state(daemon)
}

/// The daemon's loop, as one client's handlers reach it.
#[derive(Clone)]
struct Loop {
    calls: mpsc::Sender<Call>,
    timeouts: Timeouts,
    place: Arc<Place>,
    room: Room,
}

impl Loop {
    async fn read<T>(&self, call: impl FnOnce(Answer<T>) -> Call) -> Result<T, ApiError> {
        self.ask(self.timeouts.read, None, call).await
    }

    /// For answers that may be long and are there at once: few of them are asked for at a time.
    async fn read_long<T: Serialize>(&self, call: impl FnOnce(Answer<T>) -> Call) -> Result<Response, ApiError> {
        let maker = self.room.maker(&self.place).await?;
        let answer = self.read(call).await;
        self.long(answer, maker).await
    }

    /// For answers that may be long and take the daemon its time: they keep no other out until they are there.
    async fn change_long<T: Serialize>(
        &self,
        room: Option<Taken>,
        call: impl FnOnce(Answer<T>) -> Call,
    ) -> Result<Response, ApiError> {
        // There are too few of them to keep others out.
        let _asking = self.place.asking();
        let _planner = self.room.planner(&self.place, self.timeouts.change).await?;
        let answer = self.change(room, call).await;
        let maker = self.room.maker(&self.place).await?;
        self.long(answer, maker).await
    }

    /// What came of a change. That it was made is said come what may; what was wrong with it may be long, and is bounded.
    async fn changed<T: Serialize>(&self, done: Result<T, ApiError>) -> Result<Response, ApiError> {
        match done {
            Ok(done) => Ok(Json(done).into_response()),
            refused => {
                let _asking = self.place.asking();
                let maker = self.room.maker(&self.place).await?;
                self.long(refused, maker).await
            }
        }
    }

    /// An answer that may be long: what stays unread has a bound.
    async fn long<T: Serialize>(
        &self,
        answer: Result<T, ApiError>,
        _maker: OwnedSemaphorePermit,
    ) -> Result<Response, ApiError> {
        let (status, bytes) = match answer {
            Ok(answer) => (StatusCode::OK, serde_json::to_vec(&answer)),
            // It may list all that is wrong with a long file.
            Err(error) => (status_of(&error), serde_json::to_vec(&error)),
        };
        let bytes =
            bytes.map_err(|error| ApiError::new(ErrorKind::Internal, format!("an answer that is no JSON: {error}")))?;
        let body = self.room.answer(bytes, &self.place).await?;
        Ok((status, [(header::CONTENT_TYPE, "application/json")], body).into_response())
    }

    async fn change<T>(&self, room: Option<Taken>, call: impl FnOnce(Answer<T>) -> Call) -> Result<T, ApiError> {
        self.ask(self.timeouts.change, room, call).await
    }

    async fn ask<T>(
        &self,
        timeout: Duration,
        room: Option<Taken>,
        call: impl FnOnce(Answer<T>) -> Call,
    ) -> Result<T, ApiError> {
        let _asking = self.place.asking();
        let (sender, receiver) = oneshot::channel();
        let answer = Answer {
            way: sender,
            _room: room,
        };
        let asked = async {
            self.calls.send(call(answer)).await.map_err(|_| stopping())?;
            receiver.await.map_err(|_| stopping())?
        };
        match tokio::time::timeout(timeout, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(too_slow(timeout)),
        }
    }
}

/// A request's whole body.
impl FromRequest<Loop> for Sent {
    type Rejection = ApiError;

    async fn from_request(request: Request, daemon: &Loop) -> Result<Self, ApiError> {
        daemon
            .room
            .read(request.into_body(), &daemon.place, daemon.timeouts.stall)
            .await
    }
}

type Handled<T> = Result<Json<T>, ApiError>;

async fn status(State(daemon): State<Loop>) -> Handled<Status> {
    daemon.read(Call::Status).await.map(Json)
}

async fn services(State(daemon): State<Loop>) -> Result<Response, ApiError> {
    daemon.read_long(Call::Services).await
}

async fn service(State(daemon): State<Loop>, name: Result<Path<String>, PathRejection>) -> Result<Response, ApiError> {
    let Path(name) = name?;
    daemon.read_long(|answer| Call::Service { name, answer }).await
}

async fn stats(State(daemon): State<Loop>) -> Result<Response, ApiError> {
    daemon.read_long(Call::Stats).await
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

async fn events(
    State(daemon): State<Loop>,
    query: Result<Query<EventQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
    if query.limit.is_some_and(|limit| limit <= FEW) {
        let events = daemon.read(|answer| Call::Events { query, answer }).await?;
        return Ok(Json(events).into_response());
    }
    daemon.read_long(|answer| Call::Events { query, answer }).await
}

#[derive(Deserialize)]
struct FileQuery {
    file: Option<String>,
}

async fn plan(
    State(daemon): State<Loop>,
    query: Result<Query<FileQuery>, QueryRejection>,
    Sent { bytes, room }: Sent,
) -> Result<Response, ApiError> {
    let Query(FileQuery { file }) = query?;
    let toml = text(bytes)?;
    daemon
        .change_long(room, |answer| Call::Plan { toml, file, answer })
        .await
}

async fn apply(
    State(daemon): State<Loop>,
    query: Result<Query<FileQuery>, QueryRejection>,
    Sent { bytes, room }: Sent,
) -> Result<Response, ApiError> {
    let Query(FileQuery { file }) = query?;
    let toml = text(bytes)?;
    let done = daemon.change(room, |answer| Call::Apply { toml, file, answer }).await;
    daemon.changed(done).await
}

async fn reload(State(daemon): State<Loop>) -> Result<Response, ApiError> {
    let done = daemon.change(None, Call::Reload).await;
    daemon.changed(done).await
}

async fn backend(
    State(daemon): State<Loop>,
    names: Result<Path<(String, String)>, PathRejection>,
    Sent { bytes, room: _room }: Sent,
) -> Handled<BackendChanged> {
    let Path((service, backend)) = names?;
    let action = serde_json::from_slice(&bytes).map_err(|error| {
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
    daemon.change(None, call).await.map(Json)
}

async fn failover(
    State(daemon): State<Loop>,
    service: Result<Path<String>, PathRejection>,
    body: Sent,
) -> Handled<Confirmed> {
    confirm(&daemon, service, body, Confirm::Failover).await
}

async fn failback(
    State(daemon): State<Loop>,
    service: Result<Path<String>, PathRejection>,
    body: Sent,
) -> Handled<Confirmed> {
    confirm(&daemon, service, body, Confirm::Failback).await
}

async fn confirm(
    daemon: &Loop,
    service: Result<Path<String>, PathRejection>,
    Sent { bytes, room: _room }: Sent,
    what: Confirm,
) -> Handled<Confirmed> {
    let Path(service) = service?;
    let confirmation = if bytes.is_empty() {
        Ok(Confirmation::default())
    } else {
        serde_json::from_slice(&bytes)
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
    daemon.change(None, call).await.map(Json)
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

fn text(bytes: Vec<u8>) -> Result<String, ApiError> {
    String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        let message = format!("the configuration is not UTF-8: byte {place} is not part of a character");
        ApiError::new(ErrorKind::InvalidRequest, message)
    })
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

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            read: Duration::from_secs(5),
            change: Duration::from_secs(60),
            request: Duration::from_secs(90),
            head: Duration::from_secs(5),
            stall: Duration::from_secs(10),
            room: Duration::from_secs(15),
        }
    }
}
