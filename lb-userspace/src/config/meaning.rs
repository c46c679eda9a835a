//! What the values mean together: the last errors, the defaults, and the model.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Duration;

use super::backend::Backend;
use super::check::Kind;
use super::findings::{Findings, Label, Place, Span};
use super::health::Health;
use super::node::{Capacity, Node};
use super::policy;
use super::prime::{MAX_RING_SIZE, next_prime};
use super::problem::{Caution, Problem};
use super::service::Service;
use super::table::{At, Key};
use super::tracking;
use super::{DEFAULT_DRAIN_TIME, DEFAULT_RING_SIZE, MAX_BACKENDS, MAX_RING_SLOTS};
use crate::model::{self, Forward, HashInput, Model, Protocol, Tracking, XdpMode};

const DEFAULT_WEIGHT: u32 = 100;
const DEFAULT_INTERVAL: Duration = Duration::from_secs(2);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
const DEFAULT_RISE: u32 = 2;
const DEFAULT_FALL: u32 = 3;
const DEFAULT_JITTER: f64 = 0.1;

/// The model; nothing if an error was found, now or before.
pub(super) fn judge(node: Option<Node<'_>>, services: Vec<Service<'_>>, found: &mut Findings<'_>) -> Option<Model> {
    unique_names(&services, found);
    unique_vips(&services, found);
    if let Some(node) = &node {
        caution_node(node, &services, found);
        fit(&node.capacity, &services, found);
    }
    // All of them first: each reports its own errors.
    let flows = node
        .as_ref()
        .and_then(|node| node.capacity.flows.or(model::Capacity::default().flows));
    let flows = flows.unwrap_or(model::Capacity::default().flows);
    let services: Vec<Option<model::Service>> = services
        .iter()
        .map(|service| judge_service(service, flows, found))
        .collect();
    let mut services: Vec<model::Service> = services.into_iter().collect::<Option<_>>()?;
    services.sort_by(|a, b| a.name.cmp(&b.name));
    Some(Model {
        node: model_node(&node?)?,
        alerts: Vec::new(),
        services,
    })
}

fn unique_names(services: &[Service<'_>], found: &mut Findings<'_>) {
    let mut first_at = HashMap::new();
    for service in services {
        unique(
            service.name,
            "name",
            "each service has its own",
            &mut first_at,
            Place::Service(service.label),
            found,
        );
    }
}

/// Reports a value that was there before.
fn unique<T: Copy + Eq + std::hash::Hash>(
    key: Key<T>,
    name: &'static str,
    scope: &'static str,
    first_at: &mut HashMap<T, Span>,
    place: Place<'_>,
    found: &mut Findings<'_>,
) {
    let Some(At { value, span }) = key.typed() else { return };
    if let Some(first) = first_at.get(&value) {
        let line = found.line_number(first.start);
        let value = found.typed(span);
        found.error(
            place,
            span,
            Problem::Duplicate {
                key: name,
                value,
                line,
                scope,
            },
        );
    } else {
        first_at.insert(value, span);
    }
}

fn unique_vips(services: &[Service<'_>], found: &mut Findings<'_>) {
    let mut first_at: HashMap<(IpAddr, Protocol, u16), (Label<'_>, Span)> = HashMap::new();
    for service in services {
        let (Some(vip), Some(protocol), Some(port)) =
            (service.vip.typed(), service.protocol.typed(), service.port.typed())
        else {
            continue;
        };
        let key = (vip.value, protocol.value, port.value);
        let Some(&(label, first)) = first_at.get(&key) else {
            first_at.insert(key, (service.label, vip.span));
            continue;
        };
        let problem = Problem::SharedVip {
            vip: vip.value,
            protocol: match protocol.value {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
            },
            port: port.value,
            service: label.to_string(),
            line: found.line_number(first.start),
        };
        found.error(Place::Service(service.label), vip.span, problem);
    }
}

fn caution_node(node: &Node<'_>, services: &[Service<'_>], found: &mut Findings<'_>) {
    // Keys of the standard library's hash maps come from the system's random numbers.
    let suggestion = RandomState::new().hash_one(0);
    match node.hash_seed {
        Key::Absent => found.warn(Place::Node, node.header, Caution::NoSeed { suggestion }),
        Key::Typed(At { value: 0, span }) => found.warn(Place::Node, span, Caution::ZeroSeed { suggestion }),
        _ => {}
    }
    if let Key::Typed(At { span, .. }) = node.gateway_mac {
        let l2 = |service: &Service<'_>| {
            service
                .backends
                .iter()
                .filter(|backend| is_l2(service, backend))
                .count()
        };
        let backends = services.iter().map(l2).sum();
        if backends > 1 {
            found.warn(Place::Node, span, Caution::GatewayForL2 { backends });
        }
    }
}

/// Reports tables that the services do not fit into.
fn fit(capacity: &Capacity, services: &[Service<'_>], found: &mut Findings<'_>) {
    let default = model::Capacity::default();
    let rows = capacity.services.or(default.services);
    full("services", rows, capacity.services.typed(), services, |_| 1, found);
    let rows = capacity.backends.or(default.backends);
    full(
        "backends",
        rows,
        capacity.backends.typed(),
        services,
        |service| service.backends.len() as u64,
        found,
    );
    let slots = capacity
        .ring_slots
        .or(None)
        .map(|slots| slots.unwrap_or(MAX_RING_SLOTS));
    let ring = |service: &Service<'_>| service.ring_size.or(DEFAULT_RING_SIZE).unwrap_or(0).into();
    full("ring_slots", slots, capacity.ring_slots.typed(), services, ring, found);
}

fn full<T>(
    key: &'static str,
    room: Option<u32>,
    typed: Option<At<T>>,
    services: &[Service<'_>],
    need: impl Fn(&Service<'_>) -> u64,
    found: &mut Findings<'_>,
) {
    let Some(room) = room.map(u64::from) else { return };
    let mut needed: u64 = 0;
    let mut fitting = 0;
    for service in services {
        needed = needed.saturating_add(need(service));
        fitting += usize::from(needed <= room);
    }
    let Some(excess) = services.get(fitting) else { return };
    let (place, span) = match typed {
        Some(typed) => (Place::Capacity, typed.span),
        None => (Place::Service(excess.label), excess.header),
    };
    found.error(
        place,
        span,
        Problem::Full {
            key,
            room,
            needed,
            fitting,
            services: services.len(),
        },
    );
}

fn judge_service(service: &Service<'_>, flows: u32, found: &mut Findings<'_>) -> Option<model::Service> {
    let place = Place::Service(service.label);
    let flow_inserts = tracking::flow_inserts(service, flows, found);
    judge_ring(service, found);
    judge_backends(service, found);
    let health = service
        .health
        .as_ref()
        .map(|health| judge_health(health, service, found));
    let policy = policy::judge(service, found);
    if service.backends.is_empty() {
        found.warn(place, service.header, Caution::NoBackends);
    }
    let backends: Option<Vec<_>> = service
        .backends
        .iter()
        .map(|backend| model_backend(service, backend))
        .collect();
    let mut backends = backends?;
    backends.sort_by(|a, b| a.name.cmp(&b.name));
    Some(model::Service {
        name: service.name.typed()?.value.to_owned(),
        vip: service.vip.typed()?.value,
        protocol: service.protocol.typed()?.value,
        port: service.port.typed()?.value,
        hash: service.hash.or(HashInput::FiveTuple)?,
        tracking: service.tracking.or(Tracking::Adaptive)?,
        drain_time: service.drain_time.or(DEFAULT_DRAIN_TIME)?,
        flow_inserts: flow_inserts?,
        ring_size: service.ring_size.or(DEFAULT_RING_SIZE)?,
        health: match health {
            Some(health) => Some(health?),
            None => None,
        },
        policy: policy?,
        backends,
    })
}

fn judge_ring(service: &Service<'_>, found: &mut Findings<'_>) {
    let place = Place::Service(service.label);
    let count = service.backends.len();
    if count > MAX_BACKENDS {
        found.error(
            place,
            service.header,
            Problem::TooManyBackends {
                count,
                max: MAX_BACKENDS,
            },
        );
        return;
    }
    let Some(size) = service.ring_size.or(DEFAULT_RING_SIZE) else {
        return;
    };
    let span = service.ring_size.span_or(service.header);
    // `count` is at most 65,535: none of this overflows.
    let backends = count as u32;
    let enough = next_prime(backends * 100).unwrap_or(MAX_RING_SIZE);
    if size <= backends {
        let least = next_prime(backends + 1).unwrap_or(MAX_RING_SIZE);
        let wanted = format!("at least {least}, and {enough} for even shares");
        found.error(
            place,
            span,
            Problem::RingTooSmall {
                size,
                backends: count,
                wanted,
            },
        );
    } else if size < backends * 100 && size != enough && backends > 1 {
        found.warn(
            place,
            span,
            Caution::SmallRing {
                size,
                backends: count,
                enough,
            },
        );
    }
}

fn judge_backends(service: &Service<'_>, found: &mut Findings<'_>) {
    let mut names = HashMap::new();
    let mut addresses = HashMap::new();
    for backend in &service.backends {
        let place = backend.place;
        unique(
            backend.name,
            "name",
            "each backend of a service has its own",
            &mut names,
            place,
            found,
        );
        unique(
            backend.address,
            "address",
            "each backend of a service has its own",
            &mut addresses,
            place,
            found,
        );
        let (Some(vip), Some(address)) = (service.vip.typed(), backend.address.typed()) else {
            continue;
        };
        if address.value == vip.value {
            let value = found.typed(address.span);
            found.error(place, address.span, Problem::OwnVip { value });
        } else if is_l2(service, backend) && address.value.is_ipv4() != vip.value.is_ipv4() {
            let value = found.typed(address.span);
            found.error(place, address.span, Problem::FamilyOfL2 { value, vip: vip.value });
        }
    }
    let is_sorry = |backend: &Backend<'_>| backend.sorry.typed().is_some_and(|sorry| sorry.value);
    if let Some(first) = service.backends.first()
        && service.backends.iter().all(is_sorry)
    {
        let span = first.sorry.span_or(first.header);
        found.error(Place::Service(service.label), span, Problem::OnlySorry);
    }
    let weightless = |backend: &Backend<'_>| backend.weight.typed().is_some_and(|weight| weight.value == 0);
    if let Some(first) = service.backends.first()
        && service.backends.iter().all(weightless)
    {
        let span = first.weight.span_or(first.header);
        found.error(Place::Service(service.label), span, Problem::NoWeight);
    }
}

/// Whether a backend is known to have the forward mode `l2`, its own or its service's.
fn is_l2(service: &Service<'_>, backend: &Backend<'_>) -> bool {
    forward(service, backend) == Some(Forward::L2)
}

fn forward(service: &Service<'_>, backend: &Backend<'_>) -> Option<Forward> {
    match backend.forward {
        Key::Absent => service.forward.or(Forward::Ipip),
        Key::Bad => None,
        Key::Typed(at) => Some(at.value),
    }
}

fn judge_health(health: &Health<'_>, service: &Service<'_>, found: &mut Findings<'_>) -> Option<model::Health> {
    let interval = health.interval.or(DEFAULT_INTERVAL);
    let timeout = match interval {
        Some(interval) => health.timeout.or(DEFAULT_TIMEOUT.min(interval)),
        None => health.timeout.typed().map(|at| at.value),
    };
    if let (Some(interval), Some(typed)) = (interval, health.timeout.typed())
        && typed.value > interval
    {
        let interval = match health.interval {
            Key::Typed(at) => found.typed(at.span),
            _ => "by default \"2s\"".to_owned(),
        };
        let timeout = found.typed(typed.span);
        found.error(
            health.place,
            typed.span,
            Problem::TimeoutOverInterval { timeout, interval },
        );
    }
    let fast_interval = interval.and_then(|interval| health.fast_interval.or(interval));
    if let (Some(interval), Some(typed)) = (interval, health.fast_interval.typed())
        && typed.value > interval
    {
        let interval = match health.interval {
            Key::Typed(at) => found.typed(at.span),
            _ => "by default \"2s\"".to_owned(),
        };
        let fast = found.typed(typed.span);
        found.error(health.place, typed.span, Problem::FastOverInterval { fast, interval });
    }
    let exec = health.check.kind.typed().is_some_and(|kind| kind.value == Kind::Exec);
    let via = if exec {
        model::Via::Direct
    } else {
        model::Via::default()
    };
    Some(model::Health {
        check: health.check.check(service.protocol.typed()?.value)?,
        port: match health.port.optional()? {
            Some(port) => port,
            None => service.port.typed()?.value,
        },
        interval: interval?,
        fast_interval: fast_interval?,
        timeout: timeout?,
        rise: health.rise.or(DEFAULT_RISE)?,
        fall: health.fall.or(DEFAULT_FALL)?,
        jitter: health.jitter.or(DEFAULT_JITTER)?,
        via: health.via.or(via)?,
    })
}

fn model_backend(service: &Service<'_>, backend: &Backend<'_>) -> Option<model::Backend> {
    Some(model::Backend {
        name: backend.name.typed()?.value.to_owned(),
        address: backend.address.typed()?.value,
        weight: backend.weight.or(DEFAULT_WEIGHT)?,
        forward: forward(service, backend)?,
        priority: backend.priority.or(0)?,
        sorry: backend.sorry.or(false)?,
    })
}

fn model_node(node: &Node<'_>) -> Option<model::Node> {
    let default = model::Capacity::default();
    Some(model::Node {
        interfaces: node.interfaces.as_ref()?.iter().map(|&name| name.to_owned()).collect(),
        xdp_mode: node.xdp_mode.or(XdpMode::Auto)?,
        offloads: node.offloads.or(model::Offloads::Disable)?,
        hash_seed: node.hash_seed.or(0)?,
        gateway_mac: node.gateway_mac.optional()?,
        tunnel_source_v4: node.tunnel_source_v4.optional()?,
        tunnel_source_v6: node.tunnel_source_v6.optional()?,
        capacity: model::Capacity {
            services: node.capacity.services.or(default.services)?,
            backends: node.capacity.backends.or(default.backends)?,
            ring_slots: node.capacity.ring_slots.or(None)?,
            flows: node.capacity.flows.or(default.flows)?,
        },
    })
}
