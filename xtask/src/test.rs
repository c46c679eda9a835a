//! `cargo xtask test`: runs all tests, shows what they print, and closes with one line of how many passed and failed.

use std::{
    io::{BufRead as _, BufReader, IsTerminal as _, stdout},
    ops::AddAssign,
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{
    build, outer_cargo,
    setup::{self, Scope},
};

/// How the end-to-end tests are to attach XDP programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Xdp {
    /// By the network stack.
    Generic,
}

/// How many tests of a program run at a time, for Rust's test harness.
const THREADS: &str = "RUST_TEST_THREADS";
/// The long ones wait, for checks and timers, and hardly compute: one more than the smallest machine has processors.
const AT_ONCE: &str = "3";

/// Runs the tests whose name contains the filter. The closing line is the last that is printed, come what may.
pub(crate) fn run(filter: Option<&str>, xdp: Option<Xdp>) -> Result<ExitCode> {
    let tally = run_all(filter, xdp).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        Tally {
            failed: 1,
            ..Tally::default()
        }
    });
    println!("{tally}");
    Ok(if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run_all(filter: Option<&str>, xdp: Option<Xdp>) -> Result<Tally> {
    setup::ensure(Scope::All)?;
    let programs = build()?;
    if !setup::is_root() {
        eprintln!("not root: the tests that load programs or make network namespaces will fail");
    }

    let mut cargo = outer_cargo()?;
    cargo.args(["test", "--locked", "--no-fail-fast"]);
    match xdp {
        None => cargo.arg("--workspace"),
        Some(Xdp::Generic) => cargo
            .args(["--package", "lb-tests"])
            .env(lb_tests::xdp::VARIABLE, "generic"),
    };
    if std::env::var_os(THREADS).is_none() {
        cargo.env(THREADS, AT_ONCE);
    }
    let mut child = cargo
        .args(filter)
        .env("LBD_BIN", &programs.lbd)
        .env("LBCTL_BIN", &programs.lbctl)
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo cannot be started")?;
    let mut parser = Parser::default();
    let colour = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    if let Some(pipe) = child.stdout.take() {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            parser.line(&line);
            println!("{}", if colour { paint(&line) } else { line.into_owned() });
        }
    }
    Ok(parser.end(child.wait()?.success()))
}

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)
        } else {
            Ok(())
        }
    }
}

/// Adds up what `cargo test` prints. A test program that dies prints no result: its tests so far count, and one failure.
#[derive(Default)]
struct Parser {
    total: Tally,
    /// The tests of the program that is running now, by their own lines.
    running: Option<Tally>,
    /// What follows is what failed tests printed, which may look like anything.
    quoting: bool,
}

impl Parser {
    fn line(&mut self, line: &str) {
        let line = line.trim();
        if self.quoting && !line.starts_with("test result: FAILED. ") {
            return;
        }
        self.quoting = line == "failures:" && self.running.is_some();
        if let Some(result) = line.strip_prefix("test result: ").and_then(result) {
            self.total += result;
            self.running = None;
        } else if is_start(line) {
            self.close();
            self.running = Some(Tally::default());
        } else if let Some((running, end)) = self.running.as_mut().zip(outcome(line)) {
            *running += end;
        }
    }

    fn end(mut self, success: bool) -> Tally {
        self.close();
        if !success && self.total.failed == 0 {
            // It did not build, or a program died before its first test.
            self.total.failed = 1;
        }
        self.total
    }

    /// The program that was running gave no result.
    fn close(&mut self) {
        if let Some(running) = self.running.take() {
            self.total += Tally {
                failed: running.failed.max(1),
                ..running
            };
        }
    }
}

/// `running 3 tests`
fn is_start(line: &str) -> bool {
    let count = line
        .strip_prefix("running ")
        .and_then(|rest| rest.strip_suffix(" tests").or(rest.strip_suffix(" test")));
    count.is_some_and(|count| count.parse::<u64>().is_ok())
}

/// `ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s`
fn result(line: &str) -> Option<Tally> {
    let (_, counts) = line.split_once(". ")?;
    let count = |name: &str| {
        let word = counts.split(';').find_map(|part| part.trim().strip_suffix(name))?;
        word.trim().parse().ok()
    };
    Some(Tally {
        passed: count(" passed")?,
        failed: count(" failed")?,
        skipped: count(" ignored")?,
    })
}

/// `test maglev::shares ... ok`
fn outcome(line: &str) -> Option<Tally> {
    let (_, outcome) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let none = Tally::default();
    match outcome.split([' ', ',']).next()? {
        "ok" => Some(Tally { passed: 1, ..none }),
        "FAILED" => Some(Tally { failed: 1, ..none }),
        "ignored" => Some(Tally { skipped: 1, ..none }),
        _ => None,
    }
}

fn paint(line: &str) -> String {
    let code = match outcome(line) {
        Some(Tally { passed: 1, .. }) => "32",
        Some(Tally { failed: 1, .. }) => "31",
        Some(_) => "33",
        None => return line.into(),
    };
    match line.rsplit_once(" ... ") {
        Some((name, outcome)) => format!("{name} ... \x1b[{code}m{outcome}\x1b[0m"),
        None => line.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(output: &str, success: bool, closing: &str) {
        let mut parser = Parser::default();
        output.lines().for_each(|line| parser.line(line));
        assert_eq!(parser.end(success).to_string(), closing, "{output}");
    }

    #[test]
    fn results_of_all_programs_are_added_up() {
        let ok = "running 2 tests\ntest a ... ok\ntest b ... ok\n\n\
                  test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        check(ok, true, "2 passed, 0 failed");
        let mixed = "running 3 tests\ntest a ... ok\ntest b ... FAILED\ntest c ... ignored, slow\n\nfailures:\n\n\
                     test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 7 filtered out; finished in 1.20s\n";
        check(&format!("{ok}\n{mixed}{ok}"), false, "5 passed, 1 failed, 1 skipped");
        check(
            "\nrunning 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n",
            true,
            "0 passed, 0 failed",
        );
    }

    #[test]
    fn a_program_that_dies_counts_its_tests_and_a_failure() {
        let ok = "running 1 test\ntest z ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        let dead = "running 3 tests\ntest a ... ok\ntest b ... error: process died\n";
        check(&format!("{dead}{ok}"), false, "2 passed, 1 failed");
        check(&format!("{ok}{dead}"), false, "2 passed, 1 failed");
        let dead_after_failure = "running 3 tests\ntest a ... FAILED\ntest b ... FAILED\n";
        check(&format!("{dead_after_failure}{dead}"), false, "1 passed, 3 failed");
        check("", false, "0 passed, 1 failed");
        check(ok, false, "1 passed, 1 failed");
    }

    #[test]
    fn what_a_test_prints_is_not_taken_for_a_result() {
        let chatty = "running 1 test\nrunning late\ntest result: pending\ntest a ... ok\n\
                      test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        check(chatty, true, "1 passed, 0 failed");
        let quoting = "running 1 test\ntest a ... FAILED\n\nfailures:\n\n---- a stdout ----\nrunning 2 tests\ntest b ... ok\n\
                       test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n\nfailures:\n    a\n\n\
                       test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n";
        check(&format!("{quoting}{chatty}"), false, "1 passed, 1 failed");
    }
}
