//! While it runs: the decapsulator knows this host's addresses, and people can ask for the counters.

use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use super::BackendError;
use super::host::Host;
use super::keeper::Keeper;
use super::output::{caution, say};
use super::program::Decapsulator;
use crate::netlink::{all_links, own_addresses};
use crate::systemd::Supervisor;

/// How often to look after things that no message tells of.
const LOOK_AFTER: Duration = Duration::from_millis(500);

/// The signals that end the program in good order, and the one that asks for the counters.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user: Signal,
}

impl Signals {
    /// From now on these signals do not kill the process.
    pub(super) fn catch() -> Result<Self, BackendError> {
        let catch = |kind| {
            signal(kind).map_err(|source| BackendError::System {
                what: "a signal's handler",
                source,
            })
        };
        Ok(Signals {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hang_up: catch(SignalKind::hangup())?,
            user: catch(SignalKind::user_defined1())?,
        })
    }
}

/// Runs until a signal ends it.
pub(super) async fn serve(
    host: &mut Host,
    keeper: &mut Keeper<'_>,
    decapsulator: &mut Decapsulator,
    mut signals: Signals,
) -> Result<(), BackendError> {
    let count = learn_addresses(host, keeper, decapsulator).await?;
    let edges = decapsulator.edges();
    decapsulator.warn_if_open();
    say!("ready: unwraps IP in IP from {edges} to any of this host's {count} addresses, for the VIPs named");
    say!("stop with SIGTERM or Ctrl-C, which undo all of it; SIGUSR1 prints the counters");
    let mut look_after = interval(LOOK_AFTER);
    look_after.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut supervisor = Supervisor::of_environment(Some(format!("unwraps IP in IP from {edges}")));
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return Ok(()),
            _ = signals.interrupt.recv() => return Ok(()),
            _ = signals.hang_up.recv() => return Ok(()),
            _ = signals.user.recv() => decapsulator.say_counters(),
            () = host.changed() => {
                // Before the program sees a frame, it knows whose frames are its own.
                if let Err(error) = learn_addresses(host, keeper, decapsulator).await {
                    caution!("{error}");
                }
                keeper.interfaces(host, decapsulator).await;
            }
            _ = look_after.tick() => {
                supervisor.turned(Instant::now());
                if let Err(error) = learn_addresses(host, keeper, decapsulator).await {
                    caution!("{error}");
                }
                keeper.interfaces(host, decapsulator).await;
                keeper.vips(host).await;
            }
        }
    }
}

/// Loopback addresses are left out: no tunnel's packet may come from the wire for them. So are the VIPs, whichever interface has them:
/// anybody can reach those, and other backends have them as well.
async fn learn_addresses(
    host: &Host,
    keeper: &Keeper<'_>,
    decapsulator: &mut Decapsulator,
) -> Result<usize, BackendError> {
    let mut addresses: Vec<_> = host.addresses().await?.into_iter().map(|found| found.address).collect();
    addresses.retain(|address| !address.is_loopback() && !keeper.vips_named().contains(address));
    addresses.sort();
    addresses.dedup();
    let count = addresses.len();
    let links = all_links().await.map_err(BackendError::Links)?;
    let named = links
        .iter()
        .filter(|link| keeper.interfaces_named().contains(&link.name));
    let indices: Vec<u32> = named.map(|link| link.ifindex).collect();
    decapsulator.set_own_addresses(&own_addresses(links.iter().map(|link| &link.own), &indices))?;
    decapsulator.set_locals(addresses)?;
    Ok(count)
}
