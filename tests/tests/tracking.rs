//! Rolling a whole pool under live connections, with a flood of SYNs beside it: which connections break.
//!
//! Needs root and the release builds of `lbd` and `lbctl` (`LBD_BIN`, `LBCTL_BIN`). `TRACKING_CONNECTIONS` sets how many connections
//! there are (500).

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use lb_tests::edge::{Edge, Programs, join};
use lb_tests::load::{Session, sessions};
use lb_tests::net::{Arms, Family, Host, Scratch, Topology, wait_until};
use lb_tests::packet::{Packet, flag};
use lb_tests::serve::Nginx;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(10);
const BACKENDS: u8 = 5;
/// Longer than a connection is ever silent here.
const DRAIN_TIME: &str = "5s";
/// Between two changes of the pool: slots settle in some of these pauses, and still move in others.
const PAUSE: Duration = Duration::from_millis(2_500);
const ASKING_THREADS: usize = 8;
const SYNS_PER_SECOND: u32 = 5_000;

/// All five backends are drained, removed and added back in turn, and that breaks nothing; without tracking it does.
#[test]
fn rolling_a_pool_breaks_nothing() -> Result<()> {
    let connections = match std::env::var("TRACKING_CONNECTIONS") {
        Ok(count) => count.parse().context("TRACKING_CONNECTIONS")?,
        Err(_) => 500,
    };
    let adaptive = roll("adaptive", connections)?;
    println!("{adaptive}");
    let never = roll("never", connections)?;
    println!("{never}");
    ensure!(
        never.broken.len() > connections / 10,
        "too few for the test to mean something: {never}"
    );
    ensure!(adaptive.broken.is_empty(), "{adaptive}");
    Ok(())
}

struct Outcome {
    tracking: String,
    connections: usize,
    requests: u64,
    syns: u64,
    broken: Vec<String>,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            tracking,
            connections,
            requests,
            syns,
            broken,
        } = self;
        let count = broken.len();
        write!(
            f,
            "tracking = {tracking:?}: {count} of {connections} connections broken; {requests} requests, {syns} SYNs beside them"
        )?;
        broken.iter().take(10).try_for_each(|why| write!(f, "\n  {why}"))
    }
}

fn roll(tracking: &str, connections: usize) -> Result<Outcome> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let scratch = Scratch::new()?;
    let programs = Programs::find()?;
    let net = Topology::new(Arms::Two, BACKENDS)?;
    let vip = Topology::vip(Family::V4, 10);
    let target = SocketAddr::new(vip, 80);
    let mut servers = Vec::new();
    for backend in &net.backends {
        let joined = join(backend, &programs, &scratch, &[vip])?;
        servers.push((joined, Nginx::start(&backend.host, &scratch)?));
    }
    let edge = Edge::start(&net, &programs, &scratch, &file(&net, tracking, None))?;
    let names: Vec<&str> = net.backends.iter().map(|backend| backend.name()).collect();
    edge.wait_up("web", &names, PATIENCE)?;

    let talk = Talk::start(&net.client, target, connections)?;
    let flood = Flood::start(&net.client)?;
    for name in &names {
        sleep(PAUSE);
        edge.lbctl(&["backend", "drain", "web", name])?;
        sleep(PAUSE);
        edge.apply(&file(&net, tracking, Some(name)))?;
        sleep(PAUSE);
        edge.apply(&file(&net, tracking, None))?;
        wait_until("it to be back", PATIENCE, || Ok(edge.up("web")?.len() == names.len()))?;
    }
    // Long enough for all slots to settle, and for one more request of each connection.
    sleep(PAUSE * 3);
    let syns = flood.stop()?;
    let (requests, broken) = talk.stop()?;
    let stats = edge.json(&["stats"])?;
    let reasons = stats["reasons"].as_object().context("no reasons")?;
    let sum: u64 = reasons.values().filter_map(Value::as_u64).sum();
    ensure!(stats["received"].as_u64() == Some(sum), "{stats}");
    // Not the service's own count, in which backends that left are missing.
    let forwarded = reasons["forwarded"].as_u64().unwrap_or(0);
    ensure!(
        forwarded > syns / 2 + requests,
        "the flood did not come through: {syns} SYNs, {stats}"
    );
    Ok(Outcome {
        tracking: tracking.to_owned(),
        connections,
        requests,
        syns,
        broken,
    })
}

/// The configuration, without one of the backends if so wanted.
fn file(net: &Topology, tracking: &str, without: Option<&str>) -> String {
    let vip = Topology::vip(Family::V4, 10);
    let mut text = format!(
        "[node]\ninterfaces = [\"{}\"]\nhash_seed = \"0x5eed\"\n\n[[service]]\nname = \"web\"\nvip = \"{vip}\"\nprotocol = \"tcp\"\n\
         port = 80\nforward = \"ipip\"\ntracking = \"{tracking}\"\n",
        Topology::EDGE_INTERFACE
    );
    if tracking != "never" {
        text += &format!("drain_time = \"{DRAIN_TIME}\"\n");
    }
    for backend in net.backends.iter().filter(|backend| Some(backend.name()) != without) {
        let address = backend.address(Family::V4);
        // Writing to a string cannot fail.
        _ = write!(
            text,
            "\n[[service.backend]]\nname = \"{}\"\naddress = \"{address}\"\n",
            backend.name()
        );
    }
    text
}

/// Connections that never rest.
struct Talk {
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
    workers: Vec<JoinHandle<Vec<String>>>,
}

impl Talk {
    /// Opens them all.
    fn start(client: &Host, target: SocketAddr, connections: usize) -> Result<Self> {
        let sessions = sessions(client, target, connections, PATIENCE)?;
        let mut talk = Self {
            stop: Arc::default(),
            requests: Arc::default(),
            workers: Vec::new(),
        };
        let mut sessions = sessions.into_iter();
        let share = connections.div_ceil(ASKING_THREADS);
        for _ in 0..ASKING_THREADS {
            let mine: Vec<_> = sessions.by_ref().take(share).collect();
            let (stop, requests) = (Arc::clone(&talk.stop), Arc::clone(&talk.requests));
            talk.workers
                .push(client.thread(move || keep_asking(mine, &stop, &requests))?);
        }
        Ok(talk)
    }

    /// Asks each once more at least; returns how many requests were answered, and what became of each broken connection.
    fn stop(self) -> Result<(u64, Vec<String>)> {
        self.stop.store(true, Ordering::Relaxed);
        let mut broken = Vec::new();
        for worker in self.workers {
            broken.extend(worker.join().map_err(|_| anyhow!("a worker panicked, see above"))?);
        }
        Ok((self.requests.load(Ordering::Relaxed), broken))
    }
}

/// Asks each connection once a second or as often as it can be done; returns what broke those that did.
fn keep_asking(mut sessions: Vec<(Session, String)>, stop: &AtomicBool, requests: &AtomicU64) -> Vec<String> {
    let mut broken = Vec::new();
    let start = Instant::now();
    loop {
        let round = Instant::now();
        let last = stop.load(Ordering::Relaxed);
        sessions.retain_mut(|(session, name)| {
            let outcome = match session.ask(0) {
                Ok(answer) if answer == *name => Ok(()),
                Ok(answer) => Err(format!("became {answer}'s")),
                Err(failure) => Err(failure.to_string()),
            };
            requests.fetch_add(1, Ordering::Relaxed);
            if let Err(why) = &outcome {
                broken.push(format!("{name}'s after {:.1} s: {why}", start.elapsed().as_secs_f32()));
            }
            outcome.is_ok()
        });
        if last {
            return broken;
        }
        sleep(Duration::from_secs(1).saturating_sub(round.elapsed()));
    }
}

/// SYNs from addresses that are nobody's.
struct Flood {
    stop: Arc<AtomicBool>,
    worker: JoinHandle<Result<u64>>,
}

impl Flood {
    fn start(client: &Host) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let worker = client.thread(move || send_syns(&until))?;
        Ok(Self { stop, worker })
    }

    /// How many were sent.
    fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.worker
            .join()
            .map_err(|_| anyhow!("the flood panicked, see above"))?
    }
}

fn send_syns(stop: &AtomicBool) -> Result<u64> {
    let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw)?;
    let target = SockaddrIn::new(192, 0, 2, 10, 0);
    let start = Instant::now();
    let mut sent = 0;
    // A minute and a half at most, whatever becomes of the test.
    while !stop.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(90) {
        let due = start.elapsed().as_millis() as u64 * u64::from(SYNS_PER_SECOND) / 1000;
        while sent < due {
            let source = format!("198.18.{}.{}", sent / 250 % 250, sent % 250);
            let packet = Packet::ip(&source, "192.0.2.10")
                .tcp(1024 + (sent % 60_000) as u16, 80)
                .flags(flag::SYN);
            if sendto(raw.as_raw_fd(), &packet.ip_bytes(), &target, MsgFlags::empty()).is_err() {
                break;
            }
            sent += 1;
        }
        sleep(Duration::from_millis(2));
    }
    Ok(sent)
}
