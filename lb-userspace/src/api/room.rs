//! Room in memory: for what clients send, and for what they have not read yet.
//!
//! Little things need none: a connection has a bounded number of them. Whatever is larger waits its turn, and is refused if that does not come.
//! A slow client may take its time as long as no other waits; then the connection of the one that has had room for the longest is closed.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use http_body_util::BodyExt;
use hyper::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::MAX_REQUEST;
use super::connections::Place;
use super::error::{ApiError, ErrorKind};

/// Bytes of all request bodies together, until what they ask for is done.
pub const BODIES: usize = 64 << 20;
/// Bytes of all answers together that clients have not read.
pub const ANSWERS: usize = 64 << 20;
/// Long answers that are made at a time.
const MAKERS: usize = 4;
/// Plans that are asked for at a time: their answers may be long, too, and are there before they are made into text.
const PLANNERS: usize = 4;
/// What needs no room.
const LITTLE: usize = 64 << 10;
/// Rooms are counted in these.
const UNIT: usize = 1 << 10;
/// While others wait, a client that is silent for so long makes room.
const SILENT: Duration = Duration::from_secs(2);
/// While others wait, a client has its room for so long, and [`FOR_A_MIB`] more for each MiB of it: 8 s for the longest body.
const FOR_ANY: Duration = Duration::from_secs(3);
const FOR_A_MIB: Duration = Duration::from_millis(150);
/// How often one that waits looks for another to make room.
const TURN: Duration = Duration::from_millis(500);

/// The room of all connections.
#[derive(Clone)]
pub(super) struct Room {
    bodies: Arc<Rooms>,
    answers: Arc<Rooms>,
    makers: Arc<Semaphore>,
    planners: Arc<Semaphore>,
    /// How long one waits for it.
    patience: Duration,
}

/// Room of one sort.
struct Rooms {
    what: &'static str,
    bytes: usize,
    free: Arc<Semaphore>,
    lodgers: Mutex<Vec<Arc<Lodger>>>,
}

/// Who has room.
struct Lodger {
    place: Arc<Place>,
    bytes: usize,
    since: Instant,
}

/// Room that is taken, as long as this lives.
pub(super) struct Taken {
    rooms: Arc<Rooms>,
    lodger: Arc<Lodger>,
    _permit: OwnedSemaphorePermit,
}

/// A request's body, and its room.
pub(super) struct Sent {
    pub(super) bytes: Vec<u8>,
    pub(super) room: Option<Taken>,
}

impl Room {
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            bodies: Rooms::new("request bodies", BODIES),
            answers: Rooms::new("unread answers", ANSWERS),
            makers: Arc::new(Semaphore::new(MAKERS)),
            planners: Arc::new(Semaphore::new(PLANNERS)),
            patience,
        }
    }

    /// Reads a body. One that is refused is read to its end all the same: a client that still writes would not see the answer.
    pub(super) async fn read(&self, body: Body, place: &Arc<Place>, stall: Duration) -> Result<Sent, ApiError> {
        // One that does not say how long it is may be as long as any.
        let length = hyper::body::Body::size_hint(&body)
            .exact()
            .unwrap_or(MAX_REQUEST as u64);
        let mut body = body;
        if length > MAX_REQUEST as u64 {
            skip(&mut body, stall).await?;
            return Err(too_large());
        }
        let room = match self.bodies.take(length as usize, place, self.patience).await {
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

    /// A permit to make a long answer.
    pub(super) async fn maker(&self, place: &Arc<Place>) -> Result<OwnedSemaphorePermit, ApiError> {
        let _queueing = place.queueing();
        let busy = || format!("{MAKERS} long answers are made already, for clients that were first: try again");
        turn(&self.makers, self.patience, busy).await
    }

    /// A permit to ask for a plan.
    pub(super) async fn planner(
        &self,
        place: &Arc<Place>,
        patience: Duration,
    ) -> Result<OwnedSemaphorePermit, ApiError> {
        let _asking = place.asking();
        let busy = || format!("{PLANNERS} plans are made already: try again");
        turn(&self.planners, patience, busy).await
    }

    /// An answer that keeps its room until its client has it.
    pub(super) async fn answer(&self, bytes: Vec<u8>, place: &Arc<Place>) -> Result<Body, ApiError> {
        let room = self.answers.take(bytes.len(), place, self.patience).await?;
        let bytes = match room {
            None => Bytes::from(bytes),
            Some(room) => Bytes::from_owner(Roomed { bytes, _room: room }),
        };
        Ok(Body::from(bytes))
    }
}

/// Waits for a permit.
async fn turn(
    permits: &Arc<Semaphore>,
    patience: Duration,
    busy: impl FnOnce() -> String,
) -> Result<OwnedSemaphorePermit, ApiError> {
    match tokio::time::timeout(patience, Arc::clone(permits).acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => Err(ApiError::new(ErrorKind::Unavailable, busy())),
    }
}

impl Rooms {
    fn new(what: &'static str, bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            what,
            bytes,
            free: Arc::new(Semaphore::new(bytes / UNIT)),
            lodgers: Mutex::default(),
        })
    }

    /// Room for so many bytes; nothing if they need none.
    async fn take(
        self: &Arc<Self>,
        bytes: usize,
        place: &Arc<Place>,
        patience: Duration,
    ) -> Result<Option<Taken>, ApiError> {
        if bytes <= LITTLE {
            return Ok(None);
        }
        // Its own client is not what it waits for.
        let _queueing = place.queueing();
        // One that is longer than all the room takes all of it.
        let units = bytes.min(self.bytes).div_ceil(UNIT);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.free).acquire_many_owned(units);
        let mut permit = std::pin::pin!(permit);
        let begun = Instant::now();
        loop {
            match tokio::time::timeout(TURN, permit.as_mut()).await {
                Ok(Ok(permit)) => return Ok(Some(self.lodge(bytes, place, permit))),
                Err(_) if begun.elapsed() < patience => self.clear(Instant::now()),
                Ok(Err(_)) | Err(_) => return Err(self.full()),
            }
        }
    }

    fn lodge(self: &Arc<Self>, bytes: usize, place: &Arc<Place>, permit: OwnedSemaphorePermit) -> Taken {
        let lodger = Arc::new(Lodger {
            place: Arc::clone(place),
            bytes,
            since: Instant::now(),
        });
        self.lodgers().push(Arc::clone(&lodger));
        Taken {
            rooms: Arc::clone(self),
            lodger,
            _permit: permit,
        }
    }

    /// Closes the connection of the client that has had room for the longest, and for too long while others wait.
    fn clear(&self, now: Instant) {
        let lodgers = self.lodgers();
        let longest = lodgers
            .iter()
            .filter(|lodger| lodger.is_slow(now))
            .min_by_key(|lodger| lodger.since);
        if let Some(longest) = longest {
            longest.place.has_to_go();
        }
    }

    fn lodgers(&self) -> MutexGuard<'_, Vec<Arc<Lodger>>> {
        self.lodgers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn full(&self) -> ApiError {
        let message = format!("{} take all of their {} MiB: try again", self.what, self.bytes >> 20);
        ApiError::new(ErrorKind::Unavailable, message)
    }
}

impl Lodger {
    /// Whether the client, and not the daemon, is what takes so long.
    fn is_slow(&self, now: Instant) -> bool {
        let mibs = self.bytes.div_ceil(1 << 20) as u32;
        let silent = now.saturating_duration_since(self.place.heard());
        let had = now.saturating_duration_since(self.since);
        self.place.waits_for_client() && (silent >= SILENT || had >= FOR_ANY + FOR_A_MIB * mibs)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.rooms.lodgers().retain(|lodger| !Arc::ptr_eq(lodger, &self.lodger));
    }
}

impl fmt::Debug for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of {}", self.lodger.bytes, self.rooms.what)
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

/// Bytes with their room: it is free when they are written, or dropped.
struct Roomed {
    bytes: Vec<u8>,
    _room: Taken,
}

impl AsRef<[u8]> for Roomed {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::super::connections::Places;
    use super::*;

    fn lodger(place: &Arc<Place>, bytes: usize) -> Lodger {
        Lodger {
            place: Arc::clone(place),
            bytes,
            since: Instant::now(),
        }
    }

    #[test]
    fn who_is_silent_or_slow_makes_room_and_who_waits_for_the_daemon_stays() {
        let place = Places::default().take().expect("room");
        let longest = lodger(&place, MAX_REQUEST);
        let after = |seconds| longest.since + Duration::from_secs(seconds);
        assert!(!longest.is_slow(after(1)));
        assert!(longest.is_slow(after(3)), "silent");
        let asking = place.asking();
        assert!(!longest.is_slow(after(100)));
        drop(asking);
        // It is heard of all the time, and slow.
        place.heard_at(after(7));
        assert!(!longest.is_slow(after(7)));
        place.heard_at(after(8));
        assert!(longest.is_slow(after(8)));
        assert!(lodger(&place, 1 << 20).is_slow(after(6)));
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime").block_on(future)
    }

    #[test]
    fn who_waits_for_a_turn_or_for_room_does_not_wait_for_its_client() {
        run(async {
            let (places, room) = (Places::default(), Room::new(Duration::from_millis(100)));
            let (place, other) = (places.take().expect("room"), places.take().expect("room"));
            let makers: Vec<_> = std::iter::repeat_with(|| room.maker(&other)).take(MAKERS).collect();
            let makers = futures_util::future::join_all(makers).await;
            assert!(makers.iter().all(Result::is_ok) && other.waits_for_client());
            let mut waiting = Box::pin(room.maker(&place));
            assert!(waiting.as_mut().now_or_never().is_none());
            assert!(!place.waits_for_client());
            let error = waiting.await.expect_err("no turn");
            assert_eq!(
                error.message,
                "4 long answers are made already, for clients that were first: try again"
            );
            assert!(place.waits_for_client());
            // Plans are counted apart.
            let planner = room.planner(&place, Duration::from_secs(60)).await;
            assert!(planner.is_ok() && place.waits_for_client());

            let all = room.answer(vec![0; ANSWERS], &other).await.expect("all the room");
            let mut waiting = Box::pin(room.answer(vec![0; MAX_REQUEST], &place));
            assert!(waiting.as_mut().now_or_never().is_none());
            assert!(!place.waits_for_client());
            drop(all);
            assert!(waiting.await.is_ok() && place.waits_for_client());
        });
    }
}
