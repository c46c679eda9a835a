//! `cargo xtask soak`: its options; what is done is in `lb_tests::soak`.

use std::time::Duration;

use anyhow::Result;
use lb_tests::edge::Programs;
use lb_tests::soak::{self, Options};

/// The soak's options.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// How long
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    minutes: u64,
    /// Connections at a time
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(3..=1_200))]
    connections: u64,
    /// Seconds from one operation to the next
    #[arg(long, default_value_t = 2)]
    pause: u64,
    /// The same seed does the same things in the same order
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Soaks with the release builds of the programs.
pub(crate) fn run(args: &Args) -> Result<()> {
    let options = Options {
        duration: Duration::from_secs(args.minutes * 60),
        pause: Duration::from_secs(args.pause),
        connections: args.connections as usize,
        seed: args.seed,
    };
    let report = soak::run(options, &Programs::find()?, |line| println!("{line}"))?;
    println!("{report}");
    report.check()
}
