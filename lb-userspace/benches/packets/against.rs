//! Two revisions measured in turn: the other one's benchmark only loads its program and fills its tables.
//!
//! That one runs as `packets --hold`: it reads a case's name a line, and answers with one line of JSON. Both programs are
//! then called by this revision's wrapper, round by round, so that whatever happens to the machine happens to both.

use std::io::{BufRead as _, BufReader, Write as _, stdin, stdout};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result};
use aya::programs::loaded_programs;
use serde::{Deserialize, Serialize};

use crate::cases::{self, Case};
use crate::harness::Target;
use crate::scenario::{self, Loaded, Scenario};

/// The answer to a case's name.
#[derive(Debug, Serialize, Deserialize)]
struct Held {
    program_id: u32,
    verdict: u32,
    growth: i32,
}

/// Loads what is asked for, until standard input ends.
pub(crate) fn hold() -> Result<()> {
    let mut loaded: Option<(Scenario, Loaded)> = None;
    for line in stdin().lines() {
        let name = line?;
        let case = cases::all().into_iter().find(|case| case.name() == name);
        let case = case.with_context(|| format!("this revision has no case {name:?}"))?;
        if loaded.as_ref().is_none_or(|(scenario, _)| *scenario != case.scenario) {
            drop(loaded.take());
            loaded = Some((case.scenario, scenario::load(&case.scenario)?));
        }
        let Some((_, loaded)) = &mut loaded else { continue };
        let (verdict, growth, _) = case.expected();
        let held = Held {
            program_id: loaded.balancer.program_id()?,
            verdict,
            growth,
        };
        println!("{}", serde_json::to_string(&held)?);
        stdout().flush()?;
    }
    Ok(())
}

/// The other revision's benchmark, running.
pub(crate) struct Other {
    name: String,
    bench: PathBuf,
    child: Child,
    asks: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Other {
    pub(crate) fn start(bench: &Path, name: &str) -> Result<Self> {
        let (child, asks, answers) = spawn(bench)?;
        Ok(Self {
            name: name.to_owned(),
            bench: bench.to_owned(),
            child,
            asks,
            answers,
        })
    }

    /// The other revision's program, its tables filled for the case; nothing if it cannot, as one that is older than the case.
    pub(crate) fn target(&mut self, case: &Case) -> Result<Option<Target>> {
        let name = case.name();
        if let Some(asks) = &mut self.asks {
            writeln!(asks, "{name}")?;
        }
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            eprintln!("{} is not measured in the case {name}; why is above", self.name);
            self.child.wait()?;
            (self.child, self.asks, self.answers) = spawn(&self.bench)?;
            return Ok(None);
        }
        let held: Held = serde_json::from_str(&line).with_context(|| format!("{} answers {line:?}", self.name))?;
        let info = loaded_programs()
            .filter_map(Result::ok)
            .find(|info| info.id() == held.program_id)
            .with_context(|| format!("{}'s program {} is gone", self.name, held.program_id))?;
        Ok(Some(Target {
            program: info.fd()?,
            verdict: held.verdict,
            growth: held.growth,
        }))
    }
}

type Process = (Child, Option<ChildStdin>, BufReader<ChildStdout>);

fn spawn(bench: &Path) -> Result<Process> {
    let mut child = Command::new(bench)
        .arg("--hold")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| bench.display().to_string())?;
    let asks = child.stdin.take();
    let answers = child.stdout.take().context("a pipe that was asked for")?;
    Ok((child, asks, BufReader::new(answers)))
}

impl Drop for Other {
    fn drop(&mut self) {
        // The end of its input ends it.
        drop(self.asks.take());
        if let Err(error) = self.child.wait() {
            eprintln!("{}: {error}", self.name);
        }
    }
}
