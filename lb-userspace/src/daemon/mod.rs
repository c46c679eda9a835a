//! `lbd run`: one loop that takes every event in turn, and tells the kernel what follows from it.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`world`] | what is known; pure |
//! | [`kernel`] | the hold on program, maps and links |
//! | [`state`] | what an operator said, kept for the next daemon |
//! | [`accepted`] | the configuration that was accepted last, kept for the next daemon |
//! | [`trouble`] | what would otherwise be seen only in the log |
//! | `start` | from the command line to the loop |
//! | `prepare` | the kernel, brought to what the chosen configuration wants, or to the last good one |
//! | `ahead` | another configuration is read and its rings are populated, beside the loop |
//! | `configure` | another configuration: plan, apply, report |
//! | `paths` | how the probes of each backend travel |
//! | `offloads` | what drivers do with frames before the program sees them |
//! | `operator` | drain, disable, weight |
//! | `choice` | which configuration a daemon starts with |
//! | `bring` | what is wanted, to the kernel |
//! | `before` | what an earlier daemon left |
//! | `inputs` | what comes into the loop |
//! | `attached` | whether the program is on the interfaces that are configured; pure |
//! | `interfaces` | what is done where it is not |
//! | `answers` | what the API shows |
//! | `counts` | what is counted for it |
//! | `tell` | what has happened, as events |
//! | `fits` | whether full-size packets fit the paths to backends |
//! | `wayless` | when it is told that there is no way to a backend |
//! | `unusual` | what a service's policy does that people should know |
//! | `loads` | weights that follow load |
//! | [`positions`] | where backends stand on their way, for the next daemon |
//! | `clock` | a wall clock that does not jump |
//! | `later` | files that are written beside the loop |
//! | `drain` | drains that have ended |
//! | `rates` | packets per second |
//! | `sweep` | slots that changed owner, on their way back to rest |

pub mod accepted;
mod ahead;
mod answers;
mod attached;
mod before;
mod bring;
mod choice;
mod clock;
mod configure;
mod counts;
mod drain;
mod fits;
mod inputs;
mod interfaces;
pub mod kernel;
mod later;
mod loads;
mod offloads;
mod operator;
mod paths;
pub mod positions;
mod prepare;
mod rates;
mod start;
pub mod state;
mod sweep;
mod tell;
pub mod trouble;
mod unusual;
mod wayless;
pub mod world;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::info;

use crate::alerts::Alerts;
use crate::api::call::Call;
use crate::api::events::{Cause, EventKind};
use crate::api::types::ConfigSource;
use crate::health::unreachable::Unreachable;
use crate::health::{Checker, FullSize, HealthEvent, State as Health, TargetId, Transition};
use crate::journal::{Journal, Note};
use crate::load::agent::{Agents, Word};
use crate::model::Service;
use crate::netlink::links::LinkTable;
use crate::netlink::{Addresses, Answer, LinkChanges, Watcher};
use crate::policy::Now;
use crate::systemd::Supervisor;
use accepted::{Accepted, Record};
use ahead::{Ahead, Purpose, Ready, Source};
use attached::Attached;
use drain::Drain;
use fits::Fits;
use kernel::Kernel;
use loads::Latencies;
use offloads::Offloads;
use paths::Paths;
use positions::Positions;
use rates::Rates;
use state::{State, Store};
use sweep::Transitions;
use trouble::{Topic, Troubles};
use wayless::Wayless;
use world::World;

pub use start::{DaemonError, detach, run};

/// Everything that can happen.
enum Event {
    /// A request through the API.
    Call(Box<Call>),
    /// Backends came up or went down.
    Health(Vec<HealthEvent>),
    /// Ways to backends were found, changed or lost.
    Ways(Vec<(IpAddr, Answer)>),
    /// This host's addresses have changed.
    Addresses(Addresses),
    /// A router says that packets to this address cannot be delivered, or its host that it unwraps no tunnels.
    Unreachable(Unreachable),
    /// Interfaces came, went or changed.
    Links(LinkChanges),
    /// The configuration file is to be read again.
    Reload,
    /// A configuration was read.
    Ready(Box<Ready>),
    /// A moment has passed.
    Tick,
    /// A policy's time has come.
    Due,
    /// What a backend says of its load, or that it says nothing.
    Agent(TargetId, Word),
    /// The flow table was read.
    Swept(sweep::Sweep),
    /// The daemon is to stop; the kernel goes on.
    Stop(&'static str),
}

/// The daemon's loop and all that it holds.
struct Daemon {
    world: World,
    ahead: Ahead,
    kernel: Kernel,
    attached: Attached,
    /// The interfaces, as they were last said to be.
    links: Arc<LinkTable>,
    offloads: Offloads,
    checker: Checker,
    full_size: FullSize,
    paths: Paths,
    wayless: Wayless,
    fits: Fits,
    watcher: Watcher,
    /// Where the watcher sends; kept for the next one.
    ways: mpsc::Sender<Vec<(IpAddr, Answer)>>,
    store: Store,
    state: State,
    positions: Positions,
    source: ConfigSource,
    /// The configuration in force, and where it is kept.
    accepted: Accepted,
    record: Record,
    troubles: Troubles,
    rates: Rates,
    transitions: Transitions,
    /// Backends that are draining, by service and name.
    drains: HashMap<(String, String), Drain>,
    /// What has happened.
    journal: Journal,
    /// Who asks backends for their load.
    agents: Option<Agents>,
    /// Whose agents do not answer, where these were asked, and why.
    silent_agents: HashMap<TargetId, (SocketAddr, String)>,
    latencies: Latencies,
    /// Who is told of it.
    alerts: Option<Alerts>,
    supervisor: Supervisor,
    /// For threads that report to the loop.
    events: mpsc::UnboundedSender<Event>,
    started: Instant,
    /// What is wrong with the configuration in force without being an error.
    config_warnings: Vec<String>,
    /// Services whose share of the kernel is to be planned anew.
    stale: BTreeSet<String>,
    /// New services, and until when they may wait for the first verdicts on their backends.
    held: BTreeMap<String, Instant>,
    /// Services for which the kernel does not hold what is wanted, and why.
    stuck: BTreeMap<String, String>,
}

/// How often rates are taken and what failed is tried again.
const TICK: Duration = Duration::from_secs(1);

/// How long a new service may wait for the first verdicts on its backends.
const FIRST_VERDICTS: Duration = Duration::from_millis(500);

/// The time.
fn now() -> Now {
    Now {
        instant: Instant::now(),
        unix_ms: clock::steady_ms(),
    }
}

impl Daemon {
    /// Handles events until one says stop.
    async fn serve(&mut self, mut events: mpsc::UnboundedReceiver<Event>) {
        while let Some(event) = self.next_event(&mut events).await {
            if let Some(reason) = self.handle(event).await {
                return self.farewell(reason);
            }
            // What came meanwhile belongs to the same plan: a rack that dies is one change, not forty.
            while let Ok(event) = events.try_recv() {
                if let Some(reason) = self.handle(event).await {
                    return self.farewell(reason);
                }
            }
            self.converge();
        }
    }

    /// What happens next; a policy whose time comes first is an event, too.
    async fn next_event(&self, events: &mut mpsc::UnboundedReceiver<Event>) -> Option<Event> {
        match self.world.next_decision() {
            None => events.recv().await,
            Some(due) => tokio::select! {
                event = events.recv() => event,
                () = tokio::time::sleep_until(due.into()) => Some(Event::Due),
            },
        }
    }

    async fn handle(&mut self, event: Event) -> Option<&'static str> {
        match event {
            Event::Call(call) => self.answer(*call).await,
            Event::Health(events) => events.into_iter().for_each(|event| self.note_health(event)),
            Event::Ways(ways) => self.note_ways(ways),
            Event::Addresses(addresses) => {
                self.world.own_addresses = addresses;
                self.choose_ways();
            }
            Event::Unreachable(Unreachable { address, refused }) => self.checker.expedite(address, refused),
            Event::Links(changes) => self.on_links(changes).await,
            Event::Reload => self.ahead.read(&self.world, Source::OwnFile, Purpose::Reload(None)),
            Event::Ready(ready) => self.take_config(*ready).await,
            Event::Tick => {
                self.supervisor.turned(Instant::now());
                self.rates.sample(&self.kernel);
                self.tick_interfaces().await;
                self.tick_offloads();
                if self.paths.tend(&self.world) {
                    self.set_targets();
                }
                self.tend_ways();
                self.tick_fits().await;
                self.tend_blocked();
                self.tend_slots();
                self.tend_clock();
                self.tend_overrides();
                self.tend_drains();
                self.tend_latencies();
                self.tend_positions();
                self.tend_files();
            }
            Event::Agent(id, word) => self.note_word(id, word),
            Event::Due => {
                let due: Vec<String> = self.world.due(Instant::now()).map(str::to_owned).collect();
                self.stale.extend(due);
            }
            Event::Swept(sweep) => self.note_sweep(sweep),
            Event::Stop(reason) => return Some(reason),
        }
        None
    }

    fn farewell(&mut self, reason: &str) {
        Supervisor::stopping();
        self.positions.stale = true;
        self.tend_positions();
        self.positions.finish();
        self.store.finish();
        self.record.finish();
        self.tell(Note::new(EventKind::DaemonStopped, Cause::Daemon).because(reason));
        info!(
            reason,
            "stopping; the kernel goes on balancing with what it has, `lbd detach` would end that"
        );
    }

    /// Tries again to write what could not be written; called every second.
    fn tend_files(&self) {
        if self.troubles.has(Topic::LastGood) {
            self.record.save_later(self.accepted.clone());
        }
        if self.troubles.has(Topic::Overrides) {
            self.store.save_later(self.state.clone());
        }
    }

    fn note_health(&mut self, event: HealthEvent) {
        let HealthEvent {
            id,
            address,
            transition: Transition { from, to },
            reason,
            ..
        } = event;
        if !self.world.take_verdict(&id, address.ip(), to) {
            return;
        }
        self.full_size.set_up(&id, to == Health::Up);
        let kind = match to {
            Health::Down => EventKind::BackendDown,
            Health::Up | Health::Starting => EventKind::BackendUp,
        };
        let note = Note::new(kind, Cause::Check).backend(&id.service, &id.backend);
        self.tell(note.change(from, to).because(reason));
        self.stale.insert(id.service.to_string());
    }

    fn note_ways(&mut self, ways: Vec<(IpAddr, Answer)>) {
        let named: Vec<IpAddr> = ways.iter().map(|(address, _)| *address).collect();
        self.world.note_answers(ways);
        // Those that came before these answers, so that no source is chosen from earlier ones.
        if let Some(addresses) = self.watcher.addresses().borrow().clone() {
            self.world.own_addresses = addresses;
        }
        self.choose_ways();
        named.into_iter().for_each(|address| self.tell_of_present_way(address));
    }

    /// Chooses sources anew, and takes the ways that are others then.
    fn choose_ways(&mut self) {
        let ways = self.world.chosen_ways();
        for (address, way) in &ways {
            self.tell_of_way(*address, way);
        }
        let concerned = self.world.set_ways(ways);
        if self.paths.follow(&self.world) {
            self.set_targets();
        }
        self.stale.extend(concerned);
    }

    /// Whether a new service waits for the first verdicts on its backends. Served one by one, each that comes up would take its
    /// slots from those before it.
    fn is_held(&self, name: &str) -> bool {
        let waits = |service: &Service| {
            service
                .backends
                .iter()
                .any(|backend| self.world.health_of(service, &backend.name) == Health::Starting)
        };
        self.held.get(name).is_some_and(|until| Instant::now() < *until) && self.world.service(name).is_some_and(waits)
    }

    /// Holds a service that is new.
    fn hold(&mut self, name: String) {
        self.held.insert(name, Instant::now() + FIRST_VERDICTS);
    }

    /// Tells checker and watcher what the model holds. Who is up or down when its checks begin stays so until they say
    /// otherwise.
    fn follow(&mut self) {
        self.watcher.watch(self.world.questions());
        self.world
            .addresses()
            .into_iter()
            .for_each(|address| self.tell_of_present_way(address));
        self.paths.follow(&self.world);
        self.set_targets();
    }

    fn set_targets(&self) {
        let targets = self.world.targets(|id| self.paths.via(id));
        self.full_size.set(&targets);
        self.checker.set(targets);
    }
}
