//! Interfaces that no packets can be sent by: who is behind them is out of reach.

use std::collections::BTreeSet;

use super::World;
use crate::model::{Backend, Service};
use crate::netlink::{Answer, NextHop};

impl World {
    /// Notes that no packets can be sent by an interface; says which services that concerns.
    pub fn block(&mut self, ifindex: u32, why: String) -> BTreeSet<String> {
        self.blocked.insert(ifindex, why);
        self.behind(ifindex)
    }

    /// Notes that packets can be sent by an interface again; says which services that concerns.
    pub fn unblock(&mut self, ifindex: u32) -> BTreeSet<String> {
        self.blocked.remove(&ifindex);
        self.behind(ifindex)
    }

    /// Whether the way to somebody leads by an interface.
    pub fn leads_by(&self, ifindex: u32) -> bool {
        let mut ways = self.ways.values();
        ways.any(|way| way.as_ref().is_ok_and(|way| way.ifindex == ifindex))
    }

    /// The services with a backend behind an interface.
    pub fn behind(&self, ifindex: u32) -> BTreeSet<String> {
        let by = |way: &Answer| way.as_ref().is_ok_and(|way| way.ifindex == ifindex);
        let concerned = |service: &&Service| {
            self.served(service)
                .any(|backend| self.ways.get(&backend.address).is_some_and(by))
        };
        let services = self.model.services.iter().filter(concerned);
        services.map(|service| service.name.clone()).collect()
    }

    /// The way of a backend's packets, unless no packet can be sent by its interface.
    pub(super) fn open_way(&self, backend: &Backend) -> Result<NextHop, String> {
        let way = self.usable_way(backend)?;
        match self.blocked.get(&way.ifindex) {
            Some(why) if self.interfaces != [way.ifindex] => Err(format!(
                "no packets can be sent by the interface with index {}: {why}",
                way.ifindex
            )),
            _ => Ok(way),
        }
    }
}
