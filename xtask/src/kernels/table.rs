//! What the kernels gave: a table for people, values for programs, and what failed in full.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    fetch::Image,
    guest::{Job, Outcome, Report},
    jobs::Column,
};
use crate::qemu;

/// How many lines of a failed job, and of the console of a guest that died, are shown.
const TAIL: usize = 60;

/// What became of a kernel.
pub(super) struct Ran {
    /// That of the last boot.
    pub(super) report: Report,
    /// All boots together.
    pub(super) took: Duration,
    pub(super) boots: u32,
    /// Where the guest's files are.
    pub(super) place: PathBuf,
}

/// One kernel's results.
pub(super) struct Row {
    name: &'static str,
    release: String,
    package: String,
    took: Duration,
    boots: u32,
    /// Where the guest's files are.
    place: PathBuf,
    /// Instructions that the verifier processed, by program.
    verified: BTreeMap<String, u64>,
    outcomes: Vec<(Column, Ended)>,
    /// What is wrong beside the jobs.
    problems: Vec<String>,
}

/// A job and what its output says.
struct Ended {
    outcome: Outcome,
    passed: u64,
    failed: u64,
    /// Tests that did nothing, although this kernel should have what they want.
    skipped: Vec<String>,
}

impl Row {
    pub(super) fn new(name: &'static str, image: &Image, jobs: &[(Column, Job)], ran: Ran) -> Self {
        let Ran {
            report,
            took,
            boots,
            place,
        } = ran;
        let mut problems: Vec<String> = report
            .unloadable
            .iter()
            .map(|module| format!("the kernel refuses its module {module}"))
            .collect();
        if report.release != image.release {
            problems.push(format!("no kernel {} came up, but {:?}", image.release, report.release));
        }
        if !report.complete {
            problems.push("the guest did not come to its end: a panic, or its time was up".into());
        }
        let outcomes: Vec<(Column, Ended)> = jobs
            .iter()
            .filter_map(|(column, job)| {
                let outcome = report.outcomes.iter().find(|outcome| outcome.name == job.name);
                if outcome.is_none() {
                    problems.push(format!("{} did not run", job.name));
                }
                Some((*column, Ended::new(outcome?.clone(), &image.release)))
            })
            .collect();
        let lines = outcomes.iter().flat_map(|(_, ended)| &ended.outcome.output);
        Self {
            name,
            release: image.release.clone(),
            package: image.package.clone(),
            took,
            boots,
            place,
            verified: lines.filter_map(|line| verified(line)).collect(),
            outcomes,
            problems,
        }
    }

    pub(super) fn passed(&self) -> bool {
        self.problems.is_empty() && self.outcomes.iter().all(|(_, ended)| ended.good())
    }

    /// Prints the output of what failed, or of everything.
    pub(super) fn explain(&self, verbose: bool) {
        for (_, ended) in &self.outcomes {
            if ended.good() && !verbose {
                continue;
            }
            let Outcome { name, output, .. } = &ended.outcome;
            eprintln!("── Linux {}: {name}: {}", self.release, ended.words());
            let shown = if verbose { output.len() } else { TAIL };
            for line in &output[output.len().saturating_sub(shown)..] {
                eprintln!("   {line}");
            }
        }
        if self.problems.is_empty() {
            return;
        }
        for problem in &self.problems {
            eprintln!("── Linux {}: {problem}", self.release);
        }
        eprintln!("   the end of its console, which is in {}:", self.place.display());
        show_console(&self.place);
    }

    pub(super) fn json(&self) -> Value {
        let jobs = self.outcomes.iter().map(|(column, ended)| {
            json!({
                "column": column.title(),
                "name": ended.outcome.name,
                "ok": ended.good(),
                "exit_code": ended.outcome.code,
                "passed": ended.passed,
                "failed": ended.failed,
                "skipped": ended.skipped,
                "guest_seconds": ended.outcome.seconds,
            })
        });
        json!({
            "kernel": self.name,
            "release": self.release,
            "package": self.package,
            "ok": self.passed(),
            "seconds": self.took.as_secs_f64(),
            "boots": self.boots,
            "verified_instructions": self.verified,
            "jobs": jobs.collect::<Vec<_>>(),
            "problems": self.problems,
        })
    }

    /// How many tests passed and failed; whatever else is wrong counts as one that failed.
    fn tally(&self) -> (u64, u64) {
        let bad = |ended: &Ended| if ended.good() { 0 } else { ended.failed.max(1) };
        self.outcomes
            .iter()
            .map(|(_, ended)| (ended.passed, bad(ended)))
            .fold((0, self.problems.len() as u64), |sum, one| {
                (sum.0 + one.0, sum.1 + one.1)
            })
    }

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.release.clone()];
        for column in Column::ALL {
            let ended: Vec<&Ended> = self
                .outcomes
                .iter()
                .filter(|(of, _)| *of == column)
                .map(|(_, ended)| ended)
                .collect();
            cells.push(match ended.iter().find(|ended| !ended.good()) {
                Some(bad) => bad.words(),
                None if ended.is_empty() => "-".into(),
                None => format!("{} passed", ended.iter().map(|ended| ended.passed).sum::<u64>()),
            });
        }
        let took = self.took.as_secs_f64();
        cells.push(match self.boots {
            _ if !self.problems.is_empty() => "FAILED".into(),
            1 => format!("{took:.0} s"),
            boots => format!("{took:.0} s, {boots} boots"),
        });
        cells
    }
}

impl Ended {
    fn new(outcome: Outcome, release: &str) -> Self {
        let mut ended = Self {
            passed: 0,
            failed: 0,
            skipped: Vec::new(),
            outcome,
        };
        for line in &ended.outcome.output {
            if let Some((passed, failed)) = result(line) {
                ended.passed += passed;
                ended.failed += failed;
            } else if let Some((_, what)) = line.split_once("skipped: ")
                && !excusable(what, release)
            {
                ended.skipped.push(what.to_owned());
            }
        }
        ended
    }

    /// Tests ran, none failed, and none was skipped.
    fn good(&self) -> bool {
        self.outcome.code == Some(0) && self.passed > 0 && self.failed == 0 && self.skipped.is_empty()
    }

    fn words(&self) -> String {
        match self.outcome.code {
            None => "DIED".into(),
            Some(137) => "TIMED OUT".into(),
            Some(_) if self.failed > 0 => format!("{} FAILED", self.failed),
            Some(0) if !self.skipped.is_empty() => format!("{} SKIPPED", self.skipped.len()),
            Some(0) if self.passed == 0 => "NO TESTS".into(),
            Some(0) => format!("{} passed", self.passed),
            Some(code) => format!("EXIT {code}"),
        }
    }
}

/// Prints the end of a guest's console.
pub(super) fn show_console(place: &Path) {
    for line in qemu::tail(&place.join("console.log"), TAIL) {
        eprintln!("   {line}");
    }
}

/// Whether a test that was skipped names a kernel later than this one: `… came with Linux 6.18`.
fn excusable(what: &str, release: &str) -> bool {
    let since = what
        .rsplit_once("came with Linux ")
        .and_then(|(_, since)| version(since));
    since.zip(version(release)).is_some_and(|(since, ours)| ours < since)
}

/// `(6, 1)` of `6.1.0-50-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// `verified balance 1234`, also behind the name of the test that prints it.
fn verified(line: &str) -> Option<(String, u64)> {
    let (_, rest) = line.split_once("verified ")?;
    let (program, count) = rest.split_once(' ')?;
    Some((program.to_owned(), count.trim().parse().ok()?))
}

/// `test result: ok. 3 passed; 0 failed; …`
fn result(line: &str) -> Option<(u64, u64)> {
    let mut counts = line.strip_prefix("test result: ")?.split_once(". ")?.1.split(';');
    let mut count = |name: &str| counts.next()?.trim().strip_suffix(name)?.trim().parse().ok();
    Some((count("passed")?, count("failed")?))
}

/// The table: a row for each kernel.
pub(super) fn render(rows: &[Row]) -> String {
    let mut head = vec!["kernel".to_owned()];
    head.extend(Column::ALL.map(|column| column.title().into()));
    head.push("took".into());
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(rows.iter().map(Row::cells)).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    for row in rows {
        let counts: Vec<_> = row
            .verified
            .iter()
            .map(|(program, count)| format!("{program} {count}"))
            .collect();
        text += &format!("instructions verified on {}: {}\n", row.release, counts.join(", "));
    }
    let (passed, failed) = rows
        .iter()
        .map(Row::tally)
        .fold((0, 0), |sum, row| (sum.0 + row.0, sum.1 + row.1));
    text + &format!("{passed} passed, {failed} failed\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        Image {
            release: "6.1.0-50-amd64".into(),
            package: "6.1.176-1".into(),
            vmlinuz: "vmlinuz".into(),
            modules: "modules".into(),
        }
    }

    fn job(name: &str) -> Job {
        Job {
            name: name.into(),
            limit: Duration::from_secs(1),
            directory: "/".into(),
            command: name.into(),
        }
    }

    fn row(code: Option<i32>, output: &str, complete: bool) -> Row {
        let report = Report {
            release: image().release,
            outcomes: vec![Outcome {
                name: "loads".into(),
                code,
                seconds: 1.0,
                output: output.lines().map(str::to_owned).collect(),
            }],
            unloadable: Vec::new(),
            complete,
        };
        Row::new("6.1", &image(), &[(Column::Loads, job("loads"))], ran(report, 1))
    }

    fn ran(report: Report, boots: u32) -> Ran {
        Ran {
            report,
            took: Duration::from_secs(9),
            boots,
            place: PathBuf::new(),
        }
    }

    const OK: &str =
        "test a ... verified balance 1200\nverified lookup 300\nok\ntest result: ok. 2 passed; 0 failed; 0 ignored";

    #[test]
    fn what_is_not_a_pass_is_a_failure() {
        assert!(row(Some(0), OK, true).passed());
        for (code, output, complete, words) in [
            (
                Some(101),
                "test result: FAILED. 1 passed; 1 failed; 0 ignored",
                true,
                "1 FAILED",
            ),
            (
                Some(0),
                "test result: ok. 0 passed; 0 failed; 0 ignored",
                true,
                "NO TESTS",
            ),
            (Some(137), "test a ...", true, "TIMED OUT"),
            (Some(134), OK, true, "EXIT 134"),
            (None, "", false, "DIED"),
            (Some(0), OK, false, "2 passed"),
            (
                Some(0),
                &format!("test b ... skipped: no ipip\n{OK}"),
                true,
                "1 SKIPPED",
            ),
        ] {
            let row = row(code, output, complete);
            assert!(!row.passed(), "{output}");
            assert_eq!(row.outcomes[0].1.words(), words);
        }
        let none = Report {
            release: image().release,
            complete: true,
            ..Report::default()
        };
        let row = Row::new("6.1", &image(), &[(Column::Loads, job("loads"))], ran(none, 1));
        assert!(!row.passed() && row.problems == ["loads did not run"]);
    }

    #[test]
    fn only_what_came_later_may_be_skipped() {
        for (what, release, excused) in [
            ("short buffers came with Linux 6.18", "6.12.95+deb12-amd64", true),
            ("short buffers came with Linux 6.18", "6.1.0-50-amd64", true),
            ("short buffers came with Linux 6.18: EINVAL", "6.1.0", true),
            ("short buffers came with Linux 6.18", "6.18.0-rc1", false),
            ("short buffers came with Linux 6.18", "7.2.12", false),
            ("no ipip", "6.1.0", false),
            ("came with Linux now", "6.1.0", false),
        ] {
            assert_eq!(excusable(what, release), excused, "{what} on {release}");
        }
    }

    #[test]
    fn the_table_shows_what_the_verifier_did() {
        let table = render(&[row(Some(0), OK, true)]);
        let mut lines = table.lines();
        assert!(
            lines
                .next()
                .is_some_and(|head| head.starts_with("kernel          loads     packet tables"))
        );
        let rest: Vec<_> = lines.collect();
        assert_eq!(
            rest,
            [
                "6.1.0-50-amd64  2 passed  -              -      -       -           -               9 s",
                "instructions verified on 6.1.0-50-amd64: balance 1200, lookup 300",
                "2 passed, 0 failed",
            ]
        );
    }

    #[test]
    fn a_kernel_that_was_booted_again_says_so() {
        let mut row = row(Some(0), OK, true);
        row.boots = 2;
        assert!(row.passed());
        assert_eq!(row.cells().last().map(String::as_str), Some("9 s, 2 boots"));
    }

    #[test]
    fn whatever_is_wrong_is_a_failure() {
        assert_eq!(row(Some(0), OK, true).tally(), (2, 0));
        assert_eq!(row(Some(0), OK, false).tally(), (2, 1));
        assert_eq!(row(None, "", true).tally(), (0, 1));
    }
}
