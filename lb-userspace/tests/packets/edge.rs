//! The loaded program, filled with a service for each thing that can become of a packet.

use aya::programs::{TestRun as _, TestRunOptions};
use lb_common::encap::{self, Mac};
use lb_common::hash::HashKeys;
use lb_common::map::{Counter, FAMILY_V4, FAMILY_V6, Meta, NOBODY, Rewrite, ServiceKey, flag};
use lb_common::reason::{Fate, Reason};
use lb_tests::packet::{RECEIVER_MAC, assert_same, hex};
use lb_userspace::bpf::local_macs::OwnAddresses;
use lb_userspace::bpf::program::{Balancer, Settings};
use lb_userspace::bpf::tables::Lengths;
use lb_userspace::object;
use lb_userspace::plan::apply::{apply, rows_used};
use lb_userspace::plan::make::plan;
use lb_userspace::plan::transition::Rule;
use lb_userspace::plan::{Scope, WantedBackend, WantedService};

use crate::reference::{DROP, Memory, Outcome, PASS, World};

pub(crate) const SEED: u64 = 0x5EED;
pub(crate) const CLIENT_V4: &str = "198.51.100.7";
pub(crate) const CLIENT_V6: &str = "2001:db8:c::7";
/// Frames of a test run come from the loopback interface, unless their context says otherwise.
pub(crate) const LOOPBACK: u32 = 1;
/// An interface that nobody has.
pub(crate) const NOWHERE: u32 = 0x7FFF_FFF0;

const NEXT_HOP: Mac = [2, 0, 0, 0, 0, 1];
const OWN: Mac = [2, 0, 0, 0, 0, 2];
pub(crate) const PRIME: u32 = 251;

/// The last byte of a service's address, by what becomes of its packets: 192.0.2.N and 2001:db8::N with N in hexadecimal
/// digits as people write it in decimal (`::20` is number 20). Each has TCP port 80 and UDP port 53.
pub(crate) mod vip {
    pub(crate) const L2: u8 = 10;
    pub(crate) const IPIP_V4: u8 = 20;
    pub(crate) const IPIP_V6: u8 = 30;
    pub(crate) const NO_BACKEND: u8 = 40;
    pub(crate) const UNRESOLVED: u8 = 50;
    pub(crate) const OTHER_INTERFACE: u8 = 60;
    pub(crate) const LOST_INTERFACE: u8 = 70;
    /// Five backends of all modes, and slots of nobody; 80 to 83: the four ways to hash.
    pub(crate) const MIXED: u8 = 80;
    /// Nobody's.
    pub(crate) const NONE: u8 = 99;
}

/// The address of a service, of the family wanted.
pub(crate) fn address(v6: bool, number: u8) -> String {
    if v6 {
        format!("2001:db8::{number}")
    } else {
        format!("192.0.2.{number}")
    }
}

pub(crate) fn key(v6: bool, number: u8, tcp: bool) -> ServiceKey {
    let (protocol, port) = if tcp { (6, [0, 80]) } else { (17, [0, 53]) };
    let address: std::net::IpAddr = address(v6, number).parse().unwrap();
    match address {
        std::net::IpAddr::V4(address) => ServiceKey::v4(address.octets(), protocol, port),
        std::net::IpAddr::V6(address) => ServiceKey::v6(address.octets(), protocol, port),
    }
}

/// The ways to a backend: 10.0.0.N or 2001:db8:b::N (N in decimal digits as above).
pub(crate) fn ways(v6: bool, last: u8) -> [Rewrite; 3] {
    let inner = if v6 { FAMILY_V6 } else { FAMILY_V4 };
    let far = |digits: u8| {
        let mut address = [0x20, 0x01, 0x0D, 0xB8, 0, 0x0B, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        address[15] = (digits / 10 * 16) + digits % 10;
        address
    };
    [
        encap::l2(NEXT_HOP, OWN),
        encap::ipip_v4(NEXT_HOP, OWN, [10, 0, 0, 5], [10, 0, 0, last], inner),
        encap::ipip_v6(NEXT_HOP, OWN, far(5), far(last), inner),
    ]
}

pub(crate) const fn leaving_by(rewrite: Rewrite, ifindex: u32) -> Rewrite {
    Rewrite { ifindex, ..rewrite }
}

/// All services of the tests; packets of `OTHER_INTERFACE` leave by `other`.
fn services(other: u32) -> Vec<WantedService> {
    let mut services = Vec::new();
    for v6 in [false, true] {
        for tcp in [false, true] {
            let [l2, v4, far] = ways(v6, 11);
            for (number, rewrite) in [
                (vip::L2, l2),
                (vip::IPIP_V4, v4),
                (vip::IPIP_V6, far),
                (vip::UNRESOLVED, Rewrite::default()),
                (vip::OTHER_INTERFACE, leaving_by(v4, other)),
                (vip::LOST_INTERFACE, leaving_by(v4, NOWHERE)),
            ] {
                services.push(service(key(v6, number, tcp), flag::HASH_FLOW, &[rewrite], |_| 0));
            }
            services.push(service(key(v6, vip::NO_BACKEND, tcp), flag::HASH_FLOW, &[l2], |_| {
                NOBODY
            }));
            let backends = [
                l2,
                v4,
                leaving_by(far, LOOPBACK),
                leaving_by(v4, other),
                Rewrite::default(),
            ];
            for (number, flags) in [
                (0, flag::HASH_FLOW),
                (1, flag::HASH_ADDRESS),
                (2, flag::HASH_PORT),
                (3, 0),
            ] {
                // Every sixth slot is nobody's.
                let owner = |slot| if slot % 6 == 5 { NOBODY } else { slot % 6 };
                services.push(service(key(v6, vip::MIXED + number, tcp), flags, &backends, owner));
            }
        }
    }
    services
}

fn service(key: ServiceKey, flags: u32, rewrites: &[Rewrite], owner: impl Fn(u16) -> u16) -> WantedService {
    let backends = rewrites.iter().zip(1..).map(|(rewrite, identity)| WantedBackend {
        identity,
        serves: true,
        rewrite: *rewrite,
    });
    WantedService {
        inserts: 0,
        idle: 300,
        rule: Rule::Adaptive,
        key,
        flags,
        ring_size: PRIME,
        backends: backends.collect(),
        owners: (0..PRIME as u16).map(owner).collect(),
    }
}

/// The program under test. Every frame that it is given is checked on its way: one reason counted, once.
pub(crate) struct Edge {
    balancer: Balancer,
    devices: Vec<u32>,
    counts: [u64; Reason::COUNT],
    runs: u64,
    /// Empty: no slot here is unstable.
    memory: Memory,
    own: OwnAddresses,
}

/// What frames are sent to that are for the host, on the interface that those of a test run come by.
pub(crate) fn own() -> OwnAddresses {
    OwnAddresses::from([(LOOPBACK, vec![RECEIVER_MAC])])
}

impl Edge {
    pub(crate) fn new() -> Self {
        Self::with_interface(None)
    }

    /// One for each way in which the program may come to its tables: as this kernel allows, with the ring by key, all by key.
    pub(crate) fn of_every_kind() -> [Self; 3] {
        [None, Some(64 << 10), Some(0)].map(|longest| Self::with(None, longest))
    }

    /// With an interface that packets may be redirected to; it must exist.
    pub(crate) fn with_interface(other: Option<u32>) -> Self {
        Self::with(other, None)
    }

    fn with(other: Option<u32>, longest_value: Option<u32>) -> Self {
        let settings = Settings {
            lengths: Lengths {
                services: 128,
                slots: 64 * 1024,
                rows: 256,
                flows: 1024,
            },
            hash_seed: SEED,
            longest_value,
        };
        let mut balancer = Balancer::load(object::BALANCE, settings).unwrap();
        let plan = plan(&balancer.tables, &services(other.unwrap_or(NOWHERE)), Scope::Everything).unwrap();
        let rows_used = rows_used(&plan);
        balancer
            .set_meta(Meta {
                rows_used,
                ..Meta::default()
            })
            .unwrap();
        apply(&plan, &balancer.tables, |row| balancer.raw_pair(row)).unwrap();
        if let Some(other) = other {
            balancer.allow_redirect(other).unwrap();
        }
        let own = own();
        balancer.set_own_addresses(&own).unwrap();
        Self {
            balancer,
            devices: other.into_iter().collect(),
            counts: [0; Reason::COUNT],
            runs: 0,
            memory: Memory::default(),
            own,
        }
    }

    /// Makes these the host's own addresses.
    pub(crate) fn set_own(&mut self, own: OwnAddresses) {
        self.balancer.set_own_addresses(&own).unwrap();
        self.own = own;
    }

    /// Points a service's ring and rows somewhere else; returns where they were.
    pub(crate) fn move_service(&mut self, key: ServiceKey, bases: u64) -> u64 {
        let installed = (0..self.balancer.tables.lengths().services)
            .find(|place| self.balancer.tables.service(*place).key() == key);
        let place = installed.expect("an installed service");
        let before = self.balancer.tables.service(place).bases;
        self.balancer.tables.set_bases(place, bases);
        before
    }

    /// How many services are in the second of their two places.
    pub(crate) fn second_places(&self) -> u32 {
        let tables = &self.balancer.tables;
        (0..tables.lengths().services)
            .map(|place| u32::from(tables.service(place).overflow))
            .sum()
    }

    /// What the model says of a frame.
    pub(crate) fn expected(&self, frame: &[u8]) -> Outcome {
        let world = World {
            tables: &self.balancer.tables,
            keys: HashKeys::from_seed(SEED),
            ingress: LOOPBACK,
            devices: &self.devices,
            memory: &self.memory,
            own: &self.own,
            now: 0,
        };
        world.outcome(frame)
    }

    /// Runs a frame: verdict, the one reason that was counted, and the frame as it leaves.
    #[track_caller]
    pub(crate) fn run(&mut self, frame: &[u8]) -> (u32, Reason, Vec<u8>) {
        self.run_with(frame, None)
    }

    /// As [`run`](Self::run), with a context (`struct xdp_md`).
    #[track_caller]
    pub(crate) fn run_with(&mut self, frame: &[u8], context: Option<[u32; 6]>) -> (u32, Reason, Vec<u8>) {
        let context = context.map(bytemuck::cast::<_, [u8; 24]>);
        let mut out = vec![0; frame.len() + 64];
        let program = self.balancer.balance_mut().unwrap();
        let result = program.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: context.as_ref().map(|context| &context[..]),
            ..TestRunOptions::new()
        });
        let result = result.unwrap_or_else(|error| panic!("{} bytes: {error:?}", frame.len()));
        out.truncate(result.data_size_out as usize);
        self.runs += 1;
        let counts = self.balancer.reasons().unwrap();
        let moved: Vec<Reason> = Reason::ALL
            .iter()
            .flat_map(|reason| {
                let times = counts[*reason as usize] - self.counts[*reason as usize];
                (0..times).map(|_| *reason)
            })
            .collect();
        self.counts = counts;
        assert_eq!(moved.len(), 1, "counted for one packet: {moved:?}");
        (result.return_value, moved[0], out)
    }

    /// Runs a frame that must not be changed: passed untouched, or dropped.
    #[track_caller]
    pub(crate) fn refuses(&mut self, what: &str, frame: &[u8], reason: Reason) {
        let (verdict, found, out) = self.run(frame);
        let expected = match reason.fate() {
            Fate::Passed => PASS,
            _ => DROP,
        };
        assert_eq!((found, verdict), (reason, expected), "{what}");
        if verdict == PASS {
            assert_same(&out, frame, what);
        }
    }

    /// Runs a frame that must leave as the model says; returns it.
    #[track_caller]
    pub(crate) fn agrees(&mut self, what: &str, frame: &[u8]) -> Outcome {
        let expected = self.expected(frame);
        let before = expected.counted.map(|(row, _)| self.balancer.raw_pair(row).unwrap());
        let (verdict, reason, out) = self.run(frame);
        let found = (verdict, reason);
        assert_eq!(found, (expected.verdict, expected.reason), "{what}: {frame:02x?}");
        if verdict != DROP {
            assert_same(&out, &expected.frame, what);
        }
        if let (Some((row, length)), Some(before)) = (expected.counted, before) {
            let counted = Counter {
                packets: before.packets + 1,
                bytes: before.bytes + u64::from(length),
            };
            assert_eq!(self.balancer.raw_pair(row).unwrap(), counted, "{what}");
        }
        let row = self.balancer.run_lookup(frame).unwrap();
        match expected.reason {
            Reason::Forwarded => assert_eq!(row.ok(), expected.counted.map(|(row, _)| row), "{what}: lookup"),
            // It knows no interface, and so of no address whether it is another host's.
            Reason::OtherHost if frame[0] & 1 == 0 => {}
            // What is decided after the row is known, the lookup does not see.
            Reason::NoNextHop | Reason::TooLong | Reason::NoHeadroom | Reason::TtlExceeded => {
                assert!(row.is_ok(), "{what}: lookup")
            }
            reason => assert_eq!(row, Err(reason), "{what}: lookup"),
        }
        expected
    }

    /// Every packet has been counted once: the reasons' sum is the number of packets run.
    pub(crate) fn sum_is_right(&self) {
        assert_eq!(self.counts.iter().sum::<u64>(), self.runs);
    }

    /// How often a reason was counted.
    pub(crate) fn count(&self, reason: Reason) -> u64 {
        self.counts[reason as usize]
    }

    pub(crate) fn runs(&self) -> u64 {
        self.runs
    }
}

/// One line of a table: what goes in and what comes of it.
pub(crate) struct Case {
    pub(crate) what: &'static str,
    /// Bytes, see [`hex`], and then so many of a payload.
    pub(crate) packet: &'static str,
    pub(crate) payload: Vec<u8>,
    pub(crate) verdict: u32,
    pub(crate) reason: Reason,
    /// The frame as it leaves, but for the payload.
    pub(crate) out: &'static str,
}

impl Edge {
    #[track_caller]
    pub(crate) fn check(&mut self, case: &Case) {
        let frame = [&hex(case.packet)[..], &case.payload].concat();
        let expected = [&hex(case.out)[..], &case.payload].concat();
        let (verdict, reason, out) = self.run(&frame);
        assert_eq!((verdict, reason), (case.verdict, case.reason), "{}", case.what);
        assert_same(&out, &expected, case.what);
    }
}
