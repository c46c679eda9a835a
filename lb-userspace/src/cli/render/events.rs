//! `lbctl events`.

use super::{Tone, View};
use crate::api::events::{Event, Severity};

/// One line for each event, in order; no header, so that lines can follow.
pub fn events(events: &[Event], view: &View) -> String {
    events.iter().map(|event| line(event, view)).collect()
}

fn line(event: &Event, view: &View) -> String {
    let tone = match event.severity {
        Severity::Info => Tone::Plain,
        Severity::Warning => Tone::Warn,
        Severity::Critical => Tone::Bad,
    };
    let time = format!("{}  ", utc(event.at_unix_ms));
    let indent = " ".repeat(time.len());
    let text = format!("{} [{}]", event.sentence(), event.by.name());
    view.paragraph(tone, &time, &indent, &text)
}

/// `2026-03-01 12:00:00.000`, UTC.
pub(super) fn utc(unix_ms: u64) -> String {
    let (days, millis) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let (year, month, day) = date(days);
    let (seconds, millis) = (millis / 1000, millis % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{millis:03}")
}

/// The date of a day since 1970-01-01, in the Gregorian calendar.
fn date(days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // Whole periods of 400 years have 146,097 days each.
    let mut year = 1970 + days / 146_097 * 400;
    let mut left = days % 146_097;
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if left < length {
            break;
        }
        left -= length;
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (unix_ms, text) in [
            (0, "1970-01-01 00:00:00.000"),
            (951_782_399_999, "2000-02-28 23:59:59.999"),
            (951_782_400_000, "2000-02-29 00:00:00.000"),
            (1_772_366_400_000, "2026-03-01 12:00:00.000"),
            (4_107_542_400_000, "2100-03-01 00:00:00.000"),
            (13_574_563_200_000, "2400-02-29 00:00:00.000"),
        ] {
            assert_eq!(utc(unix_ms), text);
        }
    }
}
