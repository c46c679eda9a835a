//! The balancer, loaded, with its tables filled from a configuration as the daemon fills them.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, anyhow};
use aya::programs::ProgramFd;
use lb_common::map::{Meta, Slot};
use lb_tests::packet::RECEIVER_MAC;
use lb_userspace::bpf::program::Balancer;
use lb_userspace::bpf::tables::Tables;
use lb_userspace::config;
use lb_userspace::daemon::kernel::settings_for;
use lb_userspace::model::{Model, Service};
use lb_userspace::object;
use lb_userspace::plan::apply::{apply, rows_used};
use lb_userspace::plan::make::plan;
use lb_userspace::plan::{Scope, WantedService};
use lb_userspace::ring::{Ring, Share};
use lb_userspace::simulate::{NEXT_HOP, OWN_MAC, SOURCE_V4, SOURCE_V6};
use lb_userspace::wish::{self, BackendNow, Way};

/// A forward mode as the configuration has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    L2,
    Ipip,
}

/// What state all slots are in, and whether flows are remembered without a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slots {
    /// Where the ring puts them.
    Stable,
    /// From one backend to another, and every flow may be remembered.
    Moving,
    /// The same, and as many flows may be remembered as by default.
    MovingBounded,
    /// Moved.
    Settled,
}

/// A configuration in a few numbers: services that are alike but for their VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scenario {
    pub(crate) mode: Mode,
    /// The VIPs' family.
    pub(crate) vip_v6: bool,
    /// The backends' family.
    pub(crate) backend_v6: bool,
    pub(crate) udp: bool,
    pub(crate) services: u32,
    /// Of each service.
    pub(crate) backends: u32,
    pub(crate) ring_size: u32,
    pub(crate) slots: Slots,
}

impl Scenario {
    /// One TCP service of 100 backends, with the ring that a service has unless told otherwise.
    pub(crate) const fn one(mode: Mode, vip_v6: bool, backend_v6: bool) -> Self {
        Self {
            mode,
            vip_v6,
            backend_v6,
            udp: false,
            services: 1,
            backends: 100,
            ring_size: config::DEFAULT_RING_SIZE,
            slots: Slots::Stable,
        }
    }

    /// By how many bytes a packet grows.
    pub(crate) const fn growth(&self) -> i32 {
        match (self.mode, self.backend_v6) {
            (Mode::L2, _) => 0,
            (Mode::Ipip, false) => 20,
            (Mode::Ipip, true) => 40,
        }
    }

    /// The configuration file.
    pub(crate) fn toml(&self) -> String {
        let mut text = "[node]\ninterfaces = [\"eth0\"]\nhash_seed = \"0x5eed\"\n".to_owned();
        let protocol = if self.udp { "udp" } else { "tcp" };
        let forward = match self.mode {
            Mode::L2 => "l2",
            Mode::Ipip => "ipip",
        };
        for service in 0..self.services {
            let vip = vip(self.vip_v6, service);
            _ = write!(
                text,
                "\n[[service]]\nname = \"s{service}\"\nvip = \"{vip}\"\nprotocol = \"{protocol}\"\nport = {PORT}\n\
                 forward = \"{forward}\"\nring_size = {}\n",
                self.ring_size
            );
            for backend in 0..self.backends {
                let address = address(self.backend_v6, backend);
                _ = write!(
                    text,
                    "[[service.backend]]\nname = \"b{backend}\"\naddress = \"{address}\"\n"
                );
            }
        }
        text
    }
}

/// The services' port.
pub(crate) const PORT: u16 = 443;

/// The VIP of a service: in a row, so that the wrapper can go through them.
pub(crate) fn vip(v6: bool, service: u32) -> IpAddr {
    if v6 {
        Ipv6Addr::from_bits((0x2001_0db8_0001 << 80) + u128::from(service) + 1).into()
    } else {
        Ipv4Addr::from_bits(0xAC10_0001 + service).into()
    }
}

fn address(v6: bool, backend: u32) -> IpAddr {
    if v6 {
        Ipv6Addr::from_bits((0xFD00 << 112) + u128::from(backend) + 1).into()
    } else {
        Ipv4Addr::from_bits(0x0A00_0001 + backend).into()
    }
}

/// Reads a configuration that the benchmark wrote.
pub(crate) fn model(toml: &str) -> Result<Model> {
    let parsed = config::parse(toml, "benchmark").map_err(|errors| anyhow!("{errors}"))?;
    Ok(parsed.model)
}

/// What the kernel should hold for a service whose backends are all up.
pub(crate) fn wanted(service: &Service) -> Result<WantedService> {
    let weights: Vec<u32> = service.backends.iter().map(|backend| backend.weight).collect();
    let ring = Ring::populate(&wish::members(service, &weights), service.ring_size);
    wanted_of(service, &ring)
}

/// As [`wanted`], of a ring that is there.
pub(crate) fn wanted_of(service: &Service, ring: &Ring) -> Result<WantedService> {
    let mut now = Vec::new();
    for backend in &service.backends {
        let way = Way {
            ifindex: 0,
            source_mac: OWN_MAC,
            destination_mac: NEXT_HOP,
            tunnel_source: Some(match backend.address {
                IpAddr::V4(_) => SOURCE_V4.into(),
                IpAddr::V6(_) => SOURCE_V6.into(),
            }),
        };
        let rewrite = wish::rewrite(service.vip, backend, &way).map_err(|problem| anyhow!(problem))?;
        now.push(BackendNow {
            serves: true,
            rewrite: Some(rewrite),
            share: Share::FULL,
        });
    }
    Ok(wish::wanted(service, ring, &now))
}

/// The loaded program with the scenario's tables.
pub(crate) struct Loaded {
    pub(crate) balancer: Balancer,
    pub(crate) program: ProgramFd,
}

/// Loads the program and fills its tables.
pub(crate) fn load(scenario: &Scenario) -> Result<Loaded> {
    let model = model(&scenario.toml())?;
    let wanted = model.services.iter().map(wanted).collect::<Result<Vec<_>>>()?;
    let mut balancer = Balancer::load(object::BALANCE, settings_for(&model, None)).context("root is needed")?;
    let plan = plan(&balancer.tables, &wanted, Scope::Everything)?;
    let meta = balancer.meta()?;
    balancer.set_meta(Meta {
        rows_used: rows_used(&plan),
        ..meta
    })?;
    apply(&plan, &balancer.tables, |row| balancer.raw_pair(row))?;
    unsettle(&balancer.tables, scenario);
    // As an interface's own address is found: at once.
    balancer.own_as_destination(&RECEIVER_MAC)?;
    let program = balancer.balance_mut()?.fd()?.try_clone()?;
    Ok(Loaded { balancer, program })
}

/// Puts the slots of every service into the scenario's state.
fn unsettle(tables: &Tables, scenario: &Scenario) {
    let next = |owner: u16| (owner + 1) % scenario.backends as u16;
    let state = |slot: Slot| match scenario.slots {
        Slots::Stable => slot,
        Slots::Moving | Slots::MovingBounded => Slot::moving(next(slot.current()), slot.current()),
        Slots::Settled => Slot::settled(slot.current()),
    };
    for place in 0..tables.lengths().services {
        let service = tables.service(place);
        if scenario.slots == Slots::Stable || service.word == 0 {
            continue;
        }
        let base = service.ring_base();
        (base..base + service.ring_size).for_each(|position| tables.set_slot(position, state(tables.slot(position))));
        if scenario.slots == Slots::Moving {
            tables.set_flags(place, service.flags, u32::MAX, service.idle);
        }
    }
}
