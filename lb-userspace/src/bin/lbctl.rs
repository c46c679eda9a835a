//! `lbctl`, the balancer's command line: see [`lb_userspace::cli`].

use std::process::ExitCode;

use lb_userspace::cli::{self, Offline};
use lb_userspace::{fit, simulate};

fn main() -> ExitCode {
    cli::main(Offline {
        check: fit::check,
        simulate: |simulation, text| Ok(simulate::simulate(simulation, text)?),
    })
}
