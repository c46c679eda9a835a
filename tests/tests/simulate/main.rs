//! `lbctl simulate` as its users call it: a capture in, verdicts and a capture out.
//!
//! Needs root and `lbctl` (`LBCTL_BIN`, or the release build).

mod desk;

use std::collections::BTreeMap;

use anyhow::Result;
use lb_tests::capture;
use lb_tests::packet::{Packet, assert_same, describe, flag};
use serde_json::Value;

use crate::desk::{
    BACKENDS, CLIENT_V4, CLIENT_V6, Desk, MACS, NODE, SERVICES, Service, assert_shape, backends, configuration, flows,
    printed, text, write_raw,
};

#[test]
fn packets_to_vips_leave_as_they_should() -> Result<()> {
    let desk = Desk::new()?;
    let mut sent = Vec::new();
    for service in &SERVICES {
        let header = if service.v6() { 40 } else { 20 } + if service.protocol == "tcp" { 20 } else { 8 };
        // None, odd, a usual one, a packet of 1,500 bytes, and more than one buffer.
        for (length, port) in [0, 1, 517, 1500 - header, 8_973].into_iter().zip(30_000..) {
            let packet = service
                .packet(port)
                .flags(flag::ACK)
                .traffic_class(0xBA)
                .payload_len(length);
            sent.push((service, packet.clone()));
            sent.push((service, packet.padding(13)));
        }
    }
    let frames: Vec<Vec<u8>> = sent.iter().map(|(_, packet)| packet.build()).collect();
    let (packets, out) = desk.simulate("edge.toml", &frames, &[])?;
    assert_eq!(out.len(), frames.len());
    for (((service, packet), frame), (told, left)) in sent.iter().zip(&frames).zip(packets.iter().zip(&out)) {
        let what = format!("{}, {} bytes: {told}", service.name, frame.len());
        assert_shape(told);
        assert_eq!(
            (text(told, "verdict"), text(told, "reason")),
            ("tx", "forwarded"),
            "{what}"
        );
        assert_eq!(text(told, "service"), service.name, "{what}");
        assert_eq!(told["len_in"], frame.len(), "{what}");
        assert_eq!(told["len_out"], left.len(), "{what}");
        check_frame(service, text(told, "backend"), packet, frame, left, &what);
    }
    Ok(())
}

fn check_frame(service: &Service, backend: &str, packet: &Packet, frame: &[u8], left: &[u8], what: &str) {
    assert!(BACKENDS.contains(&backend), "{what}");
    let description = describe(left);
    assert!(description.sound(), "{what}\n{description}");
    let value = |name: &str| description.value(name).unwrap_or("absent").to_owned();
    assert_eq!(
        format!("{} {}", value("eth.destination"), value("eth.source")),
        MACS,
        "{what}"
    );
    let address = service.address(backend);
    let grown = match (service.forward, address.contains(':')) {
        ("l2", _) => 0,
        (_, false) => 20,
        (_, true) => 40,
    };
    assert_eq!(left.len(), frame.len() + grown, "{what}");
    // All that the client had sent, and the padding: unchanged, but for the hop that `l2` is.
    let hop_on = packet.clone().ttl(63).build();
    let frame = if grown == 0 { &hop_on } else { frame };
    assert_same(&[&frame[..14], &left[14 + grown..]].concat(), frame, what);
    let length = packet.ip_bytes().len();
    match grown {
        20 => {
            assert_eq!(value("ipv4.destination"), address, "{what}");
            assert_eq!(value("ipv4.source"), "198.51.100.1", "{what}");
            assert_eq!(value("ipv4.length"), (length + 20).to_string(), "{what}");
            assert_eq!(
                (value("ipv4.tos"), value("ipv4.ttl")),
                ("0xba".to_owned(), "64".to_owned()),
                "{what}"
            );
        }
        40 => {
            assert_eq!(value("ipv6.destination"), address, "{what}");
            assert_eq!(value("ipv6.source"), "2001:db8::1", "{what}");
            assert_eq!(value("ipv6.length"), length.to_string(), "{what}");
            assert_eq!(value("ipv6.traffic_class"), "0xba", "{what}");
        }
        _ => {}
    }
}

#[test]
fn what_is_for_nobody_passes_and_does_not_leave() -> Result<()> {
    let desk = Desk::new()?;
    let ip = |vip: &str| Packet::ip(if vip.contains(':') { CLIENT_V6 } else { CLIENT_V4 }, vip);
    let web = |vip: &str| ip(vip).tcp(40_000, 80);
    let cases = [
        (web("192.0.2.99").build(), "not_a_vip", None),
        (web("2001:db8::99").build(), "not_a_vip", None),
        (ip("192.0.2.10").udp(40_000, 80).build(), "not_a_vip", None),
        (ip("192.0.2.10").icmp(8, 0, [0; 4]).build(), "not_tcp_or_udp", None),
        (web("192.0.2.10").vlan(7).build(), "vlan", None),
        (web("192.0.2.10").ethertype(0x0806).build(), "not_ip", None),
        (web("192.0.2.10").fragment(0, true).build(), "fragment", None),
        (
            web("2001:db8::20").extension(0, &[0, 1, 4, 0, 0, 0, 0]).build(),
            "ipv6_extension",
            None,
        ),
        (web("192.0.2.10").first_byte(0x44).build(), "bad_ip_header", None),
        (web("192.0.2.10").truncate(14).build(), "truncated", None),
        // From here on the service is known.
        (web("192.0.2.10").truncate(50).build(), "truncated", Some("l2-v4")),
        (web("192.0.2.10").length(19).build(), "bad_ip_header", Some("l2-v4")),
        (
            web("2001:db8::20").payload_len(9).length(3).build(),
            "truncated",
            Some("6in4"),
        ),
    ];
    let frames: Vec<Vec<u8>> = cases.iter().map(|(frame, ..)| frame.clone()).collect();
    let (packets, out) = desk.simulate("edge.toml", &frames, &[])?;
    assert!(out.is_empty());
    for ((frame, reason, service), told) in cases.iter().zip(&packets) {
        assert_shape(told);
        assert_eq!(
            (text(told, "verdict"), text(told, "reason")),
            ("pass", *reason),
            "{told}"
        );
        assert_eq!(told["service"], Value::from(*service), "{told}");
        assert_eq!(told["backend"], Value::Null, "{told}");
        assert_eq!(
            (&told["len_in"], &told["len_out"]),
            (&frame.len().into(), &frame.len().into()),
            "{told}"
        );
    }
    Ok(())
}

#[test]
fn only_the_flows_of_a_backend_that_is_down_move() -> Result<()> {
    let desk = Desk::new()?;
    let frames = flows(20_000..20_200);
    let before = backends(&desk.simulate("edge.toml", &frames, &[])?.0);
    let (packets, out) = desk.simulate("edge.toml", &frames, &["4in4/two", "6in6-tcp/one"])?;
    assert_eq!(out.len(), frames.len());
    let down = |(service, backend): &(String, String)| {
        matches!(
            (service.as_str(), backend.as_str()),
            ("4in4", "two") | ("6in6-tcp", "one")
        )
    };
    let (mut moved, mut others) = (0, 0);
    for (before, after) in before.iter().zip(backends(&packets)) {
        assert!(!down(&after), "{after:?} is down");
        if down(before) {
            moved += 1;
            assert!(BACKENDS.contains(&after.1.as_str()), "{after:?}");
        } else if *before != after {
            others += 1;
        }
    }
    assert_eq!(others, 0, "flows of other backends moved");
    // A third of 200 flows of either service.
    assert!((90..180).contains(&moved), "{moved}");

    // All of one service's are down: dropped, and said why; the other services do not notice.
    let all = ["4in4/one", "4in4/two", "4in4/three"];
    let (packets, out) = desk.simulate("edge.toml", &frames, &all)?;
    for (before, told) in before.iter().zip(&packets) {
        if before.0 == "4in4" {
            let fields = ["verdict", "reason", "service", "backend"].map(|field| text(told, field));
            assert_eq!(fields, ["drop", "no_backend", "4in4", "none"]);
        } else {
            assert_eq!(
                (text(told, "service"), text(told, "backend")),
                (before.0.as_str(), before.1.as_str())
            );
        }
    }
    assert_eq!(out.len(), frames.len() * 7 / 8);
    Ok(())
}

#[test]
fn every_backend_gets_its_share() -> Result<()> {
    let desk = Desk::new()?;
    let (packets, _) = desk.simulate("edge.toml", &flows(20_000..20_300), &[])?;
    let mut counts: BTreeMap<_, u32> = BTreeMap::new();
    for pair in backends(&packets) {
        *counts.entry(pair).or_default() += 1;
    }
    assert_eq!(counts.len(), SERVICES.len() * BACKENDS.len(), "{counts:?}");
    assert!(counts.values().all(|count| (60..140).contains(count)), "{counts:?}");
    Ok(())
}

/// Nodes agree although their files were written by different hands.
#[test]
fn the_order_of_the_file_does_not_matter() -> Result<()> {
    let desk = Desk::new()?;
    let frames = flows(20_000..20_100);
    let before = desk.simulate("edge.toml", &frames, &[])?;
    let turned = SERVICES.iter().rev().fold(NODE.to_owned(), |text, service| {
        text + &service.toml(&["two", "one", "three"])
    });
    desk.scratch.write("turned.toml", &turned)?;
    assert!(
        desk.simulate("turned.toml", &frames, &[])? == before,
        "another order, other bytes"
    );
    // And the seed does.
    desk.scratch.write("seed.toml", &turned.replace("0x5eed", "0x5eee"))?;
    assert!(desk.simulate("seed.toml", &frames, &[])? != before);
    Ok(())
}

#[test]
fn captures_of_other_kinds() -> Result<()> {
    let desk = Desk::new()?;
    let frames = flows(20_000..20_003);
    let (expected, _) = desk.simulate("edge.toml", &frames, &[])?;
    let arguments = ["--config", "edge.toml", "--in", "other.pcap", "--out", "out.pcap"];
    let path = desk.scratch.path().join("other.pcap");
    for big_endian in [false, true] {
        for nanoseconds in [false, true] {
            write_raw(&path, big_endian, nanoseconds, 262_144, &frames, usize::MAX)?;
            assert_eq!(printed(&desk.run(&arguments)?)?, expected, "{big_endian} {nanoseconds}");
            assert_eq!(
                capture::read(&desk.scratch.path().join("out.pcap"))?.len(),
                frames.len()
            );
        }
    }
    // `tcpdump -s 60`: the program sees what the capture holds, which is less than the headers say.
    let long: Vec<Vec<u8>> = SERVICES
        .iter()
        .map(|service| service.packet(7).payload_len(500).build())
        .collect();
    write_raw(&path, false, false, 60, &long, 60)?;
    for packet in printed(&desk.run(&arguments)?)? {
        assert_eq!(
            (text(&packet, "reason"), &packet["len_in"]),
            ("truncated", &Value::from(60)),
            "{packet}"
        );
    }
    // No packets, no answers.
    write_raw(&path, false, false, 262_144, &[], usize::MAX)?;
    assert_eq!(printed(&desk.run(&arguments)?)?, Vec::<Value>::new());
    assert!(capture::read(&desk.scratch.path().join("out.pcap"))?.is_empty());
    Ok(())
}

/// The longest packets there are become longer than a usual capture admits.
#[test]
fn the_longest_packets_are_written() -> Result<()> {
    let desk = Desk::new()?;
    let to = |name: &str| SERVICES.iter().find(|service| service.name == name).expect("a service");
    let frames = vec![
        to("4in4").packet(1).payload_len(65_515 - 28).build(),
        to("4in4").packet(1).payload_len(65_516 - 28).build(),
        to("4in6").packet(1).payload_len(65_535 - 40).build(),
    ];
    write_raw(
        &desk.scratch.path().join("long.pcap"),
        false,
        false,
        262_144,
        &frames,
        usize::MAX,
    )?;
    let output = desk.run(&["--config", "edge.toml", "--in", "long.pcap", "--out", "out.pcap"])?;
    let packets = printed(&output)?;
    let reasons: Vec<&str> = packets.iter().map(|packet| text(packet, "reason")).collect();
    assert_eq!(reasons, ["forwarded", "too_long", "forwarded"]);
    let out = capture::read(&desk.scratch.path().join("out.pcap"))?;
    assert_eq!(out.iter().map(Vec::len).collect::<Vec<_>>(), [65_549, 65_589]);
    assert!(out.iter().all(|frame| describe(frame).sound()));
    Ok(())
}

#[test]
fn wrong_inputs() -> Result<()> {
    let desk = Desk::new()?;
    let path = |name: &str| desk.scratch.path().join(name);
    let frames = flows(1..2);
    capture::write(&path("good.pcap"), &frames)?;
    let good = std::fs::read(path("good.pcap"))?;

    desk.refuses(&["--config", "none.toml", "--in", "good.pcap"], "none.toml");
    desk.refuses(&["--config", "edge.toml", "--in", "none.pcap"], "none.pcap");
    desk.refuses(&["--config", "edge.toml", "--in", "edge.toml"], "not a pcap file");
    std::fs::write(path("empty.pcap"), [])?;
    desk.refuses(&["--config", "edge.toml", "--in", "empty.pcap"], "not a pcap file");
    desk.scratch
        .write("bad.toml", &configuration().replace("192.0.2.10", "192.0.2.300"))?;
    desk.refuses(&["--config", "bad.toml", "--in", "good.pcap"], "192.0.2.300");

    let with = |down| ["--config", "edge.toml", "--in", "good.pcap", "--down", down];
    desk.refuses(&with("4in4/nobody"), "4in4/nobody: the service has no such backend");
    desk.refuses(&with("web/one"), "web/one: the configuration has no such service");
    let output = desk.run(&with("4in4"))?;
    assert_eq!(output.status.code(), Some(2), "wrong usage");

    // Cut in the header, in a record's header, and in a record.
    for cut in [10, 24 + 7, good.len() - 1] {
        std::fs::write(path("cut.pcap"), &good[..cut])?;
        desk.refuses(&["--config", "edge.toml", "--in", "cut.pcap"], "cut.pcap: packet ");
    }
    for length in [0, 1, 13] {
        let frames = [frames[0].clone(), frames[0][..length].to_vec()];
        capture::write(&path("short.pcap"), &frames)?;
        let message = format!("packet 2 has {length} bytes");
        desk.refuses(&["--config", "edge.toml", "--in", "short.pcap"], &message);
    }
    // Link type 101: IP packets without Ethernet headers.
    let mut raw = good;
    raw[20] = 101;
    std::fs::write(path("raw.pcap"), raw)?;
    desk.refuses(&["--config", "edge.toml", "--in", "raw.pcap"], "Ethernet");
    Ok(())
}

/// What an interface would not send is said, and where it begins; what fits is not mentioned.
#[test]
fn packets_longer_than_the_mtu_are_named() -> Result<()> {
    let desk = Desk::new()?;
    let frame = |length| {
        Packet::ip("203.0.113.9", "192.0.2.10")
            .tcp(20_000, 80)
            .payload(&vec![7; length])
            .build()
    };
    // 20 bytes of IP and 20 of TCP; `l2` adds nothing.
    let frames = [frame(100), frame(1460), frame(1461), frame(1462)];
    let errors = desk.errors("edge.toml", &frames, &[])?;
    assert!(
        errors.starts_with("warning: 2 of 4 packets leave longer than the MTU of 1500 bytes")
            && errors.contains("the first is packet 3 with 1501 bytes of IP"),
        "{errors}"
    );
    assert_eq!(desk.errors("edge.toml", &frames, &["--mtu", "1502"])?, "");
    Ok(())
}

/// Without an interface every host's address counts as own, and a group's never; with one named, it alone.
#[test]
fn frames_for_other_hosts_pass() -> Result<()> {
    let desk = Desk::new()?;
    let to = |mac| {
        Packet::ip(CLIENT_V4, "192.0.2.10")
            .macs(mac, [2, 0, 0, 0, 0, 9])
            .tcp(20_000, 80)
            .build()
    };
    let frames = [
        to([2, 0, 0, 0, 0, 1]),
        to([2, 0, 0, 0, 0, 2]),
        to([0xFF; 6]),
        to([1, 0, 0x5E, 0, 0, 1]),
    ];
    capture::write(&desk.scratch.path().join("groups.pcap"), &frames)?;
    for (arguments, expected) in [
        (&[][..], ["forwarded", "forwarded", "other_host", "other_host"]),
        (
            &["--mac", "02:00:00:00:00:02"],
            ["other_host", "forwarded", "other_host", "other_host"],
        ),
    ] {
        let output = desk.run(&[&["--config", "edge.toml", "--in", "groups.pcap"], arguments].concat())?;
        let told: Vec<Value> = serde_json::from_slice(&output.stdout)?;
        let reasons: Vec<_> = told.iter().map(|packet| packet["reason"].as_str()).collect();
        assert_eq!(reasons, expected.map(Some), "{arguments:?}");
        assert!(told.iter().all(|packet| packet["service"] == "l2-v4"), "{told:?}");
    }
    for wrong in ["ff:ff:ff:ff:ff:ff", "02:00", "own"] {
        let output = desk.run(&["--config", "edge.toml", "--in", "groups.pcap", "--mac", wrong])?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(wrong), "{said}");
    }
    Ok(())
}
