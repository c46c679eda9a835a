//! Connections through all that may happen to their backends: none breaks whose backend never failed.
//!
//! The planner, the slots' way back to rest and the reading of the flow table are the daemon's own; what a packet does is restated here.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use lb_common::encap;
use lb_common::hash::{finish, slot};
use lb_common::map::{BackendNumber, Counter, FlowEntry, NOBODY, ServiceKey, Slot, flag, idle_units, time_unit};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::read::{Lives, Sweep, see};
use super::rest::Transitions;
use crate::bpf::flows::Keep;
use crate::bpf::tables::{Lengths, Tables};
use crate::model::Tracking;
use crate::plan::layout::{InstalledService, Layout};
use crate::plan::make::plan;
use crate::plan::transition::Rule;
use crate::plan::{Scope, WantedBackend, WantedService, Write, apply};

const BACKENDS: u8 = 4;
const DRAIN: Duration = Duration::from_secs(3);
/// In milliseconds: the daemon looks after slots, and reads the flow table.
const TICK: u64 = 1_000;
const SWEEP: u64 = 5_000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Up,
    Draining,
    Down,
    /// Not in the file.
    Gone,
}

#[derive(Clone, Debug)]
enum Act {
    Become(u8, State),
    /// A client begins a connection. An earlier one of the same ports is over.
    Begin(u8, u16),
    /// It sends on, or what is left of an earlier connection comes late.
    Data(u8, u16),
    /// All connections send.
    All,
    /// Milliseconds.
    Wait(u64),
    Configure(Rule, u32, u32),
}

#[derive(Debug)]
struct Connection {
    backend: u64,
    /// How often the backend had failed when it began.
    failed: u32,
    last: u64,
    /// It may break: it was silent for too long, or nobody looked after it.
    at_risk: bool,
}

struct Stage {
    tables: Tables,
    transitions: Transitions,
    memory: HashMap<u64, FlowEntry>,
    start: Instant,
    /// Milliseconds since then.
    now: u64,
    states: [State; BACKENDS as usize],
    failed: [u32; BACKENDS as usize],
    rule: Rule,
    ring_size: u32,
    flags: u32,
    connections: HashMap<(u8, u16), Connection>,
}

fn key() -> ServiceKey {
    ServiceKey::v4([192, 0, 2, 1], 6, [0, 80])
}

fn identity(backend: u8) -> u64 {
    u64::from(backend) + 1
}

fn hash(client: u8, port: u16) -> u64 {
    finish(u64::from(client) << 16 | u64::from(port))
}

impl Stage {
    fn new() -> Self {
        let lengths = Lengths {
            services: 64,
            slots: 256,
            rows: 32,
            flows: 64,
        };
        let mut stage = Self {
            tables: Tables::private(lengths).expect("memory"),
            transitions: Transitions::default(),
            memory: HashMap::new(),
            start: Instant::now(),
            now: 1_000_000,
            states: [State::Up; BACKENDS as usize],
            failed: [0; BACKENDS as usize],
            rule: Rule::Adaptive,
            ring_size: 13,
            flags: flag::HASH_FLOW,
            connections: HashMap::new(),
        };
        stage.bring();
        stage
    }

    fn instant(&self) -> Instant {
        self.start + Duration::from_millis(self.now)
    }

    fn unit(&self) -> u32 {
        time_unit(self.now * 1_000_000)
    }

    fn installed(&self) -> InstalledService {
        Layout::read(&self.tables).services[&key()].clone()
    }

    fn state(&self, backend: u8) -> State {
        self.states[usize::from(backend)]
    }

    /// Plans and applies, and looks at the slots.
    fn bring(&mut self) {
        let there: Vec<u8> = (0..BACKENDS).filter(|one| self.state(*one) != State::Gone).collect();
        let owner = |slot: u32| {
            let mut candidates = (0..BACKENDS).map(|k| (slot as u8).wrapping_add(k) % BACKENDS);
            let owner = candidates.find(|one| self.state(*one) == State::Up);
            owner.map_or(NOBODY, |one| {
                there.iter().take_while(|other| **other != one).count() as u16
            })
        };
        let wanted = WantedService {
            key: key(),
            flags: self.flags
                | if self.rule == Rule::Always {
                    flag::TRACK_ALWAYS
                } else {
                    0
                },
            inserts: u32::MAX,
            idle: if self.rule == Rule::Never {
                0
            } else {
                idle_units(DRAIN.as_nanos() as u64)
            },
            rule: self.rule,
            ring_size: self.ring_size,
            owners: (0..self.ring_size).map(owner).collect(),
            backends: there
                .iter()
                .map(|one| WantedBackend {
                    identity: identity(*one),
                    rewrite: encap::l2([2, 0, 0, 0, 0, *one], [0; 6]),
                    serves: matches!(self.state(*one), State::Up | State::Draining),
                })
                .collect(),
        };
        let plan = plan(&self.tables, &[wanted], Scope::Everything).expect("there is room");
        for write in plan.writes.iter().filter(|write| **write != Write::Grace) {
            let Ok(()) = apply::step(write, &self.tables, &|_| Ok::<_, Infallible>(Counter::default()));
        }
        self.tend();
    }

    fn tend(&mut self) {
        let (installed, now) = (self.installed(), self.instant());
        let (base, size) = (installed.entry.ring_base(), installed.entry.ring_size);
        self.transitions.tend(&self.tables, (key(), DRAIN), base, size, || now);
    }

    fn sweep(&mut self) {
        // After whatever happened in this millisecond.
        let begun = self.instant() + Duration::from_micros(1);
        let lives = Lives::read(&self.tables, &Layout::read(&self.tables));
        let mut live = HashMap::new();
        let now = self.unit();
        self.memory
            .retain(|_, entry| see(&mut live, &lives, now, entry) == Keep::Yes);
        let sweep = Sweep {
            begun,
            live,
            outcome: Ok(()),
        };
        let tracking = match self.rule {
            Rule::Adaptive => Tracking::Adaptive,
            Rule::Always => Tracking::Always,
            Rule::Never => Tracking::Never,
        };
        self.transitions
            .calm(&self.tables, (key(), DRAIN), tracking, &self.installed(), &sweep);
    }

    /// What the program does with a packet: who gets it.
    fn send(&mut self, client: u8, port: u16, syn: bool) -> Option<u64> {
        let InstalledService { entry, identities, .. } = self.installed();
        let flow = hash(client, port);
        let ring = match entry.flags & flag::HASH_FLOW {
            flag::HASH_FLOW => flow,
            flag::HASH_ADDRESS => hash(client, 0),
            _ => 0x5EED << 40,
        };
        let slot = self.tables.slot(entry.ring_base() + slot(ring, entry.ring_size));
        let life = |number: BackendNumber| self.tables.row(entry.backend_base() + u32::from(number)).life;
        let who = |number: BackendNumber| (number != NOBODY).then(|| identities[usize::from(number)]);
        let (current, previous, now) = (slot.current(), slot.previous(), self.unit());
        if slot.is_stable() {
            return who(current);
        }
        let found = self.memory.get(&flow).copied();
        let known = found.filter(|found| found.counts(life(found.number), now, entry.idle));
        if let Some(known) = known.filter(|_| !syn) {
            self.memory.insert(flow, FlowEntry { seen: now, ..known });
            return who(known.number);
        }
        let moving = !slot.is_settled();
        let to = if moving && !syn { previous } else { current };
        if to == NOBODY {
            return None;
        }
        if !moving && entry.flags & flag::TRACK_ALWAYS == 0 {
            self.memory.remove(&flow);
            return who(to);
        }
        if life(to) != 0 {
            let entry = FlowEntry {
                life: life(to),
                place: (ring >> 32) as u32,
                seen: now,
                number: to,
                reserved: 0,
            };
            self.memory.insert(flow, entry);
        } else if syn {
            return who(known.map_or(if moving { previous } else { to }, |known| known.number));
        }
        who(to)
    }

    fn act(&mut self, act: &Act) -> Result<(), TestCaseError> {
        match *act {
            Act::Become(backend, state) => {
                let before = std::mem::replace(&mut self.states[usize::from(backend)], state);
                let serves = |state| matches!(state, State::Up | State::Draining);
                if serves(before) && !serves(state) {
                    self.failed[usize::from(backend)] += 1;
                }
                self.bring();
                // A settled slot that is nobody's is empty: flows of draining backends in it are not found while nobody is up.
                if !self.states.contains(&State::Up) && !serves(state) {
                    self.connections.values_mut().for_each(|one| one.at_risk = true);
                }
            }
            Act::Begin(client, port) => {
                self.connections.remove(&(client, port));
                if let Some(backend) = self.send(client, port, true) {
                    let state = self.state(backend as u8 - 1);
                    prop_assert_eq!(state, State::Up, "a connection begins at {}", backend);
                    let connection = Connection {
                        backend,
                        failed: self.failed[backend as usize - 1],
                        last: self.now,
                        at_risk: self.rule == Rule::Never,
                    };
                    self.connections.insert((client, port), connection);
                }
            }
            Act::Data(client, port) => self.data(client, port)?,
            Act::All => {
                let all: Vec<(u8, u16)> = self.connections.keys().copied().collect();
                for (client, port) in all {
                    self.data(client, port)?;
                }
            }
            Act::Wait(ms) => {
                for _ in 0..ms {
                    self.now += 1;
                    if self.now.is_multiple_of(TICK) {
                        self.tend();
                    }
                    if self.now.is_multiple_of(SWEEP) {
                        self.sweep();
                    }
                }
            }
            Act::Configure(rule, ring_size, flags) => {
                if (rule, ring_size, flags) != (self.rule, self.ring_size, self.flags) {
                    (self.rule, self.ring_size, self.flags) = (rule, ring_size, flags);
                    self.bring();
                    // They move, or nobody looked after them.
                    self.connections.values_mut().for_each(|one| one.at_risk = true);
                }
            }
        }
        self.stable_slots_are_right()
    }

    fn data(&mut self, client: u8, port: u16) -> Result<(), TestCaseError> {
        let to = self.send(client, port, false);
        let (now, failed) = (self.now, self.failed);
        let Some(one) = self.connections.get_mut(&(client, port)) else {
            return Ok(());
        };
        let silent = Duration::from_millis(now - one.last);
        one.last = now;
        one.at_risk |= silent > DRAIN || failed[one.backend as usize - 1] != one.failed;
        if to == Some(one.backend) {
            return Ok(());
        }
        prop_assert!(
            one.at_risk,
            "{client}:{port} goes to {to:?} after {silent:?}, and was at {one:?}"
        );
        self.connections.remove(&(client, port));
        Ok(())
    }

    /// What counts for a flow of a stable slot names its owner.
    fn stable_slots_are_right(&self) -> Result<(), TestCaseError> {
        let InstalledService { entry, .. } = self.installed();
        if entry.idle == 0 {
            return Ok(());
        }
        for (flow, found) in &self.memory {
            let life = self.tables.row(entry.backend_base() + u32::from(found.number)).life;
            let slot: Slot = self.tables.slot(entry.ring_base() + found.slot(entry.ring_size));
            if slot.is_stable() && slot.current() != NOBODY && found.counts(life, self.unit(), entry.idle) {
                prop_assert_eq!(found.number, slot.current(), "flow {:#x} of a stable slot", flow);
            }
        }
        Ok(())
    }
}

fn act() -> impl Strategy<Value = Act> {
    let (client, port) = (|| 0..3_u8, || 0..6_u16);
    let states = vec![
        State::Up,
        State::Up,
        State::Up,
        State::Draining,
        State::Draining,
        State::Down,
        State::Gone,
    ];
    let rules = vec![
        Rule::Adaptive,
        Rule::Adaptive,
        Rule::Adaptive,
        Rule::Always,
        Rule::Never,
    ];
    let flags = vec![flag::HASH_FLOW, flag::HASH_FLOW, flag::HASH_ADDRESS, 0];
    let configure = (
        prop::sample::select(rules),
        prop::sample::select(vec![13, 13, 31]),
        prop::sample::select(flags),
    );
    prop_oneof![
        6 => (0..BACKENDS, prop::sample::select(states)).prop_map(|(one, state)| Act::Become(one, state)),
        8 => (client(), port()).prop_map(|(client, port)| Act::Begin(client, port)),
        4 => (client(), port()).prop_map(|(client, port)| Act::Data(client, port)),
        6 => Just(Act::All),
        6 => prop_oneof![4 => 0..2_900_u64, 1 => 0..9_000_u64].prop_map(Act::Wait),
        1 => configure.prop_map(|(rule, size, flags)| Act::Configure(rule, size, flags)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Backends that drain, die, return, leave the file and come back; ports that are used again; silence; other rings, hashes, rules.
    #[test]
    fn no_connection_breaks_whose_backend_never_failed(
        way in prop::sample::select(vec![flag::HASH_FLOW, flag::HASH_ADDRESS, 0]),
        acts in prop::collection::vec(act(), 1..120),
    ) {
        let mut stage = Stage::new();
        stage.act(&Act::Configure(Rule::Adaptive, 13, way))?;
        for act in &acts {
            stage.act(act)?;
        }
    }
}
