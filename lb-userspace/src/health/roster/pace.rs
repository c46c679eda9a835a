//! Whether probes begin when they are due.

use std::time::{Duration, Instant};

/// Who has not caught up for so long cannot keep the pace; a moment's backlog is nothing.
const PATIENCE: Duration = Duration::from_secs(3);
/// So long it is said afterwards: who is a little too slow catches up for a moment now and then, when he has left out some.
const MEMORY: Duration = Duration::from_secs(60);

/// How far the probes are behind their times.
#[derive(Default)]
pub(super) struct Pace {
    /// Since when some have been due all the time.
    since: Option<Instant>,
    /// When that was last too long, and how late the next one was.
    behind: Option<(Instant, Duration)>,
}

impl Pace {
    /// All that were due have begun; or not: one is, for `late`.
    pub(super) fn note(&mut self, late: Option<Duration>, now: Instant) {
        let Some(late) = late else {
            self.since = None;
            return;
        };
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= PATIENCE {
            self.behind = Some((now, late));
        }
    }

    /// By how much probes begin late, or began within the last minute.
    pub(super) fn behind(&self, now: Instant) -> Option<Duration> {
        let (at, late) = self.behind?;
        (now.saturating_duration_since(at) < MEMORY).then_some(late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_that_does_not_end_is_told_of_and_a_short_one_is_not() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let late = Some(Duration::from_millis(700));
        let mut pace = Pace::default();
        pace.note(late, at(0));
        pace.note(late, at(2));
        pace.note(None, at(3));
        pace.note(late, at(4));
        pace.note(late, at(6));
        assert_eq!(pace.behind(at(6)), None);
        pace.note(late, at(7));
        assert_eq!(pace.behind(at(7)), late);
        pace.note(None, at(8));
        assert_eq!((pace.behind(at(60)), pace.behind(at(67))), (late, None));
    }
}
