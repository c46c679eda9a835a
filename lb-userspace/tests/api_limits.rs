//! What clients of the API can do to the daemon that answers them: hold connections, send much, and not read. Memory is this process's own, so that
//! there is one test here, and nothing beside it.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_userspace::api::call::Call;
use lb_userspace::api::client::Client;
use lb_userspace::api::connections::MOST;
use lb_userspace::api::error::{ApiError, ErrorKind};
use lb_userspace::api::events::{Cause, EventKind, EventQuery};
use lb_userspace::api::room::{ANSWERS, BODIES};
use lb_userspace::api::server::{Timeouts, serve};
use lb_userspace::api::socket::bind;
use lb_userspace::journal::{Journal, Note};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::mpsc;

const MIB: usize = 1 << 20;
const TIMEOUTS: Timeouts = Timeouts {
    read: Duration::from_secs(5),
    change: Duration::from_secs(20),
    request: Duration::from_secs(30),
    head: Duration::from_secs(2),
    stall: Duration::from_secs(2),
    room: Duration::from_secs(20),
};

/// Half-open requests; more than all places.
const HALF_OPEN: usize = 1_000;
const BODY: usize = 30 * MIB;
const SENDERS: usize = 40;
const SILENT: usize = 300;
/// Events that each of them asks for: some 10 MB.
const EVENTS: usize = 40_000;

#[test]
fn clients_that_hold_connections_send_much_or_do_not_read_take_bounded_time_and_memory() {
    // Both ends of every connection are here.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most.min(8_192), most).expect("room for descriptors");
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("lbd.sock");
    let path = socket.clone();
    let state = directory.path().to_owned();
    std::thread::spawn(move || daemon(&path, &state));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let client = Client::new(&socket);
    let events = || {
        let begun = Instant::now();
        let query = EventQuery {
            limit: Some(1),
            ..EventQuery::default()
        };
        let answer = runtime.block_on(client.events(&query));
        answer.map(|_| begun.elapsed())
    };
    let patience = Instant::now();
    while let Err(error) = events() {
        assert!(patience.elapsed() < Duration::from_secs(30), "{error}");
        std::thread::sleep(Duration::from_millis(20));
    }
    half_open(&socket, &events);
    bodies(&socket);
    silent(&socket, &events);
}

fn half_open(socket: &Path, ask: &impl Fn() -> Result<Duration, lb_userspace::api::client::ClientError>) {
    let before = open_sockets();
    let mut held = Vec::new();
    for _ in 0..HALF_OPEN {
        let mut stream = UnixStream::connect(socket).expect("it listens");
        let _ = stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: ");
        held.push(stream);
    }
    let took = ask().expect("an answer meanwhile");
    let taken = open_sockets() - before - HALF_OPEN;
    println!("{HALF_OPEN} half-open requests: {taken} held, another one answered after {took:?}");
    assert!(taken <= MOST + 8, "{taken} are held");
    assert!(took < Duration::from_secs(1), "{took:?}");
    let begun = Instant::now();
    for mut stream in held {
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a timeout");
        let mut answer = Vec::new();
        // Closed with what it has sent unread, it is reset.
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
    println!("all of them closed after {:?}", begun.elapsed());
}

fn bodies(socket: &Path) {
    let before = resident();
    let body: Arc<Vec<u8>> = Arc::new(vec![b'#'; BODY]);
    let with_one = resident();
    let watch = Peak::start();
    let send = |_| {
        let (socket, body) = (socket.to_owned(), Arc::clone(&body));
        std::thread::spawn(move || {
            let mut stream = UnixStream::connect(socket).expect("it listens");
            let head =
                format!("POST /v1/apply HTTP/1.1\r\nhost: l\r\nconnection: close\r\ncontent-length: {BODY}\r\n\r\n");
            stream.write_all(head.as_bytes()).expect("it reads");
            stream.write_all(&body).expect("it reads");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("it answers");
            answer
        })
    };
    let senders: Vec<_> = (0..SENDERS).map(send).collect();
    let answers: Vec<String> = senders
        .into_iter()
        .map(|sender| sender.join().expect("no panic"))
        .collect();
    let grown = watch.end().saturating_sub(with_one);
    let done = answers.iter().filter(|answer| answer.contains("seen")).count();
    println!(
        "{SENDERS} bodies of {} MiB: {done} taken in turn, memory grew by {} MiB",
        BODY / MIB,
        grown / MIB
    );
    let full = |answer: &String| answer.starts_with("HTTP/1.1 503 ") && answer.contains("request bodies take all");
    assert!(
        answers.iter().all(|answer| answer.contains("seen") || full(answer)),
        "{answers:?}"
    );
    assert!(done > 0);
    assert!(grown < BODIES + 64 * MIB, "{before} {with_one} {grown}");
}

fn silent(socket: &Path, ask: &impl Fn() -> Result<Duration, lb_userspace::api::client::ClientError>) {
    let before = resident();
    let watch = Peak::start();
    let mut held = Vec::new();
    for _ in 0..SILENT {
        let mut stream = UnixStream::connect(socket).expect("it listens");
        let _ = stream.write_all(b"GET /v1/events HTTP/1.1\r\nhost: l\r\n\r\n");
        held.push(stream);
    }
    std::thread::sleep(Duration::from_secs(3));
    let took = ask().expect("an answer meanwhile");
    std::thread::sleep(Duration::from_secs(1));
    let grown = watch.end().saturating_sub(before);
    println!(
        "{SILENT} clients that do not read {EVENTS} events: memory grew by {} MiB, another one answered after {took:?}",
        grown / MIB
    );
    assert!(grown < ANSWERS + 128 * MIB, "{grown}");
}

/// Serves the API, with a journal and a configuration that is never right.
fn daemon(socket: &Path, state: &Path) {
    let mut journal = Journal::open(state);
    for number in 0..EVENTS {
        let note = Note::new(EventKind::BackendDown, Cause::Check).backend(&format!("service-{number}"), "backend-1");
        journal.add(
            note.change("up", "down").because("connection refused"),
            1_772_366_400_000,
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let bound = bind(socket).expect("a free path");
        let (sender, mut calls) = mpsc::channel(64);
        tokio::spawn(serve(bound, sender, TIMEOUTS, std::future::pending()));
        while let Some(call) = calls.recv().await {
            match call {
                Call::Events { query, answer } => answer.send(Ok(journal.select(&query))),
                Call::Apply { toml, answer, .. } => {
                    // As long as a configuration takes to be read.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    let message = format!("{} bytes seen", toml.len());
                    drop(toml);
                    answer.send(Err(ApiError::new(ErrorKind::Refused, message)));
                }
                _ => {}
            }
        }
    });
}

/// The most memory that is resident while it runs.
struct Peak {
    stop: std::sync::mpsc::Sender<()>,
    thread: std::thread::JoinHandle<usize>,
}

impl Peak {
    fn start() -> Self {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let mut peak = 0;
            loop {
                peak = peak.max(resident());
                match stopped.recv_timeout(Duration::from_millis(5)) {
                    Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                    _ => return peak,
                }
            }
        });
        Self { stop, thread }
    }

    fn end(self) -> usize {
        drop(self.stop);
        self.thread.join().expect("no panic")
    }
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("it is there");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("it is there");
    let kib: usize = line
        .split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse().ok())
        .expect("a number");
    kib << 10
}

fn open_sockets() -> usize {
    let open = std::fs::read_dir("/proc/self/fd").expect("it is there");
    open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}
