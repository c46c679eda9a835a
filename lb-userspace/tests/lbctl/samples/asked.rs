//! Answers to what somebody asked or changed.

use super::*;

pub(crate) fn lookup() -> Lookup {
    Lookup {
        service: "web".to_owned(),
        source: "198.51.100.7:40000".parse().expect("an address"),
        destination: "192.0.2.10:80".parse().expect("an address"),
        protocol: Protocol::Tcp,
        reason: Reason::Forwarded.name().to_owned(),
        backend: Some("web-1".to_owned()),
        address: Some("10.0.0.11".parse().expect("an address")),
        slot: 51_077,
        ring_size: 65_537,
    }
}

pub(crate) fn lookup_without_backend() -> Lookup {
    Lookup {
        reason: Reason::NoBackend.name().to_owned(),
        backend: None,
        address: None,
        ..lookup()
    }
}

pub(crate) fn plan() -> PlanReport {
    let field = |field: &str, before: Option<&str>, after: Option<&str>| FieldChange {
        field: field.to_owned(),
        before: before.map(str::to_owned),
        after: after.map(str::to_owned),
    };
    let change = |action, service: Option<&str>, backend: Option<&str>, fields| Change {
        action,
        service: service.map(str::to_owned),
        backend: backend.map(str::to_owned),
        fields,
    };
    PlanReport {
        changes: vec![
            change(
                ChangeAction::Change,
                None,
                None,
                vec![field("interfaces", Some("eth0"), Some("eth0, eth1"))],
            ),
            change(ChangeAction::Remove, Some("mail"), None, vec![]),
            change(
                ChangeAction::Change,
                Some("web"),
                None,
                vec![field("health.interval", Some("1s"), Some("200ms"))],
            ),
            change(
                ChangeAction::Add,
                Some("web"),
                Some("web-4"),
                vec![
                    field("address", None, Some("10.0.1.14")),
                    field("weight", None, Some("100")),
                ],
            ),
            change(
                ChangeAction::Change,
                Some("web"),
                Some("web-3"),
                vec![field("weight", Some("50"), Some("100"))],
            ),
        ],
        rings: vec![RingChange {
            service: "web".to_owned(),
            moved: 21_904,
            ring_size: 65_537,
            traffic: Some(0.2718),
        }],
        writes: BTreeMap::from([
            ("backends".to_owned(), 4),
            ("ring slots".to_owned(), 21_904),
            ("services".to_owned(), 2),
        ]),
        disruptions: vec![],
        warnings: vec![finding(14, 1, "service web: timeout and interval are equal")],
    }
}

pub(crate) fn apply() -> ApplyReport {
    ApplyReport {
        generation: 8,
        took_ms: 12,
        plan: plan(),
        detached: super::detached(),
    }
}

pub(crate) fn backend_changed() -> BackendChanged {
    BackendChanged {
        service: "web".to_owned(),
        backend: service().backends.remove(3),
        warnings: vec!["no backend of service web serves now; its packets are dropped".to_owned()],
    }
}

pub(crate) fn check() -> CheckReport {
    CheckReport {
        file: "edge.toml".to_owned(),
        valid: false,
        services: 0,
        backends: 0,
        errors: vec![finding(7, 13, "vip \"192.0.2.300\": not an IPv4 or IPv6 address")],
        warnings: vec![],
        disruptions: vec![],
    }
}

pub(crate) fn finding(line: u32, column: u32, message: &str) -> Finding {
    Finding {
        line: Some(line),
        column: Some(column),
        message: message.to_owned(),
    }
}

pub(crate) fn simulation() -> Vec<SimulatedPacket> {
    let packet = |verdict, reason: Reason, to: Option<(&str, Option<&str>)>, len_in, len_out| SimulatedPacket {
        verdict,
        reason: reason.name().to_owned(),
        service: to.map(|(service, _)| service.to_owned()),
        backend: to.and_then(|(_, backend)| backend).map(str::to_owned),
        len_in,
        len_out,
    };
    vec![
        packet(Verdict::Tx, Reason::Forwarded, Some(("web", Some("web-1"))), 74, 94),
        packet(Verdict::Tx, Reason::Forwarded, Some(("web-v6", Some("web-3"))), 94, 134),
        packet(Verdict::Pass, Reason::NotAVip, None, 60, 60),
        packet(Verdict::Drop, Reason::NoBackend, Some(("mail", None)), 74, 74),
        packet(
            Verdict::Redirect,
            Reason::Forwarded,
            Some(("dns", Some("dns-1"))),
            71,
            71,
        ),
    ]
}
