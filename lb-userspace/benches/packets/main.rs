//! The packet benchmark: nanoseconds a packet of the balancer as shipped, or of any loaded XDP program.
//!
//! `cargo xtask bench` runs it; `docs/benchmark.md` explains method and output. [`harness`] measures, [`cases`] says what.

mod against;
mod cases;
mod harness;
mod packet;
mod plot;
mod report;
mod scenario;
mod side;
mod stats;
#[path = "../../tests/verifier/counts.rs"]
mod verified;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::against::Other;
use crate::cases::Case;
use crate::harness::{Effort, Harness, Target};
use crate::report::{Line, Machine, Report};
use crate::scenario::{Loaded, Scenario};

/// Measures what the balancer costs a packet.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Args {
    /// Prints JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Only cases whose name contains one of these, separated by commas; `beside` is what stands below the table
    #[arg(long, value_delimiter = ',')]
    filter: Vec<String>,
    /// Few packets and rounds: seconds instead of minutes, and less certain
    #[arg(long)]
    quick: bool,
    /// Rounds of each program in each case; the median counts
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,
    /// Packets of one round, rounded to a multiple of 16
    #[arg(long, value_parser = clap::value_parser!(u32).range(1024..=1 << 30))]
    packets: Option<u32>,
    /// The CPU that everything runs on; the last one if not told
    #[arg(long)]
    cpu: Option<usize>,
    /// Writes flows and Ethernet headers field by field, not in whole words: charges the program with store-forwarding stalls
    #[arg(long)]
    fields: bool,
    /// Measures this loaded XDP program instead of the balancer
    #[arg(long, requires = "packet")]
    program_id: Option<u32>,
    /// The packet for it: the first of a pcap file, or a file of hex digits
    #[arg(long, requires = "program_id")]
    packet: Option<PathBuf>,
    /// What it answers to the packet
    #[arg(long, value_enum, default_value_t = Verdict::Tx)]
    verdict: Verdict,
    /// By how many bytes it grows the packet
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    growth: i32,
    /// Measures more flows and services, and draws them into docs/bench
    #[arg(long)]
    plot: bool,
    /// Measures another revision's program in turn with this one's: a branch, a tag or a commit
    #[arg(long, value_name = "REV", conflicts_with_all = ["program_id", "plot"])]
    against: Option<String>,
    /// That revision's benchmark, which `cargo xtask bench` builds
    #[arg(long, hide = true, requires = "against")]
    against_bench: Option<PathBuf>,
    /// Loads the program for each case named on standard input, and tells its id
    #[arg(long, hide = true)]
    hold: bool,
    /// cargo says so to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Verdict {
    Aborted,
    Drop,
    Pass,
    Tx,
    Redirect,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("error: not every packet took the way that was meant: see NOT CLEAN");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Says whether all packets took the way meant.
fn run(args: &Args) -> Result<bool> {
    if args.hold {
        return against::hold().map(|()| true);
    }
    let cpu = pin(args.cpu)?;
    // Short rounds, and many: whatever else the machine does then spoils few of them.
    let (packets, rounds) = if args.quick { (1 << 17, 9) } else { (1 << 18, 25) };
    let effort = Effort {
        packets: args
            .packets
            .unwrap_or(packets)
            .next_multiple_of(lb_common::bench::PACKETS),
        rounds: args.rounds.map_or(rounds, usize::from),
        fields: args.fields,
    };
    let mut report = Report {
        machine: Machine::of(cpu),
        packets: effort.packets,
        rounds: effort.rounds,
        cases: Vec::new(),
        beside: None,
    };
    if !args.json {
        let Machine {
            cpu,
            kernel,
            pinned_to,
            load,
        } = &report.machine;
        println!("{cpu}, Linux {kernel}, CPU {pinned_to}, load {load:.2}");
        println!(
            "ns a packet: medians of {} rounds of {} packets; iqr: between the quartiles\n",
            effort.rounds, effort.packets
        );
    }
    let mut other = match (&args.against, &args.against_bench) {
        (Some(name), Some(bench)) => Some(Other::start(bench, name)?),
        (Some(_), None) => bail!("--against is for `cargo xtask bench`, which builds the other revision"),
        _ => None,
    };
    let mut show = |line: Line| {
        if !args.json {
            if report.cases.is_empty() {
                println!("{}", report::head(args.against.as_deref()));
            }
            println!("{}", report::row(&line));
        }
        report.cases.push(line);
    };
    if let (Some(id), Some(path)) = (args.program_id, &args.packet) {
        for line in packet::measure(id, path, args.verdict as u32, args.growth, effort)? {
            show(line);
        }
    } else {
        let cases: Vec<Case> = if args.plot { plot::cases() } else { cases::all() };
        let cases: Vec<Case> = cases
            .into_iter()
            .filter(|case| wanted(&args.filter, &case.name()))
            .collect();
        measure(&cases, effort, other.as_mut(), &mut show)?;
    }
    let beside = args.program_id.is_none() && !args.plot && other.is_none() && wanted(&args.filter, "beside");
    if beside {
        let beside = side::measure(args.quick)?;
        if !args.json {
            print!("{beside}");
        }
        report.beside = Some(beside);
    }
    if report.cases.is_empty() && report.beside.is_none() {
        bail!("no case's name contains any of {:?}", args.filter);
    }
    if args.plot {
        plot::write(&report)?;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("\nload at the end {:.2}", report::load());
    }
    Ok(report
        .cases
        .iter()
        .all(|line| line.cost.astray + line.floor.astray + line.against.map_or(0, |other| other.astray) == 0))
}

fn wanted(filter: &[String], name: &str) -> bool {
    filter.is_empty() || filter.iter().any(|part| name.contains(part.as_str()))
}

/// Measures cases in order; tables are filled once for neighbours that have the same.
fn measure(cases: &[Case], effort: Effort, mut other: Option<&mut Other>, show: &mut dyn FnMut(Line)) -> Result<()> {
    let mut harness = Harness::load(true, effort)?;
    let mut loaded: Option<(Scenario, Loaded)> = None;
    for case in cases {
        if loaded.as_ref().is_none_or(|(scenario, _)| *scenario != case.scenario) {
            drop(loaded.take());
            loaded = Some((
                case.scenario,
                scenario::load(&case.scenario).with_context(|| case.name())?,
            ));
        }
        let Some((_, Loaded { balancer, program })) = &loaded else {
            continue;
        };
        let (verdict, growth, reason) = case.expected();
        let target = Target {
            program: program.try_clone()?,
            verdict,
            growth,
        };
        let against = match &mut other {
            Some(other) => other.target(case)?,
            None => None,
        };
        let mut targets = vec![&target];
        targets.extend(&against);
        let before = balancer.reasons()?;
        let mut measured = harness
            .measure(&case.traffic(), case.floor(), &targets)
            .with_context(|| case.name())?;
        // The program's own counters must agree that every packet had this reason.
        let counted = balancer.reasons()?[reason as usize] - before[reason as usize];
        let sent = u64::from(effort.packets) * (effort.rounds as u64 + 1);
        if let Some(cost) = measured.programs.first_mut() {
            cost.astray = cost.astray.max(sent.abs_diff(counted));
        }
        show(Line::new(case.name(), &measured));
    }
    Ok(())
}

/// Keeps this thread, and with it the programs that it runs, on one CPU.
fn pin(cpu: Option<usize>) -> Result<usize> {
    let last = std::thread::available_parallelism().map_or(1, usize::from) - 1;
    let cpu = cpu.unwrap_or(last);
    let mut set = CpuSet::new();
    set.set(cpu).with_context(|| format!("--cpu {cpu}"))?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("--cpu {cpu}"))?;
    Ok(cpu)
}
