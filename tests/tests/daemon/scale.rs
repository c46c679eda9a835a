//! A file of five hundred services with twenty backends each.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use lb_tests::edge::Edge;
use lb_tests::net::{Arms, wait_until};

use super::{File, HEAVY, Site, Svc, clients};

const SERVICES: u16 = 500;
const BACKENDS: u8 = 20;

/// Backends from 10.0.0.32 to 10.0.0.231: the edge's neighbours are typed in, and nobody is there.
fn large() -> File {
    large_with("")
}

/// The same; the last backend of each service with these words.
fn large_with(words: &str) -> File {
    let service = |number: u16| {
        let mut service = Svc::new(&format!("service-{number:03}"), 10, 0);
        service.vip = format!("192.0.2.{}", 1 + number % 250);
        service.port = 1_000 + number;
        service.backends = (0..BACKENDS)
            .map(|one| {
                let address = 32 + (number * 7 + u16::from(one)) % 200;
                let words = if one + 1 == BACKENDS { words } else { "" };
                (format!("backend-{one}"), format!("10.0.0.{address}"), words.to_owned())
            })
            .collect();
        service
    };
    File::new((0..SERVICES).map(service))
}

/// A field of the daemon's `/proc/PID/status`, in MiB.
fn memory(edge: &Edge, field: &str) -> Result<u64> {
    let pid = edge.api()?.get("/v1/status")?["pid"].to_string();
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text
        .lines()
        .find(|line| line.starts_with(field))
        .context("no such field")?;
    let kib: u64 = line.split_whitespace().nth(1).context("no value")?.parse()?;
    Ok(kib / 1_024)
}

/// What the daemon has used of the CPUs, in user mode and in the kernel: it does not depend on who else runs on them.
fn cpu_time(edge: &Edge) -> Result<Duration> {
    let pid = edge.api()?.get("/v1/status")?["pid"].to_string();
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in brackets, may hold anything; fields 14 and 15 of the whole are in ticks of 10 ms (proc(5), USER_HZ).
    let (_, fields) = text.rsplit_once(')').context("no name")?;
    let ticks: Vec<u64> = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    Ok(Duration::from_millis(10 * ticks.iter().sum::<u64>()))
}

/// Runs some work; says how long it took, and how long the daemon gave no answer meanwhile: it decided nothing then.
fn silence(edge: &Edge, work: impl FnOnce() -> Result<()>) -> Result<(Duration, Duration)> {
    let api = edge.api()?;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let longest = scope.spawn(|| -> Result<Duration> {
            let mut longest = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                let asked = Instant::now();
                api.get("/v1/events?limit=1")?;
                longest = longest.max(asked.elapsed());
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(longest)
        });
        let begun = Instant::now();
        let done = work();
        let took = begun.elapsed();
        over.store(true, Ordering::Relaxed);
        let longest = longest.join().map_err(|_| anyhow!("the asking thread panicked"))??;
        done.map(|()| (took, longest))
    })
}

#[test]
fn five_hundred_services_of_twenty_backends() -> Result<()> {
    let _turn = HEAVY.take();
    let site = Site::new(Arms::One, 1)?;
    let neighbours: Vec<String> = (32..232)
        .map(|number| format!("neigh add 10.0.0.{number} lladdr 02:00:00:00:00:{number:02x} dev eth0"))
        .collect();
    site.net.edge.ip_batch(&neighbours)?;
    let mut edge = site.edge(&File::new([Svc::new("web", 10, 1)]))?;
    let file = large();
    let path = site
        .scratch
        .write("large.toml", &file.to_string())?
        .display()
        .to_string();
    let timed = |words: &[&str]| -> Result<Duration> {
        let begun = Instant::now();
        edge.lbctl(words)?;
        Ok(begun.elapsed())
    };
    // A file with other weights: every ring is populated anew.
    let other = site
        .scratch
        .write("other.toml", &large_with("weight = 200").to_string())?
        .display()
        .to_string();
    let watched = |words: &[&str]| silence(&edge, || edge.lbctl(words).map(drop));
    println!("took, and without an answer of the daemon for at most:");
    println!("plan {:?}", watched(&["plan", &path])?);
    let before = cpu_time(&edge)?;
    let first = watched(&["apply", &path])?;
    let worked = cpu_time(&edge)?.saturating_sub(before);
    let again = watched(&["apply", &path])?;
    wait_until("all backends to serve", Duration::from_secs(20), || {
        let status = edge.api()?.get("/v1/status")?;
        Ok(status["backends"]["serving"] == u64::from(SERVICES) * u64::from(BACKENDS))
    })?;
    let third = watched(&["apply", &path])?;
    println!("apply {first:?} ({worked:?} of CPU), the same again {again:?}, once all serve {third:?}");
    println!("plan of another {:?}", watched(&["plan", &other])?);
    println!("apply of another {:?}", watched(&["apply", &other])?);
    for words in [
        &["status"][..],
        &["service", "list"],
        &["stats"],
        &["service", "show", "service-250"],
    ] {
        let took = timed(words)?;
        println!("{} {took:?}", words.join(" "));
        assert!(took < Duration::from_secs(3), "{words:?}: {took:?}");
    }
    for name in ["service-000", "service-499"] {
        let owners = edge.api()?.owners(name, clients(200))?;
        let names: std::collections::BTreeSet<_> = owners.iter().flatten().collect();
        assert_eq!(names.len(), usize::from(BACKENDS), "{name}");
        assert!(owners.iter().all(Option::is_some));
    }
    let (now, peak) = (memory(&edge, "VmRSS")?, memory(&edge, "VmHWM")?);
    println!("memory: {now} MiB, {peak} MiB at most, maps included");
    // On a machine that is busy with other things the wall clock says little.
    assert!(
        worked < Duration::from_secs(4),
        "{worked:?} of CPU, {:?} in all",
        first.0
    );
    let begun = Instant::now();
    edge.kill()?;
    edge.start_again()?;
    println!("restart {:?}", begun.elapsed());
    assert_eq!(edge.api()?.get("/v1/status")?["services"], SERVICES);
    Ok(())
}
