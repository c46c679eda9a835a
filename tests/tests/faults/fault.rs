//! The faults, made and taken back on real hosts.

use anyhow::{Context, Result};
use lb_tests::edge::{Service, join};
use lb_tests::net::Host;
use nix::sys::signal::Signal;

use super::{Parts, Site, VICTIM, VICTIM_NAME};

/// What goes wrong with one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The server's process is killed.
    Killed,
    /// Its port of the switch goes dead.
    Silent,
    /// Its host drops what comes for port 80.
    Filtered,
    /// Every answer is a 500.
    Status500,
    /// The server accepts, and answers at a few bytes a second.
    Slow,
    /// The VIPs are not on its `lo`.
    NoVip,
    /// Nobody unwraps the tunnels.
    NoDecapsulator,
}

impl Fault {
    pub(super) const ALL: &[Fault] = &[
        Fault::Killed,
        Fault::Silent,
        Fault::Filtered,
        Fault::Status500,
        Fault::Slow,
        Fault::NoVip,
        Fault::NoDecapsulator,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Fault::Killed => "server process killed",
            Fault::Silent => "host silent",
            Fault::Filtered => "port filtered",
            Fault::Status500 => "HTTP 500",
            Fault::Slow => "slower than the timeout",
            Fault::NoVip => "VIP missing",
            Fault::NoDecapsulator => "decapsulator missing",
        }
    }

    /// One of these is in the event.
    pub(super) fn words(self) -> &'static [&'static str] {
        match self {
            Fault::Killed => &["connection refused"],
            Fault::Silent | Fault::Filtered => &["no connection within 100ms"],
            Fault::Status500 => &["status 500 (expected"],
            Fault::Slow => &["no HTTP answer within 100ms"],
            Fault::NoVip => &["no connection within 100ms"],
            Fault::NoDecapsulator => &["no connection within 100ms"],
        }
    }

    pub(super) fn concerns(self, service: &Service) -> bool {
        self != Fault::NoDecapsulator || service.forward != "l2"
    }

    pub(super) fn make(self, site: &Site, parts: &mut Parts) -> Result<()> {
        let host = &site.net.backends[VICTIM].host;
        match self {
            Fault::Killed => parts.servers[VICTIM].kill(),
            Fault::Silent => site.net.fabric.ip(&format!("link set {VICTIM_NAME} down")).map(drop),
            Fault::Filtered => host
                .ip_batch(&FILTER.map(str::to_owned))
                .and_then(|()| filter_v6(host, true)),
            Fault::Status500 => parts.servers[VICTIM].set_broken(true),
            Fault::Slow => parts.servers[VICTIM].set_slow(true),
            Fault::NoVip => {
                // It would put them back.
                signal(parts, Signal::SIGSTOP)?;
                set_vips(site, "del")
            }
            Fault::NoDecapsulator => {
                let mut process = parts.joined[VICTIM].take().context("it runs")?;
                // The VIPs stay when it is killed, the program does not.
                process.kill()
            }
        }
    }

    pub(super) fn heal(self, site: &Site, parts: &mut Parts) -> Result<()> {
        let backend = &site.net.backends[VICTIM];
        match self {
            Fault::Killed => parts.servers[VICTIM].start_again(&backend.host),
            Fault::Silent => site.net.fabric.ip(&format!("link set {VICTIM_NAME} up")).map(drop),
            Fault::Filtered => {
                backend.host.ip_batch(&UNFILTER.map(str::to_owned))?;
                filter_v6(&backend.host, false)
            }
            Fault::Status500 => parts.servers[VICTIM].set_broken(false),
            Fault::Slow => parts.servers[VICTIM].set_slow(false),
            Fault::NoVip => {
                set_vips(site, "add")?;
                signal(parts, Signal::SIGCONT)
            }
            Fault::NoDecapsulator => {
                parts.joined[VICTIM] = Some(join(backend, &site.programs, &site.scratch, &site.vips())?);
                Ok(())
            }
        }
    }
}

/// A packet filter without one: what routing drops. The rule must stand before the table of local addresses.
const FILTER: [&str; 3] = [
    "rule add pref 10 lookup local",
    "rule del pref 0",
    "rule add pref 5 ipproto tcp dport 80 blackhole",
];
const UNFILTER: [&str; 3] = ["rule del pref 5", "rule add pref 0 lookup local", "rule del pref 10"];

/// The same for IPv6.
fn filter_v6(host: &Host, on: bool) -> Result<()> {
    for line in if on { FILTER } else { UNFILTER } {
        host.ip(&format!("-6 {line}"))?;
    }
    Ok(())
}

/// To `lbd backend` on the victim.
fn signal(parts: &Parts, signal: Signal) -> Result<()> {
    let process = parts.joined[VICTIM].as_ref().context("it runs")?;
    process.signal(signal)
}

fn set_vips(site: &Site, verb: &str) -> Result<()> {
    let line = |vip: std::net::IpAddr| {
        let (length, quick) = match (vip.is_ipv4(), verb) {
            (true, _) => (32, ""),
            (false, "add") => (128, " nodad"),
            (false, _) => (128, ""),
        };
        format!("addr {verb} {vip}/{length} dev lo{quick}")
    };
    let lines: Vec<String> = site.vips().into_iter().map(line).collect();
    site.net.backends[VICTIM].host.ip_batch(&lines)
}
