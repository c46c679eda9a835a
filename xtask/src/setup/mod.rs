//! Makes sure that what the work needs is there: the eBPF crate's toolchain, all crates, and the programs that the demo and
//! the tests start. A second run finds everything in its record and does nothing.

mod decide;
mod facts;
pub(crate) mod packages;

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use xtask::{ebpf, record::Record};

use self::decide::{Facts, Linker, LinkerLlvm, Next, Recipe, Release, Step, Toolchain};
pub(crate) use self::facts::is_root;
use crate::progress::Progress;

/// How much must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// What a build needs.
    Build,
    /// What the demo and the tests need too.
    All,
    /// What other kernels are run with too.
    Kernels,
    /// What a guest with systemd is made of and run with too.
    Guest,
}

/// Makes sure of everything in the scope and returns what builds the eBPF crate.
pub(crate) fn ensure(scope: Scope) -> Result<Record> {
    let crates = lock_digest()?;
    let ready = Record::load().ok().filter(|record| record.fetched == crates);
    let lacking = packages::missing(scope);
    if let Some(record) = ready.clone().filter(|_| lacking.is_empty()) {
        return Ok(record);
    }

    let progress = Progress::new();
    let mut apt_updated = false;
    let record = match ready {
        Some(record) => record,
        None => {
            progress.heading("Setting up the eBPF crate's toolchain");
            let record = Record {
                fetched: crates,
                ..toolchain(&progress, &mut apt_updated)?
            };
            fetch(&progress, &record)?;
            record.save()?;
            record
        }
    };
    if !lacking.is_empty() {
        progress.heading("Setting up what the demo and the tests start");
        install_programs(&progress, scope, &lacking, apt_updated)?;
    }
    Ok(record)
}

/// `cargo xtask setup`: makes sure of everything and says what there is.
pub(crate) fn run() -> Result<()> {
    let record = ensure(Scope::All)?;
    let progress = Progress::new();
    progress.heading("Set up");
    progress.have(&format!(
        "rustc {} (LLVM {}): {}",
        record.release,
        record.llvm,
        record.rustc.display()
    ));
    progress.have(&format!(
        "bpf-linker {}: {}",
        record.linker_release,
        record.linker.display()
    ));
    let programs: Vec<_> = packages::PACKAGES.iter().map(|package| package.program).collect();
    progress.have(&programs.join(", "));
    for remark in kernel_remarks() {
        progress.warn(&remark);
    }
    Ok(())
}

/// What the demo and the tests will miss on this machine and no package brings.
fn kernel_remarks() -> Vec<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release
        .trim()
        .split('.')
        .map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let mut remarks = Vec::new();
    if version < (6, 1) {
        remarks.push(format!(
            "this kernel is {}; edgelb is made for Linux 6.1 and later",
            release.trim()
        ));
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        remarks.push(
            "this kernel shows no BTF (CONFIG_DEBUG_INFO_BTF): if it refuses the programs, try a distribution's kernel"
                .into(),
        );
    }
    if !is_root() {
        remarks.push("the demo and the tests load programs and make network namespaces: run them as root".into());
    }
    remarks
}

/// Looks, does one step, and looks again, until a compiler and a linker fit together.
fn toolchain(progress: &Progress, apt_updated: &mut bool) -> Result<Record> {
    let mut tried = Vec::new();
    loop {
        let facts: Facts = facts::gather(tried.clone(), *apt_updated);
        let step = match decide::next(&facts) {
            Next::Ready(toolchain, linker) => {
                let record = record_of(toolchain, linker)?;
                progress.have(&format!(
                    "rustc {} (LLVM {}): {}",
                    record.release,
                    record.llvm,
                    record.rustc.display()
                ));
                progress.have(&format!(
                    "bpf-linker {}: {}",
                    record.linker_release,
                    record.linker.display()
                ));
                return Ok(record);
            }
            Next::Do(step) => step,
            Next::Cannot(why) => bail!(why),
        };
        if matches!(step, Step::Apt(_)) && !*apt_updated {
            *apt_updated = true;
            // Old lists name packages that are gone from the servers; if there is no network the install says so.
            drop(take(progress, &Step::AptUpdate));
        }
        *apt_updated |= step == Step::AptUpdate;
        if let Err(error) = take(progress, &step) {
            progress.warn(&format!("{error:#}"));
        }
        // Not even one that succeeded is taken twice: if it is wanted again it changed nothing.
        tried.push(step);
    }
}

fn take(progress: &Progress, step: &Step) -> Result<()> {
    let mut command = match step {
        Step::AptUpdate => apt_get(&["update", "-q"]),
        Step::Apt(packages) => install(packages),
        Step::AddSource { toolchain } => rustup(&["component", "add", "rust-src", "--toolchain", toolchain]),
        Step::AddToolchain { release } => rustup(&[
            "toolchain",
            "install",
            release,
            "--profile",
            "minimal",
            "--component",
            "rust-src",
            "--no-self-update",
        ]),
        Step::BuildLinker { recipe, toolchain } => build_linker(recipe, toolchain)?,
    };
    progress.run(&step.name(), step.why(), &mut command)?;
    if let Step::BuildLinker { recipe, .. } = step {
        // Half a gigabyte that nobody reads again; if it stays, it is only in the way.
        drop(fs::remove_dir_all(linker_dir(recipe).join("build")));
    }
    Ok(())
}

fn rustup(args: &[&str]) -> Command {
    let mut rustup = Command::new(packages::find("rustup").unwrap_or_else(|| "rustup".into()));
    ebpf::scrub(&mut rustup);
    rustup.args(args);
    rustup
}

fn build_linker(recipe: &Recipe, toolchain: &Path) -> Result<Command> {
    let dir = linker_dir(recipe);
    // Debian's compiler comes without a cargo.
    let own = toolchain.join("bin/cargo");
    let (cargo, rustc) = match own.is_file() {
        true => (own, Some(toolchain.join("bin/rustc"))),
        false => (our_cargo()?, None),
    };
    let mut command = Command::new(cargo);
    ebpf::scrub(&mut command);
    if let Some(rustc) = rustc {
        command.env("RUSTC", rustc);
    }
    if let LinkerLlvm::Own(llvm) = recipe.llvm {
        let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
        if prefix.is_dir() {
            command.env("LLVM_PREFIX", prefix);
        }
    }
    command
        .args([
            "install",
            "bpf-linker",
            "--locked",
            "--force",
            "--version",
            recipe.release,
        ])
        .args(["--no-default-features", "--features", recipe.feature, "--root"])
        .arg(&dir)
        .arg("--target-dir")
        .arg(dir.join("build"));
    Ok(command)
}

fn linker_dir(recipe: &Recipe) -> PathBuf {
    match recipe.llvm {
        LinkerLlvm::Borrowed(llvm) => facts::borrowing_dir(recipe.release, llvm),
        LinkerLlvm::Own(_) | LinkerLlvm::Unknown => {
            facts::tools_dir().join(format!("bpf-linker-{}-{}", recipe.release, recipe.feature))
        }
    }
}

fn our_cargo() -> Result<PathBuf> {
    facts::our_cargo().context("there is no cargo in PATH: install Rust from https://rustup.rs")
}

fn record_of(toolchain: &Toolchain, linker: &Linker) -> Result<Record> {
    let Release(major, minor, patch) = toolchain.release;
    let own_cargo = toolchain.sysroot.join("bin/cargo");
    let llvm_lib = matches!(linker.llvm, LinkerLlvm::Borrowed(_)).then(|| toolchain.sysroot.join("lib"));
    Ok(Record {
        rustc: toolchain.rustc.clone(),
        release: format!("{major}.{minor}.{patch}"),
        llvm: toolchain.llvm,
        library: facts::library(&toolchain.sysroot),
        cargo: if own_cargo.is_file() { own_cargo } else { our_cargo()? },
        linker: linker.path.clone(),
        linker_release: linker.release.clone(),
        llvm_lib,
        fetched: String::new(),
    })
}

/// Fetches every crate, so that nothing later needs the network.
fn fetch(progress: &Progress, record: &Record) -> Result<()> {
    let mut ours = Command::new(our_cargo()?);
    ebpf::scrub(&mut ours);
    ours.current_dir(xtask::root()).args(["fetch", "--locked"]);
    let mut theirs = ebpf::cargo(record);
    theirs.args(["fetch", "--locked", "-Zbuild-std=core", "--target", ebpf::TARGET]);
    theirs.arg("--manifest-path").arg(ebpf::manifest());

    progress
        .run(
            "cargo fetch",
            "the daemon's crates, so that later builds need no network",
            &mut ours,
        )
        .and_then(|()| {
            progress.run(
                "cargo fetch for BPF",
                "the eBPF programs' crates and those of `core`",
                &mut theirs,
            )
        })
        .context("crates cannot be fetched; connect the machine to the network once and run this again")
}

/// A digest of the lock files, by which a change to them is noticed.
fn lock_digest() -> Result<String> {
    let mut digest = DefaultHasher::new();
    for file in ["Cargo.lock", "lb-ebpf/Cargo.lock"] {
        let file = xtask::root().join(file);
        fs::read(&file)
            .with_context(|| format!("reading {}", file.display()))?
            .hash(&mut digest);
    }
    Ok(format!("{:016x}", digest.finish()))
}

fn install_programs(
    progress: &Progress,
    scope: Scope,
    lacking: &[&packages::Package],
    mut apt_updated: bool,
) -> Result<()> {
    let names: Vec<String> = lacking.iter().map(|package| package.name.to_owned()).collect();
    for package in lacking {
        progress.warn(&format!(
            "{} is missing, from {}: {}",
            package.program, package.name, package.purpose
        ));
    }
    let by_hand = format!(
        "install {} with your system's package manager, then run this again",
        names.join(", ")
    );
    if !is_root() || packages::find("apt-get").is_none() {
        bail!(
            "the demo and the tests start programs that are not here, and only root on Debian or Ubuntu can have them installed: {by_hand}"
        );
    }
    if !apt_updated {
        apt_updated = take(progress, &Step::AptUpdate).is_ok();
    }
    let what = format!("apt-get install {}", names.join(" "));
    let installed = progress.run(&what, "the demo and the tests start these", &mut install(&names));
    let still: Vec<_> = packages::missing(scope).iter().map(|package| package.program).collect();
    match installed {
        Ok(()) if still.is_empty() => Ok(()),
        Ok(()) => bail!("{} still missing after {what}: {by_hand}", still.join(", ")),
        Err(error) if apt_updated => Err(error.context(by_hand)),
        Err(error) => {
            Err(error.context("apt-get cannot reach its servers; connect the machine once, then run this again"))
        }
    }
}

fn apt_get(args: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    // Somebody else's apt may be running, as on a machine that was just started.
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-o", "DPkg::Lock::Timeout=300"])
        .args(args);
    command
}

/// Installs packages without letting them start services: a web server on this machine's port 80 is not what was asked for.
fn install(packages: &[String]) -> Command {
    let mut command = Command::new("sh");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-c", INSTALL, "sh"])
        .args(packages);
    command
}

/// The shell removes the policy whatever becomes of apt-get, or of us.
const INSTALL: &str = r#"
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"
"#;
