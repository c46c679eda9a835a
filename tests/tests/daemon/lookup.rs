//! What `lookup` says, against real traffic and against another edge.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use lb_tests::net::Arms;
use lb_tests::serve::ask_udp;

use super::{File, Site, Svc, client_v4, shares, vip_v6};

#[test]
fn lookup_says_where_traffic_goes() -> Result<()> {
    let site = Site::new(Arms::Two, 4)?;
    let mut six = Svc::new("six", 10, 4);
    six.vip = vip_v6(10);
    let mut by_source = Svc::new("by-source", 20, 4);
    by_source.more = "hash = \"source\"\n".into();
    let services = [Svc::new("four", 10, 4), six, by_source];
    let _servers = site.serve(&services)?;
    let edge = site.edge(&File::new(services.clone()))?;
    edge.lbctl(&["backend", "weight", "four", "web-3", "30"])?;
    edge.lbctl(&["backend", "drain", "six", "web-1"])?;
    for service in &services {
        let target = service.target()?;
        let ports = 21_000..21_200_u16;
        let answers = site.net.client.enter(|| -> Result<Vec<_>> {
            let ask = |port| ask_udp(target, port, Duration::from_secs(2)).with_context(|| format!("port {port}"));
            ports.clone().map(ask).map(|answer| Ok(Some(answer?))).collect()
        })??;
        let client = |port| -> SocketAddr {
            if target.is_ipv4() {
                client_v4(port)
            } else {
                ([0x2001, 0xDB8, 0xC, 0, 0, 0, 0, 0x10], port).into()
            }
        };
        let looked_up = edge.api()?.owners(&service.name, ports.map(client))?;
        assert_eq!(answers, looked_up, "{}", service.name);
        let kinds: std::collections::BTreeSet<_> = answers.iter().collect();
        let expected = match service.name.as_str() {
            "four" => 4,
            "six" => 3,
            _ => 1,
        };
        assert_eq!(kinds.len(), expected, "{}: {}", service.name, shares(&answers));
    }
    Ok(())
}

#[test]
fn two_edges_with_files_in_another_order_agree() -> Result<()> {
    let (one, two) = (Site::new(Arms::One, 6)?, Site::new(Arms::Two, 6)?);
    let mut file = File::new([Svc::new("a", 10, 6), Svc::new("b", 11, 5), Svc::new("c", 12, 3)]);
    file.services[0].backends[1].2 = "weight = 37\n".into();
    let mut other = file.clone();
    other.services.reverse();
    for service in &mut other.services {
        service.backends.reverse();
        service.backends.rotate_left(1);
    }
    let (first, second) = (one.edge(&file)?, two.edge(&other)?);
    // One has a history that the other has not.
    for verb in ["drain", "enable"] {
        first.lbctl(&["backend", verb, "a", "web-4"])?;
    }
    for edge in [&first, &second] {
        edge.lbctl(&["backend", "disable", "b", "web-2"])?;
        edge.lbctl(&["backend", "weight", "a", "web-6", "40"])?;
    }
    for name in ["a", "b", "c"] {
        let clients = || (0..500).map(|n: u16| SocketAddr::from(([203, 0, 113, (n % 200) as u8], 1_024 + n * 13)));
        let answers = first.api()?.owners(name, clients())?;
        assert_eq!(answers, second.api()?.owners(name, clients())?, "{name}");
        assert!(answers.iter().all(Option::is_some), "{}", shares(&answers));
    }
    Ok(())
}
