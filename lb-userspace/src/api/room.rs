//! Room in memory: for what clients send, and for what they have not read yet.
//!
//! Little things need none: a connection has a bounded number of them. Whatever is larger waits its turn, and is refused if that does not come.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http_body_util::BodyExt;
use hyper::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::MAX_REQUEST;
use super::error::{ApiError, ErrorKind};

/// Bytes of all request bodies together, until what they ask for is done.
pub const BODIES: usize = 64 << 20;
/// Bytes of all answers together that clients have not read.
pub const ANSWERS: usize = 64 << 20;
/// Long answers that are made at a time.
const MAKERS: usize = 4;
/// What needs no room.
const LITTLE: usize = 64 << 10;
/// Rooms are counted in these.
const UNIT: usize = 1 << 10;

/// The room of all connections.
#[derive(Clone)]
pub(super) struct Room {
    bodies: Arc<Semaphore>,
    answers: Arc<Semaphore>,
    makers: Arc<Semaphore>,
    /// How long one waits for it.
    patience: Duration,
}

/// A request's body, and its room.
pub(super) struct Sent {
    pub(super) bytes: Vec<u8>,
    pub(super) room: Option<OwnedSemaphorePermit>,
}

impl Room {
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            bodies: Arc::new(Semaphore::new(BODIES / UNIT)),
            answers: Arc::new(Semaphore::new(ANSWERS / UNIT)),
            makers: Arc::new(Semaphore::new(MAKERS)),
            patience,
        }
    }

    /// Reads a body. One that is refused is read to its end all the same: a client that still writes would not see the answer.
    pub(super) async fn read(&self, body: Body, stall: Duration) -> Result<Sent, ApiError> {
        // One that does not say how long it is may be as long as any.
        let length = hyper::body::Body::size_hint(&body)
            .exact()
            .unwrap_or(MAX_REQUEST as u64);
        let mut body = body;
        if length > MAX_REQUEST as u64 {
            skip(&mut body, stall).await?;
            return Err(too_large());
        }
        let room = match self.wait(&self.bodies, length as usize, "request bodies").await {
            Ok(room) => room,
            Err(error) => {
                skip(&mut body, stall).await?;
                return Err(error);
            }
        };
        let mut bytes = Vec::with_capacity(length as usize);
        while let Some(part) = next(&mut body, stall).await? {
            if bytes.len() + part.len() > MAX_REQUEST {
                drop((bytes, room));
                skip(&mut body, stall).await?;
                return Err(too_large());
            }
            bytes.extend_from_slice(&part);
        }
        Ok(Sent { bytes, room })
    }

    /// Who wants to make a long answer.
    pub(super) async fn maker(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let permit = Arc::clone(&self.makers).acquire_owned();
        match tokio::time::timeout(self.patience, permit).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(full("answers that nobody reads", ANSWERS)),
        }
    }

    /// An answer that keeps its room until its client has it.
    pub(super) async fn answer(&self, bytes: Vec<u8>) -> Result<Body, ApiError> {
        let room = self
            .wait(&self.answers, bytes.len(), "answers that nobody reads")
            .await?;
        let bytes = match room {
            None => Bytes::from(bytes),
            Some(room) => Bytes::from_owner(Roomed { bytes, _room: room }),
        };
        Ok(Body::from(bytes))
    }

    async fn wait(
        &self,
        rooms: &Arc<Semaphore>,
        bytes: usize,
        what: &str,
    ) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
        if bytes <= LITTLE {
            return Ok(None);
        }
        // One that is longer than all the room takes all of it.
        let units = bytes.div_ceil(UNIT).min(ANSWERS.min(BODIES) / UNIT);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let permit = Arc::clone(rooms).acquire_many_owned(units);
        match tokio::time::timeout(self.patience, permit).await {
            Ok(Ok(permit)) => Ok(Some(permit)),
            _ => Err(full(what, BODIES)),
        }
    }
}

async fn next(body: &mut Body, stall: Duration) -> Result<Option<Bytes>, ApiError> {
    loop {
        match tokio::time::timeout(stall, body.frame()).await {
            Ok(None) => return Ok(None),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Ok(Some(Err(error))) => {
                let message = format!("the body ended before it was whole: {error}");
                return Err(ApiError::new(ErrorKind::InvalidRequest, message));
            }
            Err(_) => {
                let message = format!("nothing of the body came for {} s", stall.as_secs_f64());
                return Err(ApiError::new(ErrorKind::Timeout, message));
            }
        }
    }
}

/// Reads on without keeping anything, for as much as a body may be.
async fn skip(body: &mut Body, stall: Duration) -> Result<(), ApiError> {
    let mut left = 2 * MAX_REQUEST;
    while let Some(part) = next(body, stall).await? {
        left = left.saturating_sub(part.len());
        if left == 0 {
            break;
        }
    }
    Ok(())
}

fn too_large() -> ApiError {
    let message = format!("the body is longer than {} MiB", MAX_REQUEST >> 20);
    ApiError::new(ErrorKind::TooLarge, message)
}

fn full(what: &str, bytes: usize) -> ApiError {
    let message = format!("{what} take all of their {} MiB: try again", bytes >> 20);
    ApiError::new(ErrorKind::Unavailable, message)
}

/// Bytes with their room: it is free when they are written, or dropped.
struct Roomed {
    bytes: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Roomed {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
