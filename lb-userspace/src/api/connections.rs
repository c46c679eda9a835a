//! Connections to the API: how many, for how long, and who has to go when there are too many.
//!
//! A connection either waits for the daemon or for its client. When every place is taken, the one whose client has kept it waiting for the longest
//! makes room: a client that opens connections and says nothing, or does not read, keeps no other out. One that waits until other clients have read or sent counts like those.
//! Only when all wait for the daemon is a new one refused.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::time::Sleep;

/// Connections that may be open at a time.
pub const MOST: usize = 128;
/// What a client must take of an answer within [`super::server::Timeouts::stall`].
const LEAST: usize = 64 << 10;

/// All that are open.
#[derive(Default)]
pub(super) struct Places {
    taken: Mutex<Vec<Arc<Place>>>,
}

/// One of them.
pub(super) struct Place {
    /// Requests that the daemon is asked at the moment.
    asking: AtomicUsize,
    /// Requests that wait until other clients have read their answers, or sent their requests.
    queueing: AtomicUsize,
    /// When its client last sent or took something.
    heard: Mutex<Instant>,
    /// It has to make room.
    gone: Notify,
}

/// As long as this lives, the connection waits for the daemon, not for its client.
pub(super) struct Asking(Arc<Place>);

/// As long as this lives, the connection waits for other clients, not for its own.
pub(super) struct Queueing(Arc<Place>);

impl Places {
    /// A place for a new connection; nothing if all of them wait for the daemon.
    pub(super) fn take(&self) -> Option<Arc<Place>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.len() >= MOST {
            let longest = taken
                .iter()
                .filter(|place| !place.waits_for_daemon())
                .min_by_key(|place| place.heard())?;
            let longest = Arc::clone(longest);
            taken.retain(|place| !Arc::ptr_eq(place, &longest));
            longest.has_to_go();
        }
        let place = Arc::new(Place {
            asking: AtomicUsize::new(0),
            queueing: AtomicUsize::new(0),
            heard: Mutex::new(Instant::now()),
            gone: Notify::new(),
        });
        taken.push(Arc::clone(&place));
        Some(place)
    }

    /// Its connection has ended.
    pub(super) fn leave(&self, gone: &Arc<Place>) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|place| !Arc::ptr_eq(place, gone));
    }

    /// Whether the next one has to wait for another to go.
    pub(super) fn is_full(&self) -> bool {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).len() >= MOST
    }
}

impl Place {
    /// Ready when it has to make room for another.
    pub(super) async fn gone(&self) {
        self.gone.notified().await;
    }

    /// Its connection is to be closed.
    pub(super) fn has_to_go(&self) {
        self.gone.notify_one();
    }

    /// Whether it is the client that is waited for, and neither the daemon nor other clients.
    pub(super) fn waits_for_client(&self) -> bool {
        !self.waits_for_daemon() && self.queueing.load(Ordering::Relaxed) == 0
    }

    fn waits_for_daemon(&self) -> bool {
        self.asking.load(Ordering::Relaxed) > 0
    }

    /// It waits for its turn after other clients.
    pub(super) fn queueing(self: &Arc<Self>) -> Queueing {
        self.queueing.fetch_add(1, Ordering::Relaxed);
        Queueing(Arc::clone(self))
    }

    /// The daemon is asked.
    pub(super) fn asking(self: &Arc<Self>) -> Asking {
        self.asking.fetch_add(1, Ordering::Relaxed);
        Asking(Arc::clone(self))
    }

    /// When its client last sent or took something.
    pub(super) fn heard(&self) -> Instant {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hears(&self) {
        self.heard_at(Instant::now());
    }

    pub(super) fn heard_at(&self, now: Instant) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        // From here on it is the client that is waited for.
        self.0.hears();
        self.0.asking.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Queueing {
    fn drop(&mut self) {
        self.0.hears();
        self.0.queueing.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A client's stream, which ends when the client does not take what is written.
pub(super) struct Watched {
    stream: UnixStream,
    place: Arc<Place>,
    stall: Duration,
    /// Runs while something cannot be written.
    until: Option<Pin<Box<Sleep>>>,
    /// Bytes that were taken since it runs.
    taken: usize,
}

impl Watched {
    pub(super) fn new(stream: UnixStream, place: Arc<Place>, stall: Duration) -> Self {
        Self {
            stream,
            place,
            stall,
            until: None,
            taken: 0,
        }
    }

    fn wrote(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(written)) = outcome {
            self.place.hears();
            self.taken += written;
            if self.taken >= LEAST {
                self.until = None;
            }
        }
        if outcome.is_pending() {
            let stall = self.stall;
            if self.until.is_none() {
                self.taken = 0;
            }
            let until = self.until.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
            ready!(until.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        outcome
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if outcome.is_ready() && buffer.filled().len() > before {
            self.place.hears();
            self.until = None;
        }
        outcome
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.wrote(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_kept_it_waiting_longest_makes_room_and_who_waits_for_the_daemon_stays() {
        let places = Places::default();
        let all: Vec<Arc<Place>> = (0..MOST).map(|_| places.take().expect("room")).collect();
        assert!(places.is_full());
        all[1].hears();
        let asking = all[0].asking();
        places.take().expect("the third makes room");
        let taken = |place| {
            places
                .taken
                .lock()
                .expect("whole")
                .iter()
                .any(|other| Arc::ptr_eq(place, other))
        };
        assert!(taken(&all[0]) && taken(&all[1]) && !taken(&all[2]) && taken(&all[3]));
        drop(asking);
        let busy: Vec<Asking> = all.iter().map(Place::asking).collect();
        let newest: Vec<Arc<Place>> = places.taken.lock().expect("whole").clone();
        let busy_too: Vec<Asking> = newest.iter().map(Place::asking).collect();
        assert!(places.take().is_none());
        drop((busy, busy_too));
        places.leave(&all[0]);
        assert!(!places.is_full());
    }
}
