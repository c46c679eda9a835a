//! What health checks cost: processor time of the checker for a number of probes a second, on loopback.
//!
//! `cargo run --release -p lb-userspace --example health_cost -- [http|tcp|bare] [targets] [interval ms] [seconds] [dead|vip|vip-awake|vip-shared]`. The
//! servers are another process. Each target is an address of its own in 127.0.0.0/8, so that nothing is shared. With `dead`, nothing
//! answers. With `vip`, probes take the users' path instead, to nginx on a host in namespaces, which takes root: of all targets the VIP is the
//! same. With `vip-awake`, processors do not halt meanwhile, as on hosts set up for low latency. That leaves out what every packet
//! costs in a virtual machine when it has to wake a halted processor, and no packet does on a real wire. With `vip-shared`, the checker may use
//! both processors, although the server is on the second one: for more probes than one thread can make.
//!
//! `bare` asks the same of the same servers by system calls and nothing else, with no time limits and no parsing of answers: what it
//! costs is the kernel's share, and the floor that `http` is to be held against.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use lb_common::encap;
use lb_common::map::Rewrite;
use lb_tests::net::{Arms, Family, Scratch, Topology};
use lb_tests::serve::Nginx;
use lb_userspace::health::{Checker, State, Target, TargetId, Via, VipPath, raise_file_limit};
use lb_userspace::model::{Check, Health, Http};
use lb_userspace::object;
use lb_userspace::path::UsersPath;
use lb_userspace::path::program::Hook;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// What `http` sends, but for the server's name.
const REQUEST: &[u8] =
    b"GET /healthz HTTP/1.1\r\nhost: 192.0.2.10\r\nuser-agent: edgelb\r\naccept: */*\r\nconnection: close\r\n\r\n";

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |n: usize, default: &str| args.get(n).map_or(default, String::as_str).to_owned();
    raise_file_limit()?;
    if arg(0, "http") == "serve" {
        return serve();
    }
    let (kind, targets, interval) = (arg(0, "http"), arg(1, "1000").parse()?, arg(2, "1000").parse()?);
    let (interval, seconds) = (Duration::from_millis(interval), arg(3, "10").parse()?);
    match arg(4, "").as_str() {
        "vip" => by_vip(&kind, targets, interval, seconds, false),
        "vip-awake" => {
            let _awake = stay_awake()?;
            by_vip(&kind, targets, interval, seconds, false)
        }
        "vip-shared" => by_vip(&kind, targets, interval, seconds, true),
        mode => by_loopback(&kind, targets, interval, seconds, mode == "dead"),
    }
}

/// By l2 to one backend, under as many numbers as there are targets.
fn by_vip(kind: &str, targets: u32, interval: Duration, seconds: u64, shared: bool) -> anyhow::Result<()> {
    let scratch = Scratch::new()?;
    let mut net = Topology::new(Arms::Two, 1)?;
    // Here nothing is redirected to the switch; what its program would cost falls to whoever sends.
    net.fabric.detach();
    let backend = &net.backends[0];
    let vip = Topology::vip(Family::V4, 10);
    backend.host.ip(&format!("addr add {vip}/32 dev lo"))?;
    let server = Nginx::start(&backend.host, &scratch)?;
    let macs = (backend.host.mac("eth0")?, net.edge.mac("eth1")?);
    apart(&net, &server, shared)?;
    net.edge.enter(|| -> anyhow::Result<()> {
        let ifindex = nix::net::if_::if_nametoindex("eth1")?;
        let mut path = UsersPath::set_up(object::PROBE, Hook::of_kernel())?;
        let rewrite = Rewrite {
            ifindex,
            ..encap::l2(macs.0, macs.1)
        };
        let source: std::net::IpAddr = "10.0.0.5".parse()?;
        path.add_sources([source])?;
        path.set_targets((1..=targets).map(|number| (number, rewrite)).collect())?;
        path.expect_answers(&[ifindex].into())?;
        let namespace = path.namespace();
        measure(kind, targets, interval, seconds, 80, |number| {
            let path = VipPath {
                tunnel: false,
                vip,
                source,
                number: number + 1,
                namespace: namespace.clone(),
            };
            (backend.v4.into(), Via::Vip(path))
        })
    })?
}

/// As on two machines: switch and server work on the second processor, this process and what the edge receives on the first. `shared`: this
/// process works on both.
fn apart(net: &Topology, server: &Nginx, shared: bool) -> anyhow::Result<()> {
    let server = server.pid().context("nginx has ended")?.try_into()?;
    let mine: &[usize] = if shared { &[0, 1] } else { &[0] };
    for (process, processors) in [(0, mine), (server, &[1])] {
        let mut only = CpuSet::new();
        for processor in processors {
            only.set(*processor)?;
        }
        sched_setaffinity(Pid::from_raw(process), &only)?;
    }
    for (host, device, processors) in [(&net.fabric, "edge-back", 2), (&net.edge, "eth1", 1)] {
        let file = format!("/sys/class/net/{device}/queues/rx-0/rps_cpus");
        host.run("sh", &["-c", &format!("echo {processors} > {file}")])?;
    }
    Ok(())
}

/// Keeps the processors from halting while it is open (Documentation/power/pm_qos_interface.rst), as tuned's profiles for low latency do.
fn stay_awake() -> anyhow::Result<File> {
    let mut file = File::options().write(true).open("/dev/cpu_dma_latency")?;
    file.write_all(&0_i32.to_ne_bytes())?;
    Ok(file)
}

/// How long the first processor has worked since the system's start, for whomever.
fn first_processor() -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().find(|line| line.starts_with("cpu0 ")).context("no cpu0")?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    // All but idle, waiting for disks, and what other machines took: in hundredths of a second.
    let worked = [0, 1, 2, 5, 6]
        .iter()
        .filter_map(|column| ticks.get(*column))
        .sum::<u64>();
    Ok(Duration::from_millis(worked * 10))
}

fn say_of_first_processor(worked: Duration, of: Duration) {
    println!(
        "the first processor worked {:.1} % of the time, for all that ran on it",
        worked.as_secs_f64() / of.as_secs_f64() * 100.0
    );
}

fn by_loopback(kind: &str, targets: u32, interval: Duration, seconds: u64, dead: bool) -> anyhow::Result<()> {
    let mut server = Command::new(std::env::current_exe()?)
        .arg("serve")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut port = String::new();
    BufReader::new(server.stdout.take().context("no output")?).read_line(&mut port)?;
    let port = if dead { 9 } else { port.trim().parse()? };
    measure(kind, targets, interval, seconds, port, |number| {
        (Ipv4Addr::from(0x7f01_0001 + number).into(), Via::Direct)
    })?;
    // The server ends with its input.
    drop(server.stdin.take());
    server.wait()?;
    Ok(())
}

fn measure(
    kind: &str,
    targets: u32,
    interval: Duration,
    seconds: u64,
    port: u16,
    way: impl Fn(u32) -> (std::net::IpAddr, Via),
) -> anyhow::Result<()> {
    let check = match kind {
        "tcp" => Check::Tcp,
        _ => Check::Http(Http::get("/healthz")),
    };
    let health = Health {
        check,
        port,
        interval,
        fast_interval: interval,
        timeout: interval / 2,
        rise: 2,
        fall: 3,
        jitter: 0.1,
        via: lb_userspace::model::Via::Direct,
    };
    let target = |n| {
        let (address, via) = way(n);
        Target {
            id: TargetId::new("s", &format!("b{n}")),
            address,
            via,
            health: health.clone(),
            initial: None,
        }
    };

    if kind == "bare" {
        let targets: Vec<Target> = (0..targets).map(target).collect();
        return bare(&targets, interval, seconds);
    }
    let changes = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&changes);
    let checker = Checker::start(move |events| {
        seen.fetch_add(events.len(), Ordering::Relaxed);
    })?;
    let set = Instant::now();
    checker.set((0..targets).map(target).collect());
    let set = set.elapsed();
    std::thread::sleep(interval * 2);
    let (start, before, probes_before) = (Instant::now(), cpu()?, probes(&checker));
    let first = first_processor()?;
    std::thread::sleep(Duration::from_secs(seconds));
    let (time, used, probes) = (start.elapsed(), cpu()? - before, probes(&checker) - probes_before);
    let first = first_processor()? - first;
    let snapshot = Instant::now();
    let all = checker.snapshot();
    let snapshot = snapshot.elapsed();
    let up = all.iter().filter(|status| status.state == State::Up).count();
    let skipped: u64 = all.iter().map(|status| status.skipped).sum();
    let failed: u64 = all.iter().map(|status| status.failed).sum();
    println!(
        "{kind}: {:.0} probes/s of {targets} targets, {:.1} % of a core, {:.0} µs a probe; up {up}, failed {failed}, \
         skipped {skipped}, changes {}; set {set:?}, snapshot {snapshot:?}",
        probes as f64 / time.as_secs_f64(),
        used.as_secs_f64() / time.as_secs_f64() * 100.0,
        used.as_secs_f64() * 1e6 / probes.max(1) as f64,
        changes.load(Ordering::Relaxed),
    );
    say_of_first_processor(first, time);
    let mut texts: BTreeMap<String, usize> = BTreeMap::new();
    for last in all.into_iter().filter_map(|status| status.last) {
        *texts.entry(last.text.to_string()).or_default() += 1;
    }
    println!("last results: {texts:?}");
    Ok(())
}

/// Asks as `http` does, as many at a time as the checker would start together.
fn bare(targets: &[Target], interval: Duration, seconds: u64) -> anyhow::Result<()> {
    // Within 50 ms or a 32nd of the interval.
    let together = interval.min(Duration::from_millis(1_600)) / 32;
    let groups = interval.div_duration_f64(together).round() as usize;
    let (start, before, first) = (Instant::now(), cpu()?, first_processor()?);
    let (mut next, mut asked) = (start, 0_u64);
    while start.elapsed() < Duration::from_secs(seconds) {
        for group in targets.chunks(targets.len().div_ceil(groups)) {
            ask_bare(group)?;
            asked += group.len() as u64;
            next += together;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }
    let (time, used, first) = (start.elapsed(), cpu()? - before, first_processor()? - first);
    println!(
        "bare: {:.0} requests/s, {:.1} % of a core, {:.0} µs a request",
        asked as f64 / time.as_secs_f64(),
        used.as_secs_f64() / time.as_secs_f64() * 100.0,
        used.as_secs_f64() * 1e6 / asked.max(1) as f64,
    );
    say_of_first_processor(first, time);
    Ok(())
}

/// One request to each of a few, all at once; an error if one is not answered well.
fn ask_bare(targets: &[Target]) -> anyhow::Result<()> {
    let ready = |socket: &Socket, event| -> anyhow::Result<()> {
        let mut wait = [PollFd::new(socket.as_fd(), event)];
        anyhow::ensure!(poll(&mut wait, 1_000_u16)? == 1, "nothing within a second");
        Ok(())
    };
    let mut sockets = Vec::with_capacity(targets.len());
    for target in targets {
        let (socket, to) = match &target.via {
            Via::Vip(path) => {
                let socket = path.namespace.tcp_socket(Domain::IPV4)??;
                socket.set_mark(path.number)?;
                socket.bind(&SocketAddr::new(path.source, 0).into())?;
                (socket, path.vip)
            }
            _ => (
                Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?,
                target.address,
            ),
        };
        match socket.connect(&SocketAddr::new(to, target.health.port).into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error.into()),
            _ => sockets.push(socket),
        }
    }
    for socket in &sockets {
        ready(socket, PollFlags::POLLOUT)?;
        anyhow::ensure!(socket.send(REQUEST)? == REQUEST.len(), "not sent in one piece");
    }
    let mut answer = [0; 4_096];
    for socket in &sockets {
        ready(socket, PollFlags::POLLIN)?;
        let read = (&*socket).read(&mut answer)?;
        anyhow::ensure!(answer[..read].starts_with(b"HTTP/1.1 200 "), "not answered well");
    }
    Ok(())
}

fn probes(checker: &Checker) -> u64 {
    let all = checker.snapshot();
    all.iter()
        .map(|status| status.passed + status.failed + status.skipped)
        .sum()
}

/// Processor time of this process, its threads' and the kernel's for it.
fn cpu() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = |time: nix::sys::time::TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
    let total = micros(usage.user_time()) + micros(usage.system_time());
    Ok(Duration::from_micros(total.try_into()?))
}

/// Answers on a port that it prints until its input ends.
fn serve() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind("0.0.0.0:0".parse()?)?;
        let listener = socket.listen(4096)?;
        println!("{}", listener.local_addr()?.port());
        std::io::stdout().flush()?;
        let end = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
        let answer = async {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut request = [0; 1024];
                    if stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                        let _ = stream
                            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")
                            .await;
                    }
                });
            }
        };
        tokio::select! { _ = end => {}, () = answer => {} }
        Ok(())
    })
}
