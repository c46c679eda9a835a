//! Answers as text for people. Pure: what is shown depends on the answer and the [`View`] alone.
//!
//! Text that came from elsewhere (a probe's answer, a file) is cleaned of control characters first, so that a backend
//! cannot write to the operator's terminal as it likes.

mod change;
mod events;
mod findings;
mod service;
mod stats;
mod status;
mod table;
mod units;

pub use change::{apply, backend_changed, check, confirmed, plan};
pub use events::events;
pub use findings::{Severity, failure, findings};
pub use service::{lookup, service, services};
pub use stats::{simulation, stats};
pub use status::status;

use owo_colors::{OwoColorize, Style};

/// What an answer is shown on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Columns of the terminal; nothing: as wide as it gets.
    pub width: Option<usize>,
    /// Whether to use colours.
    pub colour: bool,
    /// The time, in milliseconds since 1970 (UTC).
    pub now_unix_ms: u64,
}

/// What a piece of text means, and so its colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Tone {
    #[default]
    Plain,
    Good,
    Warn,
    Bad,
    Faint,
    Strong,
}

impl View {
    /// Colours `text`, if there are colours.
    fn paint(&self, tone: Tone, text: &str) -> String {
        let style = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Good => Style::new().green(),
            Tone::Warn => Style::new().yellow(),
            Tone::Bad => Style::new().red(),
            Tone::Faint => Style::new().dimmed(),
            Tone::Strong => Style::new().bold(),
        };
        if self.colour && !text.is_empty() {
            text.style(style).to_string()
        } else {
            text.to_owned()
        }
    }

    /// `text` in lines, each with `indent` before it, broken at spaces where it is wider than the view; painted, and with a
    /// line's end after each.
    fn paragraph(&self, tone: Tone, first: &str, indent: &str, text: &str) -> String {
        let room = self
            .width
            .map_or(usize::MAX, |width| width.saturating_sub(indent.chars().count()).max(20));
        let mut lines = vec![String::new()];
        for word in clean(text).split(' ').filter(|word| !word.is_empty()) {
            let full = match lines.last() {
                Some(line) => !line.is_empty() && line.chars().count() + 1 + word.chars().count() > room,
                None => true,
            };
            if full {
                lines.push(String::new());
            }
            if let Some(line) = lines.last_mut() {
                if !line.is_empty() {
                    line.push(' ');
                }
                line.push_str(word);
            }
        }
        let mut text = String::new();
        for (number, line) in lines.iter().enumerate() {
            text.push_str(&self.paint(tone, &format!("{}{line}", if number == 0 { first } else { indent })));
            text.push('\n');
        }
        text
    }
}

/// `text` without control characters, and without those that change the direction of writing.
fn clean(text: &str) -> String {
    let harmful = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if harmful(c) { '\u{fffd}' } else { c }).collect()
}

/// `1 backend`, `2 backends`.
fn counted(number: impl Into<u64>, one: &str) -> String {
    let number = number.into();
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {one}{plural}", units::grouped(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIEW: View = View {
        width: Some(30),
        colour: false,
        now_unix_ms: 0,
    };

    #[test]
    fn a_paragraph_keeps_within_the_width() {
        let text = VIEW.paragraph(
            Tone::Warn,
            "note: ",
            "      ",
            "a sentence that is longer than the line is",
        );
        assert_eq!(text, "note: a sentence that is\n      longer than the line is\n");
        let wide = View { width: None, ..VIEW };
        assert_eq!(wide.paragraph(Tone::Warn, "", "", "a b  c"), "a b c\n");
    }

    #[test]
    fn a_backend_cannot_write_to_the_terminal() {
        assert_eq!(
            clean("a\x1b[2Jb\n\u{202e}c\u{9b}ü"),
            "a\u{fffd}[2Jb\u{fffd}\u{fffd}c\u{fffd}ü"
        );
        let view = View { colour: true, ..VIEW };
        assert!(!view.paragraph(Tone::Plain, "", "", "\x1b[31mred").contains('\x1b'));
    }
}
