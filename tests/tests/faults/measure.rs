//! What users of one service meet while something breaks.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use lb_tests::edge::{Edge, Service};
use lb_tests::load::{Demand, Load, Sample, Session, sessions};

use super::{SETTLE, Site, VICTIM_NAME};

/// New connections a second.
const RATE: u32 = 25;
/// When a request has failed: before the first packet of a connection is sent again, so that one that was lost shows.
const TIMEOUT: Duration = Duration::from_millis(900);
/// Connections that stay open.
const SESSIONS: usize = 24;
/// Flows whose backend is asked of the program.
const FLOWS: u16 = 200;

/// A load, open connections and flows of one service.
pub(super) struct Watch {
    service: String,
    load: Load,
    sessions: Vec<(Session, String)>,
    clients: Vec<SocketAddr>,
    owners: Vec<Option<String>>,
}

/// What came of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// New connections begun between fault and eviction, and how many of them failed.
    pub(super) before: usize,
    pub(super) failed_before: usize,
    /// When the last one that failed began, since the fault.
    pub(super) last_failure: Option<Duration>,
    /// New connections begun after the eviction, and how many of them failed.
    pub(super) after: usize,
    pub(super) failed_after: usize,
    /// The first of those that failed after the eviction.
    pub(super) first_after: Option<Sample>,
    /// Flows of healthy backends, and how many of them changed their backend.
    pub(super) flows: usize,
    pub(super) moved: usize,
    /// Open connections to healthy backends, and how many of them broke.
    pub(super) sessions: usize,
    pub(super) broken: usize,
}

impl Seen {
    /// What must not be.
    pub(super) fn wrong(&self) -> impl Iterator<Item = &'static str> {
        let all = [
            (self.failed_after > 0, "new connections failed after the eviction"),
            (self.moved > 0, "flows of healthy backends moved"),
            (self.broken > 0, "connections to healthy backends broke"),
            (self.after == 0, "nothing was asked after the eviction"),
        ];
        all.into_iter().filter_map(|(is, what)| is.then_some(what))
    }
}

impl Watch {
    /// Begins to ask, and opens connections.
    pub(super) fn start(site: &Site, edge: &Edge, service: &Service) -> Result<Self> {
        let target = SocketAddr::new(service.vip, service.port);
        let sessions = sessions(&site.net.client, target, SESSIONS, Duration::from_secs(5))?;
        let address: IpAddr = match service.vip {
            IpAddr::V4(_) => [198, 51, 100, 77].into(),
            IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xDB8, 0xC, 0, 0, 0, 0, 0x77).into(),
        };
        let clients: Vec<SocketAddr> = (0..FLOWS)
            .map(|number| SocketAddr::new(address, 30_000 + number))
            .collect();
        let owners = edge.api()?.owners(&service.name, clients.clone())?;
        ensure!(owners.iter().flatten().any(|name| name == VICTIM_NAME), "{owners:?}");
        let demand = Demand {
            target,
            rate: RATE,
            workers: 32,
            timeout: TIMEOUT,
        };
        Ok(Self {
            service: service.name.clone(),
            load: Load::start(&site.net.client, demand)?,
            sessions,
            clients,
            owners,
        })
    }

    /// What the load's samples count from.
    pub(super) fn now(&self) -> Duration {
        self.load.now()
    }

    /// Flows of healthy backends, and how many have another backend now.
    pub(super) fn moved(&self, edge: &Edge) -> Result<(usize, usize)> {
        let now = edge.api()?.owners(&self.service, self.clients.clone())?;
        let healthy = self.owners.iter().zip(&now);
        let healthy = healthy.filter(|(before, _)| before.as_deref() != Some(VICTIM_NAME));
        Ok(healthy.fold((0, 0), |(all, moved), (before, now)| {
            (all + 1, moved + usize::from(before != now))
        }))
    }

    /// Connections to healthy backends, and how many of them are broken.
    pub(super) fn broken(&mut self) -> (usize, usize) {
        let (mut all, mut broken) = (0, 0);
        for (session, name) in &mut self.sessions {
            if name != VICTIM_NAME {
                all += 1;
                broken += usize::from(session.ask(0).ok().as_ref() != Some(name));
            }
        }
        (all, broken)
    }

    /// Ends it. The fault was made at `begun`, the eviction came `evicted` later.
    pub(super) fn stop(mut self, edge: &Edge, begun: Duration, evicted: Duration) -> Result<Seen> {
        let (flows, moved) = self.moved(edge)?;
        let (sessions, broken) = self.broken();
        let mut seen = Seen {
            flows,
            moved,
            sessions,
            broken,
            ..Seen::default()
        };
        seen.count(self.load, begun, evicted)?;
        Ok(seen)
    }

    /// What only the load met: whose flows moved is told by others.
    pub(super) fn stop_load(self, begun: Duration, evicted: Duration) -> Result<Seen> {
        let mut seen = Seen::default();
        seen.count(self.load, begun, evicted)?;
        Ok(seen)
    }
}

impl Seen {
    fn count(&mut self, load: Load, begun: Duration, evicted: Duration) -> Result<()> {
        for sample in load.stop()? {
            if sample.at + sample.took < begun {
                ensure!(sample.outcome.is_ok(), "before anything broke: {sample:?}");
                continue;
            }
            // Those under way when it broke count, too.
            let at = sample.at.saturating_sub(begun);
            let failed = usize::from(sample.outcome.is_err());
            if failed > 0 {
                self.last_failure = Some(at);
            }
            if at < evicted + SETTLE {
                self.before += 1;
                self.failed_before += failed;
            } else {
                self.after += 1;
                self.failed_after += failed;
                if failed > 0 && self.first_after.is_none() {
                    self.first_after = Some(sample);
                }
            }
        }
        Ok(())
    }
}
