//! Shows a failover; comes with the daemon.

use anyhow::{Result, bail};

/// The demo's options.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {}

/// Runs the demo.
pub(crate) fn run(_args: &Args) -> Result<()> {
    bail!("the demo is not there yet: the daemon that it shows is still to be built")
}
