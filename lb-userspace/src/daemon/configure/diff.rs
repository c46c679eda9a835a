//! What is different between two configurations, in the words of the file.

use std::collections::BTreeMap;
use std::fmt::Debug;

use lb_common::map::ServiceKey;

use crate::api::report::{Change, ChangeAction, FieldChange, RingChange};
use crate::api::types::{Forward, HashInput, Protocol, Tracking, Via};
use crate::daemon::world::World;
use crate::model::{
    Alert, AlertWay, Backend, Check, Failback, Failover, Health, Model, Node, Policy, Service, Weights,
};

type Fields = Vec<(&'static str, String)>;

/// Everything that is different.
pub(super) fn changes(before: &Model, after: &Model) -> Vec<Change> {
    let mut changes = Vec::new();
    push(
        &mut changes,
        None,
        None,
        Some(node(&before.node, &before.alerts)),
        Some(node(&after.node, &after.alerts)),
    );
    let by_name = |model: &Model| -> BTreeMap<String, Service> {
        model
            .services
            .iter()
            .map(|service| (service.name.clone(), service.clone()))
            .collect()
    };
    let (old, new) = (by_name(before), by_name(after));
    for name in old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))) {
        let (old, new) = (old.get(name), new.get(name));
        push(&mut changes, Some(name), None, old.map(service), new.map(service));
        let (Some(old), Some(new)) = (old, new) else { continue };
        let backends = |service: &Service| -> BTreeMap<String, Fields> {
            service
                .backends
                .iter()
                .map(|one| (one.name.clone(), backend(one)))
                .collect()
        };
        let (old, new) = (backends(old), backends(new));
        for one in old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))) {
            push(
                &mut changes,
                Some(name),
                Some(one),
                old.get(one).cloned(),
                new.get(one).cloned(),
            );
        }
    }
    changes
}

fn push(
    changes: &mut Vec<Change>,
    service: Option<&str>,
    backend: Option<&str>,
    before: Option<Fields>,
    after: Option<Fields>,
) {
    let action = match (&before, &after) {
        (None, None) => return,
        (None, Some(_)) => ChangeAction::Add,
        (Some(_), None) => ChangeAction::Remove,
        (Some(_), Some(_)) => ChangeAction::Change,
    };
    let old: BTreeMap<&str, String> = before.unwrap_or_default().into_iter().collect();
    let new = after.unwrap_or_default();
    let mut fields: Vec<FieldChange> = Vec::new();
    for (field, value) in &new {
        if old.get(field) != Some(value) {
            let (before, after) = (old.get(field).cloned(), Some(value.clone()));
            fields.push(FieldChange {
                field: (*field).to_owned(),
                before,
                after,
            });
        }
    }
    if action == ChangeAction::Change {
        let gone = old
            .into_iter()
            .filter(|(field, _)| !new.iter().any(|(name, _)| name == field));
        fields.extend(gone.map(|(field, value)| FieldChange {
            field: field.to_owned(),
            before: Some(value),
            after: None,
        }));
        if fields.is_empty() {
            return;
        }
    }
    changes.push(Change {
        action,
        service: service.map(str::to_owned),
        backend: backend.map(str::to_owned),
        fields,
    });
}

fn node(node: &Node, alerts: &[Alert]) -> Fields {
    let mut alerting = Vec::new();
    let mut fields = vec![
        ("interfaces", node.interfaces.join(", ")),
        ("xdp_mode", word(node.xdp_mode)),
        // The seed is a secret: that it changed is told, and not to what.
        (
            "hash_seed",
            format!(
                "number {:08x}",
                xxhash_rust::xxh3::xxh3_64(&node.hash_seed.to_le_bytes()) as u32
            ),
        ),
        ("capacity.services", node.capacity.services.to_string()),
        ("capacity.backends", node.capacity.backends.to_string()),
        (
            "capacity.ring_slots",
            node.capacity
                .ring_slots
                .map_or("auto".to_owned(), |slots| slots.to_string()),
        ),
    ];
    for alert in alerts {
        // An address may hold a secret: that it changed is told, and not to what.
        let all = format!("{alert:?}");
        let way = match alert.way {
            AlertWay::Webhook { .. } => "webhook",
            AlertWay::Smtp { .. } => "smtp",
            AlertWay::Exec { .. } => "exec",
        };
        let number = xxhash_rust::xxh3::xxh3_64(all.as_bytes()) as u32;
        alerting.push(format!("{} by {way}, number {number:08x}", alert.name));
    }
    fields.push(("alert", alerting.join("; ")));
    fields.push(("capacity.flows", node.capacity.flows.to_string()));
    if let Some(mac) = node.gateway_mac {
        fields.push(("gateway_mac", super::super::answers::mac(mac)));
    }
    fields.extend(
        node.tunnel_source_v4
            .map(|source| ("tunnel_source_v4", source.to_string())),
    );
    fields.extend(
        node.tunnel_source_v6
            .map(|source| ("tunnel_source_v6", source.to_string())),
    );
    fields
}

fn service(service: &Service) -> Fields {
    let mut fields = vec![
        ("vip", service.vip.to_string()),
        ("protocol", Protocol::from(service.protocol).to_string()),
        ("port", service.port.to_string()),
        ("hash", HashInput::from(service.hash).to_string()),
        ("tracking", Tracking::from(service.tracking).to_string()),
        ("drain_time", format!("{:?}", service.drain_time)),
        ("flow_inserts", service.flow_inserts.to_string()),
        ("ring_size", service.ring_size.to_string()),
    ];
    fields.extend(policy(&service.policy));
    if let Some(health) = &service.health {
        fields.extend(self::health(health));
    }
    fields
}

fn policy(policy: &Policy) -> Fields {
    let mut fields = vec![
        ("slow_start", format!("{:?}", policy.slow_start)),
        ("min_healthy", policy.min_healthy.to_string()),
        (
            "panic_threshold",
            (f64::from(policy.panic_threshold) / 1000.0).to_string(),
        ),
    ];
    match policy.failover {
        Failover::Fast => fields.push(("failover", "fast".to_owned())),
        Failover::Gradual { over } => {
            fields.push(("failover", "gradual".to_owned()));
            fields.push(("failover_time", format!("{over:?}")));
        }
        Failover::Manual => fields.push(("failover", "manual".to_owned())),
    }
    match policy.failback {
        Failback::Auto => fields.push(("failback", "auto".to_owned())),
        Failback::Delay { after } => {
            fields.push(("failback", "delay".to_owned()));
            fields.push(("failback_delay", format!("{after:?}")));
        }
        Failback::Manual => fields.push(("failback", "manual".to_owned())),
    }
    match policy.weights {
        Weights::Static => fields.push(("weights", "static".to_owned())),
        Weights::Latency => fields.push(("weights", "latency".to_owned())),
        Weights::Agent { port, interval } => {
            fields.push(("weights", "agent".to_owned()));
            fields.push(("agent_port", port.to_string()));
            fields.push(("agent_interval", format!("{interval:?}")));
        }
    }
    if let Some(damping) = policy.damping {
        fields.push(("damping.changes", damping.changes.to_string()));
        fields.push(("damping.half_life", format!("{:?}", damping.half_life)));
        fields.push(("damping.max_out", format!("{:?}", damping.max_out)));
    }
    fields
}

fn health(health: &Health) -> Fields {
    let mut fields = vec![
        ("health.port", health.port.to_string()),
        ("health.interval", format!("{:?}", health.interval)),
        ("health.fast_interval", format!("{:?}", health.fast_interval)),
        ("health.timeout", format!("{:?}", health.timeout)),
        ("health.rise", health.rise.to_string()),
        ("health.fall", health.fall.to_string()),
        ("health.jitter", health.jitter.to_string()),
        ("health.via", Via::from(health.via).to_string()),
    ];
    fields.push(("health.kind", health.check.kind().to_owned()));
    match &health.check {
        Check::Tcp | Check::Icmp => {}
        Check::Http(http) => {
            fields.push(("health.path", http.path.clone()));
            fields.extend(http.host.clone().map(|host| ("health.host", host)));
            fields.push(("health.expect_status", http.statuses.to_string()));
            fields.extend(http.body.clone().map(|body| ("health.expect_body", body)));
            fields.extend(http.tls.as_ref().map(|tls| ("health.tls", format!("{tls:?}"))));
        }
        Check::Grpc(grpc) => {
            fields.push(("health.grpc_service", grpc.service.clone()));
            fields.extend(grpc.host.clone().map(|host| ("health.host", host)));
            fields.extend(grpc.tls.as_ref().map(|tls| ("health.tls", format!("{tls:?}"))));
        }
        Check::Dns(dns) => {
            fields.push(("health.query", dns.name.clone()));
            fields.push(("health.record", dns.record.to_string()));
            fields.push(("health.expect_rcode", dns.rcode.to_string()));
            fields.extend(dns.answer.clone().map(|answer| ("health.expect_answer", answer)));
        }
        Check::Udp(udp) => {
            fields.push(("health.send", format!("{:?}", udp.send)));
            fields.extend(udp.expect.as_ref().map(|bytes| ("health.expect", format!("{bytes:?}"))));
        }
        Check::Exec(exec) => {
            fields.push(("health.program", exec.program.display().to_string()));
            fields.push(("health.args", format!("{:?}", exec.args)));
        }
    }
    fields
}

fn backend(backend: &Backend) -> Fields {
    vec![
        ("address", backend.address.to_string()),
        ("weight", backend.weight.to_string()),
        ("forward", Forward::from(backend.forward).to_string()),
        ("priority", backend.priority.to_string()),
        ("sorry", backend.sorry.to_string()),
    ]
}

fn word(value: impl Debug) -> String {
    format!("{value:?}").to_lowercase()
}

/// How many slots of each ring that stays belong to another backend afterwards, by the configuration alone, and which part of the
/// service's packets they have: `rate` tells a backend's packets per second.
pub(super) fn rings(before: &World, after: &World, rate: impl Fn(ServiceKey, u64) -> f64) -> Vec<RingChange> {
    let mut changes = Vec::new();
    for service in &after.model.services {
        let (Some(old), Some(new)) = (before.ring_owners(&service.name), after.ring_owners(&service.name)) else {
            continue;
        };
        let moved = if old.len() == new.len() {
            old.iter().zip(&new).filter(|(old, new)| old != new).count()
        } else {
            new.len()
        };
        if moved > 0 {
            // Counters belong to the key: of a service that gets another one, nothing is known.
            let key = service.key();
            changes.push(RingChange {
                service: service.name.clone(),
                moved: moved as u32,
                ring_size: service.ring_size,
                traffic: traffic(&old, &new, |backend| rate(key, backend)),
            });
        }
    }
    changes
}

/// The part of the packets whose slot belongs to another backend afterwards; nothing if there are no packets. A backend's packets are
/// taken to be spread evenly over its slots.
fn traffic(old: &[Option<u64>], new: &[Option<u64>], rate: impl Fn(u64) -> f64) -> Option<f64> {
    let mut slots: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
    for (position, owner) in old.iter().enumerate() {
        let Some(owner) = owner else { continue };
        // A flow keeps its place on the ring, also on one of another size.
        let after = new.get((2 * position + 1) * new.len() / (2 * old.len()));
        let (all, moved) = slots.entry(*owner).or_default();
        *all += 1;
        *moved += u32::from(after != Some(&Some(*owner)));
    }
    let (mut total, mut moving) = (0.0, 0.0);
    for (owner, (all, moved)) in slots {
        let packets = rate(owner);
        total += packets;
        moving += packets * f64::from(moved) / f64::from(all);
    }
    (total > 0.0).then(|| moving / total)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Option<u64> = Some(1);
    const B: Option<u64> = Some(2);
    const C: Option<u64> = Some(3);

    #[track_caller]
    fn check(old: &[Option<u64>], new: &[Option<u64>], rates: [f64; 2], expected: Option<f64>) {
        let found = traffic(old, new, |backend| {
            rates.get(backend as usize - 1).copied().unwrap_or(0.0)
        });
        assert_eq!(found, expected, "{old:?} to {new:?} at {rates:?}");
    }

    #[test]
    fn traffic_follows_the_slots_of_each_backend() {
        check(&[A, A, B, B], &[A, A, B, B], [10.0, 10.0], Some(0.0));
        check(&[A, A, B, B], &[C, A, B, B], [10.0, 10.0], Some(0.25));
        // A backend with little traffic has little to move, and one without none.
        check(&[A, A, B, B], &[C, C, B, B], [10.0, 30.0], Some(0.25));
        check(&[A, A, B, B], &[C, C, B, B], [0.0, 30.0], Some(0.0));
        check(&[A, A, B, B], &[C, C, B, B], [0.0, 0.0], None);
        check(&[None, None, None], &[A, A, A], [0.0, 0.0], None);
        check(&[A, A, A], &[None, None, None], [5.0, 0.0], Some(1.0));
    }

    #[test]
    fn a_flow_keeps_its_place_on_a_ring_of_another_size() {
        check(&[A, A, B], &[A, A, A, A, B, B], [2.0, 1.0], Some(0.0));
        check(&[A, B], &[B, B, A, A, A], [1.0, 1.0], Some(1.0));
    }
}
