//! A guest: a kernel under QEMU, what it runs, and what it reports.
//!
//! The kernel's console is the first serial port, the report the second: nothing that the kernel prints gets between its lines. A
//! report that does not come to its end, whatever the reason (a panic, a hang), is a failure.

use std::{
    fs,
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::qemu;

/// A program that a guest runs.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) name: String,
    /// How long it may take.
    pub(super) limit: Duration,
    /// Where it runs.
    pub(super) directory: String,
    /// The command, as a shell reads it.
    pub(super) command: String,
}

impl Job {
    /// Its line in the guest's list.
    pub(super) fn line(&self) -> String {
        let seconds = self.limit.as_secs();
        format!("{}\t{seconds}\t{}\t{}\n", self.name, self.directory, self.command)
    }
}

/// What became of a job.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Outcome {
    pub(super) name: String,
    /// The exit code; 137 if its time was up. None if the guest died meanwhile.
    pub(super) code: Option<i32>,
    /// The guest's seconds.
    pub(super) seconds: f64,
    pub(super) output: Vec<String>,
}

/// What a guest reported.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Report {
    /// `uname -r`.
    pub(super) release: String,
    pub(super) outcomes: Vec<Outcome>,
    /// Modules that the kernel refused.
    pub(super) unloadable: Vec<String>,
    /// Whether it came to its end.
    pub(super) complete: bool,
}

impl Report {
    /// Whether the first process came to run.
    pub(super) fn began(&self) -> bool {
        !self.release.is_empty()
    }
}

/// Boots a kernel and waits until it has switched itself off: `limit` at most, and `boot` if its first process does not report by
/// then. What it printed is in `console.log` afterwards.
pub(super) fn run(vmlinuz: &Path, initramfs: &Path, place: &Path, boot: Duration, limit: Duration) -> Result<Report> {
    let (console, report) = (place.join("console.log"), place.join("report.log"));
    // QEMU empties them, but not before it has started.
    for file in [&console, &report] {
        fs::write(file, "").with_context(|| format!("writing {}", file.display()))?;
    }
    let token = format!("elb-{}", std::process::id());
    let mut qemu = qemu::command(1024)
        .arg("-kernel")
        .arg(vmlinuz)
        .arg("-initrd")
        .arg(initramfs)
        .arg("-append")
        .arg(format!(
            "{} rdinit=/init loglevel=5 edgelb.token={token}",
            qemu::KERNEL_WORDS
        ))
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-serial")
        .arg(format!("file:{}", report.display()))
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("qemu-system-x86_64 cannot be started")?;
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = qemu.try_wait()? {
            break Some(status);
        }
        let reported = || fs::metadata(&report).is_ok_and(|file| file.len() > 0);
        if begun.elapsed() > limit || (begun.elapsed() > boot && !reported()) {
            qemu.kill()?;
            qemu.wait()?;
            break None;
        }
        thread::sleep(Duration::from_millis(50));
    };
    if status.is_some_and(|status| !status.success()) {
        let mut errors = String::new();
        if let Some(mut pipe) = qemu.stderr.take() {
            std::io::Read::read_to_string(&mut pipe, &mut errors)?;
        }
        bail!("qemu-system-x86_64: {}", errors.trim());
    }
    let text = fs::read(&report).with_context(|| format!("reading {}", report.display()))?;
    Ok(parse(&String::from_utf8_lossy(&text), &token))
}

/// Reads a report. What is neither a line of the protocol nor a job's is noise and counts as a job's output.
fn parse(text: &str, token: &str) -> Report {
    let mut report = Report::default();
    let mut started = 0.0;
    for line in text.lines().map(|line| line.trim_end_matches('\r')) {
        let running = report.outcomes.last_mut().filter(|outcome| outcome.code.is_none());
        let words = line.strip_prefix(token).map(|rest| rest.split_whitespace());
        let Some((Ok(at), verb, mut words)) =
            words.and_then(|mut words| Some((words.next()?.parse::<f64>(), words.next()?, words)))
        else {
            if let Some(outcome) = running {
                outcome.output.push(line.strip_prefix('|').unwrap_or(line).to_owned());
            }
            continue;
        };
        let word = words.next().unwrap_or_default();
        match verb {
            "begin" => report.release = word.to_owned(),
            "unloadable" => report.unloadable.push(word.to_owned()),
            "start" => {
                started = at;
                report.outcomes.push(Outcome {
                    name: word.to_owned(),
                    code: None,
                    seconds: 0.0,
                    output: Vec::new(),
                });
            }
            "end" => {
                if let Some(outcome) = running.filter(|outcome| outcome.name == word) {
                    outcome.code = words.next().and_then(|code| code.parse().ok());
                    outcome.seconds = at - started;
                }
            }
            "done" => report.complete = true,
            _ => {}
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\x1b[2J garbage\r\nT 1.50 begin 6.1.0-50-amd64\r\nT 1.60 unloadable 03-sit\r\nT 2.00 start loads\r\n\
        |running 1 test\r\n|T 2.5 end loads 0\r\nnoise \x07\r\nT nonsense\r\nT 4.25 end loads 0\r\nbetween\r\n\
        T 5.00 start tables\r\n|x\r\n";

    #[test]
    fn a_report_is_read_through_garbage() {
        let report = parse(
            &format!("{GOOD}T 6.00 end loads 0\nT 7.00 end tables 101\nT 7.5 done\n"),
            "T",
        );
        assert_eq!(
            report,
            Report {
                release: "6.1.0-50-amd64".into(),
                unloadable: vec!["03-sit".into()],
                complete: true,
                outcomes: vec![
                    Outcome {
                        name: "loads".into(),
                        code: Some(0),
                        seconds: 2.25,
                        output: ["running 1 test", "T 2.5 end loads 0", "noise \x07", "T nonsense"]
                            .map(str::to_owned)
                            .into(),
                    },
                    Outcome {
                        name: "tables".into(),
                        code: Some(101),
                        seconds: 2.0,
                        output: vec!["x".into()],
                    },
                ],
            }
        );
    }

    #[test]
    fn a_guest_that_dies_leaves_its_last_job_open() {
        let report = parse(GOOD, "T");
        assert!(report.began() && !report.complete);
        assert_eq!(report.outcomes[1].code, None);
        assert_eq!(report.outcomes[1].output, ["x"]);
        assert_eq!(parse("", "T"), Report::default());
        assert!(!Report::default().began());
    }
}
