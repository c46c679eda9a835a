//! What is known, and what follows from it, one thing at a time.

use std::time::Instant;

use super::*;
use crate::api::types::Admin;
use crate::config;
use crate::daemon::state::Override;
use crate::netlink::Unreachable;
use crate::policy::{Now, Standing, WHOLE};

/// A service with these lines and so many backends, all up; and the time there.
pub(in crate::daemon) fn world(lines: &str, backends: u8) -> (World, Now) {
    let mut world = World::new(with(lines, backends), Overrides::new());
    world.interfaces = vec![1];
    world.set_ways((1..=backends).map(|number| way(number, true)));
    for number in 1..=backends {
        world
            .health
            .insert(TargetId::new("web", &format!("b{number}")), Health::Up);
    }
    let now = Now {
        instant: Instant::now(),
        unix_ms: 1_000_000,
    };
    world.decide_all(now);
    (world, now)
}

fn with(lines: &str, backends: u8) -> Model {
    let mut text = format!(
        "[node]\ninterfaces = [\"lo\"]\nhash_seed = 1\n[[service]]\nname = \"web\"\nvip = \"192.0.2.1\"\nprotocol = \"tcp\"\n\
         port = 80\nring_size = 61\nhealth = {{ kind = \"tcp\" }}\n{lines}\n"
    );
    for number in 1..=backends {
        text +=
            &format!("[[service.backend]]\nname = \"b{number}\"\naddress = \"10.0.0.{number}\"\nforward = \"l2\"\n");
    }
    let parsed = config::parse(&text, "test");
    parsed.unwrap_or_else(|errors| panic!("{errors}")).model
}

fn address(number: u8) -> IpAddr {
    [10, 0, 0, number].into()
}

fn way(number: u8, there: bool) -> (IpAddr, Answer) {
    let address = address(number);
    let hop = NextHop {
        ifindex: 1,
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: [2, 0, 0, 0, 0, number],
        neighbour: address,
        preferred_source: None,
        mtu: 1500,
    };
    (
        address,
        if there {
            Ok(hop)
        } else {
            Err(Unreachable::NoRoute { address })
        },
    )
}

#[test]
fn what_an_agent_said_goes_when_shares_follow_something_else_or_the_address_is_another() {
    let agent = "weights = \"agent\"\nagent_port = 9";
    let id = TargetId::new("web", "b1");
    let down = Load {
        factor: WHOLE,
        agent: Agent::Down,
    };
    let after = |change: &dyn Fn(&str) -> Model| {
        let (mut world, now) = world(agent, 2);
        world.loads.insert(id.clone(), down);
        assert_eq!(world.decide("web", now)[0].why, "its agent says that it is down");
        world.replace_model(change(agent));
        world.loads.get(&id).copied()
    };
    assert_eq!(after(&|lines| with(lines, 3)), Some(down));
    assert_eq!(after(&|_| with("weights = \"latency\"", 2)), None);
    assert_eq!(after(&|_| with("", 2)), None);
    let elsewhere = |lines: &str| {
        let mut model = with(lines, 2);
        model.services[0].backends[0].address = address(9);
        model
    };
    assert_eq!(after(&elsewhere), None);
}

#[test]
fn a_share_of_nothing_is_a_drain() {
    let (mut world, now) = world("weights = \"agent\"\nagent_port = 9", 2);
    world.loads.insert(
        TargetId::new("web", "b1"),
        Load {
            factor: 0,
            agent: Agent::Ready,
        },
    );
    world.decide("web", now);
    let service = world.service("web").expect("there");
    let decision = world.decision(service, "b1").expect("decided");
    assert_eq!((decision.standing, decision.serves), (Standing::Draining, true));
    assert_eq!(world.share(service, &service.backends[0]), Share::OUT);
}

#[test]
fn another_weight_does_not_keep_one_out_of_the_rotation_and_a_drain_does() {
    let (mut world, now) = world("", 2);
    let mut allowed = |change: Override| {
        world.overrides.insert("web".into(), [("b1".into(), change)].into());
        let service = world.service("web").expect("there");
        world.is_allowed(service, &service.backends[0], now.unix_ms)
    };
    assert!(allowed(Override {
        weight: Some(50),
        ..Override::default()
    }));
    assert!(!allowed(Override {
        weight: Some(0),
        ..Override::default()
    }));
    assert!(!allowed(Override {
        admin: Some(Admin::Draining),
        ..Override::default()
    }));
    assert!(allowed(Override::default()));
}

#[test]
fn who_is_behind_an_interface_that_takes_no_packets_is_out_until_it_does() {
    let (mut world, now) = world("", 3);
    world.interfaces = vec![7];
    let (moved, way) = way(2, true);
    world.set_ways([(moved, way.map(|way| NextHop { ifindex: 65, ..way }))]);
    let owners = |world: &mut World| {
        world.decide_all(now);
        let wanted = world.wanted(world.service("web").expect("it is")).expect("rings");
        (
            wanted.owners.contains(&1),
            wanted.backends[1].serves,
            wanted.backends[1].rewrite.ifindex,
        )
    };
    assert_eq!(owners(&mut world), (true, true, 65));
    assert_eq!(world.block(65, "full".into()), ["web".to_owned()].into());
    assert_eq!(owners(&mut world), (false, false, 65));
    assert!(world.leads_by(65));
    world.unblock(65);
    assert_eq!(owners(&mut world), (true, true, 65));
}
