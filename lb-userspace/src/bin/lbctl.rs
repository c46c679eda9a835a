//! `lbctl`, the balancer's command line: see [`lb_userspace::cli`].

use std::process::ExitCode;

use lb_userspace::cli::{self, Offline};
use lb_userspace::{config, simulate};

fn main() -> ExitCode {
    cli::main(Offline {
        check: config::check,
        simulate: |simulation, text| Ok(simulate::simulate(simulation, text)?),
    })
}
