//! Requests over time, as rows of block characters.

use std::time::Duration;

use crate::load::Sample;

/// Answers and failures, counted by the time when their requests began.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// One row for each backend.
    answers: Vec<Vec<usize>>,
    failures: Vec<usize>,
    most: usize,
}

/// A moment with a name.
#[derive(Clone, Copy, Debug)]
pub struct Mark<'a> {
    /// When.
    pub at: Duration,
    /// What.
    pub text: &'a str,
}

/// One character's time.
const COLUMN: Duration = Duration::from_millis(200);
const EIGHTHS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

impl Timeline {
    /// Counts the requests that began before `until`, the last and incomplete column left out.
    pub fn new(samples: &[Sample], names: &[&str], until: Duration) -> Self {
        let columns = column(until);
        let mut answers = vec![vec![0; columns]; names.len()];
        let mut failures = vec![0; columns];
        for sample in samples {
            let cell = match &sample.outcome {
                Ok(name) => names
                    .iter()
                    .position(|other| other == name)
                    .and_then(|row| answers[row].get_mut(column(sample.at))),
                Err(_) => failures.get_mut(column(sample.at)),
            };
            if let Some(cell) = cell {
                *cell += 1;
            }
        }
        let most = answers.iter().flatten().chain(&failures).copied().max().unwrap_or(0);
        Self {
            answers,
            failures,
            most,
        }
    }

    /// The row of the backend with this index.
    pub fn answers(&self, index: usize) -> String {
        self.row(&self.answers[index])
    }

    /// The row of the failures.
    pub fn failures(&self) -> String {
        self.row(&self.failures)
    }

    /// The seconds above the rows.
    pub fn scale(&self) -> String {
        let per_second = (1_000 / COLUMN.as_millis()) as usize;
        (0..self.failures.len().div_ceil(per_second))
            .map(|second| format!("{:<per_second$}", format!("{second}s")))
            .collect()
    }

    /// Arrows below the rows, each with its text.
    pub fn marks(&self, marks: &[Mark<'_>]) -> String {
        let mut line = String::new();
        for mark in marks {
            let gap = column(mark.at).saturating_sub(line.chars().count());
            line.extend(std::iter::repeat_n(' ', gap));
            line += &format!("↑ {} ", mark.text);
        }
        line.trim_end().to_owned()
    }

    fn row(&self, counts: &[usize]) -> String {
        counts
            .iter()
            .map(|count| match count {
                0 => '·',
                // Anything at all is seen.
                count => EIGHTHS[(count * 8).div_ceil(self.most.max(1)).clamp(1, 8) - 1],
            })
            .collect()
    }
}

/// A bar of at most `width` characters, in eighths of one, filled up with spaces.
pub fn bar(count: usize, most: usize, width: usize) -> String {
    const PARTS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let eighths = count * width * 8 / most.max(1);
    let mut text: String = std::iter::repeat_n('█', eighths / 8).collect();
    if !eighths.is_multiple_of(8) {
        text.push(PARTS[eighths % 8 - 1]);
    }
    let gap = width.saturating_sub(text.chars().count());
    text.extend(std::iter::repeat_n(' ', gap));
    text
}

fn column(at: Duration) -> usize {
    (at.as_millis() / COLUMN.as_millis()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Failure;

    fn sample(at: u64, outcome: Result<&str, Failure>) -> Sample {
        Sample {
            at: Duration::from_millis(at),
            took: Duration::from_millis(1),
            outcome: outcome.map(str::to_owned),
        }
    }

    #[test]
    fn rows_have_a_character_for_every_fifth_of_a_second() {
        let mut samples: Vec<_> = (0..8).map(|n| sample(n, Ok("a"))).collect();
        samples.extend([
            sample(250, Ok("a")),
            sample(450, Err(Failure::Refused)),
            sample(1_199, Ok("b")),
            sample(1_200, Ok("b")),
        ]);
        let timeline = Timeline::new(&samples, &["a", "b"], Duration::from_millis(1_399));
        assert_eq!(timeline.answers(0), "█▁····");
        assert_eq!(timeline.answers(1), "·····▁");
        assert_eq!(timeline.failures(), "··▁···");
        assert_eq!(timeline.scale(), "0s   1s   ");
        let mark = |at, text| Mark {
            at: Duration::from_millis(at),
            text,
        };
        assert_eq!(
            timeline.marks(&[mark(450, "x"), mark(3_000, "y")]),
            "  ↑ x          ↑ y"
        );
    }

    #[test]
    fn nothing_at_all_is_drawn_too() {
        let timeline = Timeline::new(&[], &["a"], Duration::ZERO);
        assert_eq!(
            (timeline.answers(0), timeline.failures(), timeline.scale()),
            (String::new(), String::new(), String::new())
        );
        assert_eq!(bar(0, 0, 3), "   ");
    }

    #[test]
    fn bars_are_exact_to_an_eighth() {
        assert_eq!(bar(4, 4, 3), "███");
        assert_eq!(bar(1, 2, 3), "█▌ ");
        assert_eq!(bar(1, 8, 1), "▏");
    }
}
