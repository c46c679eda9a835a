//! `cargo xtask lint`: formatting and clippy, for the workspace, the eBPF crate and the fuzz targets; then rustdoc.

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use xtask::ebpf;

use crate::{cargo, fuzz, outer_cargo, progress::Progress, setup};

pub(crate) fn run() -> Result<()> {
    components()?;
    setup::ensure(setup::Scope::Build)?;
    let ebpf = ebpf::manifest();
    let ebpf = ebpf.to_string_lossy();
    let target_dir = xtask::target_dir().join("ebpf-clippy");

    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["fmt", "--manifest-path", &ebpf, "--check"])?;
    let fuzz = fuzz::manifest();
    let fuzz = fuzz.to_string_lossy();
    cargo(&["fmt", "--manifest-path", &fuzz, "--check"])?;
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
    ])?;
    fuzz_targets(&fuzz)?;
    docs()
}

/// What the comments link to must be there.
fn docs() -> Result<()> {
    let status = outer_cargo()?
        .args(["doc", "--workspace", "--no-deps", "--locked", "--quiet"])
        .env("RUSTDOCFLAGS", "-Dwarnings")
        .status()
        .context("cargo cannot be started")?;
    if !status.success() {
        bail!("rustdoc has complaints");
    }
    Ok(())
}

fn fuzz_targets(manifest: &str) -> Result<()> {
    // The workspace's own: most dependencies are the same, and have been looked at.
    let target_dir = xtask::target_dir();
    let status = outer_cargo()?
        .args(["clippy", "--manifest-path", manifest, "--lib", "--bins", "--locked"])
        .arg("--target-dir")
        .arg(&target_dir)
        .args(["--", "-D", "warnings"])
        // A library that is not there: nothing is linked, and so libFuzzer need not be built.
        .env("CUSTOM_LIBFUZZER_PATH", target_dir.join("libnone.a"))
        .status()
        .context("cargo cannot be started")?;
    if !status.success() {
        bail!("clippy has complaints about the fuzz targets");
    }
    Ok(())
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
