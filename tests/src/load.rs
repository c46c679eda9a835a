//! A client that opens a new TCP connection for every request and remembers what came of each.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use socket2::{Domain, Protocol, Socket, Type};

use crate::net::Host;

/// What to ask, and how often.
#[derive(Clone, Debug)]
pub struct Demand {
    /// Whom to ask.
    pub target: SocketAddr,
    /// Requests begun per second, evenly, however long the answers take: 1 ..= 10,000.
    pub rate: u32,
    /// Requests under way at once at most. When all of them wait, the rate falls.
    pub workers: usize,
    /// When a connection or an answer has failed.
    pub timeout: Duration,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When it began, since the load did.
    pub at: Duration,
    /// How long it took.
    pub took: Duration,
    /// Who answered, or what went wrong.
    pub outcome: Result<String, Failure>,
}

/// What went wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// The connection was refused: nobody listens.
    Refused,
    /// Nothing came in time.
    TimedOut,
    /// The connection was cut.
    Reset,
    /// The client's own port is still taken by an earlier connection.
    PortTaken,
    /// Something else: an answer that is none, an error of the client's own.
    Other(String),
}

/// A load that runs until it is stopped or dropped.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    demand: Demand,
    start: Instant,
    next: AtomicU64,
    stop: AtomicBool,
    samples: Mutex<Vec<Sample>>,
}

impl Load {
    /// Starts asking, from a host.
    pub fn start(from: &Host, demand: Demand) -> Result<Self> {
        let workers = demand.workers;
        let shared = Arc::new(Shared {
            demand,
            start: Instant::now(),
            next: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            samples: Mutex::default(),
        });
        let mut load = Self {
            shared: Arc::clone(&shared),
            workers: Vec::with_capacity(workers),
        };
        for _ in 0..workers {
            let shared = Arc::clone(&shared);
            load.workers.push(from.thread(move || shared.work())?);
        }
        Ok(load)
    }

    /// How long it has been running: what [`Sample::at`] counts.
    pub fn now(&self) -> Duration {
        self.shared.start.elapsed()
    }

    /// The requests that have ended, from the `skip`-th on, in the order of their ends.
    pub fn samples(&self, skip: usize) -> Vec<Sample> {
        self.shared.samples().get(skip..).unwrap_or_default().to_vec()
    }

    /// Begins no more requests, waits for those under way, and returns all, in the order of their beginnings.
    pub fn stop(mut self) -> Result<Vec<Sample>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            worker
                .join()
                .map_err(|_| anyhow!("a worker of the load panicked, see above"))?;
        }
        let mut samples = std::mem::take(&mut *self.shared.samples());
        samples.sort_by_key(|sample| sample.at);
        Ok(samples)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// Answers per backend, without the failures.
pub fn answers(samples: &[Sample]) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    for name in samples.iter().filter_map(|sample| sample.outcome.as_ref().ok()) {
        *count.entry(name.clone()).or_default() += 1;
    }
    count
}

/// The requests that failed.
pub fn failures(samples: &[Sample]) -> Vec<&Sample> {
    samples.iter().filter(|sample| sample.outcome.is_err()).collect()
}

/// One request over a connection of its own, from the calling thread's network; returns the answer's text without white space
/// at its ends.
pub fn request(target: SocketAddr, timeout: Duration) -> Result<String, Failure> {
    let stream = TcpStream::connect_timeout(&target, timeout)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    (&stream).write_all(format!("GET / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    (&stream).take(65_536).read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| Failure::Other("half an answer".into()))?;
    let status = head.split_whitespace().nth(1).unwrap_or("");
    if status != "200" {
        return Err(Failure::Other(format!("status {status}")));
    }
    Ok(body.trim().to_owned())
}

/// Datagrams to a [`UdpResponder`](crate::serve::UdpResponder), one after the other, each from another port, until stopped.
#[derive(Debug)]
pub struct Datagrams {
    stop: Arc<AtomicBool>,
    worker: JoinHandle<(u64, Vec<String>)>,
}

impl Datagrams {
    /// Starts asking, from a host, some 500 times a second.
    pub fn start(from: &Host, target: SocketAddr) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let worker = from.thread(move || {
            let (mut answered, mut lost) = (0, Vec::new());
            let start = Instant::now();
            for number in 0_u64.. {
                if until.load(Ordering::Relaxed) {
                    break;
                }
                let port = 20_000 + (number % 10_000) as u16;
                match crate::serve::ask_udp(target, port, Duration::from_millis(500)) {
                    Ok(_) => answered += 1,
                    Err(error) => lost.push(format!("from port {port} at {:?}: {error}", start.elapsed())),
                }
                sleep(Duration::from_millis(2));
            }
            (answered, lost)
        })?;
        Ok(Self { stop, worker })
    }

    /// Stops; returns how many were answered, and what is known of each that was not.
    pub fn stop(self) -> Result<(u64, Vec<String>)> {
        self.stop.store(true, Ordering::Relaxed);
        self.worker
            .join()
            .map_err(|_| anyhow!("the sender panicked, see above"))
    }
}

/// A connection that stays open, asked again and again.
#[derive(Debug)]
pub struct Session {
    stream: BufReader<TcpStream>,
    target: SocketAddr,
}

/// Opens connections from a host, and asks each once: they come with who answered.
pub fn sessions(from: &Host, target: SocketAddr, count: usize, timeout: Duration) -> Result<Vec<(Session, String)>> {
    from.enter(|| {
        let open = |number| -> Result<_> {
            let connection = || format!("connection {number} to {target}");
            let mut session = Session::open(target, timeout).with_context(connection)?;
            let name = session.ask(0).with_context(connection)?;
            Ok((session, name))
        };
        (0..count).map(open).collect()
    })?
}

impl Session {
    /// Opens it, from the calling thread's network.
    pub fn open(target: SocketAddr, timeout: Duration) -> Result<Self, Failure> {
        let stream = TcpStream::connect_timeout(&target, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        // An upload whose packets are lost fills the socket's buffer.
        stream.set_write_timeout(Some(timeout))?;
        let stream = BufReader::new(stream);
        Ok(Self { stream, target })
    }

    /// Opens it from this address and port, which an earlier connection may have had a moment ago. When it is closed it is reset: the
    /// port is free at once.
    pub fn open_from(source: SocketAddr, target: SocketAddr, timeout: Duration) -> Result<Self, Failure> {
        let domain = Domain::for_address(target);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_linger(Some(Duration::ZERO))?;
        socket.bind(&source.into())?;
        socket.connect_timeout(&target.into(), timeout)?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        let stream = BufReader::new(stream);
        Ok(Self { stream, target })
    }

    /// The client's address and port.
    pub fn source(&self) -> Result<SocketAddr, Failure> {
        Ok(self.stream.get_ref().local_addr()?)
    }

    /// Sends a request with a body of so many bytes; returns who answered.
    pub fn ask(&mut self, body: usize) -> Result<String, Failure> {
        let head = format!(
            "POST / HTTP/1.1\r\nHost: {}\r\nContent-Length: {body}\r\n\r\n",
            self.target
        );
        let request = [head.as_bytes(), &vec![b'x'; body]].concat();
        self.stream.get_mut().write_all(&request)?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(Failure::Reset);
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().map_err(|_| Failure::Other(line.clone()))?;
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).trim().to_owned())
    }
}

impl Shared {
    fn work(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let due = Duration::from_nanos(number * 1_000_000_000 / u64::from(self.demand.rate.max(1)));
            sleep(due.saturating_sub(self.start.elapsed()));
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let at = self.start.elapsed();
            let outcome = request(self.demand.target, self.demand.timeout);
            let took = self.start.elapsed() - at;
            self.samples().push(Sample { at, took, outcome });
        }
    }

    fn samples(&self) -> MutexGuard<'_, Vec<Sample>> {
        // A push is all that happens under the lock: what a panicked worker leaves is whole.
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Failure::Refused,
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Failure::TimedOut,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => Failure::Reset,
            io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse => Failure::PortTaken,
            _ => Failure::Other(error.to_string()),
        }
    }
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused => f.write_str("refused"),
            Failure::TimedOut => f.write_str("timed out"),
            Failure::Reset => f.write_str("reset"),
            Failure::PortTaken => f.write_str("the client's port is taken"),
            Failure::Other(text) => f.write_str(text),
        }
    }
}
