//! Links and this host's addresses.

use lb_userspace::netlink::{Link, NetlinkError, link_by_name, local_addresses};

use crate::hosts::{EDGE_MAC, address, ifindex, ip, on, pair};

#[test]
fn links_by_name() {
    let (edge, peer) = pair();
    on(&edge, move || async move {
        let found = link_by_name("eth0").await.unwrap();
        let mut expected = Link {
            ifindex: ifindex("eth0"),
            name: "eth0".into(),
            mac: Some(EDGE_MAC),
            mtu: 1500,
            up: true,
            carrier: true,
            xdp: None,
            own: found.own.clone(),
        };
        assert_eq!(found, expected);
        peer.ip("link set eth0 down");
        expected.carrier = false;
        assert_eq!(link_by_name("eth0").await.unwrap(), expected);
        ip("link set eth0 down");
        expected.up = false;
        assert_eq!(link_by_name("eth0").await.unwrap(), expected);
        assert_eq!(link_by_name("lo").await.unwrap().mac, None);
        for missing in ["eth7", "", "a-name-that-is-much-too-long-for-an-interface"] {
            let error = link_by_name(missing).await.unwrap_err();
            println!("{error}");
            assert!(matches!(error, NetlinkError::NoInterface { .. }), "{error:?}");
        }
    });
}

#[test]
fn own_addresses() {
    let (edge, _peer) = pair();
    on(&edge, || async {
        ip("addr add 192.0.2.1 peer 192.0.2.2 dev eth0");
        let addresses = local_addresses().await.unwrap();
        for (at, device) in [
            ("127.0.0.1", "lo"),
            ("::1", "lo"),
            ("10.1.0.1", "eth0"),
            ("2001:db8:1::1", "eth0"),
            ("192.0.2.1", "eth0"),
        ] {
            assert!(
                addresses.contains(&(address(at), ifindex(device))),
                "{at}: {addresses:?}"
            );
        }
        assert!(!addresses.iter().any(|(at, _)| *at == address("192.0.2.2")));
    });
}
