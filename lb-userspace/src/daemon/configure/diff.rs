//! What is different between two configurations, in the words of the file.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::Arc;

use lb_common::map::{BackendNumber, NOBODY, ServiceKey};

use crate::api::report::{Change, ChangeAction, FieldChange, RingChange};
use crate::api::types::{Forward, HashInput, Protocol, Tracking, Via};
use crate::daemon::world::World;
use crate::model::{
    Alert, AlertWay, Backend, Check, Failback, Failover, Health, Model, Node, Policy, SecretSource, Service, Weights,
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
        ("offloads", word(node.offloads)),
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
        let mut all = format!("{alert:?}");
        if let AlertWay::Webhook {
            url: SecretSource::Inline(url),
            ..
        } = &alert.way
        {
            all.push_str(url.expose());
        }
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
            fields.extend(exec.run_as.as_ref().map(|user| ("health.user", user.name().to_owned())));
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

/// Services of which nearly every flow gets another backend though these stay, as they are before; and what of them changes.
pub(super) fn disruptions<'a>(before: &'a Model, after: &Model) -> Vec<(&'a Service, Vec<String>)> {
    let mut found = Vec::new();
    for new in &after.services {
        // A flow belongs to the key, whatever the service's name is.
        let Some(old) = before.services.iter().find(|old| old.key() == new.key()) else {
            continue;
        };
        // One backend has them all, before and after.
        if old.backends.len() < 2 {
            continue;
        }
        let mut changes = Vec::new();
        if old.ring_size != new.ring_size {
            changes.push(format!("ring_size {} → {}", old.ring_size, new.ring_size));
        }
        if old.hash != new.hash {
            let [old, new] = [old.hash, new.hash].map(HashInput::from);
            changes.push(format!("hash {old} → {new}"));
        }
        if before.node.hash_seed != after.node.hash_seed {
            changes.push("another hash_seed".to_owned());
        }
        if !changes.is_empty() {
            found.push((old, changes));
        }
    }
    found
}

/// How many slots of each ring that stays belong to another backend afterwards, by the configuration alone, and which part of the
/// service's packets they have: `rate` tells a backend's packets per second.
pub(super) fn rings(before: &World, after: &World, rate: impl Fn(ServiceKey, u64) -> f64) -> Vec<RingChange> {
    let mut changes = Vec::new();
    for service in &after.model.services {
        let (Some(old), Some(new)) = (before.ring(&service.name), after.ring(&service.name)) else {
            continue;
        };
        if Arc::ptr_eq(old, new) {
            continue;
        }
        let numbers: HashMap<u64, BackendNumber> = new.identities().zip(0..).collect();
        let number = |identity: u64| numbers.get(&identity).copied().unwrap_or(NOBODY);
        let now: Vec<BackendNumber> = old.identities().map(number).collect();
        let moves = Moves::between(old.owners(), new.owners(), &now);
        if moves.slots > 0 {
            // Counters belong to the key: of a service that gets another one, nothing is known.
            let key = service.key();
            let rates: Vec<f64> = old.identities().map(|backend| rate(key, backend)).collect();
            changes.push(RingChange {
                service: service.name.clone(),
                moved: moves.slots as u32,
                ring_size: service.ring_size,
                traffic: moves.traffic(&rates),
            });
        }
    }
    changes
}

/// How one ring becomes another.
struct Moves {
    /// Slots that belong to somebody else afterwards; all, if there is another number of them.
    slots: usize,
    /// Of each earlier member: its slots, and those of them whose place belongs to somebody else afterwards.
    members: Vec<(u32, u32)>,
}

impl Moves {
    /// `now` tells which number an earlier member has afterwards, [`NOBODY`] if it is gone.
    fn between(old: &[BackendNumber], new: &[BackendNumber], now: &[BackendNumber]) -> Self {
        let resized = old.len() != new.len();
        let (mut slots, mut members) = (0, vec![(0, 0); now.len()]);
        for (position, owner) in old.iter().enumerate() {
            let member = usize::from(*owner);
            let stays = now.get(member).copied().unwrap_or(NOBODY);
            // A flow keeps its place on the ring, also on one of another size.
            let place = if resized {
                (2 * position + 1) * new.len() / (2 * old.len())
            } else {
                position
            };
            // Who is gone is not who nobody is.
            let kept = new.get(place) == Some(&stays) && (stays != NOBODY || *owner == NOBODY);
            slots += usize::from(!kept);
            if let Some((all, moved)) = members.get_mut(member) {
                *all += 1;
                *moved += u32::from(!kept);
            }
        }
        Self {
            slots: if resized { new.len() } else { slots },
            members,
        }
    }

    /// The part of the packets whose slot belongs to another backend afterwards, by the packets per second of each earlier member; nothing
    /// if there are no packets. A backend's packets are taken to be spread evenly over its slots.
    fn traffic(&self, rates: &[f64]) -> Option<f64> {
        let (mut total, mut moving) = (0.0, 0.0);
        for ((all, moved), packets) in self.members.iter().zip(rates).filter(|((all, _), _)| *all > 0) {
            total += packets;
            moving += packets * f64::from(*moved) / f64::from(*all);
        }
        (total > 0.0).then(|| moving / total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: BackendNumber = 0;
    const B: BackendNumber = 1;
    const C: BackendNumber = 2;
    const N: BackendNumber = NOBODY;

    #[track_caller]
    fn check(
        old: &[BackendNumber],
        new: &[BackendNumber],
        rates: [f64; 2],
        slots: usize,
        traffic: impl Into<Option<f64>>,
    ) {
        let moves = Moves::between(old, new, &[A, B]);
        let found = (moves.slots, moves.traffic(&rates));
        assert_eq!(found, (slots, traffic.into()), "{old:?} to {new:?} at {rates:?}");
    }

    #[test]
    fn traffic_follows_the_slots_of_each_backend() {
        check(&[A, A, B, B], &[A, A, B, B], [10.0, 10.0], 0, 0.0);
        check(&[A, A, B, B], &[C, A, B, B], [10.0, 10.0], 1, 0.25);
        // A backend with little traffic has little to move, and one without none.
        check(&[A, A, B, B], &[C, C, B, B], [10.0, 30.0], 2, 0.25);
        check(&[A, A, B, B], &[C, C, B, B], [0.0, 30.0], 2, 0.0);
        check(&[A, A, B, B], &[C, C, B, B], [0.0, 0.0], 2, None);
        check(&[N, N, N], &[A, A, N], [0.0, 0.0], 2, None);
        check(&[A, A, A], &[N, N, N], [5.0, 0.0], 3, 1.0);
    }

    #[test]
    fn members_are_known_by_who_they_are() {
        // A has gone, and B is number 0 now.
        let moves = Moves::between(&[A, B, A, N], &[A, A, N, N], &[NOBODY, 0]);
        assert_eq!((moves.slots, moves.members), (2, vec![(2, 2), (1, 0)]));
    }

    #[test]
    fn a_flow_keeps_its_place_on_a_ring_of_another_size() {
        check(&[A, A, B], &[A, A, A, A, B, B], [2.0, 1.0], 6, 0.0);
        check(&[A, B], &[B, B, A, A, A], [1.0, 1.0], 5, 1.0);
    }
}
