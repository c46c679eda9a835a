//! `cargo xtask fuzz`: libFuzzer on what reads packets, and the loaded program against its model on the host.
//!
//! Needs no cargo-fuzz and no nightly: the targets are built as cargo-fuzz would build them, with the stable compiler that is told
//! to accept its own sanitizer's flag.

mod seeds;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    outer_cargo,
    setup::{self, Scope, packages},
    short,
};

/// What to fuzz, and for how long.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only these targets: "parse", "decap", "tunnel"
    #[arg(conflicts_with = "differential")]
    targets: Vec<String>,
    /// How long each target runs
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// So many random and mutated packets through the loaded program and through the model on the host, instead; needs root
    #[arg(long, value_name = "PACKETS")]
    differential: Option<u64>,
    /// Begins the differential test's packets elsewhere
    #[arg(long, value_name = "NUMBER", requires = "differential")]
    seed: Option<u64>,
}

const TARGETS: [&str; 3] = ["parse", "decap", "tunnel"];
/// What libFuzzer needs of the compiler, as cargo-fuzz has it, and AddressSanitizer.
const FLAGS: &str = "--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0 -Zsanitizer=address";
/// Headers, and enough after them to tell lengths apart.
const LONGEST: usize = 2048;

/// Runs the targets one after the other, or the differential test.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if let Some(packets) = args.differential {
        return differential(packets, args.seed);
    }
    for target in &args.targets {
        if !TARGETS.contains(&target.as_str()) {
            bail!("no target {target:?}; there are {}", TARGETS.join(", "));
        }
    }
    let programs = build()?;
    let mut found = false;
    for target in TARGETS {
        if args.targets.is_empty() || args.targets.iter().any(|wanted| wanted == target) {
            found |= fuzz(&programs.join(target), target, args.seconds)?;
        }
    }
    Ok(if found { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The test of lb-userspace, with another number of packets.
fn differential(packets: u64, seed: Option<u64>) -> Result<ExitCode> {
    setup::ensure(Scope::Build)?;
    let mut cargo = outer_cargo()?;
    cargo
        .args(["test", "--locked", "--package", "lb-userspace", "--test", "packets"])
        .args(["--", "--nocapture", "differential::"])
        .env("DIFFERENTIAL_PACKETS", packets.to_string());
    if let Some(seed) = seed {
        cargo.env("DIFFERENTIAL_SEED", seed.to_string());
    }
    let status = cargo.status().context("cargo cannot be started")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Builds the targets; returns the folder that they are in.
fn build() -> Result<PathBuf> {
    if ["c++", "g++", "clang++"]
        .iter()
        .all(|name| packages::find(name).is_none())
    {
        bail!("libFuzzer is built from its C++ sources, and there is no c++: install g++");
    }
    let target_dir = xtask::target_dir().join("fuzz");
    let triple = host()?;
    let status = outer_cargo()?
        // With a triple, even the host's: build scripts and macros are then built without the sanitizer.
        .args(["build", "--release", "--locked", "--target", &triple])
        .arg("--manifest-path")
        .arg(manifest())
        .arg("--target-dir")
        .arg(&target_dir)
        .env("RUSTFLAGS", FLAGS)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        // For `-Zsanitizer`, which works in a stable compiler, but is not promised to.
        .env("RUSTC_BOOTSTRAP", "1")
        .status()
        .context("cargo cannot be started")?;
    if !status.success() {
        bail!("the fuzz targets do not build; what cargo says is above");
    }
    Ok(target_dir.join(triple).join("release"))
}

/// Where the fuzz targets' crate is.
pub(crate) fn manifest() -> PathBuf {
    xtask::root().join("fuzz/Cargo.toml")
}

fn host() -> Result<String> {
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .arg("-vV")
        .output()
        .context("rustc cannot be started")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned)
        .with_context(|| format!("rustc names no host:\n{text}"))
}

/// Runs a target; says whether it found something.
fn fuzz(program: &Path, target: &str, seconds: u64) -> Result<bool> {
    let folder = xtask::root().join("fuzz");
    let (corpus, artifacts) = (
        folder.join("corpus").join(target),
        folder.join("artifacts").join(target),
    );
    fs::create_dir_all(&artifacts).with_context(|| format!("creating {}", artifacts.display()))?;
    let seeds = seeds::write(target, &corpus)?;
    eprintln!("{target}: {seeds} seeds, {seconds} s");
    let mut child = Command::new(program)
        .arg(&corpus)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={LONGEST}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-timeout=5", "-print_final_stats=1"])
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} cannot be started", program.display()))?;
    let mut account = Account::default();
    if let Some(pipe) = child.stderr.take() {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            account.line(&String::from_utf8_lossy(&line));
        }
    }
    let status = child.wait()?;
    if status.success() {
        println!(
            "{target}: {} runs, {} a second, {} branches of the code reached, nothing found",
            account.runs, account.rate, account.reached
        );
        return Ok(false);
    }
    println!("{target}: found something after {} runs:", account.runs);
    for line in &account.tail {
        println!("  {line}");
    }
    println!(
        "the input is in {}; again: {} FILE",
        short(&artifacts).display(),
        short(program).display()
    );
    Ok(true)
}

/// What libFuzzer says of itself.
#[derive(Default)]
struct Account {
    runs: String,
    rate: String,
    reached: String,
    /// Lines that are no progress: the panic and the sanitizer's account, if there is one.
    tail: Vec<String>,
}

impl Account {
    fn line(&mut self, line: &str) {
        let after = |name: &str| line.split_once(name).map(|(_, rest)| rest.trim_start());
        let word = |rest: &str| rest.split_whitespace().next().unwrap_or_default().to_owned();
        if let Some(runs) = after("stat::number_of_executed_units:") {
            self.runs = word(runs);
        } else if let Some(rate) = after("stat::average_exec_per_sec:") {
            self.rate = word(rate);
        } else if line.starts_with('#') {
            if let Some(reached) = after(" cov: ") {
                self.reached = word(reached);
            }
            self.runs = word(line.trim_start_matches('#'));
        } else if !["INFO:", "stat::", "\""].iter().any(|start| line.starts_with(start)) {
            self.tail.push(line.to_owned());
            let most = 60;
            if self.tail.len() > most {
                self.tail.remove(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libfuzzers_account_is_read() {
        let mut account = Account::default();
        for line in [
            "INFO: Seed: 1073754059",
            "#3573952\tDONE   cov: 131 ft: 131 corp: 30/1167b lim: 2048 exec/s: 223372 rss: 484Mb",
            "thread '<unnamed>' panicked at fuzz_targets/parse.rs:23:9:",
            "stat::number_of_executed_units: 3573953",
            "stat::average_exec_per_sec:     223372",
        ] {
            account.line(line);
        }
        assert_eq!((account.runs.as_str(), account.rate.as_str()), ("3573953", "223372"));
        assert_eq!(account.reached, "131");
        assert_eq!(account.tail.len(), 1);
    }

    #[test]
    fn every_target_is_there_and_has_seeds() {
        let folder = tempfile();
        for target in TARGETS {
            let source = xtask::root().join(format!("fuzz/fuzz_targets/{target}.rs"));
            assert!(source.is_file(), "{}", source.display());
            assert!(seeds::write(target, &folder.join(target)).unwrap() > 10, "{target}");
        }
        fs::remove_dir_all(folder).unwrap();
    }

    fn tempfile() -> PathBuf {
        std::env::temp_dir().join(format!("elb-{}-seeds", std::process::id()))
    }
}
