//! The cases: which tables, which packets, and what is to become of them.

use lb_common::reason::Reason;
use lb_tests::packet::{Packet, flag};

use crate::harness::{Floor, NEW_FLOWS, Traffic, verdict};
use crate::scenario::{Mode, PORT, Scenario, Slots, vip};

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// What the tables are, in the case's name.
    pub(crate) group: &'static str,
    /// What the packets are.
    pub(crate) packets: &'static str,
    pub(crate) scenario: Scenario,
    pub(crate) kind: Kind,
    pub(crate) flows: u64,
    /// Whether the flows go to all services, or to one.
    pub(crate) to_all: bool,
}

/// What kind of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// TCP segments of established connections; UDP where the scenario is of UDP.
    Established,
    /// TCP SYNs.
    Syn,
    /// For an address that is no VIP.
    NotForUs,
}

const K64: u64 = 1 << 16;
const M1: u64 = 1 << 20;

/// Every case, those of one scenario one after the other.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for (group, scenario) in modes() {
        for (packets, kind, flows) in [
            ("1-flow", Kind::Established, 1),
            ("64k-flows", Kind::Established, K64),
            ("1m-flows", Kind::Established, M1),
            ("new-syns", Kind::Syn, NEW_FLOWS),
        ] {
            cases.push(Case::new(group, packets, scenario, kind, flows));
        }
        if scenario.mode == Mode::Ipip && scenario.vip_v6 == scenario.backend_v6 {
            let group = if scenario.vip_v6 { "other-v6" } else { "other-v4" };
            for (packets, flows) in [("1-flow", 1), ("1m-flows", M1)] {
                cases.push(Case::new(group, packets, scenario, Kind::NotForUs, flows));
            }
        }
    }
    cases.extend(unstable());
    for (group, v6) in [("udp-v4v4", false), ("udp-v6v6", true)] {
        let scenario = Scenario {
            udp: true,
            ..Scenario::one(Mode::Ipip, v6, v6)
        };
        for (packets, flows) in [("1-flow", 1), ("1m-flows", M1)] {
            cases.push(Case::new(group, packets, scenario, Kind::Established, flows));
        }
    }
    for (group, services) in [("services-1", 1), ("services-100", 100), ("services-10000", 10_000)] {
        cases.extend(of_services(group, services));
    }
    for (group, backends) in [("backends-10", 10), ("backends-1000", 1000)] {
        let scenario = Scenario {
            backends,
            ..Scenario::one(Mode::Ipip, false, false)
        };
        for (packets, flows) in [("1-flow", 1), ("64k-flows", K64), ("1m-flows", M1)] {
            cases.push(Case::new(group, packets, scenario, Kind::Established, flows));
        }
    }
    cases
}

/// IPv4 TCP to ipip, as `ipip-v4v4`, while slots are not stable: flows that are remembered (the round that does not count has met
/// them all), flows that must be, flows that would be but for the bound, and flows that a settled slot knows nothing of.
fn unstable() -> [Case; 4] {
    [
        ("moving-hit", "64k-flows", Slots::Moving, Kind::Established, K64),
        ("moving-insert", "new-syns", Slots::Moving, Kind::Syn, NEW_FLOWS),
        ("moving-bounded", "new-syns", Slots::MovingBounded, Kind::Syn, NEW_FLOWS),
        ("settled-miss", "1m-flows", Slots::Settled, Kind::Established, M1),
    ]
    .map(|(group, packets, slots, kind, flows)| {
        let scenario = Scenario {
            slots,
            ..Scenario::one(Mode::Ipip, false, false)
        };
        Case::new(group, packets, scenario, kind, flows)
    })
}

/// Every forward mode and pair of families; `ipip-v6v4` is a VIP of IPv6 with backends of IPv4.
pub(crate) fn modes() -> [(&'static str, Scenario); 6] {
    [
        ("l2-v4", Scenario::one(Mode::L2, false, false)),
        ("l2-v6", Scenario::one(Mode::L2, true, true)),
        ("ipip-v4v4", Scenario::one(Mode::Ipip, false, false)),
        ("ipip-v6v4", Scenario::one(Mode::Ipip, true, false)),
        ("ipip-v4v6", Scenario::one(Mode::Ipip, false, true)),
        ("ipip-v6v6", Scenario::one(Mode::Ipip, true, true)),
    ]
}

/// Services of ten backends with small rings, so that 10,000 of them fit a small machine.
pub(crate) fn of_services(group: &'static str, services: u32) -> Vec<Case> {
    let scenario = Scenario {
        services,
        backends: 10,
        ring_size: 1009,
        ..Scenario::one(Mode::Ipip, false, false)
    };
    let mut cases = vec![
        Case::new(group, "1-flow", scenario, Kind::Established, 1),
        Case::new(group, "1m-flows", scenario, Kind::Established, M1),
    ];
    if services > 1 {
        cases.push(Case {
            to_all: true,
            ..Case::new(group, "1m-flows-to-all", scenario, Kind::Established, M1)
        });
    }
    cases
}

impl Case {
    pub(crate) const fn new(
        group: &'static str,
        packets: &'static str,
        scenario: Scenario,
        kind: Kind,
        flows: u64,
    ) -> Self {
        Self {
            group,
            packets,
            scenario,
            kind,
            flows,
            to_all: false,
        }
    }

    /// `GROUP/PACKETS`.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.group, self.packets)
    }

    /// The floor that the case is compared with: one that grows the packet, also where the case does not.
    pub(crate) fn floor(&self) -> Floor {
        let over_v6 = match self.scenario.mode {
            Mode::Ipip => self.scenario.backend_v6,
            Mode::L2 => self.scenario.vip_v6,
        };
        if over_v6 { Floor::OverV6 } else { Floor::OverV4 }
    }

    /// Verdict, growth and reason of every packet.
    pub(crate) fn expected(&self) -> (u32, i32, Reason) {
        match self.kind {
            Kind::NotForUs => (verdict::PASS, 0, Reason::NotAVip),
            Kind::Established | Kind::Syn => (verdict::TX, self.scenario.growth(), Reason::Forwarded),
        }
    }

    /// The packets: 64 bytes of payload, as most that a balancer of requests sees are small.
    pub(crate) fn traffic(&self) -> Traffic {
        let Scenario {
            vip_v6, services, udp, ..
        } = self.scenario;
        // The last of the services, and for nobody here the address after it.
        let target = match (self.kind, self.to_all) {
            (Kind::NotForUs, _) => vip(vip_v6, services),
            (_, true) => vip(vip_v6, 0),
            (_, false) => vip(vip_v6, services - 1),
        };
        let client = if vip_v6 { "2001:db8:c::7" } else { "198.51.100.7" };
        let packet = Packet::ip(client, &target.to_string());
        let packet = match (udp, self.kind) {
            (true, _) => packet.udp(40_000, PORT).payload(&[0x5A; 64]),
            (false, Kind::Syn) => packet.tcp(40_000, PORT).flags(flag::SYN),
            (false, _) => packet
                .tcp(40_000, PORT)
                .flags(flag::ACK | flag::PSH)
                .payload(&[0x5A; 64]),
        };
        Traffic {
            packet: packet.build(),
            flows: self.flows,
            destinations: if self.to_all { services } else { 1 },
        }
    }
}
