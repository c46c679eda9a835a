//! What becomes of flows whose slots are not stable, packet by packet.

use crate::edge::own;
use aya::maps::{HashMap as KernelHash, Map, MapData};
use lb_common::encap;
use lb_common::map::{BackendNumber, FlowEntry, Meta, NOBODY, ServiceKey, Slot, flag};
use lb_common::reason::Reason;
use lb_tests::packet::{Packet, flag as tcp};
use lb_userspace::bpf::flows::{self, Keep};
use lb_userspace::bpf::program::{Balancer, Settings};
use lb_userspace::bpf::tables::Lengths;
use lb_userspace::object;
use lb_userspace::plan::apply::{apply, rows_used};
use lb_userspace::plan::make::plan;
use lb_userspace::plan::transition::Rule;
use lb_userspace::plan::{Scope, WantedBackend, WantedService};

const OLD: BackendNumber = 0;
const NEW: BackendNumber = 1;
const OTHER: BackendNumber = 2;
const RING: u32 = 13;
const PLENTY: u32 = 1_000_000;
/// Time units: longer than a test takes.
const IDLE: u32 = 300;

/// One TCP service (port 80) and one UDP service (port 53) of three backends, all slots in one state.
struct Bench {
    balancer: Balancer,
    rows: u32,
}

impl Bench {
    fn new(slot: Slot) -> Self {
        Self::with(slot, flag::HASH_FLOW, PLENTY)
    }

    fn with(slot: Slot, flags: u32, inserts: u32) -> Self {
        let lengths = Lengths {
            services: 16,
            slots: 64,
            rows: 16,
            flows: 4096,
        };
        let settings = Settings {
            lengths,
            hash_seed: 0x5EED,
            longest_value: None,
        };
        let mut balancer = Balancer::load(object::BALANCE, settings).unwrap();
        let services: Vec<WantedService> = [(6, 80), (17, 53)]
            .map(|(protocol, port)| WantedService {
                key: ServiceKey::v4([192, 0, 2, 10], protocol, [0, port]),
                flags,
                inserts,
                idle: IDLE,
                rule: Rule::Adaptive,
                ring_size: RING,
                backends: (0..3).map(backend).collect(),
                owners: vec![0; RING as usize],
            })
            .into();
        let plan = plan(&balancer.tables, &services, Scope::Everything).unwrap();
        let rows_used = rows_used(&plan);
        balancer
            .set_meta(Meta {
                rows_used,
                ..Meta::default()
            })
            .unwrap();
        apply(&plan, &balancer.tables, |row| balancer.raw_pair(row)).unwrap();
        balancer.set_own_addresses(&own()).unwrap();
        let bench = Self { balancer, rows: 4 };
        bench.all_slots(slot);
        bench
    }

    fn all_slots(&self, slot: Slot) {
        (0..self.balancer.tables.lengths().slots).for_each(|position| self.balancer.tables.set_slot(position, slot));
    }

    /// A backend of both services serves from now on, or no longer.
    fn serves(&self, number: BackendNumber, serves: bool) {
        let tables = &self.balancer.tables;
        for base in [0, self.rows] {
            let life = if serves { tables.next_life() } else { 0 };
            tables.set_next_life(life.max(tables.next_life()) + 1);
            tables.set_life(base + u32::from(number), life);
        }
    }

    /// Time passes: whatever is remembered was seen so many units earlier.
    fn pass(&self, units: u32) {
        let memory = self.memory_with(|entry| entry);
        let data = MapData::from_fd(self.balancer.flows_fd().unwrap()).unwrap();
        let mut flows = KernelHash::<_, u64, FlowEntry>::try_from(Map::LruHashMap(data)).unwrap();
        for (hash, entry) in memory {
            let seen = entry.seen.wrapping_sub(units);
            flows.insert(hash, FlowEntry { seen, ..entry }, 0).unwrap();
        }
    }

    /// Where a packet goes; [`NOBODY`] if it is dropped for want of a backend.
    #[track_caller]
    fn goes(&self, frame: &[u8]) -> BackendNumber {
        let count = |row| self.balancer.raw_pair(row).unwrap().packets;
        let before: Vec<u64> = (0..2 * self.rows).map(count).collect();
        let dropped = self.balancer.reasons().unwrap()[Reason::NoBackend as usize];
        self.balancer.run_balance(frame).unwrap();
        // Asked afterwards: a flow that is not remembered yet is taken for one that begins.
        let memory = self.memory();
        let asked = self.balancer.run_lookup(frame).unwrap();
        assert_eq!(self.memory(), memory, "a lookup is remembered");
        let asked = asked.map_or(NOBODY, |row| (row % self.rows) as BackendNumber);
        let went = (0..2 * self.rows).find(|row| count(*row) > before[*row as usize]);
        let Some(row) = went else {
            assert_eq!(
                self.balancer.reasons().unwrap()[Reason::NoBackend as usize],
                dropped + 1
            );
            assert_eq!(asked, NOBODY, "the lookup says otherwise");
            return NOBODY;
        };
        let number = (row % self.rows) as BackendNumber;
        assert!(
            asked == number || self.bounded(),
            "the lookup says {asked}, the packet went to {number}"
        );
        number
    }

    /// Whether the bound may be reached: the lookup does not count, and so cannot know.
    fn bounded(&self) -> bool {
        let mut services = (0..16).map(|place| self.balancer.tables.service(place));
        services.any(|entry| entry.word != 0 && entry.inserts < PLENTY)
    }

    /// All that is remembered, without the time.
    fn memory(&self) -> Vec<(u64, FlowEntry)> {
        self.memory_with(|entry| FlowEntry { seen: 0, ..entry })
    }

    fn memory_with(&self, as_seen: impl Fn(FlowEntry) -> FlowEntry) -> Vec<(u64, FlowEntry)> {
        let mut memory = Vec::new();
        flows::sweep(&self.balancer.flows_fd().unwrap(), |hash, entry| {
            memory.push((hash, as_seen(entry)));
            Keep::Yes
        })
        .unwrap();
        memory.sort_by_key(|(hash, _)| *hash);
        memory
    }

    /// The numbers that are remembered, sorted.
    fn remembered(&self) -> Vec<BackendNumber> {
        let mut numbers: Vec<_> = self.memory().iter().map(|(_, entry)| entry.number).collect();
        numbers.sort_unstable();
        numbers
    }
}

fn backend(number: u8) -> WantedBackend {
    WantedBackend {
        identity: u64::from(number) + 1,
        rewrite: encap::l2([2, 0, 0, 0, 0, number], [2, 0, 0, 0, 0, 0xFF]),
        serves: true,
    }
}

fn syn(port: u16) -> Vec<u8> {
    segment(port, tcp::SYN)
}

fn data(port: u16) -> Vec<u8> {
    segment(port, tcp::ACK | tcp::PSH)
}

fn segment(port: u16, flags: u8) -> Vec<u8> {
    Packet::ip("198.51.100.7", "192.0.2.10")
        .tcp(port, 80)
        .flags(flags)
        .build()
}

fn datagram(port: u16) -> Vec<u8> {
    Packet::ip("198.51.100.7", "192.0.2.10").udp(port, 53).build()
}

#[test]
fn a_stable_slot_remembers_nothing() {
    let bench = Bench::new(Slot::stable(OLD));
    assert_eq!(
        (bench.goes(&syn(1)), bench.goes(&data(1)), bench.goes(&data(2))),
        (OLD, OLD, OLD)
    );
    assert!(bench.remembered().is_empty());
}

#[test]
fn a_moving_slot_keeps_what_was_and_sends_on_what_comes() {
    let bench = Bench::new(Slot::moving(NEW, OLD));
    assert_eq!(
        (bench.goes(&syn(1)), bench.goes(&data(1))),
        (NEW, NEW),
        "a new connection"
    );
    assert_eq!(
        (bench.goes(&data(2)), bench.goes(&data(2))),
        (OLD, OLD),
        "one from before"
    );
    // A SYN and an ACK answer a client's SYN: not the beginning of a connection to us.
    assert_eq!(bench.goes(&segment(3, tcp::SYN | tcp::ACK)), OLD);
    assert_eq!(bench.remembered(), [OLD, OLD, NEW]);
    // Wherever the slot goes then, they stay.
    for slot in [Slot::moving(OTHER, OLD), Slot::settled(OTHER), Slot::moving(OTHER, NEW)] {
        bench.all_slots(slot);
        assert_eq!((bench.goes(&data(1)), bench.goes(&data(2))), (NEW, OLD), "{slot:?}");
    }
    // Ports that come again begin another connection.
    bench.all_slots(Slot::moving(NEW, OLD));
    assert_eq!((bench.goes(&syn(2)), bench.goes(&data(2))), (NEW, NEW));
}

#[test]
fn a_settled_slot_follows_memory_and_makes_none() {
    let bench = Bench::new(Slot::moving(NEW, OLD));
    assert_eq!(bench.goes(&data(1)), OLD);
    bench.all_slots(Slot::settled(NEW));
    assert_eq!(
        (bench.goes(&data(1)), bench.goes(&data(2)), bench.goes(&syn(3))),
        (OLD, NEW, NEW)
    );
    assert_eq!(bench.remembered(), [OLD]);
}

#[test]
fn ports_that_come_again_begin_afresh_in_a_settled_slot_too() {
    let bench = Bench::new(Slot::moving(NEW, OLD));
    assert_eq!((bench.goes(&data(1)), bench.goes(&data(2))), (OLD, OLD));
    bench.all_slots(Slot::settled(NEW));
    assert_eq!((bench.goes(&syn(1)), bench.goes(&data(1))), (NEW, NEW));
    // The earlier one's backend is away while the next begins, and comes back.
    bench.serves(OLD, false);
    assert_eq!((bench.goes(&syn(2)), bench.goes(&data(2))), (NEW, NEW));
    bench.serves(OLD, true);
    assert_eq!(bench.goes(&data(2)), NEW);
    assert!(bench.remembered().is_empty());
    // Where every flow is remembered, the new one is from then on.
    let bench = Bench::with(Slot::settled(OLD), flag::HASH_FLOW | flag::TRACK_ALWAYS, PLENTY);
    assert_eq!(bench.goes(&syn(1)), OLD);
    bench.all_slots(Slot::settled(NEW));
    assert_eq!(bench.goes(&data(1)), OLD);
    assert_eq!((bench.goes(&syn(1)), bench.goes(&data(1))), (NEW, NEW));
    assert_eq!(bench.remembered(), [NEW]);
}

#[test]
fn memory_of_one_that_does_not_serve_does_not_count() {
    let bench = Bench::new(Slot::moving(NEW, OLD));
    assert_eq!(bench.goes(&data(1)), OLD);
    bench.serves(OLD, false);
    bench.all_slots(Slot::settled(NEW));
    assert_eq!(bench.goes(&data(1)), NEW);
    // Another backend under that number, later.
    bench
        .balancer
        .tables
        .fill_row(u32::from(OLD), 99, backend(9).rewrite, 99);
    assert_eq!(bench.goes(&data(1)), NEW);
}

#[test]
fn beyond_the_bound_a_new_connection_goes_where_its_next_packets_will() {
    let bench = Bench::with(Slot::moving(NEW, OLD), flag::HASH_FLOW, 10);
    let went: Vec<_> = (0..400).map(|port| bench.goes(&syn(1000 + port))).collect();
    let new = went.iter().filter(|number| **number == NEW).count();
    // The bound is each CPU's, and the second may end in between.
    assert!((10..=300).contains(&new), "{new} of 400");
    for (port, went) in (0..).zip(&went) {
        assert_eq!(bench.goes(&data(1000 + port)), *went, "port {port}");
    }
}

#[test]
fn a_slot_that_loses_its_last_owner_keeps_its_flows() {
    let bench = Bench::new(Slot::moving(NOBODY, OLD));
    assert_eq!((bench.goes(&syn(1)), bench.goes(&data(2))), (NOBODY, OLD));
    // Ports that come again begin nothing where nobody takes it.
    assert_eq!((bench.goes(&syn(2)), bench.goes(&data(2))), (NOBODY, OLD));
    bench.all_slots(Slot::EMPTY);
    assert_eq!(bench.goes(&data(2)), NOBODY);
}

#[test]
fn datagrams_go_to_the_owner_unless_every_flow_is_remembered() {
    let bench = Bench::new(Slot::moving(NEW, OLD));
    assert_eq!(bench.goes(&datagram(1)), NEW);
    assert!(bench.remembered().is_empty());
    let bench = Bench::with(Slot::settled(OLD), flag::HASH_FLOW | flag::TRACK_ALWAYS, PLENTY);
    assert_eq!((bench.goes(&datagram(1)), bench.goes(&syn(1))), (OLD, OLD));
    assert_eq!(bench.remembered(), [OLD, OLD]);
    bench.all_slots(Slot::settled(NEW));
    assert_eq!((bench.goes(&datagram(1)), bench.goes(&data(1))), (OLD, OLD));
    assert_eq!((bench.goes(&datagram(2)), bench.goes(&data(2))), (NEW, NEW));
}

/// A client whose connections share a slot: each is remembered for itself.
#[test]
fn connections_of_a_client_that_is_hashed_whole_are_told_apart() {
    for hash in [flag::HASH_ADDRESS, 0] {
        let bench = Bench::with(Slot::moving(NEW, OLD), hash, PLENTY);
        // The one from before is silent while the next begins.
        assert_eq!((bench.goes(&syn(2)), bench.goes(&data(2))), (NEW, NEW));
        assert_eq!((bench.goes(&data(1)), bench.goes(&data(2))), (OLD, NEW));
        // Who drains gets nothing new, however busy the client is.
        assert_eq!((bench.goes(&syn(3)), bench.goes(&data(3))), (NEW, NEW));
        assert_eq!(bench.remembered(), [OLD, NEW, NEW]);
        bench.all_slots(Slot::settled(OTHER));
        let went = [data(1), data(2), data(3), data(4), syn(1)].map(|frame| bench.goes(&frame));
        assert_eq!(went, [OLD, NEW, NEW, OTHER, OTHER]);
    }
}

/// A rolling restart: drained, stopped, started again while it still drains.
#[test]
fn memory_of_an_earlier_life_does_not_count() {
    for hash in [flag::HASH_FLOW, flag::HASH_ADDRESS, 0] {
        let bench = Bench::with(Slot::moving(NEW, OLD), hash, PLENTY);
        assert_eq!((bench.goes(&data(1)), bench.goes(&data(2))), (OLD, OLD));
        bench.serves(OLD, false);
        bench.all_slots(Slot::settled(NEW));
        assert_eq!((bench.goes(&syn(3)), bench.goes(&data(3))), (NEW, NEW));
        // This one's beginning was not seen: it began when the slot was stable, say.
        assert_eq!(bench.goes(&data(1)), NEW);
        bench.serves(OLD, true);
        for slot in [Slot::settled(NEW), Slot::moving(OTHER, NEW), Slot::settled(OTHER)] {
            bench.all_slots(slot);
            let went = [data(3), data(1), data(2)].map(|frame| bench.goes(&frame));
            assert_eq!(went, [NEW, NEW, NEW], "{slot:?}, hash {hash}");
        }
    }
}

/// Ports are used again while the slot is stable: the program does not see how the next connection begins.
#[test]
fn a_port_that_is_used_again_in_a_stable_slot_is_not_led_back() {
    let bench = Bench::new(Slot::moving(NEW, OLD));
    assert_eq!((bench.goes(&data(1)), bench.goes(&data(2))), (OLD, OLD));
    bench.serves(OLD, false);
    bench.all_slots(Slot::stable(NEW));
    assert_eq!((bench.goes(&syn(1)), bench.goes(&data(1))), (NEW, NEW));
    bench.serves(OLD, true);
    bench.all_slots(Slot::moving(OLD, NEW));
    assert_eq!((bench.goes(&data(1)), bench.goes(&syn(2))), (NEW, OLD));
}

/// The same port, its backend never failed, and the drain time has passed since the earlier connection's last packet.
#[test]
fn memory_counts_for_the_drain_time() {
    for flags in [flag::HASH_FLOW, flag::HASH_ADDRESS] {
        let bench = Bench::with(Slot::moving(NEW, OLD), flags, PLENTY);
        let remember = |ports: [u16; 3]| {
            bench.all_slots(Slot::moving(NEW, OLD));
            assert_eq!(ports.map(|port| bench.goes(&data(port))), [OLD; 3]);
        };
        remember([1, 2, 3]);
        bench.pass(IDLE - 1);
        // One that speaks is not forgotten.
        assert_eq!(bench.goes(&data(1)), OLD);
        // The clock may go on once between two packets here.
        bench.pass(2);
        for slot in [Slot::moving(OTHER, NEW), Slot::settled(OTHER)] {
            bench.all_slots(slot);
            assert_eq!((bench.goes(&data(1)), bench.goes(&data(2))), (OLD, NEW), "{slot:?}");
        }
        // The first packet of a settled slot forgets what does not count.
        assert_eq!(bench.goes(&data(3)), OTHER);
        assert_eq!(bench.remembered(), [OLD, NEW]);
    }
    // Another CPU has seen it a moment later than this one's clock says: it counts.
    let bench = Bench::new(Slot::moving(NEW, OLD));
    assert_eq!(bench.goes(&data(1)), OLD);
    bench.pass(u32::MAX - 1);
    bench.all_slots(Slot::settled(NEW));
    assert_eq!(bench.goes(&data(1)), OLD);
}

#[test]
fn where_every_flow_is_remembered_memory_has_the_same_limits() {
    let always = flag::HASH_FLOW | flag::TRACK_ALWAYS;
    let bench = Bench::with(Slot::settled(OLD), always, PLENTY);
    let (tcp, udp) = (data(1), datagram(1));
    assert_eq!((bench.goes(&tcp), bench.goes(&udp)), (OLD, OLD));
    bench.all_slots(Slot::moving(NEW, OTHER));
    assert_eq!((bench.goes(&tcp), bench.goes(&udp)), (OLD, OLD));
    bench.serves(OLD, false);
    bench.serves(OLD, true);
    assert_eq!(
        (bench.goes(&tcp), bench.goes(&udp)),
        (OTHER, OTHER),
        "of an earlier life"
    );
    bench.pass(IDLE + 2);
    bench.all_slots(Slot::settled(NEW));
    assert_eq!((bench.goes(&tcp), bench.goes(&udp)), (NEW, NEW), "too old");
    assert_eq!(bench.remembered(), [NEW, NEW]);
}

/// A slot may name for a moment who serves no longer: that is not remembered, or it would count when he is back.
#[test]
fn what_is_sent_to_one_that_does_not_serve_is_not_remembered() {
    // The look-up takes what is not remembered for a flow that begins.
    let bench = Bench::with(Slot::moving(NEW, OLD), flag::HASH_FLOW, PLENTY - 1);
    bench.serves(OLD, false);
    bench.serves(NEW, false);
    assert_eq!((bench.goes(&data(1)), bench.goes(&data(2))), (OLD, OLD));
    assert!(bench.remembered().is_empty());
    bench.serves(NEW, true);
    bench.all_slots(Slot::settled(NEW));
    assert_eq!((bench.goes(&data(1)), bench.goes(&data(2))), (NEW, NEW));
}
