//! What was measured, as a table for people and as JSON for programs.

use std::fs;

use serde::Serialize;

use crate::harness::{Cost, Measured};
use crate::side::Beside;
use crate::stats::Spread;

/// Everything that one run of the benchmark found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// Packets of one round.
    pub(crate) packets: u32,
    pub(crate) rounds: usize,
    pub(crate) cases: Vec<Line>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) beside: Option<Beside>,
}

/// Where it was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) kernel: String,
    pub(crate) pinned_to: usize,
    /// Processes that wanted a CPU, over the last minute, at the beginning.
    pub(crate) load: f64,
}

impl Machine {
    pub(crate) fn of(pinned_to: usize) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim().to_owned()));
        Self {
            cpu: cpu.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            kernel: kernel(),
            pinned_to,
            load: load(),
        }
    }
}

/// The kernel's version, without what its builder added.
fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().split('-').next().unwrap_or_default().to_owned()
}

/// The load of the last minute.
pub(crate) fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|first| first.parse().ok())
        .unwrap_or(0.0)
}

/// One case; nanoseconds a packet.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) case: String,
    pub(crate) cost: Cost,
    pub(crate) times_floor: f64,
    pub(crate) floor: Cost,
    pub(crate) wrapper: Spread,
    pub(crate) undo: Spread,
    /// The same case of another revision, measured in turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) against: Option<Cost>,
}

impl Line {
    pub(crate) fn new(case: String, measured: &Measured) -> Self {
        let cost = measured.programs.first().copied().unwrap_or_default();
        Self {
            case,
            cost,
            times_floor: cost.net.median / measured.floor.net.median,
            floor: measured.floor,
            wrapper: measured.wrapper,
            undo: measured.undo,
            against: measured.programs.get(1).copied(),
        }
    }
}

/// The table's head; `against` names the other revision.
pub(crate) fn head(against: Option<&str>) -> String {
    let mut head = format!(
        "{:<28} {:>7} {:>6} {:>6} {:>7} {:>6} {:>8}",
        "case", "net ns", "iqr", "min", "floor", "raw", "x floor"
    );
    if let Some(name) = against {
        head += &format!("  {:>20} {:>6} {:>7}", format!("net ns {name:.12}"), "iqr", "change");
    }
    head
}

/// A line of the table.
pub(crate) fn row(line: &Line) -> String {
    let Line { cost, floor, .. } = line;
    let mut row = format!(
        "{:<28} {:>7.1} {:>6.1} {:>6.1} {:>7.1} {:>6.1} {:>8.2}",
        line.case,
        cost.net.median,
        cost.net.range(),
        cost.net.min,
        floor.net.median,
        cost.raw.median,
        line.times_floor
    );
    if let Some(other) = &line.against {
        row += &format!(
            "  {:>20.1} {:>6.1} {:>+6.1}%",
            other.net.median,
            other.net.range(),
            (cost.net.median / other.net.median - 1.0) * 100.0
        );
    }
    for (who, astray) in [
        ("", cost.astray),
        ("floor: ", floor.astray),
        ("other: ", line.against.map_or(0, |other| other.astray)),
    ] {
        if astray > 0 {
            row += &format!("  NOT CLEAN: {who}{astray} packets with another verdict or growth");
        }
    }
    row
}
