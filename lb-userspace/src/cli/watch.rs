//! `lbctl stats --watch`: the counters again and again, with rates.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use super::args::Output;
use super::output::{self, Printer};
use super::{Failure, render};
use crate::api::client::Client;
use crate::api::types::Stats;

/// Clears the screen from the cursor on, after moving it home.
const REDRAW: &str = "\x1b[H\x1b[J";

/// Shows the counters every `seconds` until it is interrupted. A daemon that is restarted is waited for; one that was
/// never there is a failure.
pub(super) async fn stats(client: &Client, seconds: u64, printer: &Printer) -> Result<(), Failure> {
    let mut ticks = tokio::time::interval(Duration::from_secs(seconds));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut before = (client.stats().await?, Instant::now());
    show(&before.0, None, printer)?;
    loop {
        ticks.tick().await;
        match client.stats().await {
            Ok(stats) => {
                let now = Instant::now();
                show(&stats, Some((&before.0, now - before.1)), printer)?;
                before = (stats, now);
            }
            Err(error) => printer.failure(&error.into()),
        }
    }
}

fn show(stats: &Stats, since: Option<(&Stats, Duration)>, printer: &Printer) -> io::Result<()> {
    match printer.output {
        // One object a line.
        Output::Json => {
            let mut line = serde_json::to_vec(stats)?;
            line.push(b'\n');
            output::write(&line)
        }
        Output::Table => {
            let text = render::stats(stats, since, &printer.view());
            if io::stdout().is_terminal() {
                output::write(format!("{REDRAW}{}", cut(&text, output::size().1)).as_bytes())
            } else {
                output::write(format!("{text}\n").as_bytes())
            }
        }
    }
}

/// What fits on the screen, and a word on what does not.
fn cut(text: &str, height: usize) -> String {
    let lines = text.lines().count();
    let room = height.saturating_sub(1);
    if lines <= room {
        return text.to_owned();
    }
    let kept = room.saturating_sub(1);
    let mut shown: String = text.lines().take(kept).flat_map(|line| [line, "\n"]).collect();
    shown.push_str(&format!("… {} more lines\n", lines - kept));
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted() {
        let text = "1\n2\n3\n4\n";
        assert_eq!(cut(text, 5), text);
        assert_eq!(cut(text, 4), "1\n2\n… 2 more lines\n");
        assert_eq!(cut(text, 1), "… 4 more lines\n");
    }
}
