//! From the command line to the loop, and the way out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::Path;
use std::time::Instant;

use thiserror::Error;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::accepted::{self, Record};
use super::ahead::Ahead;
use super::attached::Attached;
use super::choice::{self, About, OwnFile};
use super::configure::unix_ms;
use super::fits::Fits;
use super::kernel::ControlError;
use super::loads::Latencies;
use super::offloads::{self, Offloads};
use super::paths::Paths;
use super::positions::Positions;
use super::prepare::{self, Prepared};
use super::rates::Rates;
use super::state::{self, StateError, Store};
use super::sweep::Transitions;
use super::trouble::{Topic, Troubles};
use super::wayless::Wayless;
use super::{Daemon, Event, inputs};
use crate::alerts::Alerts;
use crate::api::events::{Cause, EventKind};
use crate::api::server::{self, Timeouts};
use crate::api::socket::{self, SocketError};
use crate::api::types::ConfigSource;
use crate::bpf::instance::{Instance, InstanceError};
use crate::bpf::rival::{self, Rival};
use crate::bpf::vanished;
use crate::config::Errors;
use crate::health::{self, Checker, FullSize, State as Health};
use crate::journal::{self, Journal, Note};
use crate::load::agent::Agents;
use crate::model::Backend;
use crate::netlink::{NetlinkError, all_links};
use crate::path::{self, PathError};
use crate::private::{self, ReplaceError};
use crate::systemd::Supervisor;

/// Why the daemon does not run.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// The file has errors.
    #[error("{0}")]
    Config(Errors),
    /// The file cannot be read, which another start may.
    #[error("{0}")]
    Unreadable(Errors),
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
    let state::Loaded { state, has_applied } =
        choice::unless_unreadable(store.load(), &state::path_in(&instance.state))?;
    let record = Record::in_folder(&instance.state, troubles.clone());
    let last = choice::unless_unreadable(record.load(), &accepted::path_in(&instance.state))?;
    let chosen = choice::choose_at_start(file, own, last, unix_ms())?;
    match health::raise_file_limit() {
        Ok(limit) => info!(limit, "open files"),
        Err(error) => warn!(%error, "the limit of open files cannot be raised"),
    }

    let positions = Positions::load(&instance.state, &troubles);
    let (prepared, mut about) = prepare::prepare_chosen(instance, chosen, &state, &positions).await?;
    let Prepared {
        world,
        kernel,
        watcher,
        links,
        ways_sender,
        ways,
        generation,
        changes,
        moving,
    } = prepared;
    if has_applied {
        about.notes.push(choice::old_applied(file));
    }
    let About {
        warnings,
        accepted,
        problem,
        notes,
    } = about;
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
    config_warnings.iter().for_each(|why| warn!("{why}"));
    config_warnings.extend(warnings.iter().map(|warning| warning.headline().to_string()));

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
        links,
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
