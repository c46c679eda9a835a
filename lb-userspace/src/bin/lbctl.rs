//! `lbctl`, the balancer's command line: see [`lb_userspace::cli`].

use std::process::ExitCode;

use lb_userspace::api::report::{CheckReport, Finding};
use lb_userspace::cli::{self, Offline};

fn main() -> ExitCode {
    cli::main(Offline {
        check: |_text, file| CheckReport {
            file: file.to_owned(),
            valid: false,
            services: 0,
            backends: 0,
            errors: vec![Finding {
                line: None,
                column: None,
                message: "configuration files are not read by this version".to_owned(),
            }],
            warnings: Vec::new(),
        },
        simulate: |_simulation, _text| Err("this version does not simulate".into()),
    })
}
