//! What comes into the loop from outside of it.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::info;

use super::{Event, TICK};
use crate::health;
use crate::netlink::{Addresses, NetlinkError, links};

/// Sends everything that comes out of `receiver` into the loop.
pub(super) fn forward<T: Send + 'static>(
    mut receiver: mpsc::Receiver<T>,
    events: &mpsc::UnboundedSender<Event>,
    event: impl Fn(T) -> Event + Send + 'static,
) {
    let events = events.clone();
    tokio::spawn(async move {
        while let Some(item) = receiver.recv().await {
            if events.send(event(item)).is_err() {
                return;
            }
        }
    });
}

/// Follows this host's interfaces.
pub(super) fn watch_links(events: &mpsc::UnboundedSender<Event>) -> Result<(), NetlinkError> {
    let events = events.clone();
    links::follow(move |changes| events.send(Event::Links(changes)).is_ok())
}

/// Sends this host's addresses into the loop when they change, the latest of them.
pub(super) fn watch_addresses(
    mut addresses: watch::Receiver<Option<Addresses>>,
    events: &mpsc::UnboundedSender<Event>,
) {
    let events = events.clone();
    tokio::spawn(async move {
        while addresses.changed().await.is_ok() {
            let now = addresses.borrow_and_update().clone();
            if now.is_some_and(|now| events.send(Event::Addresses(now)).is_err()) {
                return;
            }
        }
    });
}

/// Listens for ICMP errors, as far as this host lets it: probes find the same, only later.
pub(super) fn watch_unreachable(events: &mpsc::UnboundedSender<Event>) {
    for v4 in [true, false] {
        let events = events.clone();
        tokio::spawn(async move {
            let tell = |word| events.send(Event::Unreachable(word)).is_ok();
            if let Err(error) = health::unreachable::watch(v4, tell).await {
                let family = if v4 { "IPv4" } else { "IPv6" };
                info!(%error, family, "ICMP errors trigger no probes; it takes CAP_NET_RAW");
            }
        });
    }
}

/// Listens for signals, and for time that passes.
pub(super) fn watch_signals(events: &mpsc::UnboundedSender<Event>) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let events = events.clone();
    tokio::spawn(async move {
        loop {
            let event = tokio::select! {
                _ = terminate.recv() => Event::Stop("SIGTERM"),
                _ = interrupt.recv() => Event::Stop("SIGINT"),
                _ = hangup.recv() => Event::Reload,
                _ = tick.tick() => Event::Tick,
            };
            if events.send(event).is_err() {
                return;
            }
        }
    });
    Ok(())
}
