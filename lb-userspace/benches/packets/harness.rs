//! The wrapper in the kernel, and a measurement with it.

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::bench::{PACKETS, TARGET, WRAPPER, Wrapper, bit};
use lb_userspace::object;
use serde::Serialize;

use crate::stats::Spread;

/// `enum xdp_action` of `linux/bpf.h`.
pub(crate) mod verdict {
    pub(crate) const PASS: u32 = 2;
    pub(crate) const TX: u32 = 3;
}

/// How long and how a measurement is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Packets of one round of one program.
    pub(crate) packets: u32,
    /// Rounds that count; one before them does not.
    pub(crate) rounds: usize,
    /// Write single fields, not words: see [`bit::FIELDS`].
    pub(crate) fields: bool,
}

/// The packets that a program gets.
#[derive(Clone, Debug)]
pub(crate) struct Traffic {
    /// The first of them, an Ethernet frame.
    pub(crate) packet: Vec<u8>,
    /// Number of flows: 1, a larger power of two, or [`NEW_FLOWS`].
    pub(crate) flows: u64,
    /// VIPs in a row that the flows go to.
    pub(crate) destinations: u32,
}

/// Every packet is of a flow never seen before.
pub(crate) const NEW_FLOWS: u64 = 1 << 32;

impl Traffic {
    /// Whether it is IPv6, by its EtherType.
    pub(crate) fn v6(&self) -> bool {
        self.packet.get(12..14) == Some(&[0x86, 0xDD])
    }
}

/// A program, and what it is to do with each packet.
pub(crate) struct Target {
    pub(crate) program: ProgramFd,
    pub(crate) verdict: u32,
    /// By how many bytes it grows the packet.
    pub(crate) growth: i32,
}

/// A floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Floor {
    Parse,
    OverV4,
    OverV6,
}

/// What a measurement found for one program, in nanoseconds a packet.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Cost {
    /// As the kernel reports it, the wrapper included.
    pub(crate) raw: Spread,
    /// Without the wrapper and without undoing the growth.
    pub(crate) net: Spread,
    /// Packets with another verdict or growth than expected: the figure is not what it says.
    pub(crate) astray: u64,
}

/// What a measurement found.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// The wrapper around an empty program.
    pub(crate) wrapper: Spread,
    /// One `bpf_xdp_adjust_head`.
    pub(crate) undo: Spread,
    /// The floor.
    pub(crate) floor: Cost,
    /// The programs, as they were given.
    pub(crate) programs: Vec<Cost>,
}

/// The wrapper, loaded for programs that take fragments or for such as do not.
pub(crate) struct Harness {
    ebpf: Ebpf,
    target: ProgramArray<MapData>,
    wrapper: Array<MapData, Wrapper>,
    frags: bool,
    /// Packets so far: new flows go on from there.
    packets: u64,
    pub(crate) effort: Effort,
}

impl Harness {
    pub(crate) fn load(frags: bool, effort: Effort) -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .load(object::BENCH)
            .context("the kernel refuses the benchmark's maps; root is needed")?;
        let target = ProgramArray::try_from(ebpf.take_map(TARGET).context("the object has no TARGET")?)?;
        let wrapper = Array::try_from(ebpf.take_map(WRAPPER).context("the object has no WRAPPER")?)?;
        let mut harness = Self {
            ebpf,
            target,
            wrapper,
            frags,
            packets: 0,
            effort,
        };
        for name in ["wrapper", "nothing", "floor_parse", "floor_v4", "floor_v6"] {
            let name = harness.name(name);
            let program: &mut Xdp = harness
                .ebpf
                .program_mut(&name)
                .with_context(|| format!("the object has no {name}"))?
                .try_into()?;
            program.load().with_context(|| format!("the kernel refuses {name}"))?;
        }
        Ok(harness)
    }

    /// Whether a program can be called by this wrapper.
    pub(crate) fn takes(&mut self, program: &ProgramFd) -> bool {
        self.target.set(0, program, 0).is_ok()
    }

    fn name(&self, name: &str) -> String {
        format!("{name}{}", if self.frags { "_frags" } else { "" })
    }

    fn own(&self, name: &str, growth: i32) -> Result<Target> {
        Ok(Target {
            program: self.program(&self.name(name))?.fd()?.try_clone()?,
            verdict: verdict::TX,
            growth,
        })
    }

    fn program(&self, name: &str) -> Result<&Xdp> {
        let program = self
            .ebpf
            .program(name)
            .with_context(|| format!("the object has no {name}"))?;
        Ok(program.try_into()?)
    }

    /// Measures programs under the same packets: the empty program, the priced `bpf_xdp_adjust_head`, the floor and the programs
    /// take turns, round by round, forth and back.
    pub(crate) fn measure(&mut self, traffic: &Traffic, floor: Floor, programs: &[&Target]) -> Result<Measured> {
        let nothing = self.own("nothing", 0)?;
        let floor = match floor {
            Floor::Parse => self.own("floor_parse", 0)?,
            Floor::OverV4 => self.own("floor_v4", 20)?,
            Floor::OverV6 => self.own("floor_v6", 40)?,
        };
        let mut turns = vec![(&nothing, 0), (&nothing, bit::PAIR), (&floor, 0)];
        turns.extend(programs.iter().map(|program| (*program, 0)));
        let mut times = vec![Vec::new(); turns.len()];
        let mut astray = vec![0; turns.len()];
        for round in 0..=self.effort.rounds {
            let mut order: Vec<usize> = (0..turns.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for turn in order {
                let (target, bits) = turns[turn];
                let (ns, others) = self.round(target, bits, traffic)?;
                astray[turn] += others;
                if round > 0 {
                    times[turn].push(ns);
                }
            }
        }
        let raw: Vec<Spread> = times.into_iter().map(Spread::of).collect();
        let wrapper = raw[0];
        let undo = raw[1].less(wrapper.median).times(0.5);
        let cost = |turn: usize| {
            let undone = if turns[turn].0.growth == 0 { 0.0 } else { undo.median };
            Cost {
                raw: raw[turn],
                net: raw[turn].less(wrapper.median + undone),
                astray: astray[turn],
            }
        };
        Ok(Measured {
            wrapper,
            undo,
            floor: cost(2),
            programs: (3..turns.len()).map(cost).collect(),
        })
    }

    /// One round of one program: nanoseconds a packet, and how many packets did not go the way meant.
    fn round(&mut self, target: &Target, bits: u32, traffic: &Traffic) -> Result<(f64, u64)> {
        self.target
            .set(0, &target.program, 0)
            .context("the kernel does not let the wrapper call this program")?;
        let before = self.packets;
        self.wrapper.set(0, self.settings(target, bits, traffic), 0)?;
        let runs = self.effort.packets / PACKETS;
        let result = self.program(&self.name("wrapper"))?.test_run(TestRunOptions {
            data_in: Some(&traffic.packet),
            repeat: runs,
            ..TestRunOptions::new()
        })?;
        let after: Wrapper = self.wrapper.get(&0, 0)?;
        if result.return_value != verdict::TX {
            bail!(
                "the wrapper stopped after {} packets: the packet of {} bytes is too short, or was not grown back",
                after.packets - before,
                traffic.packet.len()
            );
        }
        self.packets = after.packets;
        let expected = u64::from(runs * PACKETS);
        let right = after.verdicts[target.verdict as usize & 7];
        let others = expected.abs_diff(right).max(after.other_growth);
        Ok((result.duration.as_nanos() as f64 / f64::from(PACKETS), others))
    }

    fn settings(&self, target: &Target, bits: u32, traffic: &Traffic) -> Wrapper {
        let mut head = [0; 64];
        for (to, from) in head.iter_mut().zip(&traffic.packet) {
            *to = *from;
        }
        let family = if traffic.v6() { bit::IPV6 } else { 0 };
        let fields = if self.effort.fields { bit::FIELDS } else { 0 };
        Wrapper {
            head: bytemuck::cast(head),
            packets: self.packets,
            verdicts: [0; 8],
            other_growth: 0,
            growth: target.growth,
            first_flow: 0,
            flow_mask: (traffic.flows - 1) as u32,
            stride: 0x9E37_79B1,
            destinations: traffic.destinations,
            bits: bits | family | fields,
        }
    }
}
