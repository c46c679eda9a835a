//! The short form of `cargo xtask soak`.
//!
//! Needs root and the release builds of `lbd` and `lbctl` (`LBD_BIN`, `LBCTL_BIN`). `SOAK_SECONDS`, `SOAK_PAUSE` (in
//! seconds), `SOAK_CONNECTIONS` and `SOAK_SEED` change what is done.

use std::time::Duration;

use anyhow::Result;
use lb_tests::edge::Programs;
use lb_tests::soak::{Options, run};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

#[test]
fn no_connection_breaks_without_a_cause() -> Result<()> {
    let options = Options {
        duration: Duration::from_secs(number("SOAK_SECONDS", 60)),
        pause: Duration::from_secs(number("SOAK_PAUSE", 1)),
        connections: number("SOAK_CONNECTIONS", 150) as usize,
        seed: number("SOAK_SEED", 1),
    };
    let report = run(options, &Programs::find()?, |line| println!("{line}"))?;
    println!("{report}");
    report.check()
}
