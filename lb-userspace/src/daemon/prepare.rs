//! Brings the kernel to what the chosen configuration wants; and if this host refuses that one, to what was accepted last.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use lb_common::map::ServiceKey;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::before;
use super::choice::{About, Chosen};
use super::kernel::{self, ControlError, Kernel};
use super::offloads;
use super::positions::Positions;
use super::start::DaemonError;
use super::state::State;
use super::sweep::Since;
use super::world::World;
use crate::bpf::instance::Instance;
use crate::bpf::links::AttachError;
use crate::health::{State as Health, TargetId};
use crate::model::{Model, Node};
use crate::netlink::links::LinkTable;
use crate::netlink::{Answer, Watcher, all_links};
use crate::object;
use crate::plan::Scope;
use crate::policy::Change;

/// How long the first look-up of all next hops may take.
const FIRST_WAYS: Duration = Duration::from_secs(3);

/// Next hops of addresses.
type Ways = Vec<(IpAddr, Answer)>;

/// What serves already, before the loop begins.
pub(super) struct Prepared {
    pub(super) world: World,
    pub(super) kernel: Kernel,
    pub(super) watcher: Watcher,
    pub(super) links: Arc<LinkTable>,
    /// Where the watcher sends next hops, and where they arrive.
    pub(super) ways_sender: mpsc::Sender<Ways>,
    pub(super) ways: mpsc::Receiver<Ways>,
    pub(super) generation: u64,
    /// What is not as an earlier daemon left it.
    pub(super) changes: Vec<(String, Change)>,
    /// Since when slots move.
    pub(super) moving: Vec<(ServiceKey, Vec<Since>)>,
}

/// Brings the kernel to what the chosen configuration wants, or else to its fallback; says which one it is.
///
/// # Errors
/// Those of the chosen one, if neither can be. Whatever served before goes on then; what never served leaves nothing behind.
pub(super) async fn prepare_chosen(
    instance: &Instance,
    chosen: Chosen,
    state: &State,
    positions: &Positions,
) -> Result<(Prepared, About), DaemonError> {
    let fresh = !kernel::installed(instance);
    let Chosen { model, about, fallback } = chosen;
    let refused = match prepare(instance.clone(), fresh, model, state, positions).await {
        Ok(prepared) => return Ok((prepared, about)),
        Err(error) => error,
    };
    take_back(instance, fresh);
    let Some(fallback) = fallback else {
        return Err(refused);
    };
    let (model, about) = fallback.instead_of(&refused);
    match prepare(instance.clone(), fresh, model, state, positions).await {
        Ok(prepared) => Ok((prepared, about)),
        Err(error) => {
            error!(%error, "what was accepted last is refused by this host, too");
            take_back(instance, fresh);
            Err(refused)
        }
    }
}

/// Removes what a failed attempt has made where nothing was installed before.
fn take_back(instance: &Instance, fresh: bool) {
    if fresh && let Err(error) = kernel::detach(instance) {
        warn!(%error, "left behind");
    }
}

/// Brings the kernel to what the model wants, from whatever is there.
async fn prepare(
    instance: Instance,
    fresh: bool,
    model: Model,
    state: &State,
    positions: &Positions,
) -> Result<Prepared, DaemonError> {
    let mut interfaces = Vec::new();
    let mut awaited = BTreeSet::new();
    let links = all_links().await?.into_iter().map(|link| (link.ifindex, link));
    let links: Arc<LinkTable> = Arc::new(links.collect());
    for device in offloads::devices(&links, &model.node.interfaces) {
        offloads::allow(&device, model.node.offloads).map_err(DaemonError::Offloads)?;
    }
    for name in &model.node.interfaces {
        match nix::net::if_::if_nametoindex(name.as_str()) {
            Ok(index) => interfaces.push(index),
            // What an earlier daemon installed serves on: the interface may be on its way back.
            Err(_) if !fresh => drop(awaited.insert(name.clone())),
            Err(_) => return Err(ControlError::from(AttachError::NoInterface { name: name.clone() }).into()),
        }
    }
    let mut kernel = Kernel::open(object::BALANCE, instance, &model)?;
    let (ways_sender, ways_arriving) = mpsc::channel(64);
    let watcher = Watcher::start(ways_sender.clone(), model.node.gateway_mac)?;
    let mut world = World::new(model, state.overrides.clone());
    world.interfaces = interfaces;
    before::resume_leaving(&mut world, &kernel, positions);
    let moving = before::moving(&world, &kernel, positions);
    watcher.watch(world.questions());
    world.note_answers(watcher.resolve_all(FIRST_WAYS).await?);
    world.own_addresses = watcher.addresses().borrow().clone().unwrap_or_default();
    let ways = world.chosen_ways();
    world.set_ways(ways);
    let served = before::served(&kernel, &world, positions, fresh);
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
        // Interfaces may refuse, and then the tables that serve are as they were.
        Some(plan) if kernel.taken_over() => {
            kernel.attach(interfaces, *xdp_mode, &awaited).await?;
            kernel.apply(&plan).map_err(ControlError::from)?;
        }
        // No packet finds empty tables.
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
        links,
        ways_sender,
        ways: ways_arriving,
        generation,
        changes,
        moving,
    })
}
