//! Clients of the API that hold connections, send much, do not read, or do so slowly: what they take of the daemon's memory, and that an honest
//! one is answered meanwhile.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_tests::edge::Edge;
use lb_tests::net::{Arms, wait_until};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{File, HEAVY, Site, Svc};

const MIB: usize = 1 << 20;
/// Connections, and bytes of bodies and of answers, that docs/api.md promises as bounds.
const CONNECTIONS: usize = 128;
const BODIES: usize = 64 * MIB;
const ANSWERS: usize = 64 * MIB;
/// Files, sockets and maps that the daemon has open besides, at most.
const OTHER_SOCKETS: usize = 32;
/// What the daemon may use besides: the answers in the making, and what the allocator keeps.
const BESIDE: usize = 160 * MIB;

const HALF_OPEN: usize = 1_000;
const SENDERS: usize = 40;
const BODY: usize = 30 * MIB;
const SILENT: usize = 300;
/// In the journal: all together an answer of some 10 MB.
const EVENTS: usize = 40_000;
/// How long an honest client waits at most, on a machine that does other things too. What it did wait is printed.
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn clients_that_hold_connections_send_much_or_read_nothing_are_bounded_and_others_are_answered() -> Result<()> {
    let _turn = HEAVY.take();
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most.min(8_192), most)?;
    let site = Site::new(Arms::One, 1)?;
    let edge = with_many_events(&site)?;
    half_open(&edge)?;
    many_bodies(&edge, "#")?;
    // Each line is an error.
    many_bodies(&edge, "x\n")?;
    silent_readers(&edge)?;
    slow_senders(&edge)?;
    slow_readers(&edge)
}

/// A daemon whose journal has [`EVENTS`] events.
fn with_many_events(site: &Site) -> Result<Edge<'_>> {
    let mut edge = site.edge(&File::new([Svc::new("web", 10, 1)]))?;
    let folder = format!("/proc/{}/root/run/lbd", edge.pid()?);
    let mut journal = None;
    wait_until("the journal", PATIENCE, || {
        let folders = std::fs::read_dir(&folder)?.filter_map(|entry| Some(entry.ok()?.path()));
        journal = folders.map(|path| path.join("events.jsonl")).find(|path| path.exists());
        Ok(journal.is_some())
    })?;
    let mut text = String::new();
    for id in 1..=EVENTS {
        text += &format!(
            "{{\"id\":{id},\"at_unix_ms\":1772366400000,\"kind\":\"backend_down\",\"severity\":\"warning\",\"service\":\"service-{id}\",\
             \"backend\":\"backend-1\",\"from\":\"up\",\"to\":\"down\",\"why\":\"connection refused\",\"by\":\"check\"}}\n"
        );
    }
    std::fs::write(journal.context("no journal")?, text)?;
    edge.kill()?;
    edge.start_again()?;
    Ok(edge)
}

fn half_open(edge: &Edge) -> Result<()> {
    let mut held = Vec::new();
    for _ in 0..HALF_OPEN {
        let mut stream = connect(edge)?;
        // The daemon may have closed it already: that is what this is about.
        _ = stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: ");
        held.push(stream);
    }
    let taken = open_sockets(edge)?;
    let took = honest(edge)?;
    println!("{HALF_OPEN} half-open requests: {taken} sockets open, lbctl status answered after {took:?}");
    ensure!(taken <= CONNECTIONS + OTHER_SOCKETS, "{taken} are held");
    let begun = Instant::now();
    for mut stream in held {
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        // Closed with what it has sent unread, it is reset.
        match stream.read_to_end(&mut Vec::new()) {
            Ok(_) => {}
            Err(error) => ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}"),
        }
    }
    println!("all of them ended after {:?}", begun.elapsed());
    Ok(())
}

fn many_bodies(edge: &Edge, part: &str) -> Result<()> {
    let peak = Peak::start(edge)?;
    let body = Arc::new(part.repeat(BODY / part.len()));
    let senders: Vec<_> = (0..SENDERS)
        .map(|_| {
            let (api, body) = (edge.api()?, Arc::clone(&body));
            Ok(thread::spawn(move || api.post("/v1/plan", &body)))
        })
        .collect::<Result<_>>()?;
    let took = honest(edge)?;
    let mut statuses = Vec::new();
    for sender in senders {
        let (status, answer) = sender.join().expect("no panic")?;
        ensure!([422, 503].contains(&status), "status {status}: {answer}");
        statuses.push(status);
    }
    let read = statuses.iter().filter(|status| **status == 422).count();
    let grown = peak.end()?;
    println!(
        "{SENDERS} bodies of {} MiB, {part:?} each: {read} read in turn, memory grew by {} MiB, lbctl status answered after {took:?}",
        BODY / MIB,
        grown / MIB
    );
    ensure!(read > 0, "{statuses:?}");
    ensure!(grown < BODIES + BESIDE, "memory grew by {grown} bytes");
    Ok(())
}

fn silent_readers(edge: &Edge) -> Result<()> {
    let kept = edge.api()?.get("/v1/events")?.as_array().map_or(0, Vec::len);
    ensure!(kept >= EVENTS, "{kept} events are in the journal");
    let peak = Peak::start(edge)?;
    let mut held = Vec::new();
    for _ in 0..SILENT {
        held.push(ask_for_events(edge)?);
    }
    let took = honest(edge)?;
    sleep(Duration::from_secs(3));
    let later = honest(edge)?;
    let grown = peak.end()?;
    println!(
        "{SILENT} clients that read nothing of {EVENTS} events: memory grew by {} MiB, lbctl status answered after {took:?} and {later:?}",
        grown / MIB
    );
    ensure!(grown < ANSWERS + BESIDE, "memory grew by {grown} bytes");
    Ok(())
}

/// Two that take all the room of bodies and go on sending, a little at a time.
fn slow_senders(edge: &Edge) -> Result<()> {
    let slow = Slow::start(
        2,
        |_| {
            let mut stream = connect(edge)?;
            let length = 32 * MIB;
            write!(
                stream,
                "POST /v1/plan HTTP/1.1\r\nhost: l\r\ncontent-length: {length}\r\n\r\n"
            )?;
            Ok(stream)
        },
        |stream| stream.write_all(&[b'#'; 1 << 10]).is_ok(),
    )?;
    sleep(Duration::from_secs(1));
    let begun = Instant::now();
    let (status, answer) = edge.api()?.post("/v1/plan", &"#".repeat(MIB))?;
    println!(
        "a body of 1 MiB beside slow ones that take all the room: answered after {:?}",
        begun.elapsed()
    );
    ensure!(status == 422, "status {status}: {answer}");
    slow.end();
    Ok(())
}

/// As many as there is room for, which read, but slowly.
fn slow_readers(edge: &Edge) -> Result<()> {
    let slow = Slow::start(
        8,
        |_| ask_for_events(edge),
        |stream| stream.read(&mut [0; 16 << 10]).is_ok_and(|length| length > 0),
    )?;
    sleep(Duration::from_secs(1));
    let begun = Instant::now();
    let events = edge.api()?.get("/v1/events")?;
    println!(
        "all events beside slow readers that take all the room: after {:?}",
        begun.elapsed()
    );
    ensure!(events.as_array().map_or(0, Vec::len) >= EVENTS);
    slow.end();
    Ok(())
}

fn ask_for_events(edge: &Edge) -> Result<UnixStream> {
    let mut stream = connect(edge)?;
    // It may have to make room at once: that is not the matter here.
    _ = stream.write_all(b"GET /v1/events HTTP/1.1\r\nhost: l\r\n\r\n");
    Ok(stream)
}

fn connect(edge: &Edge) -> Result<UnixStream> {
    let socket = format!("/proc/{}/root/run/lbd/lbd.sock", edge.pid()?);
    UnixStream::connect(&socket).context(socket)
}

/// How long `lbctl status` takes.
fn honest(edge: &Edge) -> Result<Duration> {
    let begun = Instant::now();
    edge.lbctl(&["status"])?;
    let took = begun.elapsed();
    ensure!(took < PATIENCE, "lbctl status took {took:?}");
    Ok(took)
}

fn open_sockets(edge: &Edge) -> Result<usize> {
    let open = std::fs::read_dir(format!("/proc/{}/fd", edge.pid()?))?;
    let targets = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    Ok(targets
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count())
}

/// Clients that do a little every 100 ms.
struct Slow {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Slow {
    fn start(
        count: usize,
        connect: impl Fn(usize) -> Result<UnixStream>,
        a_little: fn(&mut UnixStream) -> bool,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let one = |number| {
            let (mut stream, stop) = (connect(number)?, Arc::clone(&stop));
            Ok(thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) && a_little(&mut stream) {
                    sleep(Duration::from_millis(100));
                }
            }))
        };
        let threads = (0..count).map(one).collect::<Result<_>>()?;
        Ok(Self { stop, threads })
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no panic");
        }
    }
}

/// By how much the daemon's resident memory grows while this lives.
struct Peak {
    before: usize,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<usize>>,
}

impl Peak {
    fn start(edge: &Edge) -> Result<Self> {
        let pid = edge.pid()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let before = resident(pid)?;
        let thread = thread::spawn(move || {
            let mut peak = 0;
            while !stopped.load(Ordering::Relaxed) {
                peak = peak.max(resident(pid)?);
                sleep(Duration::from_millis(5));
            }
            Ok(peak)
        });
        Ok(Self { before, stop, thread })
    }

    fn end(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        let peak = self.thread.join().expect("no panic")?;
        Ok(peak.saturating_sub(self.before))
    }
}

fn resident(pid: u32) -> Result<usize> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line
        .and_then(|line| line.split_whitespace().nth(1))
        .context("no VmRSS")?;
    Ok(kib.parse::<usize>()? << 10)
}
