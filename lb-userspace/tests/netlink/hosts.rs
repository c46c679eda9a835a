//! Hosts: threads in a network namespace of their own, and a watcher that runs on one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use lb_userspace::netlink::{Answer, NextHop, Watcher};
use nix::sched::{CloneFlags, unshare};

/// A change must arrive within this time (DESIGN.md, section 4).
const BOUND: Duration = Duration::from_secs(1);

type Work = Box<dyn FnOnce() + Send>;

/// A network namespace: it, and all that is in it, ends when this is dropped or the process ends.
pub(crate) struct Host {
    work: Option<mpsc::Sender<Work>>,
    thread: Option<thread::JoinHandle<()>>,
    id: i32,
}

impl Host {
    pub(crate) fn new() -> Self {
        let (work, receiver) = mpsc::channel::<Work>();
        let (started, id) = mpsc::channel();
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests make network namespaces: run them as root");
            started.send(nix::unistd::gettid().as_raw()).unwrap();
            receiver.into_iter().for_each(|work| work());
        });
        let host = Self {
            work: Some(work),
            thread: Some(thread),
            id: id.recv().expect("root is needed"),
        };
        host.ip("link set lo up");
        // No neighbour is asked for before the link-local address has been found to be unique, and that takes seconds.
        host.sysctl("ipv6/conf/default/accept_dad", "0");
        host
    }

    /// Runs something in the host's namespace.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let work = Box::new(move || drop(done.send(work())));
        self.work.as_ref().unwrap().send(work).unwrap();
        result.recv().expect("the work on the host panicked")
    }

    /// Runs `ip` with these arguments; several commands are separated by semicolons.
    pub(crate) fn ip(&self, commands: &str) {
        for command in commands.split(';').map(str::trim).filter(|command| !command.is_empty()) {
            let command = command.to_owned();
            self.run(move || ip(&command));
        }
    }

    /// Sets a value below /proc/sys/net.
    pub(crate) fn sysctl(&self, path: &str, value: &str) {
        let (path, value) = (format!("/proc/sys/net/{path}"), value.to_owned());
        self.run(move || std::fs::write(path, value).unwrap());
    }

    /// Lays a cable from `device` of this host to `peer_device` of another; both are set up.
    pub(crate) fn cable(&self, device: &str, peer: &Host, peer_device: &str) {
        let id = peer.id;
        self.ip(&format!(
            "link add {device} type veth peer name {peer_device} netns {id}; link set {device} up"
        ));
        peer.ip(&format!("link set {peer_device} up"));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.work.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs `ip` in this thread's namespace.
pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The output of `ip` in this thread's namespace.
pub(crate) fn ip_shows(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a test on the host, in a runtime of its own.
pub(crate) fn on<F>(host: &Host, test: impl FnOnce() -> F + Send + 'static)
where
    F: Future<Output = ()>,
{
    host.run(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test());
    });
}

/// A running watcher and what it said.
pub(crate) struct Watch {
    pub(crate) watcher: Watcher,
    pub(crate) events: tokio::sync::mpsc::Receiver<Vec<(IpAddr, Answer)>>,
    begun: Instant,
}

impl Watch {
    pub(crate) fn start(addresses: &[&str]) -> Self {
        Self::with_gateway_mac(addresses, None)
    }

    pub(crate) fn with_gateway_mac(addresses: &[&str], mac: Option<[u8; 6]>) -> Self {
        let (sender, events) = tokio::sync::mpsc::channel(16);
        let watcher = Watcher::start(sender, mac).unwrap();
        watcher.watch(plainly(addresses.iter().map(|text| address(text))));
        Self {
            watcher,
            events,
            begun: Instant::now(),
        }
    }

    /// Marks the beginning of what is measured next.
    pub(crate) fn begin(&mut self) {
        while self.events.try_recv().is_ok() {}
        self.begun = Instant::now();
    }

    /// Time since then.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// The same in milliseconds.
    pub(crate) fn elapsed_ms(&self) -> f64 {
        self.elapsed().as_secs_f64() * 1e3
    }

    /// Waits until nothing more is said.
    pub(crate) async fn next_quiet(&mut self) {
        while tokio::time::timeout(Duration::from_millis(500), self.events.recv())
            .await
            .is_ok()
        {}
    }

    /// Waits for an answer that is as wanted and prints when it came.
    pub(crate) async fn until(&mut self, what: &str, at: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        self.until_within(BOUND, what, &[at], wanted).await.remove(0)
    }

    /// Waits for such an answer for each of the addresses.
    pub(crate) async fn until_within(
        &mut self,
        bound: Duration,
        what: &str,
        all: &[&str],
        wanted: impl Fn(&Answer) -> bool,
    ) -> Vec<Answer> {
        let deadline = tokio::time::Instant::from_std(self.begun + bound);
        let mut found = vec![None; all.len()];
        let mut seen = Vec::new();
        while found.iter().any(Option::is_none) {
            let Ok(changes) = tokio::time::timeout_at(deadline, self.events.recv()).await else {
                panic!(
                    "{what}: not within {bound:?} for {all:?}; came {seen:?}\n{}",
                    ip_shows("neighbour")
                );
            };
            for (changed, answer) in changes.expect("the watcher ended") {
                let place = all.iter().position(|at| address(at) == changed);
                if let Some(place) = place.filter(|_| wanted(&answer)) {
                    println!("{what}: {changed} after {:.1} ms", self.elapsed_ms());
                    found[place] = Some(answer.clone());
                }
                seen.push((changed, answer));
            }
        }
        found.into_iter().flatten().collect()
    }

    /// Waits for a next hop that is as wanted.
    pub(crate) async fn next_hop(&mut self, what: &str, at: &str, wanted: impl Fn(&NextHop) -> bool) -> NextHop {
        self.until(what, at, |answer| answer.as_ref().is_ok_and(&wanted))
            .await
            .unwrap()
    }

    /// Asserts that nothing is said for a while.
    pub(crate) async fn silence(&mut self, time: Duration) {
        if let Ok(changes) = tokio::time::timeout(time, self.events.recv()).await {
            panic!("unexpected: {changes:?}");
        }
    }
}

/// Addresses for which no source is known beforehand.
pub(crate) fn plainly(addresses: impl IntoIterator<Item = IpAddr>) -> BTreeMap<IpAddr, Option<IpAddr>> {
    addresses.into_iter().map(|address| (address, None)).collect()
}

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn ifindex(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}

/// An edge and a peer with one cable, `eth0` on both sides: 10.1.0.1 and .2, 2001:db8:1::1 and ::2.
pub(crate) fn pair() -> (Host, Host) {
    let (edge, peer) = (Host::new(), Host::new());
    edge.cable("eth0", &peer, "eth0");
    peer.ip("link set eth0 address 02:00:00:00:00:02");
    edge.ip("link set eth0 address 02:00:00:00:00:01");
    for (host, number) in [(&edge, 1), (&peer, 2)] {
        host.ip(&format!(
            "addr add 10.1.0.{number}/24 dev eth0; addr add 2001:db8:1::{number}/64 dev eth0 nodad"
        ));
    }
    (edge, peer)
}

pub(crate) const EDGE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
