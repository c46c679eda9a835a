//! The project's chores: `cargo xtask help` lists them.

mod bench;
mod clean;
mod demo;
mod fuzz;
mod guest;
mod kernels;
mod lint;
mod progress;
mod qemu;
mod setup;
mod soak;
mod test;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use xtask::ebpf;

use crate::setup::Scope;

/// Sets up, builds, tests and shows edgelb.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Makes sure of everything that the others need: the eBPF crate's toolchain, bpf-linker, crates, programs.
    ///
    /// The others do this themselves. What is missing is installed with rustup, cargo and, as root, apt-get; what was found
    /// is kept in target/ebpf-toolchain.toml. A second run does nothing.
    Setup,
    /// Builds target/release/lbd and target/release/lbctl, with the eBPF programs in them.
    Build,
    /// Shows the balancer at work in network namespaces: traffic, a backend that dies, its return. Needs root.
    Demo(demo::Args),
    /// Runs all tests and closes with one line of how many passed and failed. Most of those end to end need root.
    ///
    /// Tests are built by the dev profile, for its checks. Those that start the programs find the release builds in the
    /// variables LBD_BIN and LBCTL_BIN.
    Test {
        /// Runs only the tests whose name contains this.
        filter: Option<String>,
        /// Runs the end-to-end tests alone, with the XDP programs attached so: by the network stack, as for a driver without
        /// native XDP.
        #[arg(long, value_name = "MODE")]
        xdp: Option<test::Xdp>,
    },
    /// Runs the tests on Debian's kernels, 6.1, 6.12 and the newest, each booted under QEMU without KVM.
    ///
    /// The kernels are fetched once, to target/kernels. docs/kernels.md says what is tested.
    Kernels(kernels::Args),
    /// Installs edgelb as README says on a Debian with systemd, booted under QEMU without KVM, and looks at its units there. Needs root.
    ///
    /// The Debian is made once, in target/guest. docs/guest.md says what is looked at. Where LBD_BIN and LBCTL_BIN name programs nothing is built.
    Guest(guest::Args),
    /// Measures what the balancer costs a packet, or any other loaded XDP program: see docs/benchmark.md. Needs root.
    Bench(bench::Args),
    /// Fuzzes what reads packets, or runs random packets through the program and its model on the host: see CONTRIBUTING.md.
    Fuzz(fuzz::Args),
    /// Rolls, kills, drains and reconfigures a pool under live connections, with a daemon that restarts, and tells which connections
    /// broke without a cause. Needs root. CI runs a minute of it.
    Soak(soak::Args),
    /// Checks the formatting, runs clippy over the workspace and the eBPF crate, and rustdoc; a warning is an error.
    Lint,
    /// Removes what builds made, and what interrupted demos and tests left in the system.
    ///
    /// Leftovers are folders for temporary files whose process is gone: hosts go with their process.
    Clean {
        /// Removes the tools that `setup` built, its record, the kernels that were fetched and the guest too.
        #[arg(long)]
        all: bool,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Setup => setup::run().map(|()| ExitCode::SUCCESS),
        Task::Build => build().map(|_| ExitCode::SUCCESS),
        Task::Demo(args) => show(&args).map(|()| ExitCode::SUCCESS),
        Task::Test { filter, xdp } => test::run(filter.as_deref(), xdp),
        Task::Kernels(args) => kernels::run(&args),
        Task::Guest(args) => guest::run(&args),
        Task::Bench(args) => bench::run(&args).map(|()| ExitCode::SUCCESS),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Soak(args) => soak(&args).map(|()| ExitCode::SUCCESS),
        Task::Lint => lint::run().map(|()| ExitCode::SUCCESS),
        Task::Clean { all } => clean::run(all).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn show(args: &demo::Args) -> Result<()> {
    setup::ensure(Scope::All)?;
    build()?;
    demo::run(args)
}

fn soak(args: &soak::Args) -> Result<()> {
    setup::ensure(Scope::All)?;
    build()?;
    soak::run(args)
}

/// The programs that a build makes.
struct Programs {
    lbd: PathBuf,
    lbctl: PathBuf,
}

fn build() -> Result<Programs> {
    let record = setup::ensure(Scope::Build)?;
    // The daemon's build script would do it too, but in silence.
    ebpf::build(&record)?;
    cargo(&["build", "--release", "--locked", "--package", "lb-userspace", "--bins"])?;
    let release = xtask::target_dir().join("release");
    let programs = Programs {
        lbd: release.join("lbd"),
        lbctl: release.join("lbctl"),
    };
    for program in [&programs.lbd, &programs.lbctl] {
        eprintln!("built {}", short(program).display());
    }
    Ok(programs)
}

/// Runs cargo on the workspace.
fn cargo(args: &[&str]) -> Result<()> {
    let status = outer_cargo()?.args(args).status().context("cargo cannot be started")?;
    if !status.success() {
        bail!("`cargo {}` failed", args.join(" "));
    }
    Ok(())
}

/// The cargo that runs us, for work on the workspace.
fn outer_cargo() -> Result<Command> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(xtask::root());
    // `cargo run` described xtask to us. A test or a program must not take that for itself.
    for (key, _) in std::env::vars_os() {
        if key
            .to_str()
            .is_some_and(|key| key.starts_with("CARGO_PKG_") || key.starts_with("CARGO_MANIFEST_"))
        {
            command.env_remove(key);
        }
    }
    Ok(command)
}

/// A path as seen from the top of the workspace.
fn short(path: &Path) -> &Path {
    path.strip_prefix(xtask::root()).unwrap_or(path)
}
