//! The program loaded, its model beside it, and what changes under both.

use std::collections::HashMap;

use aya::maps::{HashMap as KernelHash, Map, MapData, PerCpuArray};
use fastrand::Rng;
use lb_common::hash::HashKeys;
use lb_common::map::{BackendNumber, Counter, FlowEntry, InsertWindow, Meta, NOBODY, Rewrite};
use lb_common::map::{ServiceEntry, ServiceKey, Slot, flag, name, time_unit};
use lb_common::reason::Reason;
use lb_tests::packet::assert_same;
use lb_userspace::bpf::flows::{self, Keep};
use lb_userspace::bpf::local_macs::OwnAddresses;
use lb_userspace::bpf::program::{Balancer, Settings};
use lb_userspace::bpf::tables::{Lengths, Tables};
use lb_userspace::object;
use lb_userspace::plan::apply::{apply, rows_used};
use lb_userspace::plan::make::plan;
use lb_userspace::plan::transition::{Rule, transition};
use lb_userspace::plan::{Scope, WantedBackend, WantedService};
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use crate::edge::{LOOPBACK, NOWHERE, PRIME, SEED, key, leaving_by, own, ways};
use crate::kernel_answers::interface;
use crate::reference::{DROP, Memory, Outcome, World};

/// Last bytes of the services' addresses, of both families, with TCP port 80 and UDP port 53.
pub(super) const SERVICES: [u8; 4] = [10, 20, 30, 40];
/// As many bytes as a value may have at most for the ring to be too long for one, and the other tables not.
pub(super) const LARGE_RING: u32 = 60_000;
const BACKENDS: u16 = 6;
/// Far fewer than the flow table has room for: it is not to choose what is forgotten.
const MOST_REMEMBERED: usize = 8_000;

/// The program and all that the model knows of it.
pub(super) struct Fleet {
    balancer: Balancer,
    /// The interface that packets may be redirected to.
    device: [u32; 1],
    flows: KernelHash<MapData, u64, FlowEntry>,
    windows: PerCpuArray<MapData, InsertWindow>,
    cpu: usize,
    memory: Memory,
    own: OwnAddresses,
    reasons: [u64; Reason::COUNT],
    pairs: HashMap<u32, Counter>,
}

impl Fleet {
    pub(super) fn new(longest_value: Option<u32>) -> Self {
        let cpu = stay_on_this_cpu();
        let device = interface();
        let settings = Settings {
            lengths: Lengths {
                services: 64,
                slots: 16 * 1024,
                rows: 256,
                flows: 128 * 1024,
            },
            hash_seed: SEED,
            longest_value,
        };
        let mut balancer = Balancer::load(object::BALANCE, settings).expect("the program loads");
        let plan = plan(&balancer.tables, &services(device), Scope::Everything).expect("there is room");
        let meta = Meta {
            rows_used: rows_used(&plan),
            ..Meta::default()
        };
        balancer.set_meta(meta).expect("META");
        apply(&plan, &balancer.tables, |row| balancer.raw_pair(row)).expect("counters");
        balancer.allow_redirect(device).expect("DEVICES");
        balancer.set_own_addresses(&own()).expect("LOCAL_MACS");
        let data = MapData::from_fd(balancer.flows_fd().expect("FLOWS")).expect("FLOWS");
        Self {
            flows: KernelHash::try_from(Map::LruHashMap(data)).expect("flows by hash"),
            windows: windows(&mut balancer),
            cpu,
            balancer,
            device: [device],
            memory: Memory::default(),
            own: own(),
            reasons: [0; Reason::COUNT],
            pairs: HashMap::new(),
        }
    }

    /// The name of the program that runs.
    pub(super) fn program(&mut self) -> &'static str {
        self.balancer.verified_instructions().expect("the programs' counts")[0].0
    }

    /// Runs a frame; all that can be seen of it must be what the model says.
    #[track_caller]
    pub(super) fn agrees(&mut self, what: &str, frame: &[u8]) -> Outcome {
        let before = now();
        let asked = self.balancer.run_lookup(frame).expect("a look-up");
        let expected = self.world(before).answer(frame);
        assert_eq!(asked, expected, "{what}: the look-up\n{}", self.about(frame));
        let (verdict, out) = self.balancer.run_balance(frame).expect("a run");
        let mut outcome = self.world(before).outcome(frame);
        let after = now();
        if after != before {
            // The clock went on meanwhile, and nobody knows when the program read it: its memory shows what it thought.
            if self.remembers(&outcome).is_some() {
                outcome = self.world(after).outcome(frame);
            }
            if let Some((place, window)) = &mut outcome.change.window {
                let windows = self.windows.get(place, 0).expect("INSERTS");
                *window = windows[self.cpu];
            }
        }
        assert_eq!(verdict, outcome.verdict, "{what}: {outcome:?}\n{}", self.about(frame));
        if verdict != DROP {
            assert_same(&out, &outcome.frame, what);
        }
        if let Some(difference) = self.remembers(&outcome) {
            panic!("{what}: {difference}; {outcome:?}\n{}", self.about(frame));
        }
        self.memory.apply(&outcome.change);
        self.reasons[outcome.reason as usize] += 1;
        if let Some((row, length)) = outcome.counted {
            let pair = self.pairs.entry(row).or_default();
            pair.packets += 1;
            pair.bytes += u64::from(length);
            assert_eq!(
                self.balancer.raw_pair(row).expect("a counter"),
                *pair,
                "{what}: row {row}"
            );
        }
        outcome
    }

    /// What the kernel remembers of a flow other than the model, if anything.
    fn remembers(&self, outcome: &Outcome) -> Option<String> {
        let hash = outcome.change.flow?;
        let changed = outcome.change.entry.map(|(_, entry)| entry);
        let kept = || self.memory.flows.get(&hash).copied();
        let expected = changed.or_else(|| kept().filter(|_| outcome.change.forgotten.is_none()));
        let found = self.flows.get(&hash, 0).ok();
        (found != expected).then(|| format!("remembered is {found:?}, not {expected:?}"))
    }

    /// Every reason was counted as often as the model says; so their sum is the packets received.
    #[track_caller]
    pub(super) fn counters_agree(&self) {
        let counted = self.balancer.reasons().expect("the counters");
        assert_eq!(counted, self.reasons, "reasons, in the order of their numbers");
    }

    /// The kernel remembers what the model remembers, and nothing else.
    #[track_caller]
    pub(super) fn memory_agrees(&self) {
        let mut found = HashMap::new();
        let descriptor = self.balancer.flows_fd().expect("FLOWS");
        flows::sweep(&descriptor, |hash, entry| {
            found.insert(hash, entry);
            Keep::Yes
        })
        .expect("the flow table");
        let differs = |(hash, entry): &(&u64, &FlowEntry)| found.get(hash) != Some(entry);
        let lost: Vec<_> = self.memory.flows.iter().filter(differs).take(5).collect();
        assert_eq!(found.len(), self.memory.flows.len(), "flows remembered; lost: {lost:?}");
        assert!(lost.is_empty(), "remembered otherwise: {lost:?}");
    }

    /// Packets by the model's account.
    pub(super) fn received(&self) -> u64 {
        self.balancer.reasons().expect("the counters").iter().sum()
    }

    pub(super) fn count(&self, reason: Reason) -> u64 {
        self.reasons[reason as usize]
    }

    fn world(&self, now: u32) -> World<'_> {
        World {
            tables: &self.balancer.tables,
            keys: HashKeys::from_seed(SEED),
            ingress: LOOPBACK,
            devices: &self.device,
            memory: &self.memory,
            own: &self.own,
            now,
        }
    }

    /// The frame, its slot and its service, for a failure.
    fn about(&self, frame: &[u8]) -> String {
        format!("{}\nframe {frame:02x?}", self.world(now()).describe(frame))
    }

    /// Changes something under the program's feet: what the daemon does, and states that it never makes.
    pub(super) fn change(&mut self, rng: &mut Rng) {
        let services = self.places();
        let (place, service) = services[rng.usize(..services.len())];
        let tables = &self.balancer.tables;
        let row = service.backend_base() + u32::from(rng.u16(..BACKENDS));
        let v6 = service.address_high != 0;
        let slots = |rng: &mut Rng| {
            let first = rng.u32(..PRIME);
            service.ring_base() + first..service.ring_base() + rng.u32(first..=PRIME)
        };
        match rng.u8(..16) {
            // As a plan does it.
            0..6 => {
                let rule = [Rule::Adaptive, Rule::Always, Rule::Never][rng.usize(..3)];
                let wanted = rng.u16(..BACKENDS);
                for position in slots(rng) {
                    let serves = |number: BackendNumber| {
                        let row = service.backend_base() + u32::from(number);
                        number < BACKENDS && tables.row(row).life != 0
                    };
                    tables.set_slot(position, transition(tables.slot(position), wanted, rule, serves));
                }
            }
            // As no plan would: any pair of owners, also beyond the service's rows, and nobody.
            6 | 7 => {
                for position in slots(rng) {
                    let mut anyone = || match rng.u8(..16) {
                        0 | 1 => NOBODY,
                        2 => 60_000,
                        _ => rng.u16(..BACKENDS),
                    };
                    tables.set_slot(position, Slot::moving(anyone(), anyone()));
                }
            }
            // Settled, and stable.
            8 => slots(rng)
                .for_each(|position| tables.set_slot(position, Slot::settled(tables.slot(position).current()))),
            9 => {
                slots(rng).for_each(|position| tables.set_slot(position, Slot::stable(tables.slot(position).current())))
            }
            // One dies, or dies and comes back, or comes back.
            10 | 11 => tables.set_life(row, life(tables, rng.u8(..4) != 0)),
            // Another backend under the same number; or the same one, which had left the file.
            12 => {
                let identity = [tables.row(row).identity, rng.u64(1..)][rng.usize(..2)];
                let life = life(tables, rng.u8(..4) != 0);
                tables.fill_row(row, identity, way(v6, self.device[0], rng), life);
            }
            13 => tables.set_rewrite(row, way(v6, self.device[0], rng)),
            14 => {
                let flags = rng.u32(..=flag::HASH_FLOW | flag::TRACK_ALWAYS);
                tables.set_flags(place, flags, service.inserts, service.idle);
            }
            _ => {
                let inserts = [0, 1, 10, 1_000_000, 1_000_000][rng.usize(..5)];
                let idle = [0, 2, 300, 300, i32::MAX as u32][rng.usize(..5)];
                tables.set_flags(place, service.flags, inserts, idle);
            }
        }
        if rng.u8(..64) == 0 {
            self.pass([1, 2, 150, 300, u32::MAX][rng.usize(..5)]);
        }
        if self.memory.flows.len() > MOST_REMEMBERED || rng.u8(..128) == 0 {
            self.forget(rng);
        }
    }

    /// Sweeps: a third of what is remembered goes.
    fn forget(&mut self, rng: &mut Rng) {
        let goes = rng.u64(..3);
        let descriptor = self.balancer.flows_fd().expect("FLOWS");
        let keeps = |hash: u64| (hash >> 20) % 3 != goes;
        flows::sweep(&descriptor, |hash, _| if keeps(hash) { Keep::Yes } else { Keep::No }).expect("the flow table");
        self.memory.flows.retain(|hash, _| keeps(*hash));
    }

    /// Time passes, as far as the memory is concerned: all of it was seen so many units earlier, or one later.
    fn pass(&mut self, units: u32) {
        for (hash, entry) in &mut self.memory.flows {
            entry.seen = entry.seen.wrapping_sub(units);
            self.flows.insert(hash, *entry, 0).expect("FLOWS");
        }
    }

    fn places(&self) -> Vec<(u32, ServiceEntry)> {
        let tables = &self.balancer.tables;
        (0..tables.lengths().services)
            .map(|place| (place, tables.service(place)))
            .filter(|(_, entry)| entry.key() != ServiceKey::default())
            .collect()
    }
}

/// A life that begins, or none.
fn life(tables: &Tables, begins: bool) -> u32 {
    if !begins {
        return 0;
    }
    let life = tables.next_life();
    tables.set_next_life(life + 1);
    life
}

fn services(device: u32) -> Vec<WantedService> {
    let mut rng = Rng::with_seed(SEED);
    let mut services = Vec::new();
    for number in SERVICES {
        for v6 in [false, true] {
            for tcp in [false, true] {
                let backends = (1..=u64::from(BACKENDS)).map(|identity| WantedBackend {
                    identity,
                    serves: true,
                    rewrite: way(v6, device, &mut rng),
                });
                services.push(WantedService {
                    key: key(v6, number, tcp),
                    flags: flag::HASH_FLOW,
                    inserts: 1_000_000,
                    idle: 300,
                    rule: Rule::Adaptive,
                    ring_size: PRIME,
                    backends: backends.collect(),
                    owners: (0..PRIME as u16).map(|slot| slot % BACKENDS).collect(),
                });
            }
        }
    }
    services
}

/// Any way to a backend: each mode, unresolved, by the interface that packets come from, by another, or by one that is gone.
fn way(v6: bool, device: u32, rng: &mut Rng) -> Rewrite {
    let [l2, near, far] = ways(v6, rng.u8(10..99));
    let ways = [
        l2,
        near,
        near,
        far,
        far,
        leaving_by(l2, device),
        leaving_by(near, device),
        leaving_by(far, LOOPBACK),
        leaving_by(near, NOWHERE),
        Rewrite::default(),
    ];
    ways[rng.usize(..ways.len())]
}

/// The bound on memories is each CPU's, and the model has one.
fn stay_on_this_cpu() -> usize {
    let cpu = sched_getcpu().expect("a CPU");
    let mut cpus = CpuSet::new();
    cpus.set(cpu).expect("a CPU");
    sched_setaffinity(Pid::from_raw(0), &cpus).expect("this thread may stay");
    cpu
}

/// What the program has counted against the bound.
fn windows(balancer: &mut Balancer) -> PerCpuArray<MapData, InsertWindow> {
    let program = balancer.balance_mut().expect("the program");
    let ids = program
        .info()
        .expect("the program's maps")
        .map_ids()
        .expect("the program's maps");
    let maps = ids
        .into_iter()
        .flatten()
        .map(|id| MapData::from_id(id).expect("a map of the program"));
    let mut named = maps.filter(|map| map.info().expect("the map").name_as_str() == Some(name::INSERTS));
    let inserts = named.next().expect("INSERTS");
    PerCpuArray::try_from(Map::PerCpuArray(inserts)).expect("windows of each CPU")
}

/// What the program's clock says.
fn now() -> u32 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).expect("a clock");
    time_unit(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}
