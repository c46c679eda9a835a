//! Every packet is counted once.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use lb_tests::api::Api;
use lb_tests::net::{Arms, Host, wait_until};
use lb_tests::serve::ask_udp;
use serde_json::Value;

use super::{File, Site, Svc, backend, client_v4};

/// Frames that left a port towards the edge.
fn sent_by(fabric: &Host, port: &str) -> Result<u64> {
    let shown: Value = serde_json::from_str(&fabric.ip(&format!("-s -j link show dev {port}"))?)?;
    shown[0]["stats64"]["tx"]["packets"].as_u64().context("no counter")
}

fn sum(values: &Value) -> u64 {
    values
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, n)| n.as_u64())
        .sum()
}

/// Checks that the parts add up, and returns the stats.
fn sound(api: &Api) -> Result<Value> {
    let stats = api.get("/v1/stats")?;
    assert_eq!(stats["received"].as_u64(), Some(sum(&stats["reasons"])), "{stats}");
    let mut forwarded = 0;
    for service in stats["services"].as_array().into_iter().flatten() {
        for field in ["packets", "bytes"] {
            let backends = service["backends"].as_array().into_iter().flatten();
            let sum: u64 = backends.filter_map(|backend| backend[field].as_u64()).sum();
            assert_eq!(service[field].as_u64(), Some(sum), "{service}");
        }
        forwarded += service["packets"].as_u64().unwrap_or(0);
    }
    assert!(
        forwarded <= stats["reasons"]["forwarded"].as_u64().unwrap_or(0),
        "{stats}"
    );
    Ok(stats)
}

fn of(stats: &Value, service: &str) -> (u64, u64) {
    let mut services = stats["services"].as_array().into_iter().flatten();
    let found = services.find(|one| one["name"] == service);
    found.map_or((0, 0), |one| {
        (one["packets"].as_u64().unwrap_or(0), one["bytes"].as_u64().unwrap_or(0))
    })
}

/// Sends `count` datagrams of 10 bytes, and waits for nothing.
fn send(from: &Host, target: SocketAddr, count: u16) -> Result<()> {
    from.enter(|| -> Result<()> {
        for number in 0..count {
            let socket = UdpSocket::bind(client_v4(25_000 + number))?;
            socket.send_to(b"0123456789", target)?;
        }
        Ok(())
    })?
}

#[test]
fn what_is_counted_is_what_was_sent() -> Result<()> {
    let site = Site::new(Arms::Two, 3)?;
    let file = File::new([Svc::new("web", 10, 3), Svc::new("other", 11, 2)]);
    let edge = site.edge(&file)?;
    let api = edge.api()?;
    let target = file.services[0].target()?;
    // The client's own neighbour look-ups are over then.
    send(&site.net.client, target, 1)?;
    // Whatever is on the wire arrives within a moment: both counts are taken until they hold still.
    let counts = || -> Result<(Value, u64)> {
        let mut last = (sound(&api)?, sent_by(&site.net.fabric, "edge-front")?);
        loop {
            std::thread::sleep(Duration::from_millis(50));
            let now = (sound(&api)?, sent_by(&site.net.fabric, "edge-front")?);
            if now == last {
                return Ok(now);
            }
            last = now;
        }
    };
    let (before, wire_before) = counts()?;
    send(&site.net.client, target, 500)?;
    send(&site.net.client, file.services[1].target()?, 200)?;
    send(&site.net.client, ([192, 0, 2, 10], 54).into(), 30)?;
    let (after, wire) = counts()?;
    let grown = |service: &str| {
        let ((p, b), (packets, bytes)) = (of(&before, service), of(&after, service));
        (packets - p, bytes - b)
    };
    assert_eq!(grown("web"), (500, 500 * 38), "IP header, UDP header, 10 bytes");
    assert_eq!(grown("other"), (200, 200 * 38));
    let reason = |stats: &Value, name: &str| stats["reasons"][name].as_u64().unwrap_or(0);
    assert_eq!(reason(&after, "forwarded") - reason(&before, "forwarded"), 700);
    assert!(reason(&after, "not_a_vip") - reason(&before, "not_a_vip") >= 30);
    let received = |stats: &Value| stats["received"].as_u64().unwrap_or(0);
    assert_eq!(
        received(&after) - received(&before),
        wire - wire_before,
        "{before} {after}"
    );
    Ok(())
}

#[test]
fn counters_go_on_whatever_happens_to_their_rows() -> Result<()> {
    let site = Site::new(Arms::Two, 7)?;
    let mut file = File::new([Svc::new("web", 10, 3), Svc::new("other", 11, 2)]);
    let mut edge = site.edge(&file)?;
    let target = file.services[0].target()?;
    send(&site.net.client, target, 600)?;
    wait_until("all to be counted", Duration::from_secs(2), || {
        Ok(of(&sound(&edge.api()?)?, "web").0 == 600)
    })?;
    let backends = |stats: &Value| -> Vec<Value> {
        let mut services = stats["services"].as_array().into_iter().flatten();
        let web = services.find(|one| one["name"] == "web").cloned().unwrap_or_default();
        web["backends"]
            .as_array()
            .into_iter()
            .flatten()
            .take(3)
            .cloned()
            .collect()
    };
    let first = sound(&edge.api()?)?;
    let check = |api: &Api, what: &str| -> Result<()> {
        let now = sound(api)?;
        assert_eq!(backends(&now), backends(&first), "{what}");
        for (name, count) in first["reasons"].as_object().into_iter().flatten() {
            assert!(
                now["reasons"][name].as_u64() >= count.as_u64(),
                "{what}: {name}: {now} {first}"
            );
        }
        assert_eq!(now["reasons"]["forwarded"], first["reasons"]["forwarded"], "{what}");
        Ok(())
    };
    edge.kill()?;
    edge.start_again()?;
    check(&edge.api()?, "restart")?;
    // More than the room of four rows: they move.
    file.services[0].backends.extend([4, 5, 6, 7].map(backend));
    edge.apply(&file.to_string())?;
    check(&edge.api()?, "rows moved")?;
    file.services[0].more = "ring_size = 4093\n".into();
    edge.apply(&file.to_string())?;
    check(&edge.api()?, "ring moved")?;
    file.node = file.node.replace("5eed", "beef") + "[node.capacity]\nservices = 100\nbackends = 500\n";
    edge.apply(&file.to_string())?;
    check(&edge.api()?, "new tables")?;
    edge.stop()?;
    file.node = file.node.replace("500", "700");
    edge.rewrite(&file.to_string())?;
    edge.start_again()?;
    check(&edge.api()?, "new tables at the start")?;
    let generation = edge.api()?.get("/v1/status")?["generation"].as_u64();
    assert_eq!(generation, Some(6), "one for each configuration accepted");

    // And they still count.
    send(&site.net.client, target, 100)?;
    wait_until("new packets", Duration::from_secs(2), || {
        Ok(of(&sound(&edge.api()?)?, "web").0 == 700)
    })?;
    // A backend that comes back begins at zero.
    file.services[0].backends.remove(0);
    edge.apply(&file.to_string())?;
    file.services[0].backends.insert(0, backend(1));
    edge.apply(&file.to_string())?;
    let stats = sound(&edge.api()?)?;
    assert_eq!(backends(&stats)[0]["packets"], 0, "{stats}");
    Ok(())
}

#[test]
fn drops_are_counted_by_their_reason() -> Result<()> {
    let site = Site::new(Arms::One, 1)?;
    let file = File::new([Svc::new("web", 10, 1)]);
    let edge = site.edge(&file)?;
    edge.lbctl(&["backend", "disable", "web", "web-1"])?;
    let target = file.services[0].target()?;
    send(&site.net.client, target, 20)?;
    wait_until("the drops", Duration::from_secs(2), || {
        Ok(sound(&edge.api()?)?["reasons"]["no_backend"] == 20)
    })?;
    assert_eq!(edge.api()?.get("/v1/status")?["totals"]["dropped"], 20);
    let asked = site
        .net
        .client
        .enter(|| ask_udp(target, 40_000, Duration::from_millis(200)))?;
    assert!(asked.is_err());
    Ok(())
}
