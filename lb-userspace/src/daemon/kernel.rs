//! The daemon's hold on the kernel: the program on its interfaces, and plans carried out.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::Path;

use lb_common::map::{ABI_VERSION, Meta, ServiceKey};
use lb_common::reason::Reason;
use thiserror::Error;
use tracing::{error, info, warn};

use super::bring::allow_redirects;
use crate::bpf::error::KernelError;
use crate::bpf::grace;
use crate::bpf::instance::Instance;
use crate::bpf::links::{self, AttachError, Attachment};
use crate::bpf::program::{Balancer, Settings};
use crate::bpf::shape;
use crate::bpf::tables::Lengths;
use crate::model::{Capacity, Model, XdpMode};
use crate::netlink::{NetlinkError, OwnLink, link_by_name, own_addresses, own_links};
use crate::plan::apply;
use crate::plan::layout::Layout;
use crate::plan::make::plan;
use crate::plan::{Plan, PlanError, Scope, WantedService};

/// Why the kernel does not do what is wanted.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Program or maps.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Interfaces.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// A table is full.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The interfaces could not be listed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// The program, its maps and its links.
pub struct Kernel {
    object: &'static [u8],
    instance: Instance,
    settings: Settings,
    /// The loaded program.
    pub balancer: Balancer,
    /// The loaded program's number in the kernel.
    program_id: u32,
    /// Where it is attached. An interface that is configured and missing has none.
    attachments: Vec<Attachment>,
    /// Interfaces that packets may be redirected to.
    redirects: HashSet<u32>,
    /// Why the tables that an earlier daemon left were not taken over, if there were any.
    not_taken_over: Option<String>,
}

/// What the program is to be loaded with for a configuration; `present` are the tables that are there.
///
/// Rings get what they need and room to grow, unless the configuration says how much; tables that are there and long enough
/// are kept as they are.
pub fn settings_for(model: &Model, present: Option<Lengths>) -> Settings {
    let Capacity {
        services,
        backends,
        ring_slots,
        flows,
    } = model.node.capacity;
    let needed: u64 = model
        .services
        .iter()
        .map(|service| u64::from(service.ring_size).next_multiple_of(16))
        .sum();
    let slots = ring_slots.unwrap_or_else(|| {
        let comfortable = (2 * needed).next_power_of_two().max(LEAST_AUTO_SLOTS.into());
        u32::try_from(comfortable)
            .unwrap_or(MOST_AUTO_SLOTS)
            .min(MOST_AUTO_SLOTS)
    });
    let mut lengths = Lengths::for_capacity(services, backends, slots, flows);
    if let Some(present) = present
        && ring_slots.is_none()
        && u64::from(present.slots) >= needed + needed / 4
        && present.slots
            <= lengths
                .slots
                .max(Lengths::for_capacity(1, 1, LEAST_AUTO_SLOTS, 1).slots)
                * 4
    {
        lengths.slots = present.slots;
    }
    Settings {
        lengths,
        hash_seed: model.node.hash_seed,
        longest_value: None,
    }
}

/// Slots of a ring table that nobody configured: 16 MiB.
const LEAST_AUTO_SLOTS: u32 = 1 << 22;
/// Slots of the largest: 4 GiB.
const MOST_AUTO_SLOTS: u32 = 1 << 30;

impl Kernel {
    /// Loads the program with the maps that an earlier daemon left, or with new ones; it is not attached yet.
    ///
    /// Maps of another length than the configuration wants are taken over as they are: [`needs_reload`](Self::needs_reload) says so then.
    /// So are those of the slower program. Where the kernel refuses the program that goes with the maps, others are made.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn open(object: &'static [u8], instance: Instance, model: &Model) -> Result<Self, ControlError> {
        let pins = &instance.pins;
        recover(pins)?;
        let current = pins.join(TABLES);
        let present = shape::pinned_lengths(&current);
        let wanted = settings_for(model, present);
        let mut folder = current.clone();
        let mut settings = wanted;
        let mut not_taken_over = None;
        if current.exists() {
            let lengths = present.unwrap_or(wanted.lengths);
            let by_key = |why: String| -> Result<(), String> {
                shape::fits_by_key(&current, lengths).map_err(|_| why)?;
                shape::use_no_large_values(
                    "the tables are those of an earlier daemon whose faster program was refused",
                );
                Ok(())
            };
            match shape::fits(&current, lengths).or_else(by_key) {
                Ok(()) => settings.lengths = lengths,
                Err(why) => {
                    warn!(why, "the tables that are there cannot be taken over: new ones are made");
                    not_taken_over = Some(why);
                    folder = pins.join(TABLES_NEW);
                }
            }
        }
        let mut balancer = match Balancer::load_pinned(object, settings, &folder) {
            Err(why) if why.is_refusal() && folder == current => {
                warn!(%why, "the tables that are there cannot be taken over: new ones are made");
                not_taken_over = Some(why.to_string().replace("\n  ", " | "));
                settings = wanted;
                Balancer::load_pinned(object, settings, &pins.join(TABLES_NEW))?
            }
            result => result?,
        };
        if !balancer.taken_over {
            balancer.set_meta(Meta {
                abi_version: ABI_VERSION,
                ..Meta::default()
            })?;
        }
        Ok(Self {
            object,
            instance,
            settings,
            program_id: balancer.program_id()?,
            balancer,
            attachments: Vec::new(),
            redirects: HashSet::new(),
            not_taken_over,
        })
    }

    /// Why the tables that an earlier daemon left were not taken over, if there were any.
    pub fn not_taken_over(&self) -> Option<&str> {
        self.not_taken_over.as_deref()
    }

    /// Where this instance keeps its state.
    pub fn state_folder(&self) -> &Path {
        &self.instance.state
    }

    /// Whether the tables are those of an earlier daemon.
    pub fn taken_over(&self) -> bool {
        self.balancer.taken_over
    }

    /// That the program is not the fastest one, for a node's status.
    pub fn slower(&self) -> Option<String> {
        let why = self.balancer.slower()?;
        let cure = "`lbd detach` and a start try the faster one again, and break connections";
        Some(format!(
            "a slower program serves, which looks tables up by key: {why}; {cure}"
        ))
    }

    /// Whether a configuration needs the program loaded anew, or other tables.
    pub fn needs_reload(&self, model: &Model) -> bool {
        settings_for(model, Some(self.settings.lengths)) != self.settings
    }

    /// Plans the way to what is wanted.
    ///
    /// # Errors
    /// If a table is full.
    pub fn plan(&self, wanted: &[WantedService], scope: Scope) -> Result<Plan, PlanError> {
        plan(&self.balancer.tables, wanted, scope)
    }

    /// Carries a plan out.
    ///
    /// # Errors
    /// If a counter cannot be read or the maps' description not be written.
    pub fn apply(&mut self, plan: &Plan) -> Result<(), KernelError> {
        let used = apply::rows_used(plan);
        let meta = self.balancer.meta()?;
        if used > meta.rows_used {
            self.balancer.set_meta(Meta {
                rows_used: used,
                ..meta
            })?;
        }
        apply::apply(plan, &self.balancer.tables, |row| self.balancer.raw_pair(row))
    }

    /// Lets packets leave by every interface that the wanted services send them by; returns those that cannot be: the interface is gone, or the
    /// device map is full.
    pub fn allow_redirects<'a>(
        &mut self,
        wanted: impl IntoIterator<Item = &'a WantedService>,
    ) -> Vec<(u32, KernelError)> {
        allow_redirects(&mut self.balancer, &mut self.redirects, wanted)
    }

    /// The same for one interface.
    ///
    /// # Errors
    /// The kernel's.
    pub fn allow_redirect(&mut self, ifindex: u32) -> Result<(), KernelError> {
        self.balancer.allow_redirect(ifindex)?;
        self.redirects.insert(ifindex);
        Ok(())
    }

    /// Takes note of what the host's own addresses are on the interfaces that the program is on: also on those where an earlier daemon put it,
    /// and which are not known by a configured name. The program goes on there.
    ///
    /// # Errors
    /// The kernel's, or the pins cannot be listed.
    pub fn set_own_addresses<'a>(&mut self, links: impl IntoIterator<Item = &'a OwnLink>) -> Result<(), ControlError> {
        let mut indices = links::pinned(&self.instance.pins)?;
        indices.extend(self.indices());
        Ok(self.balancer.set_own_addresses(&own_addresses(links, &indices))?)
    }

    /// Forgets that packets may leave by interfaces: the kernel strikes an interface out when it is removed, or moved to another network
    /// namespace, also if one with the same index comes after it.
    pub fn forget_redirects(&mut self, gone: impl Fn(u32) -> bool) {
        self.redirects.retain(|ifindex| !gone(*ifindex));
    }

    /// Interfaces that packets may leave by, and which the kernel has struck out.
    pub fn lost_redirects(&self) -> BTreeSet<u32> {
        let lost = |ifindex: &&u32| !self.balancer.allows_redirect(**ifindex);
        self.redirects.iter().filter(lost).copied().collect()
    }

    /// Puts the program on the interfaces, in place of what an earlier daemon put there, and takes it off all others. Those in `awaited` may
    /// be without it for now.
    ///
    /// # Errors
    /// If another interface does not take it; then it is attached to none that it was not attached to before.
    pub async fn attach(
        &mut self,
        interfaces: &[String],
        mode: XdpMode,
        awaited: &BTreeSet<String>,
    ) -> Result<(), ControlError> {
        match put_on(&mut self.balancer, &self.instance.pins, interfaces, mode, awaited).await {
            Ok(attached) => self.settle(attached, interfaces),
            Err(why) => {
                // A mode that was refused: it is attached anew in the one before.
                self.attachments.iter_mut().for_each(Attachment::hold_pinned);
                Err(why)
            }
        }
    }

    /// Puts the program on one interface of those configured that has lost it.
    ///
    /// # Errors
    /// If it does not take it.
    pub async fn attach_again(&mut self, name: &str, mode: XdpMode, interfaces: &[String]) -> Result<(), ControlError> {
        let present = link_by_name(name).await.ok().and_then(|link| link.xdp);
        let mut indices = links::pinned(&self.instance.pins)?;
        indices.extend(self.indices());
        indices.extend(nix::net::if_::if_nametoindex(name).ok());
        let links = own_links().await?;
        self.balancer.set_own_addresses(&own_addresses(&links, &indices))?;
        let attachment = links::attach(&mut self.balancer, &self.instance.pins, name, mode, present)?;
        let mut attached = std::mem::take(&mut self.attachments);
        attached.retain(|other| other.interface != name);
        attached.push(attachment);
        self.settle(attached, interfaces)
    }

    /// Lets go of an interface that is not there any more. If it is elsewhere, its packets are not balanced there.
    pub fn let_go(&mut self, name: &str) {
        let (gone, stay) = std::mem::take(&mut self.attachments)
            .into_iter()
            .partition(|attachment| attachment.interface == name);
        self.attachments = stay;
        gone.into_iter().for_each(Attachment::detach);
    }

    /// Where the program is attached.
    pub fn attachments(&self) -> &[Attachment] {
        &self.attachments
    }

    /// Indices of these interfaces.
    pub fn indices(&self) -> Vec<u32> {
        self.attachments.iter().map(|attachment| attachment.ifindex).collect()
    }

    /// The loaded program's number in the kernel.
    pub fn program_id(&self) -> u32 {
        self.program_id
    }

    /// The attachment to the interface that is configured by this name.
    pub fn attachment(&self, name: &str) -> Option<&Attachment> {
        self.attachments.iter().find(|attachment| attachment.interface == name)
    }

    /// Takes the program off all other interfaces than those that are configured, and makes the tables in use the ones that the next daemon
    /// finds.
    fn settle(&mut self, mut attached: Vec<Attachment>, configured: &[String]) -> Result<(), ControlError> {
        let pins = &self.instance.pins;
        let keep: Vec<u32> = attached.iter().map(|attachment| attachment.ifindex).collect();
        let has = |name: &String| attached.iter().any(|attachment| attachment.interface == *name);
        if configured.iter().all(has) {
            let detached = links::detach_others(pins, &keep)?;
            if detached > 0 {
                info!(detached, "taken off interfaces that are not configured any more");
            }
        } else {
            // What is attached elsewhere may be a configured interface under another name: it goes on.
            links::replace_others(&mut self.balancer, pins, &keep)?;
        }
        // One that was not found by its name may have another: it is looked after as before.
        let known: BTreeSet<String> = attached.iter().map(|attachment| attachment.interface.clone()).collect();
        let earlier = std::mem::take(&mut self.attachments).into_iter();
        attached.extend(
            earlier.filter(|earlier| configured.contains(&earlier.interface) && !known.contains(&earlier.interface)),
        );
        self.attachments = attached;
        let (current, new, old) = (pins.join(TABLES), pins.join(TABLES_NEW), pins.join(TABLES_OLD));
        if new.exists() {
            if current.exists() {
                rename(&current, &old)?;
            }
            rename(&new, &current)?;
            discard(&old)?;
        }
        Ok(())
    }

    /// Makes tables of other lengths, or with another seed, fills them, and puts a program that reads them in place of the
    /// present one: every packet is handled by one of the two. Counters go on in sum; those of single backends too.
    ///
    /// # Errors
    /// If it cannot be; then all is as it was.
    pub async fn reload(
        &mut self,
        model: &Model,
        wanted: &[WantedService],
        awaited: &BTreeSet<String>,
    ) -> Result<(), ControlError> {
        let pins = self.instance.pins.clone();
        let folder = pins.join(TABLES_NEW);
        discard(&folder)?;
        let settings = settings_for(model, Some(self.settings.lengths));
        let mut redirects = HashSet::new();
        let linked = links::pinned(&pins)?;
        let made = self.fill_new(settings, &folder, wanted, &mut redirects);
        let made = made.and_then(|mut balancer| Ok((balancer.program_id()?, balancer)));
        let ready = match made {
            Ok((id, mut balancer)) => {
                let node = &model.node;
                let attached = put_on(&mut balancer, &pins, &node.interfaces, node.xdp_mode, awaited).await;
                attached.map(|attached| (balancer, id, attached))
            }
            Err(error) => Err(error),
        };
        let (balancer, program_id, attached) = match ready {
            Ok(ready) => ready,
            Err(error) => {
                // Some interfaces may have the new program already. It goes from those that had none, and back on the others.
                if let Err(error) = links::detach_others(&pins, &linked)
                    .and_then(|_| links::replace_all(&mut self.balancer, &pins))
                    .map_err(ControlError::from)
                    .and_then(|()| Ok(discard(&folder)?))
                {
                    error!(%error, "left behind");
                }
                return Err(error);
            }
        };
        let old = std::mem::replace(&mut self.balancer, balancer);
        self.program_id = program_id;
        self.settings = settings;
        self.redirects = redirects;
        self.settle(attached, &model.node.interfaces)?;
        // The last packet that the old program counts has left it.
        grace::period();
        self.continue_counters(&old)?;
        Ok(())
    }

    fn fill_new(
        &self,
        settings: Settings,
        folder: &Path,
        wanted: &[WantedService],
        redirects: &mut HashSet<u32>,
    ) -> Result<Balancer, ControlError> {
        let generation = self.balancer.meta()?.generation;
        let mut balancer = Balancer::load_pinned(self.object, settings, folder)?;
        let plan = plan(&balancer.tables, wanted, Scope::Everything)?;
        balancer.set_meta(Meta {
            abi_version: ABI_VERSION,
            rows_used: apply::rows_used(&plan),
            generation,
            ..Meta::default()
        })?;
        apply::apply(&plan, &balancer.tables, |row| balancer.raw_pair(row))?;
        allow_redirects(&mut balancer, redirects, wanted);
        Ok(balancer)
    }

    fn continue_counters(&mut self, old: &Balancer) -> Result<(), KernelError> {
        let reasons: [u64; Reason::COUNT] = old.reasons()?;
        let (before, now) = (Layout::read(&old.tables), Layout::read(&self.balancer.tables));
        for (key, service) in &now.services {
            let Some(earlier) = before.services.get(key) else {
                continue;
            };
            for (number, identity) in service
                .identities
                .iter()
                .enumerate()
                .filter(|(_, identity)| **identity != 0)
            {
                if let Some(position) = earlier.identities.iter().position(|other| other == identity) {
                    let counted = old.pair(earlier.entry.backend_base() + position as u32)?;
                    let row = service.entry.backend_base() + number as u32;
                    let mut baseline = self.balancer.tables.baseline(row);
                    baseline.packets = baseline.packets.wrapping_sub(counted.packets);
                    baseline.bytes = baseline.bytes.wrapping_sub(counted.bytes);
                    self.balancer.tables.set_baseline(row, baseline);
                }
            }
        }
        self.balancer.continue_reasons(&reasons)
    }

    /// Counts one more configuration as accepted, and says how many there were.
    ///
    /// # Errors
    /// The kernel's.
    pub fn next_generation(&mut self) -> Result<u64, KernelError> {
        let meta = self.balancer.meta()?;
        let generation = meta.generation + 1;
        self.balancer.set_meta(Meta { generation, ..meta })?;
        Ok(generation)
    }

    /// How long the tables are.
    pub fn lengths(&self) -> Lengths {
        self.settings.lengths
    }

    /// Where a service's rows begin and which backends they are.
    pub fn layout(&self) -> Layout {
        Layout::read(&self.balancer.tables)
    }
}

/// Puts the program on the interfaces, or on none where it was not before. Those in `awaited` are left out if they do not take it.
async fn put_on(
    balancer: &mut Balancer,
    pins: &Path,
    interfaces: &[String],
    mode: XdpMode,
    awaited: &BTreeSet<String>,
) -> Result<Vec<Attachment>, ControlError> {
    let before = links::pinned(pins)?;
    // Before the program sees a frame, it knows whose frames are its own.
    let mut indices = before.clone();
    indices.extend(
        interfaces
            .iter()
            .filter_map(|name| nix::net::if_::if_nametoindex(name.as_str()).ok()),
    );
    balancer.set_own_addresses(&own_addresses(&own_links().await?, &indices))?;
    let mut attached = Vec::new();
    for name in interfaces {
        let present = link_by_name(name).await.ok().and_then(|link| link.xdp);
        match links::attach(balancer, pins, name, mode, present) {
            Ok(attachment) => attached.push(attachment),
            Err(error) if awaited.contains(name) => info!(%error, "not attached yet"),
            Err(error) => {
                links::detach_others(pins, &before)?;
                return Err(error.into());
            }
        }
    }
    Ok(attached)
}

/// Whether an earlier daemon has left tables.
pub fn installed(instance: &Instance) -> bool {
    [TABLES, TABLES_OLD]
        .iter()
        .any(|folder| instance.pins.join(folder).exists())
}

/// Finishes or takes back what a daemon was doing with whole folders of tables when it was killed.
fn recover(pins: &Path) -> Result<(), KernelError> {
    let (current, new, old) = (pins.join(TABLES), pins.join(TABLES_NEW), pins.join(TABLES_OLD));
    if !current.exists() && old.exists() {
        // Stopped between the two renames: the new tables are the ones in use.
        rename(if new.exists() { &new } else { &old }, &current)?;
    }
    discard(&new)?;
    discard(&old)
}

/// Which backends served in tables that were taken over: those that were up, and not disabled.
pub fn serving(balancer: &Balancer, layout: &Layout, key: ServiceKey) -> Vec<u64> {
    let Some(service) = layout.services.get(&key) else {
        return Vec::new();
    };
    let rows = (service.entry.backend_base()..).zip(&service.identities);
    rows.filter(|(row, identity)| **identity != 0 && balancer.tables.row(*row).life != 0)
        .map(|(_, identity)| *identity)
        .collect()
}

/// Takes the program off all interfaces and removes its pins.
///
/// # Errors
/// If a pin cannot be removed.
pub fn detach(instance: &Instance) -> Result<usize, ControlError> {
    let detached = links::detach_others(&instance.pins, &[])?;
    for folder in [TABLES, TABLES_NEW, TABLES_OLD] {
        discard(&instance.pins.join(folder))?;
    }
    Ok(detached)
}

/// Names with dots are reserved in a BPF file system.
const TABLES: &str = "tables";
const TABLES_NEW: &str = "tables-new";
const TABLES_OLD: &str = "tables-old";

fn rename(from: &Path, to: &Path) -> Result<(), KernelError> {
    fs::rename(from, to).map_err(|source| KernelError::File {
        path: from.to_owned(),
        source,
    })
}

/// Removes a folder of pins, if it is there.
fn discard(folder: &Path) -> Result<(), KernelError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(KernelError::File {
            path: folder.to_owned(),
            source: error,
        }),
        _ => Ok(()),
    }
}
