//! Which source address the packets to each backend have: from what the kernel answered and the addresses that this host has.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use super::World;
use crate::model::{Forward, Node};
use crate::netlink::source::{self, Wanted};
use crate::netlink::{Answer, NextHop};

/// What the packets to an address are, over all services.
#[derive(Clone, Copy, Debug, Default)]
struct Uses {
    tunnel: bool,
    plain: bool,
}

impl World {
    /// Notes what the kernel says of the ways to some addresses. It counts once [`Self::chosen_ways`] have been set.
    pub fn note_answers(&mut self, answers: impl IntoIterator<Item = (IpAddr, Answer)>) {
        self.answers.extend(answers);
    }

    /// Every backend's address, with the source that the question for its route names: what is configured, for tunnels.
    pub fn questions(&self) -> BTreeMap<IpAddr, Option<IpAddr>> {
        let configured = |address, uses: Uses| uses.tunnel.then(|| tunnel_source(&self.model.node, address)).flatten();
        let uses = self.uses().into_iter();
        uses.map(|(address, uses)| (address, configured(address, uses)))
            .collect()
    }

    /// The ways with their sources, as far as they are others than those in force. An address that only tunnels lead to, and that none
    /// can come from here, has no way.
    pub fn chosen_ways(&self) -> Vec<(IpAddr, Answer)> {
        let vips = self.vips();
        let chosen = self.uses().into_iter().filter_map(|(address, uses)| {
            let way = match self.answers.get(&address)?.clone() {
                Ok(hop) => self.with_source(address, hop, uses, &vips),
                unreachable => unreachable,
            };
            (self.ways.get(&address) != Some(&way)).then_some((address, way))
        });
        chosen.collect()
    }

    fn with_source(&self, address: IpAddr, hop: NextHop, uses: Uses, vips: &HashSet<IpAddr>) -> Answer {
        if !uses.tunnel {
            return Ok(hop);
        }
        let earlier = [
            self.ways.get(&address).and_then(|way| way.as_ref().ok()),
            self.last_ways.get(&address),
        ];
        let mut earlier = earlier.into_iter().flatten();
        let wanted = Wanted {
            to: address,
            configured: tunnel_source(&self.model.node, address),
            preferred: hop.preferred_source,
            in_use: earlier
                .find(|way| way.ifindex == hop.ifindex)
                .and_then(|way| way.preferred_source),
            egress: hop.ifindex,
            others: &self.interfaces,
        };
        match source::of_tunnel(&self.own_addresses, vips, &wanted) {
            // For those who get packets as they came, the way is there.
            Err(_) if uses.plain => Ok(NextHop {
                preferred_source: None,
                ..hop
            }),
            source => Ok(NextHop {
                preferred_source: Some(source?),
                ..hop
            }),
        }
    }

    /// The address that probes of a VIP come from, if they leave by this way.
    /// `vips` are all services' addresses.
    pub fn probe_source(
        &self,
        vip: IpAddr,
        way: &NextHop,
        in_use: Option<IpAddr>,
        vips: &HashSet<IpAddr>,
    ) -> Option<IpAddr> {
        let wanted = Wanted {
            to: vip,
            configured: tunnel_source(&self.model.node, vip),
            preferred: way.preferred_source,
            in_use,
            egress: way.ifindex,
            others: &self.interfaces,
        };
        source::choose(&self.own_addresses, vips, &wanted)
    }

    fn uses(&self) -> BTreeMap<IpAddr, Uses> {
        let mut uses: BTreeMap<IpAddr, Uses> = BTreeMap::new();
        for backend in self.model.services.iter().flat_map(|service| self.served(service)) {
            let uses = uses.entry(backend.address).or_default();
            match backend.forward {
                Forward::L2 => uses.plain = true,
                Forward::Ipip => uses.tunnel = true,
            }
        }
        uses
    }

    /// All services' addresses.
    pub fn vips(&self) -> HashSet<IpAddr> {
        self.model.services.iter().map(|service| service.vip).collect()
    }
}

fn tunnel_source(node: &Node, to: IpAddr) -> Option<IpAddr> {
    match to {
        IpAddr::V4(_) => node.tunnel_source_v4.map(IpAddr::V4),
        IpAddr::V6(_) => node.tunnel_source_v6.map(IpAddr::V6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::daemon::world::Overrides;
    use crate::netlink::address::{AddressState, Reach};
    use crate::netlink::{Addresses, OwnAddress, Unreachable};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn own(text: &str) -> OwnAddress {
        OwnAddress {
            address: ip(text),
            ifindex: 3,
            state: AddressState::Preferred,
            reach: Reach::Global,
            secondary: false,
        }
    }

    /// A world of one tunnel to 10.0.0.9, and maybe an l2 service there.
    fn world(node: &str, l2_too: bool) -> World {
        let service = |name, vip, forward| {
            format!(
                "[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nprotocol = \"tcp\"\nport = 80\nforward = \"{forward}\"\n\
                 [[service.backend]]\nname = \"b\"\naddress = \"10.0.0.9\"\n"
            )
        };
        let mut text = format!("[node]\ninterfaces = [\"lo\"]\nhash_seed = 1\n{node}\n");
        text += &service("tunnel", "192.0.2.1", "ipip");
        if l2_too {
            text += &service("plain", "192.0.2.2", "l2");
        }
        let parsed = config::parse(&text, "test").unwrap_or_else(|errors| panic!("{errors}"));
        World::new(parsed.model, Overrides::new())
    }

    fn hop(preferred: Option<&str>) -> Answer {
        Ok(NextHop {
            ifindex: 3,
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
            neighbour: ip("10.0.0.9"),
            preferred_source: preferred.map(ip),
            mtu: 1500,
        })
    }

    /// The way once these addresses and this answer are known; nothing: as before.
    fn way(world: &mut World, addresses: &[&str], answer: Answer) -> Option<Answer> {
        world.own_addresses = Addresses::new(addresses.iter().map(|text| own(text)));
        world.note_answers([(ip("10.0.0.9"), answer)]);
        let chosen = world.chosen_ways();
        world.set_ways(chosen.clone());
        chosen.into_iter().next().map(|(_, way)| way)
    }

    #[test]
    fn the_kernels_source_unless_it_is_a_vip() {
        let mut world = world("", false);
        let both = ["10.0.0.5", "192.0.2.1"];
        assert_eq!(
            way(&mut world, &both, hop(Some("192.0.2.1"))),
            Some(hop(Some("10.0.0.5")))
        );
        assert_eq!(way(&mut world, &both, hop(None)), None);
        // What is in use stays though a lower one comes, until the kernel names another.
        let more = ["10.0.0.4", "10.0.0.5", "10.0.0.6"];
        assert_eq!(way(&mut world, &more, hop(None)), None);
        assert_eq!(
            way(&mut world, &more, hop(Some("10.0.0.6"))),
            Some(hop(Some("10.0.0.6")))
        );
        assert_eq!(way(&mut world, &both, hop(None)), Some(hop(Some("10.0.0.5"))));
    }

    #[test]
    fn nothing_fits() {
        let mut tunnel = world("", false);
        let none = Some(Err(Unreachable::NoSource {
            address: ip("10.0.0.9"),
        }));
        assert_eq!(way(&mut tunnel, &["192.0.2.1"], hop(Some("192.0.2.1"))), none);
        assert_eq!(way(&mut tunnel, &["10.0.0.5"], hop(None)), Some(hop(Some("10.0.0.5"))));
        // Who takes packets as they come needs none.
        let mut both = world("", true);
        assert_eq!(way(&mut both, &[], hop(None)), Some(hop(None)));
        let service = both.service("tunnel").expect("there");
        let why = both.backend_now(service, &service.backends[0]).expect_err("no source");
        assert!(why.contains("tunnel_source_v4"), "{why}");
        let service = both.service("plain").expect("there");
        both.backend_now(service, &service.backends[0]).expect("a way");
    }

    #[test]
    fn what_is_configured() {
        // Also if it is no address of this host.
        let mut chosen = world("tunnel_source_v4 = \"10.9.9.9\"", false);
        assert_eq!(
            way(&mut chosen, &["10.0.0.5"], hop(Some("10.0.0.5"))),
            Some(hop(Some("10.9.9.9")))
        );
        assert_eq!(chosen.questions(), [(ip("10.0.0.9"), Some(ip("10.9.9.9")))].into());
        assert_eq!(world("", false).questions(), [(ip("10.0.0.9"), None)].into());
        let mut vip = world("tunnel_source_v4 = \"192.0.2.1\"", false);
        let (address, source) = (ip("10.0.0.9"), ip("192.0.2.1"));
        let expected = Some(Err(Unreachable::SourceIsVip { address, outer: source }));
        assert_eq!(way(&mut vip, &["10.0.0.5"], hop(None)), expected);
    }

    #[test]
    fn another_configuration_is_another_choice() {
        let mut first = world("", false);
        way(&mut first, &["10.0.0.5"], hop(None));
        first.replace_model(world("tunnel_source_v4 = \"10.9.9.9\"", false).model);
        assert_eq!(first.way(ip("10.0.0.9")), Some(&hop(Some("10.9.9.9"))));
    }
}
