//! Connections that are asked again and again, closed, and opened again from the same port.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use fastrand::Rng;

use crate::load::{Failure, Session};
use crate::net::Host;

/// Where a connection goes, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// The service's number.
    pub service: usize,
    /// Its VIP and port.
    pub target: SocketAddr,
    /// The client's address and port: the same for every connection of this place, one after the other.
    pub source: SocketAddr,
}

/// What became of a connection.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It was opened, and this backend answered. The time is that before the first packet.
    Opened {
        /// The backend.
        owner: String,
        /// When it began.
        begun: Instant,
    },
    /// It could not be opened.
    Refused {
        /// When it was tried first.
        begun: Instant,
        /// What came instead.
        why: String,
    },
    /// It was open and broke.
    Broken {
        /// The backend that it was with.
        owner: String,
        /// When it had opened.
        opened: Instant,
        /// When that backend had answered last.
        answered: Instant,
        /// What came instead.
        why: String,
    },
}

/// Something that happened to a connection.
#[derive(Clone, Debug)]
pub struct Report {
    /// Which.
    pub ends: Ends,
    /// When it was noticed.
    pub at: Instant,
    /// What.
    pub outcome: Outcome,
}

/// All connections, at work until stopped.
pub struct Talk {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    requests: AtomicU64,
    reports: Mutex<Vec<Report>>,
    /// The places whose connection is open, and with which backend.
    open: Mutex<HashMap<Ends, String>>,
}

/// A connection is asked so often, or half as often.
const RHYTHM: Duration = Duration::from_secs(1);
/// A lost SYN is sent again after one second, and after two more.
const TIMEOUT: Duration = Duration::from_secs(4);
/// One that waits keeps its other connections waiting.
const WORKERS: usize = 40;
/// Of so many rounds a connection is closed in one, and opened again from the same port.
const ROUNDS_OF_A_CONNECTION: u32 = 30;

impl Talk {
    /// Begins to open all, from a host that has the sources' addresses.
    ///
    /// # Errors
    /// If a thread cannot be started there.
    pub fn start(client: &Host, places: &[Ends], seed: u64) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut workers = Vec::new();
        for number in 0..WORKERS {
            let mine = places.iter().skip(number).step_by(WORKERS);
            let places: Vec<Place> = mine.map(|ends| Place::new(*ends)).collect();
            let (shared, random) = (Arc::clone(&shared), Rng::with_seed(seed.wrapping_add(number as u64)));
            workers.push(client.thread(move || work(places, &shared, random))?);
        }
        Ok(Self { shared, workers })
    }

    /// What has happened since the last call.
    pub fn reports(&self) -> Vec<Report> {
        std::mem::take(&mut *lock(&self.shared.reports))
    }

    /// The connections that are open, and with which backend.
    pub fn open(&self) -> HashMap<Ends, String> {
        lock(&self.shared.open).clone()
    }

    /// Requests that were answered.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Asks each once more and stops; what has happened since the last call of [`Talk::reports`].
    ///
    /// # Errors
    /// If a thread panicked.
    pub fn stop(mut self) -> Result<Vec<Report>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            worker
                .join()
                .map_err(|_| anyhow!("a thread of the connections panicked, see above"))?;
        }
        Ok(self.reports())
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is done under the locks is a push or a swap: what a panicked thread leaves is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One source port, and the connection that it has now.
struct Place {
    ends: Ends,
    connection: Option<Connection>,
    due: Instant,
}

struct Connection {
    session: Session,
    owner: String,
    opened: Instant,
    answered: Instant,
}

fn work(mut places: Vec<Place>, shared: &Shared, mut random: Rng) {
    // A pass that finds the end marked is the last: it asks each connection that is open once more.
    loop {
        let last = shared.stop.load(Ordering::Relaxed);
        for place in &mut places {
            if !last && Instant::now() < place.due {
                continue;
            }
            // Some rest for twice as long: the balancer must not forget them meanwhile.
            place.due = Instant::now() + RHYTHM * random.u32(1..=2);
            if let Some(outcome) = place.turn(shared, &mut random, last) {
                shared.report(place.ends, outcome);
            }
        }
        if last {
            return;
        }
        sleep(Duration::from_millis(5));
    }
}

impl Shared {
    fn report(&self, ends: Ends, outcome: Outcome) {
        let mut open = lock(&self.open);
        match &outcome {
            Outcome::Opened { owner, .. } => drop(open.insert(ends, owner.clone())),
            Outcome::Refused { .. } | Outcome::Broken { .. } => drop(open.remove(&ends)),
        }
        drop(open);
        let at = Instant::now();
        lock(&self.reports).push(Report { ends, at, outcome });
    }
}

impl Place {
    fn new(ends: Ends) -> Self {
        Self {
            ends,
            connection: None,
            due: Instant::now(),
        }
    }

    /// Asks, or closes and opens again, or opens. Says what has changed.
    fn turn(&mut self, shared: &Shared, random: &mut Rng, last: bool) -> Option<Outcome> {
        let Some(mut connection) = self.connection.take() else {
            return if last { None } else { self.open() };
        };
        // Closed by a reset, so that its port is free.
        if !last && random.u32(0..ROUNDS_OF_A_CONNECTION) == 0 {
            drop(connection);
            return self.open();
        }
        let why = match connection.session.ask(0) {
            Ok(name) if name == connection.owner => {
                shared.requests.fetch_add(1, Ordering::Relaxed);
                connection.answered = Instant::now();
                self.connection = Some(connection);
                return None;
            }
            Ok(other) => format!("answered by {other}"),
            Err(failure) => failure.to_string(),
        };
        let Connection {
            owner,
            opened,
            answered,
            ..
        } = connection;
        Some(Outcome::Broken {
            owner,
            opened,
            answered,
            why,
        })
    }

    /// Nothing if the port is not free yet: that is this client's own affair, and is tried again.
    fn open(&mut self) -> Option<Outcome> {
        let begun = Instant::now();
        let opened = Session::open_from(self.ends.source, self.ends.target, TIMEOUT).and_then(|mut session| {
            let owner = session.ask(0)?;
            Ok((session, owner))
        });
        match opened {
            Ok((session, owner)) => {
                let now = Instant::now();
                self.connection = Some(Connection {
                    session,
                    owner: owner.clone(),
                    opened: now,
                    answered: now,
                });
                Some(Outcome::Opened { owner, begun })
            }
            Err(Failure::PortTaken) => None,
            Err(failure) => Some(Outcome::Refused {
                begun,
                why: failure.to_string(),
            }),
        }
    }
}
