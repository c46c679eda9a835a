//! A soak: connections that are never left alone, an operation every few seconds, an oracle that reads the tables.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`stage`] | hosts, services, and how each thing is done to them |
//! | [`script`] | what is done next, by a seed |
//! | [`talk`] | the connections |
//! | [`judge`] | which of their troubles have a cause |
//! | [`tables`] | the pinned tables, read by code of our own |
//! | [`oracle`] | what the tables must hold |
//!
//! A connection may break when its backend is killed, frozen or disabled. It must not when a backend drains, comes back, changes its
//! weight, leaves the file or returns to it, or when the daemon ends and starts again.

pub mod judge;
pub mod oracle;
pub mod script;
pub mod stage;
pub mod tables;
pub mod talk;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::edge::Programs;
use crate::net::{Family, Host, Scratch};
use judge::{Judge, Verdict};
use oracle::Oracle;
use script::Script;
use stage::{SERVICES, Stage, Step};
use talk::{Ends, Talk};

/// How long, how much.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long.
    pub duration: Duration,
    /// From one operation to the next, at least.
    pub pause: Duration,
    /// Connections at a time.
    pub connections: usize,
    /// The same seed does the same things in the same order.
    pub seed: u64,
}

/// What a soak has found.
#[derive(Debug)]
pub struct Report {
    options: Options,
    took: Duration,
    requests: u64,
    steps: BTreeMap<&'static str, u64>,
    looks: u64,
    wrong: Vec<String>,
    verdict: Verdict,
}

/// Soaks; says after each step what was done.
///
/// # Errors
/// If something cannot be done, or does not show in time. What was found is in the report, whatever it is.
pub fn run(options: Options, programs: &Programs, mut say: impl FnMut(&str)) -> Result<Report> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let scratch = Scratch::new()?;
    let net = Stage::hosts()?;
    let places = places(&net.client, options.connections)?;
    let mut stage = Stage::new(&net, programs, &scratch)?;
    let (mut script, mut judge, mut oracle) = (Script::new(options.seed), Judge::default(), Oracle::default());
    let mut steps = BTreeMap::new();
    let begun = Instant::now();
    let talk = Talk::start(&net.client, &places, options.seed)?;
    oracle.look(&stage, Step::Rest)?;
    sleep(options.pause);
    while begun.elapsed() < options.duration {
        let step_begun = Instant::now();
        let step = script.next(stage.wanted());
        *steps.entry(name(step)).or_default() += 1;
        let causes = stage.act(step)?;
        judge.note(step_begun, causes, stage.wanted());
        let wrong = oracle.wrong.len();
        oracle.look(&stage, step)?;
        oracle.wrong[wrong..].iter().for_each(|wrong| say(wrong));
        sleep(options.pause.saturating_sub(step_begun.elapsed()));
        judge.judge(talk.reports(), |name| stage.number(name));
        let verdict = &judge.verdict;
        say(&format!(
            "{:6.0} s  {step:?}: {} opened, {} broken with a cause, {} without, {} misplaced, {} refused; {} looks, {} wrong",
            begun.elapsed().as_secs_f32(),
            verdict.opened,
            verdict.with_cause(),
            verdict.without_cause.len(),
            verdict.misplaced.len(),
            verdict.refused.len(),
            oracle.looks,
            oracle.wrong.len()
        ));
    }
    let requests = talk.requests();
    judge.judge(talk.stop()?, |name| stage.number(name));
    Ok(Report {
        options,
        took: begun.elapsed(),
        requests,
        steps,
        looks: oracle.looks,
        wrong: oracle.wrong,
        verdict: judge.verdict,
    })
}

/// The sources of all connections: ports for the services that hash them, several ports of many addresses for the one that does not.
fn places(client: &Host, connections: usize) -> Result<Vec<Ends>> {
    let share = connections.div_ceil(SERVICES.len());
    let mut places = Vec::new();
    let mut addresses = Vec::new();
    for (service, kind) in SERVICES.iter().enumerate() {
        for number in 0..share {
            let (host, port) = match kind.name {
                // Four connections of each address.
                "source" => (100 + (number / 4 % 100) as u16, 20_000 + number as u16),
                _ => (10, 20_000 + number as u16),
            };
            let address: IpAddr = match kind.family {
                Family::V4 => Ipv4Addr::new(198, 51, 100, host as u8).into(),
                Family::V6 => Ipv6Addr::new(0x2001, 0xDB8, 0xC, 0, 0, 0, 0, 0x10).into(),
            };
            if host != 10 && !addresses.contains(&address) {
                addresses.push(address);
            }
            places.push(Ends {
                service,
                target: kind.target(),
                source: SocketAddr::new(address, port),
            });
        }
    }
    let lines: Vec<String> = addresses
        .iter()
        .map(|address| format!("addr add {address}/24 dev eth0"))
        .collect();
    client.ip_batch(&lines).context("the client's addresses")?;
    Ok(places)
}

fn name(step: Step) -> &'static str {
    match step {
        Step::Rest => "rest",
        Step::Admin(..) | Step::AdminAll(..) => "operator's word",
        Step::Weight(..) => "weight",
        Step::Server(..) => "server killed, frozen or back",
        Step::InFile(..) => "backend out of the file or back",
        Step::Restart(_) => "daemon's restart",
    }
}

impl Report {
    /// # Errors
    /// If anything was not as it must be.
    pub fn check(&self) -> Result<()> {
        let Verdict {
            opened,
            without_cause,
            misplaced,
            refused,
            ..
        } = &self.verdict;
        ensure!(
            without_cause.is_empty() && misplaced.is_empty() && refused.is_empty() && self.wrong.is_empty(),
            "{self}"
        );
        ensure!(
            *opened > 0 && self.requests > 0 && self.looks > 1,
            "nothing happened: {self}"
        );
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { connections, seed, .. } = self.options;
        let Verdict {
            opened,
            caused,
            without_cause,
            misplaced,
            refused,
        } = &self.verdict;
        writeln!(
            f,
            "seed {seed}: {:.0} s, {connections} connections at a time, {opened} opened, {} requests answered",
            self.took.as_secs_f32(),
            self.requests
        )?;
        let steps: Vec<String> = self
            .steps
            .iter()
            .map(|(name, count)| format!("{count} × {name}"))
            .collect();
        writeln!(f, "operations: {}", steps.join(", "))?;
        let caused: Vec<String> = caused.iter().map(|(what, count)| format!("{count} {what}")).collect();
        writeln!(
            f,
            "broken with a cause: {} ({})",
            self.verdict.with_cause(),
            caused.join(", ")
        )?;
        let mut list = |what: &str, all: &[String]| -> fmt::Result {
            writeln!(f, "{what}: {}", all.len())?;
            all.iter().take(20).try_for_each(|one| writeln!(f, "  {one}"))
        };
        list("broken without a cause", without_cause)?;
        list("new connections at a backend that takes none", misplaced)?;
        list("new connections refused without a cause", refused)?;
        list(&format!("wrong of {} looks at the tables", self.looks), &self.wrong)
    }
}
