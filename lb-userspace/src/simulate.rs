//! `lbctl simulate`: a capture through the real program, without daemon or interface.
//!
//! The program is loaded with maps of its own, filled as a daemon would fill them from the configuration with every backend up, and
//! each packet is run through `BPF_PROG_TEST_RUN`, in order. What a network would tell is fixed: every next hop is
//! [`NEXT_HOP`], the interface's own address [`OWN_MAC`], a tunnel's source [`SOURCE_V4`] or [`SOURCE_V6`], unless the
//! configuration says otherwise. There is no interface that a frame comes by: every one is for this host that is not for a group, or those
//! alone that are for the address named.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lb_common::encap::Mac;
use lb_common::map::{Meta, ServiceKey};
use lb_common::parse::parse;
use lb_common::reason::Reason;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::{DataLink, PcapError, TsResolution};
use thiserror::Error;

use crate::api::report::{SimulatedPacket, Verdict};
use crate::bpf::error::KernelError;
use crate::bpf::program::Balancer;
use crate::cli::args::Simulation;
use crate::config::{self, Errors};
use crate::daemon::kernel::settings_for;
use crate::model::{Model, identity};
use crate::object;
use crate::plan::apply::{apply, rows_used};
use crate::plan::layout::Layout;
use crate::plan::make::plan;
use crate::plan::{PlanError, Scope, WantedService};
use crate::ring::{Ring, Share};
use crate::wish::{self, BackendNow, Way};

/// The Ethernet address of every next hop, where `gateway_mac` is absent.
pub const NEXT_HOP: Mac = [0x02, 0, 0, 0, 0, 0x01];
/// The Ethernet address that packets leave with.
pub const OWN_MAC: Mac = [0x02, 0, 0, 0, 0, 0x02];
/// A tunnel's source, where `tunnel_source_v4` is absent: of TEST-NET-2 (RFC 5737).
pub const SOURCE_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// A tunnel's source, where `tunnel_source_v6` is absent: of the documentation prefix (RFC 3849).
pub const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// Why there is no simulation.
#[derive(Debug, Error)]
pub enum SimulateError {
    /// The configuration.
    #[error("{0}")]
    Config(Errors),
    /// `--down` names nobody.
    #[error("--down {service}/{backend}: {problem}")]
    Down {
        /// The service.
        service: String,
        /// The backend.
        backend: String,
        /// What is unknown of it.
        problem: &'static str,
    },
    /// The header bytes of a backend.
    #[error("service {service:?}: backend {backend:?}: {problem}")]
    Rewrite {
        /// The service.
        service: String,
        /// The backend.
        backend: String,
        /// Why there are none.
        problem: String,
    },
    /// The kernel refused.
    #[error(
        "{0}; simulate runs the real program in the kernel and needs root (CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON)"
    )]
    Kernel(#[from] KernelError),
    /// A table is full.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A capture cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A capture is not one.
    #[error("{path}: packet {number}: {problem}")]
    Capture {
        /// Which.
        path: PathBuf,
        /// Which packet, from 1; 0: the capture's own header.
        number: usize,
        /// What is wrong.
        problem: String,
    },
    /// The kernel runs no frame this short.
    #[error("{path}: packet {number} has {length} bytes; an Ethernet frame has 14 at least")]
    TooShort {
        /// Which capture.
        path: PathBuf,
        /// Which packet, from 1.
        number: usize,
        /// Its length.
        length: usize,
    },
}

/// Runs a capture through the program.
///
/// # Errors
/// If the configuration, the capture or the kernel does not allow it; packets before a broken one are not reported then.
pub fn simulate(arguments: &Simulation, toml: &str) -> Result<Vec<SimulatedPacket>, SimulateError> {
    let name = arguments.config.display().to_string();
    let model = config::parse(toml, &name).map_err(SimulateError::Config)?.model;
    let down = down(arguments, &model)?;
    let mut simulator = Simulator::new(&model, &down, arguments.mac)?;
    let mut packets = Vec::new();
    let mut leaving = Vec::new();
    for (number, (at, frame)) in read(&arguments.input)?.into_iter().enumerate() {
        if frame.len() < 14 {
            let (path, length) = (arguments.input.clone(), frame.len());
            return Err(SimulateError::TooShort {
                path,
                number: number + 1,
                length,
            });
        }
        let (packet, out) = simulator.run(&frame)?;
        if matches!(packet.verdict, Verdict::Tx | Verdict::Redirect) {
            leaving.push((at, out));
        }
        packets.push(packet);
    }
    if let Some(path) = &arguments.output {
        write(path, &leaving)?;
    }
    Ok(packets)
}

/// The loaded program and what its rows mean.
struct Simulator {
    balancer: Balancer,
    services: HashMap<ServiceKey, String>,
    /// Service and backend by row.
    rows: HashMap<u32, (String, String)>,
    /// The host's own address; nothing: every frame that is for no group is its own.
    mac: Option<Mac>,
}

impl Simulator {
    fn new(model: &Model, down: &HashSet<(String, String)>, mac: Option<Mac>) -> Result<Self, SimulateError> {
        let wanted: Vec<WantedService> = wanted(model, down)?;
        let mut balancer = Balancer::load(object::BALANCE, settings_for(model, None))?;
        let plan = plan(&balancer.tables, &wanted, Scope::Everything)?;
        let meta = balancer.meta()?;
        balancer.set_meta(Meta {
            rows_used: rows_used(&plan),
            ..meta
        })?;
        apply(&plan, &balancer.tables, |row| balancer.raw_pair(row))?;
        if let Some(mac) = mac {
            balancer.own_as_destination(&mac)?;
        }
        let layout = Layout::read(&balancer.tables);
        let mut rows = HashMap::new();
        for service in &model.services {
            let Some(installed) = layout.services.get(&service.key()) else {
                continue;
            };
            for backend in &service.backends {
                let number = installed
                    .identities
                    .iter()
                    .position(|one| *one == identity(&backend.name));
                if let Some(number) = number {
                    let row = installed.entry.backend_base() + number as u32;
                    rows.insert(row, (service.name.clone(), backend.name.clone()));
                }
            }
        }
        let services = model
            .services
            .iter()
            .map(|service| (service.key(), service.name.clone()))
            .collect();
        Ok(Self {
            balancer,
            services,
            rows,
            mac,
        })
    }

    /// Runs one frame; tells what its counters say, not what should have happened.
    fn run(&mut self, frame: &[u8]) -> Result<(SimulatedPacket, Vec<u8>), SimulateError> {
        if self.mac.is_none() {
            self.balancer.own_as_destination(frame)?;
        }
        let expected = self.balancer.run_lookup(frame)?.ok();
        let before = self.balancer.reasons()?;
        let row_before = expected.map(|row| self.balancer.raw_pair(row)).transpose()?;
        let (verdict, out) = self.balancer.run_balance(frame)?;
        let after = self.balancer.reasons()?;
        let counted = Reason::ALL
            .iter()
            .find(|reason| after[**reason as usize] != before[**reason as usize]);
        let reason = counted.copied().unwrap_or(Reason::BrokenTable);
        let backend = match (expected, row_before) {
            (Some(row), Some(before)) if self.balancer.raw_pair(row)? != before => self.rows.get(&row),
            _ => None,
        };
        let service = match (backend, parse(frame)) {
            (Some((service, _)), _) => Some(service),
            (None, Ok(candidate)) => self.services.get(&candidate.key),
            (None, Err(_)) => None,
        };
        let packet = SimulatedPacket {
            verdict: verdict_of(verdict),
            reason: reason.name().to_owned(),
            service: service.cloned(),
            backend: backend.map(|(_, backend)| backend.clone()),
            len_in: frame.len() as u32,
            len_out: out.len() as u32,
        };
        Ok((packet, out))
    }
}

/// `enum xdp_action` of `linux/bpf.h`; what is none of these, the kernel drops.
fn verdict_of(action: u32) -> Verdict {
    match action {
        2 => Verdict::Pass,
        3 => Verdict::Tx,
        4 => Verdict::Redirect,
        _ => Verdict::Drop,
    }
}

fn wanted(model: &Model, down: &HashSet<(String, String)>) -> Result<Vec<WantedService>, SimulateError> {
    let mut wanted = Vec::new();
    for service in &model.services {
        let weights: Vec<u32> = service.backends.iter().map(|backend| backend.weight).collect();
        let ring = Ring::populate(&wish::members(service, &weights), service.ring_size);
        let mut now = Vec::new();
        for backend in &service.backends {
            let node = &model.node;
            let way = Way {
                ifindex: 0,
                source_mac: OWN_MAC,
                destination_mac: node.gateway_mac.unwrap_or(NEXT_HOP),
                tunnel_source: Some(match backend.address {
                    IpAddr::V4(_) => node.tunnel_source_v4.unwrap_or(SOURCE_V4).into(),
                    IpAddr::V6(_) => node.tunnel_source_v6.unwrap_or(SOURCE_V6).into(),
                }),
            };
            let rewrite = wish::rewrite(service.vip, backend, &way).map_err(|problem| SimulateError::Rewrite {
                service: service.name.clone(),
                backend: backend.name.clone(),
                problem,
            })?;
            let is_down = down.contains(&(service.name.clone(), backend.name.clone()));
            let share = if is_down { Share::OUT } else { Share::FULL };
            now.push(BackendNow {
                rewrite: Some(rewrite),
                share,
                serves: !is_down,
            });
        }
        wanted.push(wish::wanted(service, &ring, &now));
    }
    Ok(wanted)
}

fn down(arguments: &Simulation, model: &Model) -> Result<HashSet<(String, String)>, SimulateError> {
    let mut down = HashSet::new();
    for name in &arguments.down {
        let unknown = |problem| SimulateError::Down {
            service: name.service.clone(),
            backend: name.backend.clone(),
            problem,
        };
        let service = model.services.iter().find(|service| service.name == name.service);
        let service = service.ok_or_else(|| unknown("the configuration has no such service"))?;
        if !service.backends.iter().any(|backend| backend.name == name.backend) {
            return Err(unknown("the service has no such backend"));
        }
        down.insert((name.service.clone(), name.backend.clone()));
    }
    Ok(down)
}

type Frames = Vec<(Duration, Vec<u8>)>;

fn read(path: &Path) -> Result<Frames, SimulateError> {
    let file = File::open(path).map_err(|source| SimulateError::File {
        path: path.to_owned(),
        source,
    })?;
    let broken = |number: usize, error: PcapError| SimulateError::Capture {
        path: path.to_owned(),
        number,
        problem: match (number, error) {
            (0, error) => format!("not a pcap file ({error}); of another kind, `tcpdump -r A -w B` makes one"),
            (_, error) => error.to_string(),
        },
    };
    let mut reader = PcapReader::new(BufReader::new(file)).map_err(|error| broken(0, error))?;
    if reader.header().datalink != DataLink::ETHERNET {
        let problem = format!(
            "its packets are {:?}, and the program wants Ethernet frames",
            reader.header().datalink
        );
        return Err(SimulateError::Capture {
            path: path.to_owned(),
            number: 0,
            problem,
        });
    }
    let per_fraction = match reader.header().ts_resolution {
        TsResolution::MicroSecond => 1000,
        TsResolution::NanoSecond => 1,
    };
    let mut frames = Vec::new();
    // Raw: checked, the reader would refuse packets that the capture has cut ("tcpdump -s").
    while let Some(packet) = reader.next_raw_packet() {
        let packet = packet.map_err(|error| broken(frames.len() + 1, error))?;
        let fraction = Duration::from_nanos(u64::from(packet.ts_frac) * per_fraction);
        let at = Duration::from_secs(packet.ts_sec.into()) + fraction;
        frames.push((at, packet.data.into_owned()));
    }
    Ok(frames)
}

/// What tcpdump and Wireshark read: more than the longest IP packet in a tunnel.
const LONGEST_FRAME: u32 = 262_144;

fn write(path: &Path, frames: &[(Duration, Vec<u8>)]) -> Result<(), SimulateError> {
    let failed = |source: io::Error| SimulateError::File {
        path: path.to_owned(),
        source,
    };
    let other = |error: PcapError| match error {
        PcapError::IoError(error) => failed(error),
        error => failed(io::Error::other(error)),
    };
    let file = BufWriter::new(File::create(path).map_err(failed)?);
    let header = PcapHeader {
        datalink: DataLink::ETHERNET,
        snaplen: LONGEST_FRAME,
        ..PcapHeader::default()
    };
    let mut writer = PcapWriter::with_header(file, header).map_err(other)?;
    for (at, frame) in frames {
        writer
            .write_packet(&PcapPacket::new(*at, frame.len() as u32, frame))
            .map_err(other)?;
    }
    writer.into_writer().flush().map_err(failed)
}
