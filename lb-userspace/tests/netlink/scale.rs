//! Thousands of backends, and more changes than fit into a socket's buffer.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::hosts::{Watch, address, ifindex, ip, on, pair, plainly};

const BACKENDS: u32 = 2_000;

#[test]
fn thousands_behind_one_gateway() {
    let (edge, peer) = pair();
    edge.cable("eth1", &peer, "eth1");
    edge.ip("addr add 10.2.0.1/24 dev eth1");
    peer.ip("addr add 10.2.0.2/24 dev eth1");
    on(&edge, || async {
        ip("route add 172.16.0.0/16 via 10.1.0.2");
        let (eth0, eth1) = (ifindex("eth0"), ifindex("eth1"));
        let mut watch = Watch::start(&[]);
        let begun = Instant::now();
        watch.watcher.watch(plainly(backends()));
        let answers = watch.watcher.resolve_all(Duration::from_secs(5)).await.unwrap();
        println!(
            "{BACKENDS} behind a gateway: all known after {:.1} ms",
            begun.elapsed().as_secs_f64() * 1e3
        );
        assert_eq!(answers.len(), BACKENDS as usize);
        assert!(
            answers
                .values()
                .all(|answer| answer.as_ref().is_ok_and(|next_hop| next_hop.ifindex == eth0))
        );

        watch.begin();
        ip("route replace 172.16.0.0/16 via 10.2.0.2");
        let took = moved(&mut watch, eth1).await;
        println!(
            "{BACKENDS} moved to another device: all known after {:.1} ms",
            took.as_secs_f64() * 1e3
        );
        assert!(took < Duration::from_secs(1));
    });
}

#[test]
fn thousands_on_the_link() {
    let (edge, _peer) = pair();
    on(&edge, || async {
        ip("addr add 172.16.255.254/16 dev eth0");
        // Permanent: the limit on entries that age is the whole machine's, and not for a test to use up.
        batch(backends().map(|at| format!("neighbour add {at} lladdr 02:00:00:00:00:02 dev eth0 nud permanent")));
        let watch = Watch::start(&[]);
        let begun = Instant::now();
        watch.watcher.watch(plainly(backends()));
        let answers = watch.watcher.resolve_all(Duration::from_secs(5)).await.unwrap();
        println!(
            "{BACKENDS} on the link: all known after {:.1} ms",
            begun.elapsed().as_secs_f64() * 1e3
        );
        assert!(answers.values().all(|answer| answer.is_ok()));
    });
}

#[test]
fn changes_in_one_burst() {
    let (edge, peer) = pair();
    edge.cable("eth1", &peer, "eth1");
    edge.ip("addr add 10.2.0.1/24 dev eth1");
    peer.ip("addr add 10.2.0.2/24 dev eth1");
    on(&edge, || async {
        ip("route add 192.0.2.0/24 via 10.1.0.2");
        let eth1 = ifindex("eth1");
        let mut watch = Watch::start(&["192.0.2.1"]);
        watch.next_hop("first", "192.0.2.1", |_| true).await;
        watch.begin();
        // This thread runs the watcher too: it reads nothing meanwhile, and the buffer overflows before the change that
        // matters.
        batch((0..20_000u32).map(|n| format!("route add 100.{}.{}.{}/32 dev lo", n >> 16, (n >> 8) & 255, n & 255)));
        ip("route replace 192.0.2.0/24 via 10.2.0.2");
        watch.begin();
        watch
            .next_hop("a change whose announcement was lost", "192.0.2.1", |next_hop| {
                next_hop.ifindex == eth1
            })
            .await;
    });
}

#[test]
fn routes_that_never_stand_still() {
    let (edge, peer) = pair();
    edge.cable("eth1", &peer, "eth1");
    edge.ip("addr add 10.2.0.1/24 dev eth1");
    peer.ip("addr add 10.2.0.2/24 dev eth1");
    on(&edge, || async {
        ip("route add 172.16.0.0/16 via 10.1.0.2");
        let eth1 = ifindex("eth1");
        let mut watch = Watch::start(&[]);
        watch.watcher.watch(plainly(backends()));
        watch.watcher.resolve_all(Duration::from_secs(5)).await.unwrap();
        // Routes above all the backends, changing all the time.
        let noise = (0..30_000).map(|n| format!("route {} 172.0.0.0/8 dev lo", if n % 2 == 0 { "add" } else { "del" }));
        let mut child = start_batch(noise);
        tokio::time::sleep(Duration::from_millis(100)).await;
        watch.begin();
        ip("route replace 172.16.0.0/16 via 10.2.0.2");
        let took = moved(&mut watch, eth1).await;
        let still = child.try_wait().unwrap().is_none();
        println!(
            "{BACKENDS} moved amid endless changes: {:.1} ms (still changing: {still})",
            took.as_secs_f64() * 1e3
        );
        assert!(took < Duration::from_secs(1));
        child.wait().unwrap();
        watch.next_quiet().await;
        assert_eq!(
            watch.watcher.resolve_all(Duration::from_secs(1)).await.unwrap()[&address("172.16.0.7")]
                .clone()
                .unwrap()
                .ifindex,
            eth1
        );
    });
}

/// Next-hop objects and addresses that come and go all the time, as a router's daemon makes them: all routes may be others each time.
#[test]
fn objects_and_addresses_that_never_stand_still() {
    let (edge, peer) = pair();
    edge.cable("eth1", &peer, "eth1");
    edge.ip("addr add 10.2.0.1/24 dev eth1");
    peer.ip("addr add 10.2.0.2/24 dev eth1");
    on(&edge, || async {
        ip("route add 172.16.0.0/16 via 10.1.0.2");
        let eth1 = ifindex("eth1");
        let mut watch = Watch::start(&[]);
        watch.watcher.watch(plainly(backends()));
        watch.watcher.resolve_all(Duration::from_secs(5)).await.unwrap();
        let noise = (0..20_000).map(|n| match n % 4 {
            0 => "nexthop add id 9 via 10.1.0.2 dev eth0",
            1 => "addr add 10.7.0.1/32 dev lo",
            2 => "nexthop del id 9",
            _ => "addr del 10.7.0.1/32 dev lo",
        });
        let mut child = start_batch(noise.map(str::to_owned));
        tokio::time::sleep(Duration::from_millis(100)).await;
        let (begun, before) = (Instant::now(), cpu_time());
        watch.begin();
        ip("route replace 172.16.0.0/16 via 10.2.0.2");
        let took = moved(&mut watch, eth1).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (all, used) = (begun.elapsed(), cpu_time() - before);
        let still = child.try_wait().unwrap().is_none();
        println!(
            "{BACKENDS} moved amid changes of next-hop objects and addresses: {:.1} ms (still changing: {still}); {used:?} of CPU in {all:?}",
            took.as_secs_f64() * 1e3
        );
        assert!(took < Duration::from_secs(2));
        child.wait().unwrap();
    });
}

/// What this thread has used.
fn cpu_time() -> Duration {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    Duration::from(time)
}

fn backends() -> impl Iterator<Item = IpAddr> {
    let first = Ipv4Addr::new(172, 16, 0, 1).to_bits();
    (first..first + BACKENDS).map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)))
}

/// Waits until every backend is behind the interface.
async fn moved(watch: &mut Watch, to: u32) -> Duration {
    let mut rest: BTreeSet<IpAddr> = backends().collect();
    while !rest.is_empty() {
        let changes = tokio::time::timeout(Duration::from_secs(5), watch.events.recv()).await;
        for (at, answer) in changes
            .unwrap_or_else(|_| panic!("{} did not move", rest.len()))
            .unwrap()
        {
            if answer.is_ok_and(|next_hop| next_hop.ifindex == to) {
                rest.remove(&at);
            }
        }
    }
    watch.elapsed()
}

fn batch(commands: impl Iterator<Item = String>) {
    assert!(start_batch(commands).wait().unwrap().success());
}

/// Runs many `ip` commands in one process.
fn start_batch(commands: impl Iterator<Item = String>) -> std::process::Child {
    let mut file = tempfile::tempfile().unwrap();
    let lines = commands.collect::<Vec<_>>().join("\n");
    file.write_all(lines.as_bytes()).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::from(file))
        .spawn()
        .unwrap()
}
