//! Failures, and errors with their place in a file.

use super::{Tone, View, clean};
use crate::api::report::Finding;
use crate::config;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It does not work.
    Error,
    /// It works, but is probably not meant.
    Warning,
}

/// Why a verb failed, and the names that may have been meant.
pub fn failure(message: &str, suggestions: &[String], view: &View) -> String {
    let mut text = view.paint(Tone::Bad, "error:") + " " + &clean(message) + "\n";
    if let Some((last, others)) = suggestions.split_last() {
        let mut names = others.join(", ");
        if !names.is_empty() {
            names.push_str(" or ");
        }
        text.push_str(&format!("did you mean {}?\n", clean(&(names + last))));
    }
    text
}

/// Every finding with its place, and the line that it is about. `source` is the text of `file`.
pub fn findings(file: &str, source: &str, findings: &[Finding], severity: Severity, view: &View) -> String {
    findings
        .iter()
        .map(|finding| one(file, source, finding, severity, view))
        .collect()
}

fn one(file: &str, source: &str, finding: &Finding, severity: Severity, view: &View) -> String {
    let (tone, word) = match severity {
        Severity::Error => (Tone::Bad, "error"),
        Severity::Warning => (Tone::Warn, "warning"),
    };
    let mut place = clean(file);
    for number in [finding.line, finding.line.and(finding.column)].into_iter().flatten() {
        place.push_str(&format!(":{number}"));
    }
    let head = format!(
        "{}: {}",
        view.paint(Tone::Strong, &place),
        view.paint(tone, &format!("{word}:"))
    );
    let mut text = format!("{head} {}\n", clean(&finding.message));
    if let Some(excerpt) = finding
        .line
        .and_then(|line| excerpt(source, line, finding.column, tone, view))
    {
        text.push_str(&excerpt);
    }
    text
}

/// The line, and a mark under the column.
fn excerpt(source: &str, line: u32, column: Option<u32>, tone: Tone, view: &View) -> Option<String> {
    let index = usize::try_from(line.checked_sub(1)?).ok()?;
    // It may go to a journal.
    let content = clean(&config::without_secrets(&source.lines().nth(index)?.replace('\t', " ")));
    let room = view
        .width
        .map_or(usize::MAX, |width| width.saturating_sub("00000 | ".len()).max(20));
    let mark = column.and_then(|column| usize::try_from(column.checked_sub(1)?).ok());
    // A long line is shown from where its mark comes into view.
    let start = mark.map_or(0, |mark| (mark + 1).saturating_sub(room));
    let shown: String = content.chars().skip(start).take(room).collect();
    let mut text = format!(
        "{} {}\n",
        view.paint(Tone::Faint, &format!("{line:>5} |")),
        shown.trim_end()
    );
    if let Some(mark) = mark {
        let spaces = " ".repeat(mark - start);
        text.push_str(&format!(
            "{} {spaces}{}\n",
            view.paint(Tone::Faint, "      |"),
            view.paint(tone, "^")
        ));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(width: usize, line: Option<u32>, column: Option<u32>, expected: &str) {
        let source = "[node]\nvip = \"192.0.2.300\"  # one that does not exist\n";
        let finding = Finding {
            line,
            column,
            message: "not an address".to_owned(),
        };
        let view = View {
            width: Some(width),
            colour: false,
            now_unix_ms: 0,
        };
        assert_eq!(findings("a.toml", source, &[finding], Severity::Error, &view), expected);
    }

    #[test]
    fn the_place_is_shown() {
        let line = "    2 | vip = \"192.0.2.300\"  # one that does not exist\n";
        check(
            80,
            Some(2),
            Some(7),
            &format!("a.toml:2:7: error: not an address\n{line}      |       ^\n"),
        );
        check(
            80,
            Some(2),
            Some(1),
            &format!("a.toml:2:1: error: not an address\n{line}      | ^\n"),
        );
        check(80, Some(1), None, "a.toml:1: error: not an address\n    1 | [node]\n");
    }

    #[test]
    fn a_long_line_is_shown_around_its_column() {
        let place = "a.toml:2:29: error: not an address\n";
        check(
            30,
            Some(2),
            Some(29),
            &format!("{place}    2 | 192.0.2.300\"  # one th\n      | {}^\n", " ".repeat(21)),
        );
    }

    #[test]
    fn a_secret_is_not_shown() {
        let view = View {
            width: Some(80),
            colour: false,
            now_unix_ms: 0,
        };
        for line in [
            "url = \"htp://h/T0ken4711\"",
            "password = \"T0ken4711\"",
            "url = 'T0ken4711",
        ] {
            let finding = Finding {
                line: Some(1),
                column: Some(7),
                message: "wrong".to_owned(),
            };
            let text = findings("a.toml", line, &[finding], Severity::Error, &view);
            assert!(text.contains("    1 | ") && !text.contains("T0ken"), "{text}");
        }
    }

    #[test]
    fn no_place_or_one_that_does_not_exist() {
        check(80, None, Some(7), "a.toml: error: not an address\n");
        check(80, Some(9), Some(7), "a.toml:9:7: error: not an address\n");
        check(80, Some(0), Some(0), "a.toml:0:0: error: not an address\n");
    }

    #[test]
    fn near_names_are_offered() {
        let view = View {
            width: None,
            colour: false,
            now_unix_ms: 0,
        };
        let names = ["web".to_owned(), "web-2".to_owned()];
        assert_eq!(
            failure("no such", &names, &view),
            "error: no such\ndid you mean web or web-2?\n"
        );
        assert_eq!(
            failure("no such", &names[..1], &view),
            "error: no such\ndid you mean web?\n"
        );
        assert_eq!(failure("no such", &[], &view), "error: no such\n");
    }
}
