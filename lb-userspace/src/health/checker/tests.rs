//! The checker against real servers on loopback.

use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::*;
use crate::health::{State, Transition, Via};
use crate::model::{Check, Health, Http};

/// For what happens sooner or later.
const AMPLE: Duration = Duration::from_secs(20);

fn health(port: u16) -> Health {
    Health {
        check: Check::Tcp,
        port,
        interval: Duration::from_millis(20),
        fast_interval: Duration::from_millis(20),
        timeout: Duration::from_millis(20),
        rise: 2,
        fall: 3,
        jitter: 0.1,
        via: crate::model::Via::Direct,
    }
}

fn target(service: &str, address: [u8; 4], health: Health) -> Target {
    Target {
        id: TargetId::new(service, "b"),
        address: address.into(),
        via: Via::Direct,
        health,
        initial: None,
    }
}

fn start() -> (Checker, Receiver<Vec<HealthEvent>>) {
    let (sender, events) = channel();
    let checker = Checker::start(move |changes| {
        let _ = sender.send(changes);
    });
    (checker.unwrap(), events)
}

fn next_change(events: &Receiver<Vec<HealthEvent>>) -> (Transition, String) {
    let changes = events.recv_timeout(AMPLE).expect("a change");
    let [change] = changes.as_slice() else {
        panic!("one change expected: {changes:?}");
    };
    (change.transition, change.reason.to_string())
}

/// An HTTP server on all of 127.0.0.0/8 that counts its connections and answers with a status that can be changed.
struct Server {
    port: u16,
    accepted: Arc<AtomicUsize>,
    status: Arc<AtomicUsize>,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (accepted, status) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(200)));
        let listener = runtime.block_on(TcpListener::bind("0.0.0.0:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (count, says) = (Arc::clone(&accepted), Arc::clone(&status));
        runtime.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let status = says.load(Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut request = [0; 1024];
                    let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut request).await;
                    let _ = stream
                        .write_all(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").as_bytes())
                        .await;
                });
            }
        });
        Self {
            port,
            accepted,
            status,
            _runtime: runtime,
        }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + AMPLE;
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_backend_falls_and_rises() {
    let server = Server::start();
    let (checker, events) = start();
    let check = Check::Http(Http::get("/"));
    let health = Health {
        check,
        // Not a timing test: a busy machine must not turn a slow answer into a failure.
        interval: Duration::from_millis(500),
        timeout: Duration::from_millis(500),
        ..health(server.port)
    };
    let only = target("s", [127, 0, 0, 1], health);
    checker.set(vec![only.clone()]);
    let (starting, up, down) = (State::Starting, State::Up, State::Down);
    assert_eq!(
        next_change(&events),
        (Transition { from: starting, to: up }, "status 200".into())
    );
    server.status.store(500, Ordering::SeqCst);
    let reason = "status 500 (expected 200 to 399)".to_owned();
    assert_eq!(next_change(&events), (Transition { from: up, to: down }, reason));
    let status = checker.status(&only.id).unwrap();
    assert_eq!((status.state, status.failed), (down, 3));
    server.status.store(302, Ordering::SeqCst);
    assert_eq!(
        next_change(&events),
        (Transition { from: down, to: up }, "status 302".into())
    );
    let status = checker.status(&only.id).unwrap();
    assert_eq!(status.last.map(|last| last.text.to_string()), Some("status 302".into()));
}

/// 200 ms × 3 with a timeout of 100 ms: down before a second has passed.
#[test]
fn a_dead_backend_is_down_within_a_second() {
    let server = Server::start();
    let (checker, events) = start();
    let health = Health {
        interval: Duration::from_millis(200),
        timeout: Duration::from_millis(100),
        ..health(server.port)
    };
    checker.set(vec![target("s", [127, 0, 0, 1], health)]);
    assert_eq!(next_change(&events).0.to, State::Up);
    let died = Instant::now();
    drop(server);
    let (transition, reason) = next_change(&events);
    assert_eq!((transition.to, reason.as_str()), (State::Down, "connection refused"));
    assert!(died.elapsed() < Duration::from_secs(1), "{:?}", died.elapsed());
}

#[test]
fn sharers_cost_one_connection() {
    let server = Server::start();
    let (checker, events) = start();
    let health = Health {
        interval: Duration::from_secs(3_600),
        timeout: AMPLE,
        ..health(server.port)
    };
    let of = |n: u32| target(&format!("s{n}"), [127, 0, 0, 1], health.clone());
    checker.set((0..500).map(of).collect());
    assert_eq!(checker.probes(), 1);
    let changes = events.recv_timeout(AMPLE).unwrap();
    assert_eq!(changes.len(), 500, "told together");
    wait_until("the connection is accepted", || server.accepted() == 1);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(server.accepted(), 1);
}

#[test]
fn a_removed_target_is_left_alone() {
    let (server, other) = (Server::start(), Server::start());
    let (checker, _events) = start();
    let stays = target("stays", [127, 0, 0, 2], health(other.port));
    checker.set(vec![target("goes", [127, 0, 0, 1], health(server.port)), stays.clone()]);
    wait_until("probed", || server.accepted() > 5);
    checker.set(vec![stays]);
    // One that was under way may still arrive.
    std::thread::sleep(Duration::from_millis(50));
    let (gone, staying) = (server.accepted(), other.accepted());
    wait_until("the other is probed on", || other.accepted() > staying + 10);
    assert_eq!(server.accepted(), gone);
    assert_eq!(checker.snapshot().len(), 1);
}

#[test]
fn probes_under_way_are_broken_off() {
    // Accepts through the kernel only, so an http probe waits for its timeout.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (checker, events) = start();
    let health = Health {
        check: Check::Http(Http::get("/")),
        interval: Duration::from_secs(3_600),
        timeout: Duration::from_secs(3_600),
        ..health(listener.local_addr().unwrap().port())
    };
    checker.set(vec![target("s", [127, 0, 0, 1], health.clone())]);
    let (mut stream, _) = listener.accept().unwrap();
    checker.set(Vec::new());
    stream.set_read_timeout(Some(AMPLE)).unwrap();
    let mut request = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut request).expect("it closes");
    assert_eq!(
        events.recv_timeout(Duration::from_millis(50)).unwrap_err(),
        RecvTimeoutError::Timeout
    );

    // So does the end of the checker.
    checker.set(vec![target("s", [127, 0, 0, 1], health)]);
    let (mut stream, _) = listener.accept().unwrap();
    drop(checker);
    stream.set_read_timeout(Some(AMPLE)).unwrap();
    std::io::Read::read_to_end(&mut stream, &mut request).expect("it closes");
    assert_eq!(events.recv_timeout(AMPLE).unwrap_err(), RecvTimeoutError::Disconnected);
}

/// Targets that are all due. Nothing in it depends on how fast the machine is: none comes twice, and none runs out of time.
fn all_due(targets: usize, server: &Server) -> Arc<Shared> {
    let shared = Arc::new(Shared {
        roster: Mutex::new(Roster::new(fastrand::Rng::with_seed(1))),
        changed: Notify::new(),
        stop: AtomicBool::new(false),
    });
    let month = Duration::from_secs(30 * 24 * 3_600);
    let health = Health {
        interval: month,
        fast_interval: month,
        timeout: month,
        ..health(server.port)
    };
    let of = |n: usize| {
        let address = [127, 1, (n / 250) as u8, (n % 250) as u8 + 1];
        target(&format!("s{n}"), address, health.clone())
    };
    // They are spread over less.
    let begun = Instant::now() - Duration::from_secs(1);
    shared.roster().set((0..targets).map(of).collect(), begun);
    shared
}

#[test]
fn many_targets_few_in_flight() {
    few_in_flight(1);
}

#[test]
fn many_targets_few_in_flight_on_three_threads() {
    few_in_flight(3);
}

/// Two thousand targets, eight probes at a time: never more, and never one too few while some are due.
fn few_in_flight(threads: usize) {
    const TARGETS: usize = 2_000;
    let server = Server::start();
    let shared = all_due(TARGETS, &server);
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let lanes = Lanes::of(runtime.handle().clone(), threads);
    let mut engine = Engine::new(Arc::clone(&shared), lanes, |_| ());
    engine.most_in_flight = 8;
    let waited = runtime.block_on(async {
        let all = async {
            let mut ended = 0;
            while ended < TARGETS {
                engine.start_due();
                assert_eq!(engine.tasks.len(), (TARGETS - ended).min(8), "{ended} have ended");
                let running = engine.tasks.len();
                let result = engine.tasks.join_next().await.expect("some run");
                engine.take_in(result);
                assert_eq!(engine.running.len(), engine.tasks.len(), "what has ended is forgotten");
                ended += running - engine.tasks.len();
            }
        };
        tokio::time::timeout(6 * AMPLE, all).await
    });
    let all = shared.roster().snapshot();
    let not_up = all.iter().find(|status| status.state != State::Up);
    assert!(waited.is_ok() && not_up.is_none(), "{waited:?}: {not_up:?}");
    assert!(all.iter().all(|status| status.passed == 1));
}

#[test]
fn own_faults_are_logged_once_a_minute() {
    let start = Instant::now();
    let mut complaints = Complaints::default();
    let add = |seconds| complaints.add(start + Duration::from_secs(seconds));
    let logged = [0, 1, 59, 61, 62, 130].map(add);
    assert_eq!(logged, [Some(1), None, None, Some(3), None, Some(2)]);
}

/// All due at once: what is under way is not kept waiting by what begins.
#[test]
fn what_is_due_begins_by_turns() {
    const TARGETS: usize = 500;
    let server = Server::start();
    let shared = all_due(TARGETS, &server);
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let mut engine = Engine::new(Arc::clone(&shared), Lanes::of(runtime.handle().clone(), 1), |_| ());
    runtime.block_on(async {
        let next = engine.start_due();
        assert_eq!((next, engine.tasks.len()), (Next::More, TURN));
        engine.turn = LEAST_TURN;
        let next = engine.start_due();
        assert_eq!((next, engine.tasks.len()), (Next::More, TURN + LEAST_TURN));
        engine.turn = TARGETS;
        assert!(matches!(engine.start_due(), Next::At(_)));
        assert_eq!(engine.tasks.len(), TARGETS);
    });
}

#[test]
fn a_long_turn_makes_the_next_one_shorter() {
    let ms = Duration::from_millis;
    let turns = [1, 15, 21, 100, 100, 100, 100, 100, 15, 9, 1, 1, 1, 1, 1];
    let sizes = turns.into_iter().scan(TURN, |turn, took| {
        *turn = next_turn(*turn, ms(took));
        Some(*turn)
    });
    let sizes: Vec<usize> = sizes.collect();
    assert_eq!(sizes, [128, 128, 64, 32, 16, 8, 8, 8, 8, 16, 32, 64, 128, 128, 128]);
}
