//! The packet path once more, on the host: the stages of `lb-common` over tables that the host can read.
//!
//! The slow and obvious way where the program has a fast one: services are searched for, not looked up in two places; headers
//! are put in front of a copy, not written over the frame.

mod memory;

use lb_common::encap::{ETH_LEN, LONGEST_IN_IPV4, LONGEST_IN_IPV6, ipv4_header, ipv6_header};
use lb_common::hash::{HashKeys, flow_hash, slot};
use lb_common::map::{BackendNumber, Mode, NOBODY, Rewrite, ServiceEntry, ServiceKey, Slot, flag};
use lb_common::parse::{Flow, parse};
use lb_common::reason::{Fate, Reason};
use lb_userspace::bpf::local_macs::OwnAddresses;
use lb_userspace::bpf::tables::Tables;

pub(crate) use memory::{Change, Memory, Way};

/// `XDP_DROP` of `linux/bpf.h`.
pub(crate) const DROP: u32 = 1;
/// `XDP_PASS`.
pub(crate) const PASS: u32 = 2;
/// `XDP_TX`.
pub(crate) const TX: u32 = 3;
/// `XDP_REDIRECT`.
pub(crate) const REDIRECT: u32 = 4;

/// What the program reads besides the frame.
pub(crate) struct World<'a> {
    /// The tables.
    pub(crate) tables: &'a Tables,
    /// The flow hash's key.
    pub(crate) keys: HashKeys,
    /// The interface that frames come from.
    pub(crate) ingress: u32,
    /// The interfaces that packets may be redirected to.
    pub(crate) devices: &'a [u32],
    /// The flows that are remembered.
    pub(crate) memory: &'a Memory,
    /// The host's own Ethernet addresses, by interface.
    pub(crate) own: &'a OwnAddresses,
    /// The time (`lb_common::map::time_unit`).
    pub(crate) now: u32,
}

/// What the program should make of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// `enum xdp_action`.
    pub(crate) verdict: u32,
    /// The one counter that moves.
    pub(crate) reason: Reason,
    /// The row that counts a forwarded packet, and its bytes.
    pub(crate) counted: Option<(u32, u32)>,
    /// The frame as it leaves; of a dropped one nothing is said.
    pub(crate) frame: Vec<u8>,
    /// What is remembered of it, whatever became of it.
    pub(crate) change: Change,
}

impl World<'_> {
    /// Says what should become of a frame.
    pub(crate) fn outcome(&self, frame: &[u8]) -> Outcome {
        let mut change = Change::default();
        match self.forward(frame, &mut change) {
            Ok(outcome) => Outcome { change, ..outcome },
            Err(reason) => Outcome {
                verdict: if reason.fate() == Fate::Dropped { DROP } else { PASS },
                reason,
                counted: None,
                frame: frame.to_vec(),
                change,
            },
        }
    }

    /// Says what a look-up should answer: a row, or why there is none.
    pub(crate) fn answer(&self, frame: &[u8]) -> Result<u32, Reason> {
        let found = self.find(frame, false)?;
        self.row_of(&found.service, self.peek(frame, &found))
    }

    /// What a frame meets, for people.
    pub(crate) fn describe(&self, frame: &[u8]) -> String {
        match self.find(frame, true) {
            Ok(found) => {
                let known = self.memory.flows.get(&self.key(&found));
                format!(
                    "{:?}, hash {:#x}, {:?}, remembered {known:?}",
                    found.service, found.hash, found.slot
                )
            }
            Err(reason) => reason.name().to_owned(),
        }
    }

    fn forward(&self, frame: &[u8], change: &mut Change) -> Result<Outcome, Reason> {
        let found = self.find(frame, true)?;
        let (number, changed) = self.owner(frame, &found);
        *change = changed;
        let Found {
            service, flow, hash, ..
        } = found;
        let row_index = self.row_of(&service, number)?;
        let row = self.tables.row(row_index);
        let rewrite = row.rewrites[row.active as usize & 1];
        let out = rewritten(frame, &rewrite, &flow, hash)?;
        let verdict = match rewrite.ifindex {
            0 => TX,
            same if same == self.ingress => TX,
            other if self.devices.contains(&other) => REDIRECT,
            _ => return Err(Reason::NoNextHop),
        };
        Ok(Outcome {
            verdict,
            reason: Reason::Forwarded,
            counted: Some((row_index, flow.length)),
            frame: out,
            change: Change::default(),
        })
    }

    /// What a frame's flow has; `arrived`: by an interface, whose own addresses count.
    fn find(&self, frame: &[u8], arrived: bool) -> Result<Found, Reason> {
        let candidate = parse(frame)?;
        let service = self.service(candidate.key).ok_or(Reason::NotAVip)?;
        let own = || {
            self.own
                .get(&self.ingress)
                .is_some_and(|own| own.iter().any(|mac| frame.starts_with(mac)))
        };
        if frame[0] % 2 == 1 || arrived && !own() {
            return Err(Reason::OtherHost);
        }
        let flow = candidate.complete(frame)?;
        let hash = self.hash(&service, &flow);
        let position = service.ring_base() + slot(hash, service.ring_size);
        if position >= self.tables.lengths().slots {
            return Err(Reason::BrokenTable);
        }
        Ok(Found {
            service,
            flow,
            hash,
            slot: self.tables.slot(position),
        })
    }

    fn service(&self, key: ServiceKey) -> Option<ServiceEntry> {
        let places = 0..self.tables.lengths().services;
        places
            .map(|place| self.tables.service(place))
            .find(|entry| entry.key() == key)
    }

    fn hash(&self, service: &ServiceEntry, flow: &Flow) -> u64 {
        let address = service.flags & flag::HASH_ADDRESS != 0;
        let (high, low) = if address {
            (flow.source_high, flow.source_low)
        } else {
            (0, 0)
        };
        let port = if service.flags & flag::HASH_PORT != 0 {
            flow.source_port
        } else {
            0
        };
        flow_hash(&self.keys, service.salt, flow.v6, high, low, port)
    }

    fn row_of(&self, service: &ServiceEntry, number: BackendNumber) -> Result<u32, Reason> {
        if number == NOBODY {
            return Err(Reason::NoBackend);
        }
        let row = service.backend_base() + u32::from(number);
        if row < self.tables.lengths().rows {
            Ok(row)
        } else {
            Err(Reason::BrokenTable)
        }
    }
}

/// What a frame's flow has.
struct Found {
    service: ServiceEntry,
    flow: Flow,
    hash: u64,
    slot: Slot,
}

fn rewritten(frame: &[u8], rewrite: &Rewrite, flow: &Flow, hash: u64) -> Result<Vec<u8>, Reason> {
    let is = |mode: Mode| rewrite.mode == mode as u32;
    let mut out: Vec<u8> = Vec::with_capacity(frame.len() + 40);
    if is(Mode::L2) {
        out.extend(rewrite.header.iter().flat_map(|word| word.to_ne_bytes()).take(12));
        out.extend(&frame[12..]);
        one_hop_on(&mut out[ETH_LEN..])?;
        return Ok(out);
    }
    if is(Mode::IpipV4) {
        if flow.length > LONGEST_IN_IPV4 {
            return Err(Reason::TooLong);
        }
        let (words, tail) = ipv4_header(rewrite, flow.length, flow.traffic_class);
        out.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        out.extend(tail.to_ne_bytes());
    } else if is(Mode::IpipV6) {
        if flow.length > LONGEST_IN_IPV6 {
            return Err(Reason::TooLong);
        }
        let (words, middle, tail) = ipv6_header(rewrite, flow.length, flow.traffic_class, hash);
        out.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        out.extend(middle.to_ne_bytes());
        out.extend(tail.to_ne_bytes());
    } else {
        return Err(Reason::NoNextHop);
    }
    out.extend(&frame[ETH_LEN..]);
    Ok(out)
}

/// Lowers an IP packet's TTL or hop limit; the checksum of IPv4's header follows by the textbook (RFC 1624, equation 3).
fn one_hop_on(packet: &mut [u8]) -> Result<(), Reason> {
    let v4 = packet[0] >> 4 == 4;
    let limit = if v4 { 8 } else { 7 };
    if packet[limit] <= 1 {
        return Err(Reason::TtlExceeded);
    }
    let word = |packet: &[u8], at: usize| u32::from(packet[at]) << 8 | u32::from(packet[at + 1]);
    let before = word(packet, 8);
    packet[limit] -= 1;
    if v4 {
        let mut sum = (!word(packet, 10) & 0xFFFF) + (!before & 0xFFFF) + word(packet, 8);
        while sum > 0xFFFF {
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        packet[10..12].copy_from_slice(&(!sum as u16).to_be_bytes());
    }
    Ok(())
}
