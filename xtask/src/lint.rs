//! `cargo xtask lint`: formatting and clippy, for the workspace and for the eBPF crate.

use std::process::Command;

use anyhow::Result;
use xtask::ebpf;

use crate::{cargo, outer_cargo, progress::Progress, setup};

pub(crate) fn run() -> Result<()> {
    components()?;
    setup::ensure(setup::Scope::Build)?;
    let ebpf = ebpf::manifest();
    let ebpf = ebpf.to_string_lossy();
    let target_dir = xtask::target_dir().join("ebpf-clippy");

    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["fmt", "--manifest-path", &ebpf, "--check"])?;
    cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ])?;
    // For the host, on purpose: clippy is the userspace compiler's, and that one need not have the sources of `core`.
    cargo(&[
        "clippy",
        "--manifest-path",
        &ebpf,
        "--target-dir",
        &target_dir.to_string_lossy(),
        "--bins",
        "--locked",
        "--",
        "-D",
        "warnings",
    ])
}

/// rustup's minimal profile has neither rustfmt nor clippy.
fn components() -> Result<()> {
    let progress = Progress::new();
    for (verb, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let there = outer_cargo()?
            .args([verb, "--version"])
            .output()
            .is_ok_and(|output| output.status.success());
        if !there {
            let mut rustup = Command::new("rustup");
            rustup.args(["component", "add", component]);
            progress.run(
                &format!("rustup component add {component}"),
                &format!("`cargo {verb}`"),
                &mut rustup,
            )?;
        }
    }
    Ok(())
}
