//! `cargo xtask demo`: its options; the story itself is in `lb_tests::demo`.

use anyhow::Result;
use clap::ValueEnum;
use lb_tests::demo::{Forward, Options};
use lb_tests::edge::Programs;
use lb_tests::net::{Arms, Family};

/// The demo's options.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// How packets reach the backends
    #[arg(long, value_enum, default_value_t = Mode::Ipip)]
    forward: Mode,
    /// IPv6 for the VIP and the backends, instead of IPv4
    #[arg(long)]
    ipv6: bool,
    /// One interface for clients and backends (XDP_TX), instead of two (redirect)
    #[arg(long)]
    one_armed: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// New Ethernet addresses, nothing else
    L2,
    /// IP in IP
    Ipip,
}

/// Runs the demo with the release builds of the programs.
pub(crate) fn run(args: &Args) -> Result<()> {
    let options = Options {
        forward: match args.forward {
            Mode::L2 => Forward::L2,
            Mode::Ipip => Forward::Ipip,
        },
        family: if args.ipv6 { Family::V6 } else { Family::V4 },
        arms: if args.one_armed { Arms::One } else { Arms::Two },
    };
    lb_tests::demo::run(options, &Programs::find()?)
}
