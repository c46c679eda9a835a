//! `lbctl events`: what has happened, and with `--follow` what goes on happening.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::args::Output;
use super::output::{self, Printer};
use super::{Failure, render};
use crate::api::client::{Client, ClientError};
use crate::api::events::{Event, EventQuery};

/// How often a follower asks.
const PAUSE: Duration = Duration::from_millis(250);
/// The most events that are asked for at once.
const MANY: usize = 1_000;

/// What is to be shown.
pub(super) struct Wish {
    query: EventQuery,
}

impl Wish {
    /// Of what happened within `since`, of one service, the latest `lines`; 0: all.
    pub(super) fn new(since: Option<Duration>, service: Option<String>, lines: usize) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = since.map(|since| now.saturating_sub(since).as_millis() as u64);
        let query = EventQuery {
            after: None,
            since_unix_ms: since,
            service,
            limit: (lines > 0).then_some(lines),
        };
        Self { query }
    }
}

/// Prints them; a follower waits for a daemon that is restarted.
pub(super) async fn show(client: &Client, wish: &Wish, follow: bool, printer: &Printer) -> Result<(), Failure> {
    let events = client.events(&wish.query).await?;
    print(&events, printer)?;
    let mut last = match events.last() {
        Some(event) => event.id,
        None if follow => newest(client).await?,
        None => return Ok(()),
    };
    if !follow {
        return Ok(());
    }
    let mut lost = false;
    loop {
        tokio::time::sleep(PAUSE).await;
        let query = EventQuery {
            after: Some(last),
            limit: Some(MANY),
            since_unix_ms: None,
            service: wish.query.service.clone(),
        };
        match client.events(&query).await {
            Ok(events) => {
                let newest = events.last().map_or(last, |event| event.id);
                // Of all services, the numbers are without gaps.
                let missing = newest.saturating_sub(last).saturating_sub(events.len() as u64);
                if missing > 0 && query.service.is_none() {
                    printer.warning(&format!(
                        "the daemon no longer keeps {missing} of the events before {newest}"
                    ));
                }
                print(&events, printer)?;
                last = newest;
                lost = false;
            }
            Err(error) if !lost => {
                printer.failure(&error.into());
                lost = true;
            }
            Err(_) => {}
        }
    }
}

/// The number of the newest event of all.
async fn newest(client: &Client) -> Result<u64, ClientError> {
    let query = EventQuery {
        limit: Some(1),
        ..EventQuery::default()
    };
    Ok(client.events(&query).await?.last().map_or(0, |event| event.id))
}

fn print(events: &[Event], printer: &Printer) -> Result<(), Failure> {
    let text = match printer.output {
        Output::Json => {
            let mut text = Vec::new();
            for event in events {
                serde_json::to_writer(&mut text, event).map_err(std::io::Error::from)?;
                text.push(b'\n');
            }
            text
        }
        Output::Table => render::events(events, &printer.view()).into_bytes(),
    };
    Ok(output::write(&text)?)
}
