//! What is measured beside packets: rings, writes through the mapping, a changed file, and the verifier's count.

use std::fmt;
use std::hint::black_box;
use std::time::Instant;

use anyhow::Result;
use lb_common::map::{Counter, Slot};
use lb_userspace::bpf::program::{Balancer, Settings};
use lb_userspace::bpf::tables::{Lengths, Tables};
use lb_userspace::daemon::kernel::settings_for;
use lb_userspace::model::identity;
use lb_userspace::object;
use lb_userspace::plan::apply::step;
use lb_userspace::plan::make::plan;
use lb_userspace::plan::{Plan, Scope, Write};
use lb_userspace::ring::{Member, Ring, Share};
use serde::Serialize;

use crate::scenario::{self, Mode, Scenario};
use crate::stats::Spread;

/// Everything that is measured beside packets; milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Beside {
    times_ms: Vec<(String, Spread)>,
    /// Instructions that the verifier processed, by program.
    verified: Vec<(String, u32)>,
}

const SLOTS: u32 = 65_537;

pub(crate) fn measure(quick: bool) -> Result<Beside> {
    let runs = if quick { 7 } else { 51 };
    let mut times_ms = Vec::new();
    for backends in [100, 1000] {
        let members: Vec<Member> = (0..backends)
            .map(|i| Member {
                identity: identity(&format!("b{i}")),
                weight: 100,
            })
            .collect();
        let ring = Ring::populate(&members, SLOTS);
        let mut shares = vec![Share::FULL; backends];
        shares[backends / 2] = Share::OUT;
        let mut line = |what: &str, spread| times_ms.push((format!("{what}, {SLOTS} slots x {backends}"), spread));
        line(
            "populate a ring",
            time(runs, || drop(black_box(Ring::populate(&members, SLOTS)))),
        );
        line(
            "lend the slots of one that is out",
            time(runs, || drop(black_box(ring.lend(&shares)))),
        );
        line("write the ring through the mapping", writes(runs, ring.owners())?);
    }
    times_ms.extend(changed_file(if quick { 3 } else { 9 })?);
    Ok(Beside {
        times_ms,
        verified: crate::verified::counts()?,
    })
}

fn time(runs: usize, mut run: impl FnMut()) -> Spread {
    Spread::of((0..runs).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64() * 1e3
    }))
}

/// Into the real map, which a program could be reading; every other run reversed, so that each slot changes.
fn writes(runs: usize, owners: &[u16]) -> Result<Spread> {
    let settings = Settings {
        lengths: Lengths::for_capacity(1, 1000, SLOTS, 1),
        hash_seed: 0,
        longest_value: None,
    };
    let balancer = Balancer::load(object::BALANCE, settings)?;
    let forth: Vec<Slot> = owners.iter().map(|owner| Slot::stable(*owner)).collect();
    let back = forth.iter().rev().copied().collect();
    let writes = [forth, back].map(|slots| Write::FillRing { position: 0, slots });
    let mut run = 0;
    Ok(time(runs, || {
        let none = |_| Ok::<_, std::convert::Infallible>(Counter::default());
        let Ok(()) = step(&writes[run % 2], &balancer.tables, &none);
        run += 1;
    }))
}

/// 500 services of 20 backends, written into tables of this process; then the same file without one backend in each.
fn changed_file(runs: usize) -> Result<Vec<(String, Spread)>> {
    let scenario = Scenario {
        services: 500,
        backends: 20,
        ..Scenario::one(Mode::Ipip, false, false)
    };
    let before = scenario.toml();
    let after = Scenario {
        backends: 19,
        ..scenario
    }
    .toml();
    let stages = [
        "parse",
        "populate and lend",
        "plan",
        "write until the last slot",
        "all of it",
    ];
    let mut times = vec![vec![Vec::new(); stages.len()]; 2];
    for _ in 0..runs {
        let tables = Tables::private(settings_for(&scenario::model(&before)?, None).lengths)?;
        for (which, text) in [&before, &after].into_iter().enumerate() {
            for (stage, ms) in one_file(&tables, text)?.into_iter().enumerate() {
                times[which][stage].push(ms);
            }
        }
    }
    let mut lines = Vec::new();
    for (which, times) in ["first file", "file with one backend less in each"].iter().zip(times) {
        for (stage, times) in stages.iter().zip(times) {
            lines.push((format!("{which}, 500 services x 20: {stage}"), Spread::of(times)));
        }
    }
    Ok(lines)
}

fn one_file(tables: &Tables, text: &str) -> Result<[f64; 5]> {
    let begin = Instant::now();
    let model = scenario::model(text)?;
    let parsed = begin.elapsed();
    let wanted = model
        .services
        .iter()
        .map(scenario::wanted)
        .collect::<Result<Vec<_>>>()?;
    let populated = begin.elapsed();
    let plan: Plan = plan(tables, &wanted, Scope::Everything)?;
    let planned = begin.elapsed();
    let none = |_| Ok::<_, std::convert::Infallible>(Counter::default());
    let mut written = planned;
    for write in &plan.writes {
        let Ok(()) = step(write, tables, &none);
        if !matches!(write, Write::Grace | Write::FreeRow { .. }) {
            written = begin.elapsed();
        }
    }
    let ms = |from: std::time::Duration, to: std::time::Duration| (to - from).as_secs_f64() * 1e3;
    Ok([
        ms(Default::default(), parsed),
        ms(parsed, populated),
        ms(populated, planned),
        ms(planned, written),
        ms(Default::default(), written),
    ])
}

impl fmt::Display for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{:<76} {:>9} {:>7} {:>9}", "ms", "median", "iqr", "min")?;
        for (what, spread) in &self.times_ms {
            writeln!(
                f,
                "{what:<76} {:>9.3} {:>7.3} {:>9.3}",
                spread.median,
                spread.range(),
                spread.min
            )?;
        }
        writeln!(f, "\n{:<76} {:>9}", "program", "verified instructions")?;
        for (program, count) in &self.verified {
            writeln!(f, "{program:<76} {count:>9}")?;
        }
        Ok(())
    }
}
