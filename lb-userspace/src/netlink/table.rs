//! What the kernel said, and what follows from it: no input or output, and time is passed in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use lb_common::encap::Mac;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::address::{AddressState, Addresses, OwnAddress};
use super::asking::Asking;
use super::neighbour::{self, Key, Neighbour};
use super::route::{self, Route};
use super::{Answer, Link, NextHop, Unreachable};

/// How long an address may stay without its first answer while its neighbour is being asked for.
const FIRST_ANSWER: Duration = Duration::from_secs(1);
/// Every route is looked up again in this time, in case a change of it was not announced, or the announcement not
/// understood.
const SWEEP: Duration = Duration::from_secs(60);

/// Everything known.
#[derive(Default)]
pub(super) struct Table {
    /// The neighbours' address when they are not to be asked for.
    static_mac: Option<Mac>,
    links: HashMap<u32, Link>,
    /// This host's addresses, by interface.
    addresses: BTreeMap<(u32, IpAddr), OwnAddress>,
    /// Whether [`Self::take_addresses`] would give others than the last time.
    readdressed: bool,
    neighbours: HashMap<Key, Neighbour>,
    wanted: BTreeMap<IpAddr, Wanted>,
    /// Ranges of addresses whose route may have changed. Kept as ranges because the same ones change again and again.
    doubted: BTreeSet<(IpAddr, IpAddr)>,
    /// Addresses whose route must be looked up (again).
    unrouted: BTreeSet<IpAddr>,
    /// Those of them that are being looked up. Apart, so that addresses which change all the time do not keep the
    /// others waiting.
    in_turn: BTreeSet<IpAddr>,
    /// When the answer of the kernel ends to hold, for addresses where it does.
    expiring: HashMap<IpAddr, Instant>,
    /// Neighbours that routes have led to of late: whether they answer may decide which of several next hops the kernel takes, as with
    /// IPv6 routers (RFC 4191) and `net.ipv4.fib_multipath_use_neigh`.
    gateways: BTreeSet<Key>,
    asking: Asking,
    /// The neighbours on whom an answer depends; nothing: to be found out.
    needed: Option<BTreeSet<Key>>,
    /// Whether an answer may have changed.
    changed: bool,
    /// Addresses whose answer changed and was not taken yet.
    unreported: BTreeSet<IpAddr>,
    swept: Option<(Instant, IpAddr)>,
}

/// One address that somebody wants to reach.
struct Wanted {
    since: Instant,
    /// The source that packets to it come from, if that is known beforehand.
    source: Option<IpAddr>,
    route: Option<Result<Route, Unreachable>>,
    answer: Option<Answer>,
}

impl Table {
    /// An empty table. With `static_mac`, every neighbour has that address, and none is asked for.
    pub(super) fn new(static_mac: Option<Mac>) -> Self {
        Self {
            static_mac,
            ..Self::default()
        }
    }

    /// Replaces the addresses that are wanted, each with the source that packets to it come from, if that is known beforehand. What
    /// is known of those that stay is kept.
    pub(super) fn want(&mut self, addresses: BTreeMap<IpAddr, Option<IpAddr>>, now: Instant) {
        self.wanted.retain(|address, _| addresses.contains_key(address));
        self.unrouted.retain(|address| addresses.contains_key(address));
        self.in_turn.retain(|address| addresses.contains_key(address));
        self.expiring.retain(|address, _| addresses.contains_key(address));
        for (address, source) in addresses {
            let wanted = self.wanted.entry(address).or_insert_with(|| {
                self.unrouted.insert(address);
                Wanted {
                    since: now,
                    source,
                    route: None,
                    answer: None,
                }
            });
            if wanted.source != source {
                wanted.source = source;
                self.unrouted.insert(address);
            }
        }
        self.needed = None;
        self.changed = true;
    }

    /// Takes a list of every link, address and neighbour there is.
    pub(super) fn replace(&mut self, snapshot: &[RouteNetlinkMessage]) {
        self.neighbours.clear();
        self.gateways = self.wanted.values().filter_map(gateway).collect();
        let addresses = snapshot.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewAddress(message) => OwnAddress::from_message(message),
            _ => None,
        });
        let addresses: BTreeMap<_, _> = addresses.map(|own| ((own.ifindex, own.address), own)).collect();
        if self.addresses != addresses {
            self.addresses = addresses;
            self.readdressed = true;
            self.unroute(AddressFamily::Unspec);
        }
        let mut gone: BTreeSet<u32> = self.links.keys().copied().collect();
        for message in snapshot {
            if let RouteNetlinkMessage::NewLink(link) = message {
                gone.remove(&link.header.index);
            }
            self.apply(message);
        }
        for ifindex in gone {
            self.links.remove(&ifindex);
            self.readdressed = true;
            self.needed = None;
            self.unroute(AddressFamily::Unspec);
        }
        self.changed = true;
    }

    /// Doubts every route. True if there is any.
    pub(super) fn doubt(&mut self) -> bool {
        self.unroute(AddressFamily::Unspec) && !self.wanted.is_empty()
    }

    /// This host's addresses, if they are others than the last time; without those of interfaces that are down.
    pub(super) fn take_addresses(&mut self) -> Option<Addresses> {
        let up = |own: &&OwnAddress| self.links.get(&own.ifindex).is_some_and(|link| link.up);
        let now = std::mem::take(&mut self.readdressed);
        now.then(|| Addresses::new(self.addresses.values().filter(up).copied()))
    }

    /// Takes note of a change. True if an answer may depend on it.
    pub(super) fn apply(&mut self, message: &RouteNetlinkMessage) -> bool {
        use RouteNetlinkMessage as M;
        let matters = match message {
            M::NewLink(message) => match Link::from_message(message) {
                Some(link) => self.link(link),
                None => false,
            },
            M::DelLink(message) if message.header.interface_family == AddressFamily::Unspec => {
                let ifindex = message.header.index;
                self.neighbours.retain(|key, _| key.ifindex != ifindex);
                self.needed = None;
                self.readdressed = true;
                self.links.remove(&ifindex).is_some() && self.unroute(AddressFamily::Unspec)
            }
            M::NewNeighbour(message) => match neighbour::read(message) {
                Some((key, state)) => {
                    let before = self.neighbours.insert(key, state);
                    self.neighbour(key, before, Some(state))
                }
                None => false,
            },
            M::DelNeighbour(message) => match neighbour::read(message) {
                Some((key, _)) => {
                    let before = self.neighbours.remove(&key);
                    self.neighbour(key, before, None)
                }
                None => false,
            },
            // The source that the kernel chooses may change with any address, and IPv4 routes go with one without a word. But that an
            // address lives on, as every router advertisement says, changes nothing.
            M::NewAddress(message) => OwnAddress::from_message(message).is_some_and(|own| {
                let before = self.addresses.insert((own.ifindex, own.address), own);
                before != Some(own) && self.readdress(message.header.family)
            }),
            M::DelAddress(message) => {
                if let Some(own) = OwnAddress::from_message(message) {
                    self.addresses.remove(&(own.ifindex, own.address));
                }
                self.readdress(message.header.family)
            }
            M::NewRule(message) | M::DelRule(message) => self.unroute(message.header.family),
            M::NewRoute(message) | M::DelRoute(message) => match route::prefix(message) {
                Some((first, last)) => {
                    self.wanted.range(first..=last).next().is_some() && self.doubted.insert((first, last))
                }
                None => false,
            },
            _ => false,
        };
        self.changed |= matters;
        matters
    }

    /// Up to `limit` addresses whose route is to be looked up now, each with the source to name. They count as looked up from here on.
    pub(super) fn take_unrouted(&mut self, limit: usize) -> Vec<(IpAddr, Option<IpAddr>)> {
        self.spell_out_doubts();
        if self.in_turn.is_empty() {
            self.in_turn = std::mem::take(&mut self.unrouted);
        }
        let mut taken = Vec::new();
        while taken.len() < limit
            && let Some(address) = self.in_turn.pop_first()
        {
            self.unrouted.remove(&address);
            let source = self.wanted.get(&address).and_then(|wanted| wanted.source);
            taken.push((address, source.filter(|source| self.may_be_asked_from(*source))));
        }
        taken
    }

    /// Whether the kernel answers to a question with this source: of IPv4, it knows routes from its own addresses only.
    fn may_be_asked_from(&self, source: IpAddr) -> bool {
        source.is_ipv6() || self.addresses.values().any(|own| own.address == source)
    }

    /// Takes note of the kernel's answer.
    pub(super) fn routed(&mut self, address: IpAddr, mut route: Result<Route, Unreachable>, now: Instant) {
        if let Some(wanted) = self.wanted.get_mut(&address) {
            // An end that is known stays known: in the last hundredth of a second the kernel says that there is none.
            if let Some(lifetime) = route.as_mut().ok().and_then(|route| route.lifetime.take()) {
                self.expiring.insert(address, now + lifetime);
            }
            if let Ok(Route {
                ifindex,
                gateway: Some(address),
                ..
            }) = route
            {
                self.gateways.insert(Key { ifindex, address });
            }
            if wanted.route.as_ref() != Some(&route) {
                wanted.route = Some(route);
                self.needed = None;
            }
            // Also when nothing changed: it was passed over while it was being looked up.
            self.changed = true;
        }
    }

    /// Looks an address up again later.
    pub(super) fn not_routed(&mut self, address: IpAddr) {
        if self.wanted.contains_key(&address) {
            self.unrouted.insert(address);
        }
    }

    /// Whether routes are still to be looked up: in this turn, and at all.
    pub(super) fn has_unrouted(&self) -> (bool, bool) {
        (
            !self.in_turn.is_empty(),
            !(self.in_turn.is_empty() && self.unrouted.is_empty()),
        )
    }

    /// Marks the addresses whose answer has expired, and the next few others, so that all have their turn within [`SWEEP`].
    pub(super) fn sweep(&mut self, now: Instant) {
        let expired = self.expiring.extract_if(|_, until| *until <= now);
        self.unrouted.extend(expired.map(|(address, _)| address));
        use std::ops::Bound::{Excluded, Unbounded};
        let (last, from) = self.swept.map_or((now, None), |(last, from)| (last, Some(from)));
        let share = now.duration_since(last).as_secs_f64() / SWEEP.as_secs_f64() * self.wanted.len() as f64;
        if self.swept.is_some() && share < 1.0 {
            return;
        }
        let count = (share.ceil() as usize).clamp(1, self.wanted.len().max(1));
        let after = from.map_or(Unbounded, Excluded);
        let rest = self.wanted.range((after, Unbounded)).chain(self.wanted.iter());
        let turn: Vec<IpAddr> = rest.take(count).map(|(address, _)| *address).collect();
        if let Some(end) = turn.last() {
            self.swept = Some((now, *end));
        }
        self.unrouted.extend(turn);
    }

    /// The neighbours to ask for now, at most `limit`, each with whether the kernel has an entry for it.
    pub(super) fn take_due(&mut self, limit: usize, now: Instant) -> Vec<(Key, bool)> {
        let needed = self.needed.take().unwrap_or_else(|| {
            let needed = self.needed();
            self.asking.retain(|key| needed.contains(key));
            needed
        });
        let due = self.asking.take_due(&needed, &self.neighbours, limit, now);
        self.needed = Some(needed);
        due
    }

    /// Takes note of the error number with which the kernel refused to ask.
    pub(super) fn refused(&mut self, key: Key, errno: i32) {
        self.asking.refused(key, errno);
        self.changed = true;
    }

    /// The answers that changed since they were last taken.
    pub(super) fn take_changes(&mut self, now: Instant) -> Vec<(IpAddr, Answer)> {
        self.decide(now);
        let answer = |address| Some((address, self.wanted.get(&address)?.answer.clone()?));
        std::mem::take(&mut self.unreported)
            .into_iter()
            .filter_map(answer)
            .collect()
    }

    /// Brings the answers up to date.
    pub(super) fn decide(&mut self, now: Instant) {
        if !self.changed {
            return;
        }
        self.spell_out_doubts();
        let mut waiting = false;
        let mut changes = Vec::new();
        for (address, wanted) in &self.wanted {
            if self.unrouted.contains(address) || self.in_turn.contains(address) {
                continue;
            }
            match self.answer(*address, wanted, now) {
                Some(answer) if wanted.answer.as_ref() != Some(&answer) => changes.push((*address, answer)),
                Some(_) => {}
                None => waiting = true,
            }
        }
        // Time alone may answer for those that wait.
        self.changed = waiting;
        for (address, answer) in changes {
            self.unreported.insert(address);
            if let Some(wanted) = self.wanted.get_mut(&address) {
                wanted.answer = Some(answer);
            }
        }
    }

    /// All answers given so far; what has none is not known yet.
    pub(super) fn answers(&self) -> BTreeMap<IpAddr, Answer> {
        let answer = |address, wanted: &Wanted| wanted.answer.clone().unwrap_or(Err(Unreachable::NotYet { address }));
        self.wanted
            .iter()
            .map(|(address, wanted)| (*address, answer(*address, wanted)))
            .collect()
    }

    /// Whether every address has an answer.
    pub(super) fn is_complete(&self) -> bool {
        self.wanted.values().all(|wanted| wanted.answer.is_some())
    }

    /// What is to be said of an address; nothing: it is being found out, and what was said last still holds.
    fn answer(&self, address: IpAddr, wanted: &Wanted, now: Instant) -> Option<Answer> {
        let route = match wanted.route.as_ref()? {
            Ok(route) => route,
            Err(error) => return Some(Err(error.clone())),
        };
        let ifindex = route.ifindex;
        let Some(link) = self.links.get(&ifindex) else {
            return Some(Err(Unreachable::NoInterface { address, ifindex }));
        };
        let interface = || link.name.clone();
        let Some(source_mac) = link.mac else {
            return Some(Err(Unreachable::NotEthernet {
                address,
                interface: interface(),
            }));
        };
        if !(link.up && link.carrier) {
            return Some(Err(Unreachable::InterfaceDown {
                address,
                interface: interface(),
                carrier: link.carrier,
            }));
        }
        let neighbour = route.gateway.unwrap_or(address);
        let preferred_source = self.preferred_source(wanted, route);
        let next_hop = |destination_mac| {
            Some(Ok(NextHop {
                ifindex,
                source_mac,
                destination_mac,
                neighbour,
                preferred_source,
                mtu: route.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)),
            }))
        };
        if let Some(mac) = self.static_mac {
            return next_hop(mac);
        }
        let key = Key {
            ifindex,
            address: neighbour,
        };
        let state = self.neighbours.get(&key).copied();
        if let Some(mac) = state.and_then(Neighbour::mac) {
            return next_hop(mac);
        }
        if state != Some(Neighbour::Failed) {
            // The kernel forgot it and is being asked. No answer to that is not yet an answer.
            if let Some(Ok(last)) = &wanted.answer
                && (last.ifindex, last.neighbour) == (ifindex, neighbour)
            {
                return next_hop(last.destination_mac);
            }
            let asked = self.asking.find(key);
            match asked.and_then(|asked| asked.errno) {
                Some(libc::ENOBUFS) => {
                    return Some(Err(Unreachable::NeighbourTableFull {
                        address,
                        neighbour,
                        interface: interface(),
                    }));
                }
                Some(errno) => {
                    return Some(Err(Unreachable::NeighbourRefused {
                        address,
                        neighbour,
                        interface: interface(),
                        errno,
                    }));
                }
                None => {}
            }
            let waited = now.duration_since(asked.map_or(now, |asked| asked.last).max(wanted.since));
            if waited < FIRST_ANSWER && !matches!(wanted.answer, Some(Err(Unreachable::NoNeighbour { .. }))) {
                return None;
            }
        }
        Some(Err(Unreachable::NoNeighbour {
            address,
            neighbour,
            interface: interface(),
        }))
    }

    /// The source that the kernel would choose; of IPv6, the one that it chose before while that is as good.
    ///
    /// For IPv4 the kernel takes what the route names, or its interface's first address, and other addresses change nothing. For IPv6
    /// it compares all there are (RFC 6724) for each packet: a connection keeps what it began with, and so do the packets here.
    fn preferred_source(&self, wanted: &Wanted, route: &Route) -> Option<IpAddr> {
        let as_good = |earlier: &IpAddr| {
            let mut own = self.addresses.values().filter(|own| own.address == *earlier);
            own.any(|own| own.state == AddressState::Preferred && own.is_usable())
        };
        match route.source {
            Some(IpAddr::V6(_)) if !route.names_source => {
                earlier_source(wanted, route).filter(as_good).or(route.source)
            }
            source => source,
        }
    }

    fn link(&mut self, link: Link) -> bool {
        let matters = |link: &Link| (link.up, link.carrier, link.mac, link.mtu);
        let ifindex = link.ifindex;
        let after = matters(&link);
        let before = self.links.insert(ifindex, link).as_ref().map(matters);
        if before == Some(after) {
            return false;
        }
        self.needed = None;
        self.readdressed = true;
        // Whoever did not answer before may do so now.
        self.asking.retain(|key| key.ifindex != ifindex);
        // A link that goes down takes its IPv4 routes with it, and that is not announced.
        self.unroute(AddressFamily::Unspec)
    }

    fn neighbour(&mut self, key: Key, before: Option<Neighbour>, after: Option<Neighbour>) -> bool {
        let failed = |state: Option<Neighbour>| state == Some(Neighbour::Failed);
        if failed(before) != failed(after) && self.gateways.contains(&key) {
            self.unroute(AddressFamily::Unspec);
        }
        before != after
    }

    fn readdress(&mut self, family: AddressFamily) -> bool {
        self.readdressed = true;
        self.unroute(family)
    }

    /// Doubts the routes of one family, or of all.
    fn unroute(&mut self, family: AddressFamily) -> bool {
        if family != AddressFamily::Inet6 {
            self.doubted.insert(route::EVERY_IPV4);
        }
        if family != AddressFamily::Inet {
            self.doubted.insert(route::EVERY_IPV6);
        }
        true
    }

    /// Turns the ranges that are doubted into addresses.
    fn spell_out_doubts(&mut self) {
        for (first, last) in std::mem::take(&mut self.doubted) {
            self.unrouted
                .extend(self.wanted.range(first..=last).map(|(address, _)| *address));
        }
    }

    /// The neighbours on whom an answer depends.
    fn needed(&self) -> BTreeSet<Key> {
        if self.static_mac.is_some() {
            return BTreeSet::new();
        }
        let can_send = |link: &Link| link.up && link.carrier && link.mac.is_some();
        let neighbour = |(address, wanted): (&IpAddr, &Wanted)| match &wanted.route {
            Some(Ok(route)) if self.links.get(&route.ifindex).is_some_and(can_send) => Some(Key {
                ifindex: route.ifindex,
                address: route.gateway.unwrap_or(*address),
            }),
            _ => None,
        };
        self.wanted.iter().filter_map(neighbour).collect()
    }
}

fn gateway(wanted: &Wanted) -> Option<Key> {
    let route = wanted.route.as_ref()?.as_ref().ok()?;
    let ifindex = route.ifindex;
    route.gateway.map(|address| Key { ifindex, address })
}

/// The source that was answered last, if packets left by the same interface.
fn earlier_source(wanted: &Wanted, route: &Route) -> Option<IpAddr> {
    let last = wanted.answer.as_ref()?.as_ref().ok()?;
    (last.ifindex == route.ifindex)
        .then_some(last.preferred_source)
        .flatten()
}

#[cfg(test)]
mod tests;
