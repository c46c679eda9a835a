//! What the API shows.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use lb_common::encap::Mac;
use lb_common::hash::{HashKeys, flow_hash, service_salt, slot};
use lb_common::map::{Counter, ServiceKey, flag};
use lb_common::reason::{Fate, Reason};

use super::ahead::{Purpose, Source};
use super::configure::{internal, unix_ms};
use super::counts::add;
use super::rates::{by_fate, sum};
use super::{Daemon, Event};
use crate::alerts::Alerts;
use crate::api::call::Call;
use crate::api::error::{ApiError, ErrorKind};
use crate::api::types::{
    Admin, AttachMode, BackendCounts, BackendDetail, BackendStats, Capacity, Check, Forward, FullSize, Health,
    Interface, Lookup, NextHop, Override, PathMtu, Probe, ServiceDetail, ServiceStats, ServiceSummary, Stats, Status,
    Totals, Usage,
};
use crate::config;
use crate::frames;
use crate::health::{State as HealthState, TargetId};
use crate::model::{self, identity};
use crate::netlink::{XdpAttachment, link_by_name};

impl From<Call> for Event {
    fn from(call: Call) -> Self {
        Event::Call(Box::new(call))
    }
}

impl Daemon {
    /// Answers one request.
    pub(super) async fn answer(&mut self, call: Call) {
        if matches!(call, Call::Status(_)) {
            self.check_interfaces().await;
        }
        // What is shown must not be older than what was told.
        self.converge();
        match call {
            Call::Status(answer) => answer.send(self.status().await),
            Call::Services(answer) => answer.send(self.services()),
            Call::Service { name, answer } => answer.send(self.service_detail(&name)),
            Call::Stats(answer) => answer.send(self.stats()),
            Call::Events { query, answer } => answer.send(Ok(self.journal.select(&query))),
            Call::Lookup {
                service,
                source,
                answer,
            } => answer.send(self.lookup(&service, source)),
            Call::Plan { toml, file, answer } => {
                let source = Source::Text(toml, file);
                self.ahead.read(&self.world, source, Purpose::Plan(answer));
            }
            Call::Apply { toml, file, answer } => {
                let source = Source::Text(toml, file);
                self.ahead.read(&self.world, source, Purpose::Apply(answer));
            }
            Call::Reload(answer) => self
                .ahead
                .read(&self.world, Source::OwnFile, Purpose::Reload(Some(answer))),
            Call::Confirm {
                service,
                backend,
                what,
                answer,
            } => answer.send(self.confirm(&service, backend.as_deref(), what)),
            Call::Backend {
                service,
                backend,
                action,
                answer,
            } => {
                answer.send(self.override_backend(&service, &backend, action));
            }
        }
    }

    async fn status(&self) -> Result<Status, ApiError> {
        let reasons = self.kernel.balancer.reasons().map_err(internal)?;
        let layout = self.kernel.layout();
        let mut forwarded_bytes = 0;
        let mut rates = Vec::new();
        let mut backends = BackendCounts::default();
        for service in &self.world.model.services {
            add(&mut backends, &self.counts_of(service));
            for (backend, counter) in self.pairs_of(service, &layout).map_err(internal)? {
                forwarded_bytes += counter.bytes;
                rates.push(self.rates.of(service.key(), identity(&backend.name)));
            }
        }
        let totals = Totals {
            received: reasons.iter().sum(),
            forwarded: by_fate(&reasons, Fate::Forwarded),
            passed: by_fate(&reasons, Fate::Passed),
            dropped: by_fate(&reasons, Fate::Dropped),
            forwarded_bytes,
            received_per_second: self.rates.received(),
            rate: sum(rates),
        };
        let (interfaces, mut warnings) = self.interfaces().await;
        warnings.extend(self.attached.warnings());
        warnings.extend(self.offloads.warnings());
        warnings.extend(self.troubles.lines());
        let file = self.source.file.as_deref().map(Path::new);
        warnings.extend(config::exposed(&self.world.model, file));
        warnings.extend(super::choice::set_aside(self.kernel.state_folder()));
        warnings.extend(self.behind());
        warnings.extend(self.kernel.slower());
        warnings.extend(self.unusual());
        warnings.extend(self.alerts.iter().flat_map(Alerts::problems));
        warnings.extend(self.journal.problem());
        warnings.extend(
            self.paths
                .problem()
                .map(|why| format!("health probes cannot take the users' path, so verdicts stay as they are: {why}")),
        );
        warnings.extend(self.config_warnings.iter().cloned());
        let slots = self
            .world
            .model
            .services
            .iter()
            .map(|service| u64::from(service.ring_size))
            .sum();
        let capacity = self.world.model.node.capacity;
        Ok(Status {
            node: nix::unistd::gethostname().map_or_else(|_| String::new(), |name| name.to_string_lossy().into_owned()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            generation: self.kernel.balancer.meta().map_err(internal)?.generation,
            config: self.source.clone(),
            interfaces,
            detached: self.attached.detached(),
            totals,
            services: self.world.model.services.len() as u32,
            backends,
            capacity: Capacity {
                services: Usage {
                    used: self.world.model.services.len() as u64,
                    total: capacity.services.into(),
                },
                backends: Usage {
                    used: backends.total.into(),
                    total: capacity.backends.into(),
                },
                ring_slots: Usage {
                    used: slots,
                    total: self.kernel.lengths().slots.into(),
                },
            },
            warnings,
        })
    }

    async fn interfaces(&self) -> (Vec<Interface>, Vec<String>) {
        let mut interfaces = Vec::new();
        let mut warnings = Vec::new();
        for attachment in self.kernel.attachments() {
            let (name, ifindex) = (&attachment.interface, attachment.ifindex);
            // It may have another name than the configured one.
            let name_now = nix::net::if_::if_indextoname(ifindex).map(|name| name.to_string_lossy().into_owned());
            let name_now = name_now.unwrap_or_else(|_| name.clone());
            let link = match link_by_name(&name_now).await {
                Ok(link) => link,
                Err(error) => {
                    warnings.push(format!("interface {name}: {error}"));
                    continue;
                }
            };
            let Some(xdp) = link.xdp else {
                warnings.push(format!("interface {name}: the program is not attached any more"));
                continue;
            };
            let xdp_mode = match xdp.mode {
                XdpAttachment::Generic => AttachMode::Generic,
                _ => AttachMode::Native,
            };
            if xdp_mode == AttachMode::Generic && self.world.model.node.xdp_mode == model::XdpMode::Auto {
                warnings.push(format!(
                    "interface {name}: generic XDP, several times slower: its driver has no native XDP"
                ));
            }
            if !link.up || !link.carrier {
                warnings.push(format!(
                    "interface {name}: {}",
                    if link.up { "no carrier" } else { "down" }
                ));
            }
            interfaces.push(Interface {
                name: name.clone(),
                ifindex,
                xdp_mode,
                program_id: xdp.program_id,
                mtu: link.mtu,
                up: link.up && link.carrier,
                offloads_disabled: self.offloads.switched_off(name),
                offloads_active: self.offloads.on(name),
            });
        }
        (interfaces, warnings)
    }

    fn services(&self) -> Result<Vec<ServiceSummary>, ApiError> {
        let layout = self.kernel.layout();
        let summary = |service: &model::Service| {
            let pairs = self.pairs_of(service, &layout).map_err(internal)?;
            Ok(ServiceSummary {
                name: service.name.clone(),
                vip: service.vip,
                protocol: service.protocol.into(),
                port: service.port,
                forward: forward_of(service),
                mode: self.mode_of(&service.name),
                backends: self.counts_of(service),
                packets: pairs.iter().map(|(_, counter)| counter.packets).sum(),
                bytes: pairs.iter().map(|(_, counter)| counter.bytes).sum(),
                rate: self.rate_of(service),
            })
        };
        self.world.model.services.iter().map(summary).collect()
    }

    fn service_detail(&self, name: &str) -> Result<ServiceDetail, ApiError> {
        let service = self.find_service(name)?;
        let layout = self.kernel.layout();
        let pairs = self.pairs_of(service, &layout).map_err(internal)?;
        let slots = self.slots_of(service, &layout);
        let (slots_moving, slots_settled) = self.restless_of(service, &layout);
        let remembered = self.transitions.remembered.get(&super::sweep::tag(service.key()));
        let backends = pairs
            .iter()
            .map(|(backend, counter)| self.detail(service, backend, *counter, &slots))
            .collect();
        Ok(ServiceDetail {
            name: service.name.clone(),
            vip: service.vip,
            protocol: service.protocol.into(),
            port: service.port,
            forward: forward_of(service),
            mode: self.mode_of(&service.name),
            tiers: self
                .world
                .decided(&service.name)
                .map_or(Vec::new(), |decided| decided.outcome.tiers.clone()),
            warnings: self.unusual_of(service),
            ring_size: service.ring_size,
            hash: service.hash.into(),
            tracking: service.tracking.into(),
            slots_moving,
            slots_settled,
            flows_remembered: remembered.copied().unwrap_or(0),
            check: service.health.as_ref().map(Check::from),
            backends,
            packets: pairs.iter().map(|(_, counter)| counter.packets).sum(),
            bytes: pairs.iter().map(|(_, counter)| counter.bytes).sum(),
            rate: self.rate_of(service),
        })
    }

    /// One backend in detail.
    pub(super) fn backend_detail(&self, service: &str, backend: &str) -> Result<BackendDetail, ApiError> {
        let (service, backend) = self.find(service, backend)?;
        let layout = self.kernel.layout();
        let slots = self.slots_of(service, &layout);
        let pairs = self.pairs_of(service, &layout).map_err(internal)?;
        let counter = pairs
            .iter()
            .find(|(one, _)| one.name == backend.name)
            .map_or(Counter::default(), |(_, c)| *c);
        Ok(self.detail(service, backend, counter, &slots))
    }

    fn detail(
        &self,
        service: &model::Service,
        backend: &model::Backend,
        counter: Counter,
        slots: &HashMap<u64, u32>,
    ) -> BackendDetail {
        let overridden = self.world.overridden(&service.name, &backend.name);
        let checked = self.checker.status(&TargetId::new(&service.name, &backend.name));
        let slots = slots.get(&identity(&backend.name)).copied().unwrap_or(0);
        BackendDetail {
            name: backend.name.clone(),
            address: backend.address,
            weight: self.world.weight(service, backend, unix_ms()),
            configured_weight: backend.weight,
            forward: backend.forward.into(),
            health: health(self.world.health_of(service, &backend.name)),
            health_since_unix_ms: checked.as_ref().map(|checked| unix_ms_of(checked.since)),
            last_probe: checked.and_then(|checked| checked.last).map(|last| Probe {
                ended_unix_ms: unix_ms_of(last.at),
                success: last.outcome == crate::health::Outcome::Passed,
                reason: last.text.to_string(),
                rtt_us: (last.outcome == crate::health::Outcome::Passed).then_some(last.took.as_micros() as u64),
            }),
            admin: overridden.and_then(|one| one.admin).unwrap_or(Admin::Enabled),
            priority: backend.priority,
            sorry: backend.sorry,
            standing: self.standing(service, backend),
            load: self.load_of(service, backend),
            flows_remembered: self.transitions.remembered_of(service.key(), identity(&backend.name)),
            overridden: overridden.map(|one| Override {
                admin: one.admin,
                weight: one.weight,
                since_unix_ms: one.since_unix_ms,
                drain_until_unix_ms: one.drain_until_unix_ms,
                ramp: one.ramp,
            }),
            slots,
            share: f64::from(slots) / f64::from(service.ring_size),
            next_hop: self.next_hop(service, backend),
            path_mtu: self.misfit_of(service, backend).map(|found| PathMtu {
                needed: found.needed,
                mtu: found.mtu,
                found_by: found.found_by,
            }),
            full_size: self
                .full_size
                .state(&TargetId::new(&service.name, &backend.name))
                .map_or(FullSize::NotProbed, FullSize::from),
            packets: counter.packets,
            bytes: counter.bytes,
            rate: self.rates.of(service.key(), identity(&backend.name)),
        }
    }

    fn next_hop(&self, service: &model::Service, backend: &model::Backend) -> NextHop {
        let unresolved = self.world.backend_now(service, backend).err();
        match self.world.way(backend.address) {
            Some(Ok(way)) => NextHop {
                interface: nix::net::if_::if_indextoname(way.ifindex)
                    .ok()
                    .map(|name| name.to_string_lossy().into_owned()),
                gateway: (way.neighbour != backend.address).then_some(way.neighbour),
                mac: Some(mac(way.destination_mac)),
                unresolved,
            },
            _ => NextHop {
                unresolved,
                ..NextHop::default()
            },
        }
    }

    fn stats(&self) -> Result<Stats, ApiError> {
        let layout = self.kernel.layout();
        let mut services = Vec::new();
        for service in &self.world.model.services {
            let pairs = self.pairs_of(service, &layout).map_err(internal)?;
            let backends: Vec<BackendStats> = pairs
                .iter()
                .map(|(backend, Counter { packets, bytes })| BackendStats {
                    name: backend.name.clone(),
                    packets: *packets,
                    bytes: *bytes,
                })
                .collect();
            services.push(ServiceStats {
                name: service.name.clone(),
                packets: backends.iter().map(|backend| backend.packets).sum(),
                bytes: backends.iter().map(|backend| backend.bytes).sum(),
                backends,
            });
        }
        let counts = self.kernel.balancer.reasons().map_err(internal)?;
        let reasons: BTreeMap<String, u64> = Reason::ALL
            .iter()
            .map(|reason| (reason.name().to_owned(), counts[*reason as usize]))
            .collect();
        Ok(Stats {
            services,
            received: reasons.values().sum(),
            reasons,
        })
    }

    fn lookup(&self, name: &str, source: SocketAddr) -> Result<Lookup, ApiError> {
        let service = self.find_service(name)?;
        let destination = SocketAddr::new(service.vip, service.port);
        let frame = frames::probe(service.protocol, source, destination).ok_or_else(|| {
            let family = if service.vip.is_ipv4() { "IPv4" } else { "IPv6" };
            let message = format!("{source} cannot be a client of {}: its VIP is {family}", service.vip);
            ApiError::new(ErrorKind::InvalidRequest, message)
        })?;
        let row = self.kernel.balancer.run_lookup(&frame).map_err(internal)?;
        let layout = self.kernel.layout();
        let backend = row.ok().and_then(|row| {
            let installed = layout.services.get(&service.key())?;
            let number = row.checked_sub(installed.entry.backend_base())?;
            let owner = installed.identities.get(number as usize)?;
            service
                .backends
                .iter()
                .find(|backend| identity(&backend.name) == *owner)
        });
        Ok(Lookup {
            service: service.name.clone(),
            source,
            destination,
            protocol: service.protocol.into(),
            reason: row.err().unwrap_or(Reason::Forwarded).name().to_owned(),
            backend: backend.map(|backend| backend.name.clone()),
            address: backend.map(|backend| backend.address),
            slot: self.slot_of(service, source),
            ring_size: service.ring_size,
        })
    }

    fn slot_of(&self, service: &model::Service, source: SocketAddr) -> u32 {
        let key = service.key();
        let client = match source {
            SocketAddr::V4(client) => ServiceKey::v4(client.ip().octets(), 0, [0, 0]),
            SocketAddr::V6(client) => ServiceKey::v6(client.ip().octets(), 0, [0, 0]),
        };
        let flags = crate::wish::flags(service.hash);
        let of = |bit: u32, value: u64| if flags & bit != 0 { value } else { 0 };
        let keys = HashKeys::from_seed(self.world.model.node.hash_seed);
        let hash = flow_hash(
            &keys,
            service_salt(key),
            source.is_ipv6(),
            of(flag::HASH_ADDRESS, client.address_high),
            of(flag::HASH_ADDRESS, client.address_low),
            of(flag::HASH_PORT, source.port().to_be().into()) as u16,
        );
        slot(hash, service.ring_size)
    }

    pub(super) fn find_service(&self, name: &str) -> Result<&model::Service, ApiError> {
        let names = || self.world.model.services.iter().map(|service| service.name.as_str());
        self.world
            .service(name)
            .ok_or_else(|| ApiError::unknown_service(name, names()))
    }

    /// A service and one of its backends, or an error that names those that are alike.
    pub(super) fn find(&self, service: &str, backend: &str) -> Result<(&model::Service, &model::Backend), ApiError> {
        let service = self.find_service(service)?;
        let names = || service.backends.iter().map(|backend| backend.name.as_str());
        let found = service.backends.iter().find(|one| one.name == backend);
        Ok((
            service,
            found.ok_or_else(|| ApiError::unknown_backend(&service.name, backend, names()))?,
        ))
    }
}

/// What most backends have; a backend may override it.
fn forward_of(service: &model::Service) -> Forward {
    service
        .backends
        .first()
        .map_or(Forward::Ipip, |backend| backend.forward.into())
}

fn health(state: HealthState) -> Health {
    match state {
        HealthState::Starting => Health::Starting,
        HealthState::Up => Health::Up,
        HealthState::Down => Health::Down,
    }
}

/// A MAC address as people write it.
pub(super) fn mac(mac: Mac) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

pub(super) fn unix_ms_of(instant: Instant) -> u64 {
    unix_ms().saturating_sub(u64::try_from(instant.elapsed().as_millis()).unwrap_or(0))
}
