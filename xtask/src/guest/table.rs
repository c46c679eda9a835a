//! What became of the steps.

use super::{machine::Outcome, steps::Step};

/// The exit status of a step that was not possible.
const SKIPPED: i32 = 77;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed,
    Failed,
    Skipped,
}

impl Verdict {
    pub(super) fn sign(self) -> &'static str {
        match self {
            Self::Passed => "✓",
            Self::Failed => "✗",
            Self::Skipped => "-",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
        }
    }
}

/// A row of the table.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) shows: &'static str,
    pub(super) verdict: Verdict,
    /// The guest's.
    pub(super) seconds: f64,
    /// What it found out beside its verdict.
    pub(super) figures: Vec<String>,
}

impl Row {
    /// What a step's outcome means; `begun` is the guest's time before it.
    pub(super) fn new(step: &Step, outcome: &Outcome, begun: f64) -> Self {
        let told = |line: &String| {
            let figure = line.strip_prefix("figure: ");
            Some(figure.or_else(|| line.strip_prefix("skipped: "))?.to_owned())
        };
        Self {
            name: step.name,
            shows: step.shows,
            verdict: match outcome.code {
                Some(0) => Verdict::Passed,
                Some(SKIPPED) => Verdict::Skipped,
                _ => Verdict::Failed,
            },
            seconds: (outcome.uptime - begun).max(0.0),
            figures: outcome.output.iter().filter_map(told).collect(),
        }
    }
}

/// The table, and the sums.
pub(super) fn render(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for row in rows {
        let (verdict, seconds) = (row.verdict.word(), row.seconds);
        text += &format!("{:<width$}  {verdict:<7}  {seconds:>4.0} s  {}\n", row.name, row.shows);
        for figure in &row.figures {
            text += &format!("{:width$}                   {figure}\n", "");
        }
    }
    let count = |verdict| rows.iter().filter(|row| row.verdict == verdict).count();
    text + &format!(
        "{} passed, {} failed, {} skipped\n",
        count(Verdict::Passed),
        count(Verdict::Failed),
        count(Verdict::Skipped)
    )
}

#[cfg(test)]
mod tests {
    use super::{super::steps::STEPS, *};

    #[test]
    fn what_is_neither_passed_nor_skipped_failed() {
        let row = |code, output: &[&str]| {
            let outcome = Outcome {
                code,
                uptime: 12.0,
                output: output.iter().map(|line| (*line).to_owned()).collect(),
            };
            Row::new(&STEPS[0], &outcome, 2.0)
        };
        let rows = [
            row(Some(0), &["noise", "figure: 3 of 3"]),
            row(Some(77), &["skipped: no card"]),
            row(Some(1), &[]),
            row(None, &[]),
        ];
        let verdicts = rows.iter().map(|row| row.verdict).collect::<Vec<_>>();
        assert_eq!(
            verdicts,
            [Verdict::Passed, Verdict::Skipped, Verdict::Failed, Verdict::Failed]
        );
        let table = render(&rows);
        assert!(
            table.starts_with(
                "balanced  passed     10 s  requests reach all three backends\n                           3 of 3\n"
            ),
            "{table}"
        );
        assert!(table.ends_with("1 passed, 2 failed, 1 skipped\n"), "{table}");
    }
}
