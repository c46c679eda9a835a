//! Files that are right: what the model says, the defaults, the warnings.

use std::time::Duration;

use super::{BASE, check_warnings, parse};
use crate::model::{
    Backend, Capacity, Check, Forward, HashInput, Health, Http, Model, Node, Policy, Protocol, Service, Tracking,
    XdpMode,
};

#[test]
fn every_key_reaches_the_model() {
    let model = check_warnings(BASE, &[]);
    let expected = Model {
        node: Node {
            interfaces: vec!["eth0".into(), "eth1".into()],
            xdp_mode: XdpMode::Auto,
            offloads: crate::model::Offloads::Disable,
            hash_seed: 0x5eed,
            gateway_mac: Some([2, 0, 0, 0, 0, 1]),
            tunnel_source_v4: Some("10.0.0.5".parse().unwrap()),
            tunnel_source_v6: Some("2001:db8::5".parse().unwrap()),
            capacity: Capacity {
                services: 10,
                backends: 100,
                ring_slots: None,
                flows: 524_288,
            },
        },
        alerts: Vec::new(),
        services: vec![
            Service {
                name: "dns".into(),
                vip: "2001:db8::53".parse().unwrap(),
                protocol: Protocol::Udp,
                port: 53,
                hash: HashInput::FiveTuple,
                tracking: Tracking::Adaptive,
                drain_time: Duration::from_secs(300),
                flow_inserts: 873,
                ring_size: 65_537,
                policy: Policy::default(),
                health: None,
                backends: vec![backend("dns-1", "2001:db8::11", 100, Forward::Ipip)],
            },
            Service {
                name: "web".into(),
                vip: "192.0.2.10".parse().unwrap(),
                protocol: Protocol::Tcp,
                port: 80,
                hash: HashInput::FiveTuple,
                tracking: Tracking::Adaptive,
                drain_time: Duration::from_secs(300),
                flow_inserts: 873,
                ring_size: 65_537,
                health: Some(Health {
                    check: Check::Http(Http {
                        host: Some("web.example".into()),
                        ..Http::get("/healthz")
                    }),
                    port: 8080,
                    interval: Duration::from_millis(200),
                    fast_interval: Duration::from_millis(200),
                    timeout: Duration::from_millis(100),
                    rise: 2,
                    fall: 3,
                    jitter: 0.1,
                    via: crate::model::Via::Direct,
                }),
                policy: Policy::default(),
                backends: vec![
                    backend("web-1", "10.0.0.11", 100, Forward::Ipip),
                    backend("web-2", "10.0.0.12", 100, Forward::L2),
                ],
            },
        ],
    };
    assert_eq!(model, expected);
}

fn backend(name: &str, address: &str, weight: u32, forward: Forward) -> Backend {
    Backend {
        name: name.into(),
        address: address.parse().unwrap(),
        weight,
        forward,
        priority: 0,
        sorry: false,
    }
}

#[test]
fn the_example_of_the_design() {
    let model = check_warnings(include_str!("../testdata/example.toml"), &[]);
    let [web] = model.services.as_slice() else {
        panic!("one service")
    };
    assert_eq!((web.name.as_str(), web.port, web.ring_size), ("web", 80, 65_537));
    assert_eq!(web.backends, [backend("web-1", "10.0.0.11", 100, Forward::Ipip)]);
    let health = web.health.as_ref().unwrap();
    assert_eq!(health.check, Check::Http(Http::get("/healthz")));
    assert_eq!((health.port, health.interval), (80, Duration::from_millis(200)));
}

#[test]
fn the_least_that_is_a_file() {
    let model = check_warnings("[node]\ninterfaces = [\"lo\"]\nhash_seed = 1\n", &[]);
    assert!(model.services.is_empty());
    assert_eq!(model.node.xdp_mode, XdpMode::Auto);
    assert_eq!(model.node.capacity, Capacity::default());
    assert_eq!(
        (
            model.node.gateway_mac,
            model.node.tunnel_source_v4,
            model.node.tunnel_source_v6
        ),
        (None, None, None)
    );
}

#[test]
fn order_and_notation_do_not_matter() {
    let inline = r#"
service = [
  { port = 0x50, protocol = 'tcp', vip = "192.0.2.10", name = "web", health = { kind = "tcp" }, backend = [
    { weight = 1_0, address = "2001:DB8:0::2", name = "b" },
    { address = "10.0.0.1", name = "a" },
  ] },
]
node.hash_seed = "24301"
node.interfaces = ["eth0"]
"#;
    let model = check_warnings(inline, &[]);
    assert_eq!(model.node.hash_seed, 0x5eed);
    let service = &model.services[0];
    assert_eq!(
        service.backends,
        [
            backend("a", "10.0.0.1", 100, Forward::Ipip),
            backend("b", "2001:db8::2", 10, Forward::Ipip)
        ]
    );
    let health = service.health.as_ref().unwrap();
    assert_eq!((&health.check, health.port), (&Check::Tcp, 80));
    assert_eq!(
        (health.interval, health.timeout),
        (Duration::from_secs(2), Duration::from_secs(1))
    );
    assert_eq!((health.rise, health.fall, health.jitter), (2, 3, 0.1));
    // With carriage returns and a byte order mark, as some editors leave them.
    let windows = format!("\u{FEFF}{}", inline.replace('\n', "\r\n"));
    assert_eq!(check_warnings(&windows, &[]), model);
}

#[test]
fn a_short_interval_shortens_the_default_timeout() {
    let health = |text: &str| {
        let text = BASE.replace("interval = \"200ms\"\ntimeout = \"100ms\"\n", text);
        check_warnings(&text, &[]).services[1].health.clone().unwrap()
    };
    let timeout = |text: &str| health(text).timeout;
    assert_eq!(timeout("interval = \"0.5s\"\n"), Duration::from_millis(500));
    assert_eq!(timeout("interval = \"2m\"\n"), Duration::from_secs(1));
    assert_eq!(
        timeout("interval = \"1h\"\ntimeout = \"1h\"\n"),
        Duration::from_secs(3600)
    );
    assert_eq!(
        health("interval = \"1.50000000099s\"\n").interval,
        Duration::from_nanos(1_500_000_000)
    );
}

#[test]
fn words() {
    let with = |good: &str, text: &str| {
        assert_eq!(BASE.matches(good).count(), 1);
        check_warnings(&BASE.replace(good, text), &[])
    };
    for (word, mode) in [("native", XdpMode::Native), ("generic", XdpMode::Generic)] {
        assert_eq!(
            with("xdp_mode = \"auto\"", &format!("xdp_mode = \"{word}\""))
                .node
                .xdp_mode,
            mode
        );
    }
    let hashes = [
        ("source", HashInput::Source),
        ("source-dport", HashInput::SourceDport),
        ("dport", HashInput::Dport),
    ];
    for (word, hash) in hashes {
        assert_eq!(
            with("hash = \"5-tuple\"", &format!("hash = \"{word}\"")).services[1].hash,
            hash
        );
    }
    for (word, tracking) in [("always", Tracking::Always), ("never", Tracking::Never)] {
        assert_eq!(
            with("tracking = \"adaptive\"", &format!("tracking = \"{word}\"")).services[1].tracking,
            tracking
        );
    }
    for (seed, number) in [
        ("0xFFFFFFFFFFFFFFFF", u64::MAX),
        ("18446744073709551615", u64::MAX),
        ("0x1", 1),
    ] {
        assert_eq!(with("0x5eed", seed).node.hash_seed, number);
    }
    assert_eq!(with("\"0x5eed\"", "0xFFFFFFFFFFFFFFFF").node.hash_seed, u64::MAX);
    assert_eq!(
        with("02:00:00:00:00:01", "02-aB-00-00-00-01").node.gateway_mac,
        Some([2, 0xAB, 0, 0, 0, 1])
    );
    assert_eq!(
        with("ring_slots = \"auto\"", "ring_slots = 131074")
            .node
            .capacity
            .ring_slots,
        Some(131_074)
    );
}

#[test]
fn a_backends_weight_may_be_zero_if_not_all_are() {
    let text = BASE.replace("weight = 100", "weight = 0");
    assert_eq!(check_warnings(&text, &[]).services[1].backends[0].weight, 0);
}

#[test]
fn a_vip_may_be_link_local() {
    assert!(
        check_warnings(&BASE.replace("192.0.2.10", "169.254.20.10"), &[]).services[1]
            .vip
            .is_ipv4()
    );
}

#[test]
fn a_vip_with_two_ports_and_an_address_in_two_services() {
    let text =
        format!("{BASE}\n[[service]]\nname = \"web-tls\"\nvip = \"192.0.2.10\"\nprotocol = \"tcp\"\nport = 443\n");
    let backend = "[[service.backend]]\nname = \"web-1\"\naddress = \"10.0.0.11\"\n";
    assert_eq!(check_warnings(&format!("{text}{backend}"), &[]).services.len(), 3);
}

#[test]
fn suspicious_files_are_accepted_with_a_warning() {
    let many = BASE.replace("ring_size = 65537", "ring_size = 65537\nflow_inserts = 1000");
    check_warnings(
        &many,
        &[
            "23:16: warning: service \"web\": flow_inserts 1000 fills more than half of the flow table ([node.capacity] flows = 524288) \
             within drain_time (300 s): a flood could push out live flows. 873 is what fits",
        ],
    );
    let small = BASE.replace("65537", "199");
    check_warnings(
        &small,
        &[
            "22:13: warning: service \"web\": ring_size 199 is small for 2 backends, whose shares will be uneven: 211 is enough",
        ],
    );
    let empty = "[node]\ninterfaces = [\"lo\"]\nhash_seed = 1\n[[service]]\nname = \"a\"\nvip = \"10.0.0.1\"\nprotocol = \"udp\"\nport = 1\n";
    check_warnings(
        empty,
        &["4:1: warning: service \"a\": no backends: the service's packets will be dropped"],
    );
    let all_l2 = BASE.replace("forward = \"ipip\"", "forward = \"l2\"");
    let gateway = "5:15: warning: [node]: gateway_mac is every next hop's: the packets of all 2 backends with forward \"l2\" will go to it";
    check_warnings(&all_l2, &[gateway]);
}

#[test]
fn a_guessable_seed_is_warned_of_with_a_random_one() {
    for (text, place) in [
        (
            "[node]\ninterfaces = [\"lo\"]\n",
            "f:1:1: warning: [node]: hash_seed is missing, so it is 0,",
        ),
        (
            "[node]\ninterfaces = [\"lo\"]\nhash_seed = 0\n",
            "f:3:13: warning: [node]: hash_seed is 0,",
        ),
    ] {
        let seeds = [(); 2].map(|()| {
            let parsed = parse(text, "f").unwrap();
            assert_eq!(parsed.model.node.hash_seed, 0);
            let warning = parsed.warnings[0].headline().to_string();
            assert!(warning.starts_with(place), "{warning}");
            let line = warning.split_once("every node: ").unwrap().1.to_owned();
            assert_eq!(line.len(), "hash_seed = \"0x0123456789abcdef\"".len(), "{line}");
            check_warnings(&format!("[node]\ninterfaces = [\"lo\"]\n{line}\n"), &[])
                .node
                .hash_seed
        });
        assert_ne!(seeds[0], seeds[1]);
    }
}
