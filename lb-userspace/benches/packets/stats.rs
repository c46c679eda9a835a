//! Median and spread of a few measurements.

use serde::Serialize;

/// What is said of the rounds of one measurement.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    /// First quartile.
    pub(crate) low: f64,
    /// Third quartile.
    pub(crate) high: f64,
}

impl Spread {
    /// Of at least one value; zeros of none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self {
            median: quantile(&values, 0.5),
            min: quantile(&values, 0.0),
            low: quantile(&values, 0.25),
            high: quantile(&values, 0.75),
        }
    }

    /// All moved down by as much.
    pub(crate) fn less(&self, by: f64) -> Self {
        self.map(|value| value - by)
    }

    /// All multiplied by as much.
    pub(crate) fn times(&self, by: f64) -> Self {
        self.map(|value| value * by)
    }

    fn map(&self, change: impl Fn(f64) -> f64) -> Self {
        Self {
            median: change(self.median),
            min: change(self.min),
            low: change(self.low),
            high: change(self.high),
        }
    }

    /// The distance between the quartiles: half of the rounds lie in it.
    pub(crate) fn range(&self) -> f64 {
        self.high - self.low
    }
}

/// Between neighbours a straight line.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let at = part * last as f64;
    let below = sorted[at.floor() as usize];
    let above = sorted[at.ceil() as usize];
    below + (above - below) * at.fract()
}
