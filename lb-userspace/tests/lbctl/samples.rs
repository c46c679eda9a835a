//! Answers as a busy node would give them.

use std::collections::BTreeMap;

use lb_common::reason::Reason;
use lb_userspace::api::events::*;
use lb_userspace::api::report::*;
use lb_userspace::api::types::*;
use lb_userspace::policy::ramp::Ramp;

mod asked;

pub(crate) use asked::*;

/// The time at which all samples are looked at: 2026-03-01, 12:00 UTC.
pub(crate) const NOW: u64 = 1_772_366_400_000;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

pub(crate) fn detached() -> Vec<Detached> {
    vec![Detached {
        interface: "eth2".to_owned(),
        message: "there is no interface of this name".to_owned(),
        since_unix_ms: NOW - 12_000,
    }]
}

pub(crate) fn status() -> Status {
    Status {
        node: "edge-1".to_owned(),
        version: "0.1.0".to_owned(),
        pid: 4211,
        uptime_seconds: 277_500,
        generation: 7,
        config: ConfigSource {
            file: Some("/etc/lbd/edge.toml".to_owned()),
            accepted_unix_ms: NOW - 2 * HOUR - 5 * MINUTE,
            by: Acceptance::Apply,
            problem: None,
        },
        interfaces: vec![
            Interface {
                name: "eth0".to_owned(),
                ifindex: 2,
                xdp_mode: AttachMode::Native,
                program_id: 412,
                mtu: 1500,
                up: true,
                offloads_disabled: vec!["rx-vlan-hw-parse".to_owned()],
                offloads_active: vec![],
            },
            Interface {
                name: "eth1".to_owned(),
                ifindex: 3,
                xdp_mode: AttachMode::Generic,
                program_id: 412,
                mtu: 1500,
                up: true,
                offloads_disabled: vec![],
                offloads_active: vec![],
            },
        ],
        detached: detached(),
        totals: Totals {
            received: 41_283_911_020,
            forwarded: 40_981_220_914,
            passed: 302_411_006,
            dropped: 279_100,
            forwarded_bytes: 18_441_549_411_300,
            received_per_second: 818_204.0,
            rate: Rate {
                packets_per_second: 812_345.0,
                bits_per_second: 6.412e9,
            },
        },
        services: 3,
        backends: BackendCounts {
            total: 9,
            up: 7,
            down: 1,
            starting: 1,
            draining: 1,
            disabled: 0,
            unresolved: 1,
            serving: 5,
            standby: 1,
            held: 0,
        },
        capacity: Capacity {
            services: Usage {
                used: 3,
                total: 10_000,
            },
            backends: Usage {
                used: 9,
                total: 200_000,
            },
            ring_slots: Usage {
                used: 196_611,
                total: 262_144,
            },
        },
        warnings: vec![
            "eth1: attached in generic mode, since its driver (r8169) has no native XDP; expect a fraction of the speed".to_owned(),
            "service mail: no backend serves; its packets are dropped".to_owned(),
        ],
    }
}

pub(crate) fn services() -> Vec<ServiceSummary> {
    let summary = |name: &str, vip: &str, protocol, port, forward, total, serving, packets_per_second: f64| {
        let rate = Rate {
            packets_per_second,
            bits_per_second: (packets_per_second * 987.0 * 8.0).round(),
        };
        ServiceSummary {
            name: name.to_owned(),
            vip: vip.parse().expect("an address"),
            protocol,
            port,
            forward,
            mode: if serving > 0 {
                ServiceMode::Normal
            } else {
                ServiceMode::Nobody
            },
            backends: BackendCounts {
                total,
                up: serving,
                down: total - serving,
                serving,
                ..BackendCounts::default()
            },
            packets: (packets_per_second * 50_400.0) as u64,
            bytes: (packets_per_second * 50_400.0 * 987.0) as u64,
            rate,
        }
    };
    vec![
        summary("dns", "192.0.2.53", Protocol::Udp, 53, Forward::L2, 2, 2, 40_211.0),
        summary("mail", "192.0.2.25", Protocol::Tcp, 25, Forward::Ipip, 3, 0, 0.0),
        summary("web", "192.0.2.10", Protocol::Tcp, 80, Forward::Ipip, 4, 3, 771_890.0),
        summary(
            "web-v6",
            "2001:db8::10",
            Protocol::Tcp,
            443,
            Forward::Ipip,
            20,
            20,
            244.6,
        ),
    ]
}

pub(crate) fn service() -> ServiceDetail {
    let rate = |packets_per_second: f64| Rate {
        packets_per_second,
        bits_per_second: (packets_per_second * 987.0 * 8.0).round(),
    };
    let probe = |ago, success, reason: &str, rtt_us| Probe {
        ended_unix_ms: NOW - ago,
        success,
        reason: reason.to_owned(),
        rtt_us,
    };
    let standing = |state, until_unix_ms| Standing { state, until_unix_ms };
    let hop = |mac: &str| NextHop {
        interface: Some("eth0".to_owned()),
        gateway: None,
        mac: Some(mac.to_owned()),
        unresolved: None,
    };
    let up = BackendDetail {
        name: "web-1".to_owned(),
        address: "10.0.0.11".parse().expect("an address"),
        weight: 100,
        configured_weight: 100,
        forward: Forward::Ipip,
        health: Health::Up,
        health_since_unix_ms: Some(NOW - 77 * HOUR),
        last_probe: Some(probe(120, true, "status 200", Some(312))),
        admin: Admin::Enabled,
        priority: 0,
        sorry: false,
        standing: standing(StandingState::Serving, None),
        load: None,
        flows_remembered: 0,
        overridden: None,
        slots: 43_690,
        share: 43_690.0 / 65_537.0,
        next_hop: hop("02:00:00:00:0a:0b"),
        path_mtu: None,
        full_size: FullSize::Passed,
        packets: 19_403_221_870,
        bytes: 19_150_979_985_690,
        rate: rate(514_593.0),
    };
    let down = BackendDetail {
        name: "web-2".to_owned(),
        address: "10.0.0.12".parse().expect("an address"),
        health: Health::Down,
        health_since_unix_ms: Some(NOW - 42_000),
        last_probe: Some(probe(80, false, "connection refused", None)),
        standing: standing(StandingState::Down, None),
        slots: 0,
        share: 0.0,
        next_hop: hop("02:00:00:00:0a:0c"),
        packets: 11_002_918_121,
        bytes: 10_859_880_185_427,
        rate: Rate::default(),
        ..up.clone()
    };
    let reweighted = BackendDetail {
        name: "web-3".to_owned(),
        address: "10.0.0.13".parse().expect("an address"),
        weight: 50,
        last_probe: Some(probe(20, true, "status 204", Some(1_240))),
        overridden: Some(Override {
            admin: None,
            weight: Some(50),
            since_unix_ms: NOW - 3 * MINUTE,
            drain_until_unix_ms: None,
            ramp: None,
        }),
        slots: 21_847,
        share: 21_847.0 / 65_537.0,
        next_hop: hop("02:00:00:00:0a:0d"),
        path_mtu: Some(PathMtu {
            needed: 1_520,
            mtu: Some(1_500),
            found_by: FoundBy::Probe,
        }),
        full_size: FullSize::TooSmall,
        packets: 8_493_771_011,
        bytes: 8_383_351_987_857,
        rate: rate(257_297.0),
        ..up.clone()
    };
    let draining = BackendDetail {
        name: "web-4".to_owned(),
        address: "10.0.1.14".parse().expect("an address"),
        health: Health::Starting,
        health_since_unix_ms: None,
        last_probe: None,
        admin: Admin::Draining,
        overridden: Some(Override {
            admin: Some(Admin::Draining),
            weight: None,
            since_unix_ms: NOW - 12 * MINUTE,
            drain_until_unix_ms: Some(NOW + 8 * MINUTE),
            ramp: None,
        }),
        standing: standing(StandingState::Draining, Some(NOW + 8 * MINUTE)),
        flows_remembered: 402,
        slots: 0,
        share: 0.0,
        next_hop: NextHop {
            interface: Some("eth0".to_owned()),
            gateway: Some("10.0.0.1".parse().expect("an address")),
            mac: None,
            unresolved: Some("10.0.0.1 does not answer on eth0".to_owned()),
        },
        packets: 3_114,
        bytes: 1_804_812,
        rate: Rate::default(),
        ..up.clone()
    };
    ServiceDetail {
        name: "web".to_owned(),
        vip: "192.0.2.10".parse().expect("an address"),
        protocol: Protocol::Tcp,
        port: 80,
        forward: Forward::Ipip,
        mode: ServiceMode::Normal,
        tiers: vec![0],
        warnings: Vec::new(),
        ring_size: 65_537,
        hash: HashInput::FiveTuple,
        tracking: Tracking::Adaptive,
        slots_moving: 1_311,
        slots_settled: 20_536,
        flows_remembered: 8_402,
        check: Some(Check {
            kind: "http".to_owned(),
            target: Some("/healthz".to_owned()),
            port: 80,
            via: Via::Vip,
            interval_ms: 200,
            fast_interval_ms: 200,
            timeout_ms: 100,
            rise: 2,
            fall: 3,
        }),
        packets: [&up, &down, &reweighted, &draining]
            .iter()
            .map(|backend| backend.packets)
            .sum(),
        bytes: [&up, &down, &reweighted, &draining]
            .iter()
            .map(|backend| backend.bytes)
            .sum(),
        backends: vec![up, down, reweighted, draining],
        rate: rate(771_890.0),
    }
}

/// A service under stress: everything that a policy can do at once.
pub(crate) fn stressed() -> ServiceDetail {
    let mut service = service();
    let standing = |state, until: Option<u64>| Standing {
        state,
        until_unix_ms: until.map(|ms| NOW + ms),
    };
    let template = service.backends[0].clone();
    let states = [
        (StandingState::Serving, Health::Up, None),
        (StandingState::Pending, Health::Down, None),
        (StandingState::Rising, Health::Up, None),
        (StandingState::Damped, Health::Up, Some(95_000)),
        (StandingState::Waiting, Health::Up, Some(40_000)),
        (StandingState::Waiting, Health::Up, None),
        (StandingState::Standby, Health::Up, None),
        (StandingState::Sorry, Health::Up, None),
    ];
    service.backends = states
        .into_iter()
        .zip(1..)
        .map(|((state, health, until), number)| BackendDetail {
            name: format!("web-{number}"),
            health,
            standing: standing(state, until),
            sorry: state == StandingState::Sorry,
            priority: u32::from(state == StandingState::Standby),
            ..template.clone()
        })
        .collect();
    service.backends[0].load = Some(0.4);
    service.backends[2].overridden = Some(Override {
        admin: None,
        weight: Some(200),
        since_unix_ms: NOW - MINUTE,
        drain_until_unix_ms: None,
        ramp: Some(Ramp {
            from: 10,
            to: 200,
            begin_unix_ms: NOW - MINUTE,
            end_unix_ms: NOW + 9 * MINUTE,
        }),
    });
    service.warnings = vec![
        "PANIC: too few backends are healthy, so all are used whatever their checks say".to_owned(),
        "web-2: down and serving until you confirm with `lbctl failover web`".to_owned(),
    ];
    service
}

pub(crate) fn events() -> Vec<Event> {
    let event = |id, ago, kind: EventKind, backend: Option<&str>, from: &str, to: &str, why: &str, by| Event {
        id,
        at_unix_ms: NOW - ago,
        kind,
        severity: kind.severity(),
        service: Some("web".to_owned()),
        backend: backend.map(str::to_owned),
        from: from.to_owned(),
        to: to.to_owned(),
        why: why.to_owned(),
        by,
    };
    let web = Some("web-2");
    vec![
        event(
            41,
            42_310,
            EventKind::BackendDown,
            web,
            "up",
            "down",
            "connection refused",
            Cause::Check,
        ),
        event(
            42,
            42_309,
            EventKind::PanicOn,
            None,
            "normal",
            "panic",
            "1 of 4 backends are healthy, fewer than 50 %: all are used",
            Cause::Policy,
        ),
        event(
            43,
            3_000,
            EventKind::BackendEnabled,
            Some("web-4"),
            "draining",
            "enabled",
            "",
            Cause::Operator,
        ),
    ]
}

pub(crate) fn stats() -> Stats {
    counters()
}

/// Counters that have grown by some percent.
pub(crate) fn later_stats() -> Stats {
    let mut stats = counters();
    for backend in stats.services.iter_mut().flat_map(|service| &mut service.backends) {
        backend.packets += backend.packets / 1_000_000;
        backend.bytes += backend.bytes / 1_000_000;
    }
    for packets in stats.reasons.values_mut() {
        *packets += *packets / 1_000_000;
    }
    stats.received = stats.reasons.values().sum();
    stats
}

fn counters() -> Stats {
    let service = |name: &str, backends: &[(&str, u64)]| {
        let backends: Vec<BackendStats> = backends
            .iter()
            .map(|(name, packets)| BackendStats {
                name: (*name).to_owned(),
                packets: *packets,
                bytes: packets * 987,
            })
            .collect();
        ServiceStats {
            name: name.to_owned(),
            packets: backends.iter().map(|backend| backend.packets).sum(),
            bytes: backends.iter().map(|backend| backend.bytes).sum(),
            backends,
        }
    };
    let services = vec![
        service("dns", &[("dns-1", 1_013_221_004), ("dns-2", 1_010_115_790)]),
        service("mail", &[("mail-1", 0)]),
        service(
            "web",
            &[
                ("web-1", 19_403_221_870),
                ("web-2", 11_002_918_121),
                ("web-3", 8_493_771_011),
                ("web-4", 3_114),
            ],
        ),
    ];
    let forwarded = services.iter().map(|service| service.packets).sum();
    let mut reasons: BTreeMap<String, u64> = Reason::ALL.iter().map(|reason| (reason.name().to_owned(), 0)).collect();
    for (reason, packets) in [
        (Reason::Forwarded, forwarded),
        (Reason::NotAVip, 301_881_006),
        (Reason::NotIp, 530_000),
        (Reason::NoBackend, 279_004),
        (Reason::Truncated, 96),
    ] {
        reasons.insert(reason.name().to_owned(), packets);
    }
    Stats {
        services,
        received: reasons.values().sum(),
        reasons,
    }
}
