//! What `cargo xtask demo` shows: traffic over three web servers, one that dies under load, its return.
//!
//! All of it happens on hosts made for it ([`crate::net`]). The story ends well only if the failover was right: see [`verdict`].

mod interrupt;
mod screen;
pub mod timeline;
pub mod verdict;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::edge::{Edge, Programs, QUICK_HTTP_CHECKS, Service, configuration, join};
use crate::load::{self, Demand, Load, Sample};
use crate::net::{Arms, Family, Process, Scratch, Topology};
use crate::serve::Nginx;
use interrupt::Interrupt;
use screen::{Screen, Style};
use timeline::{Mark, Timeline};
use verdict::Marks;

/// What to show.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How packets reach the backends.
    pub forward: Forward,
    /// The family of the VIP and of the backends.
    pub family: Family,
    /// How many interfaces the edge has.
    pub arms: Arms,
}

/// A forward mode that the demo can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// New Ethernet addresses.
    L2,
    /// IP in IP.
    Ipip,
}

const SERVICE: &str = "web";
/// The second of three.
const VICTIM: usize = 1;
/// New connections per second.
const RATE: u32 = 300;
const KILL_AFTER: Duration = Duration::from_secs(3);
const BACK_AFTER: Duration = Duration::from_millis(7_400);
const END_AFTER: Duration = Duration::from_millis(11_000);
/// When in the story `lbctl` is asked what it knows of the dead backend.
const ASK_AFTER: Duration = Duration::from_millis(5_000);
const FRAME: Duration = Duration::from_millis(100);

/// Shows it. An error, in one sentence, if the failover was not right or something is missing.
pub fn run(options: Options, programs: &Programs) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the demo makes network namespaces and needs root: try `sudo -E cargo xtask demo`"
    );
    let interrupt = Interrupt::catch()?;
    let mut screen = Screen::new();
    let shown = show(options, programs, &interrupt, &mut screen);
    drop(screen);
    // Ctrl-C reaches the servers too: what fails then is not their fault.
    interrupt.check()?;
    shown
}

fn show(options: Options, programs: &Programs, interrupt: &Interrupt, screen: &mut Screen) -> Result<()> {
    let start = Instant::now();
    let scratch = Scratch::new()?;
    let net = Topology::new(options.arms, 3).context("the hosts cannot be built")?;
    interrupt.check()?;
    let vip = Topology::vip(options.family, 10);
    let mut stage = Stage::build(&net, programs, &scratch, options, vip)?;
    interrupt.check()?;
    let names: Vec<&str> = net.backends.iter().map(|backend| backend.name()).collect();
    stage.edge.wait_up(SERVICE, &names, Duration::from_secs(10))?;

    screen.title(&format!(
        "Five hosts in namespaces of their own, ready after {:.1} s",
        start.elapsed().as_secs_f64()
    ));
    picture(screen, &net, options, vip);
    screen.command("edge", "lbctl status", &stage.edge.lbctl(&["status"])?);

    let target = SocketAddr::new(vip, 80);
    let url = format!("http://{target}/");
    screen.title("One request");
    screen.command(
        "client",
        &format!("curl -s {url}"),
        &net.client.run("curl", &["-sS", "-m", "5", &url])?,
    );

    let story = play(&net, &mut stage, target, &names, interrupt, screen)?;
    let verdict = verdict::judge(&story.samples, &names, names[VICTIM], &story.marks);
    screen.command(
        "edge",
        &format!(
            "lbctl service show {SERVICE}   # {:.1} s after the kill",
            (ASK_AFTER - KILL_AFTER).as_secs_f64()
        ),
        &story.service_without,
    );
    screen.title("What came of it");
    for line in verdict.lines(names[VICTIM]) {
        screen.line(&line);
    }
    verdict.check()
}

/// Everything that runs.
struct Stage<'a> {
    edge: Edge<'a>,
    servers: Vec<Nginx>,
    _joined: Vec<Process>,
}

impl<'a> Stage<'a> {
    fn build(
        net: &'a Topology,
        programs: &'a Programs,
        scratch: &Scratch,
        options: Options,
        vip: IpAddr,
    ) -> Result<Self> {
        let servers = net
            .backends
            .iter()
            .map(|backend| Nginx::start(&backend.host, scratch))
            .collect::<Result<_>>()?;
        let joined = net
            .backends
            .iter()
            .map(|backend| join(backend, programs, scratch, &[vip]));
        let joined = joined.collect::<Result<_>>()?;
        let service = Service {
            name: SERVICE.into(),
            vip,
            protocol: "tcp",
            port: 80,
            forward: options.forward.name(),
            backend_family: options.family,
            health: Some(QUICK_HTTP_CHECKS),
        };
        let edge = Edge::start(net, programs, scratch, &configuration(net, &[service]))?;
        Ok(Self {
            edge,
            servers,
            _joined: joined,
        })
    }
}

struct Story {
    samples: Vec<Sample>,
    marks: Marks,
    service_without: String,
}

/// The load, the kill, the return.
fn play(
    net: &Topology,
    stage: &mut Stage<'_>,
    target: SocketAddr,
    names: &[&str],
    interrupt: &Interrupt,
    screen: &mut Screen,
) -> Result<Story> {
    let demand = Demand {
        target,
        rate: RATE,
        workers: 64,
        timeout: Duration::from_millis(500),
    };
    let load = Load::start(&net.client, demand)?;
    screen.title(&format!(
        "{RATE} requests a second, each on a TCP connection of its own"
    ));
    while load.now() < KILL_AFTER {
        interrupt.sleep(FRAME)?;
        screen.redraw(|style| bars(&load.samples(0), names, style));
    }
    screen.settle(|style| bars(&load.samples(0), names, style));

    let victim = names[VICTIM];
    screen.title(&format!(
        "{victim}'s server is killed under that load, and started again"
    ));
    let mut marks = Marks {
        killed: load.now(),
        back: END_AFTER,
        end: END_AFTER,
    };
    let pid = stage.servers[VICTIM].pid().unwrap_or(0);
    stage.servers[VICTIM].kill()?;
    screen.plain(&format!(
        "{:5.1} s  {victim}: nginx killed (process {pid})",
        marks.killed.as_secs_f64()
    ));
    let mut service_without = String::new();
    let mut returned = false;
    while load.now() < END_AFTER {
        interrupt.sleep(FRAME)?;
        if service_without.is_empty() && load.now() >= ASK_AFTER {
            service_without = stage.edge.lbctl(&["service", "show", SERVICE])?;
        }
        if !returned && load.now() >= BACK_AFTER {
            returned = true;
            marks.back = load.now();
            stage.servers[VICTIM].start_again(&net.backends[VICTIM].host)?;
            screen.plain(&format!(
                "{:5.1} s  {victim}: nginx started again",
                marks.back.as_secs_f64()
            ));
        }
        let now = load.now();
        screen.redraw(|style| chart(&load.samples(0), names, &marks, now, returned, style));
        screen.every_second(now, || per_second(&load.samples(0), names, now));
    }
    marks.end = load.now();
    let samples = load.stop()?;
    screen.settle(|style| chart(&samples, names, &marks, marks.end, true, style));
    Ok(Story {
        samples,
        marks,
        service_without,
    })
}

/// Who talks to whom.
fn picture(screen: &mut Screen, net: &Topology, options: Options, vip: IpAddr) {
    let way = match options.arms {
        Arms::One => "XDP_TX, one interface",
        Arms::Two => "XDP redirect, eth0 to eth1",
    };
    let forward = options.forward.name();
    let kind = if vip.is_ipv4() { "IPv4" } else { "IPv6" };
    screen.line(&format!(
        "client ──▶ {vip}:80 ──▶ edge: lbd ({way}) ──{forward}──▶ three nginx ──▶ client, past the edge"
    ));
    let backends: Vec<_> = net
        .backends
        .iter()
        .map(|b| format!("{} {}", b.name(), b.address(options.family)))
        .collect();
    screen.line(&format!("{kind}; {}", backends.join(", ")));
}

/// Answers by backend, as bars.
fn bars(samples: &[Sample], names: &[&str], style: Style) -> Vec<String> {
    let answers = load::answers(samples);
    let failed = load::failures(samples).len();
    let most = answers.values().copied().max().unwrap_or(0).max(1);
    let all = samples.len().max(1);
    let row = |name: &str, count: usize, paint: &dyn Fn(&str) -> String| {
        let share = 100.0 * count as f64 / all as f64;
        format!(
            "{name:<8}{} {count:>6}  {share:>5.1} %",
            paint(&timeline::bar(count, most, 40))
        )
    };
    let mut lines: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            row(name, answers.get(*name).copied().unwrap_or(0), &|text| {
                style.backend(index, text)
            })
        })
        .collect();
    lines.push(row("failed", failed, &|text| style.bad(text)));
    lines
}

/// The timeline of every backend.
fn chart(samples: &[Sample], names: &[&str], marks: &Marks, now: Duration, back: bool, style: Style) -> Vec<String> {
    let timeline = Timeline::new(samples, names, now);
    let answers = load::answers(samples);
    let mut lines = vec![format!("{:<8}{}", "", timeline.scale())];
    for (index, name) in names.iter().enumerate() {
        let count = answers.get(*name).copied().unwrap_or(0);
        lines.push(format!(
            "{name:<8}{} {count:>6}",
            style.backend(index, &timeline.answers(index))
        ));
    }
    let failed = load::failures(samples).len();
    lines.push(format!(
        "{:<8}{} {failed:>6}",
        "failed",
        style.bad(&timeline.failures())
    ));
    let mut marked = vec![Mark {
        at: marks.killed,
        text: "killed",
    }];
    if back {
        marked.push(Mark {
            at: marks.back,
            text: "started again",
        });
    }
    lines.push(format!("{:<8}{}", "", timeline.marks(&marked)));
    lines
}

/// The last second in one line, where nothing can be redrawn.
fn per_second(samples: &[Sample], names: &[&str], now: Duration) -> String {
    let from = now.saturating_sub(Duration::from_secs(1));
    let last: Vec<Sample> = samples.iter().filter(|sample| sample.at >= from).cloned().collect();
    let answers = load::answers(&last);
    let counts: Vec<_> = names
        .iter()
        .map(|name| format!("{name} {:>3}/s", answers.get(*name).copied().unwrap_or(0)))
        .collect();
    format!(
        "{:5.1} s  {}   failed {:>3}/s",
        now.as_secs_f64(),
        counts.join("  "),
        load::failures(&last).len()
    )
}

impl Forward {
    /// As the configuration names it.
    pub fn name(self) -> &'static str {
        match self {
            Forward::L2 => "l2",
            Forward::Ipip => "ipip",
        }
    }
}
