//! From the command line to the loop, and the way out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use lb_common::map::ServiceKey;
use thiserror::Error;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::accepted::{self, Record};
use super::ahead::Ahead;
use super::attached::Attached;
use super::choice::{self, Chosen, OwnFile};
use super::configure::unix_ms;
use super::fits::Fits;
use super::kernel::{ControlError, Kernel};
use super::loads::Latencies;
use super::offloads::{self, Offloads};
use super::paths::Paths;
use super::positions::Positions;
use super::rates::Rates;
use super::state::{self, State, StateError, Store};
use super::sweep::{Since, Transitions};
use super::trouble::{Topic, Troubles};
use super::wayless::Wayless;
use super::world::World;
use super::{Daemon, Event, before, inputs, kernel};
use crate::alerts::Alerts;
use crate::api::events::{Cause, EventKind};
use crate::api::server::{self, Timeouts};
use crate::api::socket::{self, SocketError};
use crate::api::types::ConfigSource;
use crate::bpf::instance::{Instance, InstanceError};
use crate::bpf::links::AttachError;
use crate::bpf::rival::{self, Rival};
use crate::bpf::vanished;
use crate::config::{Errors, Parsed};
use crate::health::{self, Checker, FullSize, State as Health, TargetId};
use crate::journal::{self, Journal, Note};
use crate::load::agent::Agents;
use crate::model::{Backend, Model, Node};
use crate::netlink::{Answer, NetlinkError, Watcher, all_links};
use crate::object;
use crate::path::{self, PathError};
use crate::plan::Scope;
use crate::policy::Change;
use crate::private::{self, ReplaceError};
use crate::systemd::Supervisor;

/// Why the daemon does not run.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// The file has errors.
    #[error("{0}")]
    Config(Errors),
    /// What it runs in is not as it must be.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// Another daemon serves this network namespace from another mount namespace.
    #[error(transparent)]
    Rival(#[from] Rival),
    /// An interface's offloads.
    #[error("{0}")]
    Offloads(String),
    /// The socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// The kernel.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Netlink.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The health checks.
    #[error(transparent)]
    Checks(#[from] health::StartError),
    /// The file of events.
    #[error("cannot remove the file of events: {0}")]
    Events(io::Error),
    /// A file of the state folder.
    #[error(transparent)]
    Remove(#[from] ReplaceError),
    /// What probes left behind.
    #[error(transparent)]
    Probes(#[from] PathError),
    /// The thread that reads configurations.
    #[error("cannot start the thread that reads configurations: {0}")]
    Ahead(#[source] io::Error),
    /// Signals.
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
}

/// How long the first look-up of all next hops may take.
const FIRST_WAYS: Duration = Duration::from_secs(3);

/// Balances as `file` says until SIGTERM or SIGINT. The kernel goes on when this returns.
///
/// # Errors
/// Whatever keeps it from starting. What an earlier daemon left in the kernel is untouched then, unless it was already being
/// brought up to date.
pub async fn run(file: &Path, socket: &Path) -> Result<(), DaemonError> {
    let own = OwnFile::read(file);
    let (instance, _lock) = Instance::claim()?;
    if let Some(rival) = rival::find(&all_links().await?, &instance.pins).map_err(ControlError::from)? {
        instance.tidy();
        return Err(rival.into());
    }
    vanished::remove(&instance);
    let done = run_here(file, socket, &instance, own).await;
    if done.is_err() {
        instance.tidy();
    }
    done
}

async fn run_here(file: &Path, socket: &Path, instance: &Instance, own: OwnFile) -> Result<(), DaemonError> {
    let troubles = Troubles::default();
    let bound = socket::bind(socket)?;
    let store = Store::in_folder(&instance.state, troubles.clone());
    let state = choice::unless_unreadable(store.load(), &state::path_in(&instance.state))?;
    let record = Record::in_folder(&instance.state, troubles.clone());
    let last = choice::unless_unreadable(record.load(), &accepted::path_in(&instance.state))?;
    let Chosen {
        parsed: Parsed { model, warnings },
        accepted,
        problem,
        notes,
    } = choice::choose_at_start(file, own, last, unix_ms()).map_err(DaemonError::Config)?;
    for warning in &warnings {
        warn!("{}", warning.headline());
    }
    let source = ConfigSource {
        file: accepted.file.clone(),
        accepted_unix_ms: accepted.accepted_unix_ms,
        by: accepted.by,
        problem,
    };
    // What was dropped stays a warning until the next configuration.
    let dropped = notes.iter().filter(|note| note.kind == EventKind::ConfigDropped);
    let mut config_warnings: Vec<String> = dropped.map(|note| note.why.clone()).collect();
    config_warnings.extend(warnings.iter().map(|warning| warning.headline().to_string()));
    match health::raise_file_limit() {
        Ok(limit) => info!(limit, "open files"),
        Err(error) => warn!(%error, "the limit of open files cannot be raised"),
    }

    let fresh = !kernel::installed(instance);
    let (ways_sender, ways) = mpsc::channel(64);
    let positions = Positions::load(&instance.state, &troubles);
    let prepared = prepare(instance.clone(), fresh, model, &state, &positions, ways_sender.clone()).await;
    let Prepared {
        world,
        kernel,
        watcher,
        generation,
        changes,
        moving,
    } = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            // Whoever served before goes on; but what never served leaves nothing behind.
            if fresh && let Err(error) = super::kernel::detach(instance) {
                warn!(%error, "left behind");
            }
            return Err(error);
        }
    };

    let journal = Journal::open(&instance.state);
    let alerts = match Alerts::start() {
        Ok(mut alerts) => {
            alerts.set(&world.model.alerts);
            Some(alerts)
        }
        Err(error) => {
            trouble(
                &troubles,
                Topic::Alerts,
                format!("no thread for alerts, no receiver gets events: {error}"),
            );
            None
        }
    };
    let (events, receiver) = mpsc::unbounded_channel();
    let agents = Agents::start({
        let events = events.clone();
        move |id, word| drop(events.send(Event::Agent(id, word)))
    });
    let agents = match agents {
        Ok(agents) => Some(agents),
        Err(error) => {
            let line = format!("no thread for agents, weights do not follow what backends report: {error}");
            trouble(&troubles, Topic::Agents, line);
            None
        }
    };
    let checker = Checker::start({
        let events = events.clone();
        move |reports| drop(events.send(Event::Health(reports)))
    })?;
    let full_size = FullSize::start()?;
    let wayless = Wayless::resume(&positions);
    // Slots of an earlier daemon may be on their way.
    let services = world.model.services.iter().map(|service| service.key()).collect();
    let ahead = Ahead::start(file.to_owned(), events.clone()).map_err(DaemonError::Ahead)?;
    let mut daemon = Daemon {
        world,
        ahead,
        kernel,
        attached: Attached::default(),
        offloads: Offloads::load(&instance.state),
        checker,
        full_size,
        paths: Paths::new(),
        wayless,
        fits: Fits::default(),
        watcher,
        ways: ways_sender,
        store,
        state,
        positions,
        source,
        accepted,
        record,
        troubles,
        rates: Rates::default(),
        transitions: Transitions::of(services),
        drains: HashMap::new(),
        journal,
        agents,
        silent_agents: HashMap::new(),
        latencies: Latencies::default(),
        alerts,
        supervisor: Supervisor::of_environment(None),
        events: events.clone(),
        started: Instant::now(),
        config_warnings,
        stale: BTreeSet::new(),
        held: BTreeMap::new(),
        stuck: std::collections::BTreeMap::new(),
    };
    daemon.transitions.resume(moving);
    // Whoever is up already served before.
    let world = &daemon.world;
    let new = world.model.services.iter().filter(|service| {
        let up = |backend: &Backend| world.health_of(service, &backend.name) == Health::Up;
        !service.backends.iter().any(up)
    });
    let new: Vec<String> = new.map(|service| service.name.clone()).collect();
    new.into_iter().for_each(|name| daemon.hold(name));
    daemon.check_interfaces().await;
    daemon.check_offloads();
    daemon.follow();
    daemon.follow_agents();
    let (calls_sender, calls) = mpsc::channel(64);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(server::serve(bound, calls_sender, Timeouts::default(), async {
        // Sent or dropped: both mean that it is over.
        let _ = stopped.await;
    }));
    inputs::forward(ways, &events, Event::Ways);
    inputs::watch_addresses(daemon.watcher.addresses(), &events);
    inputs::forward(calls, &events, Event::from);
    inputs::watch_links(&events)?;
    inputs::watch_unreachable(&events);
    inputs::watch_signals(&events).map_err(DaemonError::Signals)?;
    let services = daemon.world.model.services.len();
    let version = env!("CARGO_PKG_VERSION");
    let taken_over = match daemon.kernel.not_taken_over() {
        Some(why) => format!("what was installed could not be taken over, and remembered flows are forgotten: {why}"),
        None if daemon.kernel.taken_over() => "took over what was installed".to_owned(),
        None => "nothing was installed".to_owned(),
    };
    daemon.tell(
        Note::new(EventKind::DaemonStarted, Cause::Daemon)
            .change("", format!("lbd {version}"))
            .because(taken_over),
    );
    if let Some(why) = daemon.kernel.balancer.slower() {
        daemon.tell(Note::new(EventKind::ProgramSlower, Cause::Daemon).because(why));
    }
    for note in notes {
        daemon.tell(note);
    }
    for (service, change) in changes {
        daemon.tell_changes(&service, vec![change]);
    }
    // In force: from now on it is the last good one.
    daemon.record.save_later(daemon.accepted.clone());
    info!(generation, services, taken_over = daemon.kernel.taken_over(), socket = %socket.display(), "serving");
    daemon.serve(receiver).await;
    drop(stop);
    match server.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "the API stopped with an error"),
        Err(error) => warn!(%error, "the API stopped with an error"),
    }
    Ok(())
}

fn trouble(troubles: &Troubles, topic: Topic, line: String) {
    warn!("{line}");
    troubles.set(topic, Some(line));
}

/// What serves already, before the loop begins.
struct Prepared {
    world: World,
    kernel: Kernel,
    watcher: Watcher,
    generation: u64,
    /// What is not as an earlier daemon left it.
    changes: Vec<(String, Change)>,
    /// Since when slots move.
    moving: Vec<(ServiceKey, Vec<Since>)>,
}

/// Brings the kernel to what the model wants, from whatever is there.
async fn prepare(
    instance: Instance,
    fresh: bool,
    model: Model,
    state: &State,
    positions: &Positions,
    ways: mpsc::Sender<Vec<(IpAddr, Answer)>>,
) -> Result<Prepared, DaemonError> {
    let mut interfaces = Vec::new();
    let mut awaited = BTreeSet::new();
    for name in &model.node.interfaces {
        offloads::allow(name, model.node.offloads).map_err(DaemonError::Offloads)?;
        match nix::net::if_::if_nametoindex(name.as_str()) {
            Ok(index) => interfaces.push(index),
            // What an earlier daemon installed serves on: the interface may be on its way back.
            Err(_) if !fresh => drop(awaited.insert(name.clone())),
            Err(_) => return Err(ControlError::from(AttachError::NoInterface { name: name.clone() }).into()),
        }
    }
    let mut kernel = Kernel::open(object::BALANCE, instance, &model)?;
    let watcher = Watcher::start(ways, model.node.gateway_mac)?;
    let mut world = World::new(model, state.overrides.clone());
    world.interfaces = interfaces;
    before::resume_leaving(&mut world, &kernel, positions);
    let moving = before::moving(&world, &kernel, positions);
    watcher.watch(world.questions());
    world.note_answers(watcher.resolve_all(FIRST_WAYS).await?);
    world.own_addresses = watcher.addresses().borrow().clone().unwrap_or_default();
    let ways = world.chosen_ways();
    world.set_ways(ways);
    let served = before::served(&kernel, &world);
    let now = super::now();
    let out = before::out(&kernel, &world, now);
    world.health.extend(served.into_iter().map(|id| (id, Health::Up)));
    for TargetId { service, backend } in out {
        world.was_out(&service, &backend, now.instant);
    }
    before::resume(&mut world, &kernel, positions, now);
    let mut changes = world.decide_all(now);
    let mut wanted = world.wanted_all();
    let blocked = kernel.allow_redirects(&wanted);
    if !blocked.is_empty() {
        for (ifindex, error) in blocked {
            warn!(ifindex, %error, "no packets can be sent by this interface: backends behind it are out");
            world.block(ifindex, error.to_string());
        }
        changes.extend(world.decide_all(now));
        wanted = world.wanted_all();
    }
    let plan = if kernel.needs_reload(&world.model) {
        info!("the tables are made anew: other capacities");
        None
    } else {
        match kernel.plan(&wanted, Scope::Everything) {
            Ok(plan) => Some(plan),
            // The room that is left is in pieces.
            Err(error) if kernel.taken_over() => {
                info!(%error, "the tables are made anew");
                None
            }
            Err(error) => return Err(ControlError::from(error).into()),
        }
    };
    let Node {
        interfaces, xdp_mode, ..
    } = &world.model.node;
    match plan {
        Some(plan) => {
            kernel.apply(&plan).map_err(ControlError::from)?;
            kernel.attach(interfaces, *xdp_mode, &awaited).await?;
        }
        None => {
            // New tables remember no flow.
            world.dismiss_all();
            kernel.reload(&world.model, &world.wanted_all(), &awaited).await?;
        }
    }
    let generation = kernel.next_generation().map_err(ControlError::from)?;
    Ok(Prepared {
        world,
        kernel,
        watcher,
        generation,
        changes,
        moving,
    })
}

/// Takes the program off all interfaces of this network namespace and removes its pins and its state.
///
/// # Errors
/// If a daemon still runs, or something cannot be removed.
pub async fn detach() -> Result<usize, DaemonError> {
    let (instance, _lock) = Instance::claim()?;
    if let Some(rival) = rival::find(&all_links().await?, &instance.pins).map_err(ControlError::from)? {
        instance.tidy();
        return Err(rival.into());
    }
    vanished::remove(&instance);
    let detached = super::kernel::detach(&instance)?;
    path::clear()?;
    offloads::restore_all(&instance.state);
    for path in choice::kept_files(&instance.state) {
        private::remove(&path)?;
    }
    journal::remove(&instance.state).map_err(DaemonError::Events)?;
    instance.tidy();
    Ok(detached)
}
