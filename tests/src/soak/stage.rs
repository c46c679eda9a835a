//! The hosts, the services, and what is done to them.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::judge::Cause;
use super::tables::Goal;
use crate::edge::{Edge, Programs, join};
use crate::net::{Arms, Family, Process, Scratch, Topology, wait_until};
use crate::serve::Nginx;

/// Backends of every service.
pub const BACKENDS: usize = 6;
/// A backend's weight where no operator has said another.
pub const FILE_WEIGHT: u32 = 100;
/// As long as no connection is ever silent here, twice.
pub const DRAIN_TIME: Duration = Duration::from_secs(5);
/// Until something that was done must show.
const PATIENCE: Duration = Duration::from_secs(15);

/// A service of the soak.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// The family of its VIP and of its backends' addresses.
    pub family: Family,
    /// The last number of its VIP.
    pub vip: u8,
    lines: &'static str,
}

/// One of each that treats connections in its own way.
pub const SERVICES: [Kind; 3] = [
    Kind {
        name: "flow",
        family: Family::V4,
        vip: 10,
        lines: "forward = \"ipip\"\n",
    },
    Kind {
        name: "source",
        family: Family::V4,
        vip: 11,
        lines: "forward = \"ipip\"\nhash = \"source\"\n",
    },
    Kind {
        name: "six",
        family: Family::V6,
        vip: 12,
        lines: "forward = \"l2\"\n",
    },
];

impl Kind {
    /// Where its clients go.
    pub fn target(&self) -> SocketAddr {
        SocketAddr::new(Topology::vip(self.family, self.vip), 80)
    }
}

/// What the operator has said of a backend of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admin {
    /// Nothing.
    Enabled,
    /// It gets no new connections.
    Draining,
    /// It gets no packets.
    Disabled,
}

/// What a backend's server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// It answers.
    Runs,
    /// It was killed.
    Dead,
    /// It was stopped by a signal: its sockets take connections, and nothing answers.
    Frozen,
}

/// How another configuration is brought to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bring {
    /// The file of the command line is written, and SIGHUP sent.
    Reload,
    /// The file of the command line is written and applied.
    ApplyFile,
    /// Another file is applied, and the first one stays as it was.
    ApplyOther,
}

/// One thing that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, for so long that slots come to rest.
    Rest,
    /// An operator's word on a backend of a service.
    Admin(usize, usize, Admin),
    /// The same of all services.
    AdminAll(usize, Admin),
    /// A weight.
    Weight(usize, usize, u32),
    /// A backend's server.
    Server(usize, Server),
    /// Whether a backend is in the file.
    InFile(usize, bool, Bring),
    /// The daemon ends, by SIGKILL or by SIGTERM, and starts again.
    Restart(Signal),
}

/// What is known of a backend in one service.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// What the operator said.
    pub admin: Admin,
    /// In force.
    pub weight: u32,
}

/// What is wanted; [`Stage`] has it done.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// By service and backend.
    pub members: [[Member; BACKENDS]; SERVICES.len()],
    /// By backend.
    pub servers: [Server; BACKENDS],
    /// Which backends are in the file.
    pub in_file: [bool; BACKENDS],
    /// Since when a backend is not in the file.
    pub left: [Option<Instant>; BACKENDS],
}

impl Wanted {
    /// Everything in the file, enabled, at work.
    pub fn all() -> Self {
        let member = Member {
            admin: Admin::Enabled,
            weight: FILE_WEIGHT,
        };
        Self {
            members: [[member; BACKENDS]; SERVICES.len()],
            servers: [Server::Runs; BACKENDS],
            in_file: [true; BACKENDS],
            left: [None; BACKENDS],
        }
    }

    /// Whether a backend is to get new connections of a service.
    pub fn accepts(&self, service: usize, backend: usize) -> bool {
        self.in_file[backend]
            && self.servers[backend] == Server::Runs
            && self.members[service][backend].admin == Admin::Enabled
    }

    /// Those that do.
    pub fn accepting(&self, service: usize) -> Vec<usize> {
        (0..BACKENDS)
            .filter(|backend| self.accepts(service, *backend))
            .collect()
    }
}

/// The hosts and what runs on them.
pub struct Stage<'a> {
    net: &'a Topology,
    edge: Edge<'a>,
    servers: Vec<Nginx>,
    _joined: Vec<Process>,
    applied: u32,
    wanted: Wanted,
}

impl<'a> Stage<'a> {
    /// The hosts of the soak.
    ///
    /// # Errors
    /// If they cannot be made.
    pub fn hosts() -> Result<Topology> {
        Topology::new(Arms::Two, BACKENDS as u8)
    }

    /// Starts servers and daemon.
    ///
    /// # Errors
    /// If one does not come up.
    pub fn new(net: &'a Topology, programs: &'a Programs, scratch: &Scratch) -> Result<Self> {
        let vips: Vec<IpAddr> = SERVICES.iter().map(|service| service.target().ip()).collect();
        let (mut servers, mut joined) = (Vec::new(), Vec::new());
        for backend in &net.backends {
            servers.push(Nginx::start(&backend.host, scratch)?);
            joined.push(join(backend, programs, scratch, &vips)?);
        }
        let wanted = Wanted::all();
        let edge = Edge::start(net, programs, scratch, &file(net, &wanted))?;
        let stage = Self {
            net,
            edge,
            servers,
            _joined: joined,
            applied: 0,
            wanted,
        };
        stage.wait()?;
        Ok(stage)
    }

    /// What is wanted now.
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// A backend's name.
    pub fn name(&self, backend: usize) -> &str {
        self.net.backends[backend].name()
    }

    /// The number of the backend of this name.
    pub fn number(&self, name: &str) -> Option<usize> {
        self.net.backends.iter().position(|backend| backend.name() == name)
    }

    /// Where a backend's packets of a service go.
    ///
    /// # Errors
    /// If its host does not say its address.
    pub fn goal(&self, service: usize, backend: usize) -> Result<Goal> {
        let host = &self.net.backends[backend];
        Ok(match SERVICES[service].family {
            Family::V4 => Goal::Tunnel(host.address(Family::V4)),
            Family::V6 => Goal::Mac(host.host.mac("eth0")?),
        })
    }

    /// The daemon's process.
    ///
    /// # Errors
    /// If it does not run.
    pub fn daemon(&self) -> Result<u32> {
        self.edge.pid()
    }

    /// All that the daemon has written.
    pub fn log(&self) -> String {
        self.edge.log()
    }

    /// Does it, waits until it shows, and says what it is a cause of.
    ///
    /// # Errors
    /// If it does not show in time.
    pub fn act(&mut self, step: Step) -> Result<Vec<Cause>> {
        let begun = Instant::now();
        let mut causes = Vec::new();
        let mut cause = |service: Option<usize>, backend: usize, what| {
            causes.push(Cause {
                service,
                backend,
                from: begun,
                until: begun,
                what,
            });
        };
        match step {
            Step::Rest => std::thread::sleep(DRAIN_TIME * 3),
            Step::Admin(service, backend, admin) => {
                if admin == Admin::Disabled {
                    cause(Some(service), backend, "disabled");
                }
                self.admin(service, backend, admin)?;
            }
            Step::AdminAll(backend, admin) => {
                if admin == Admin::Disabled {
                    cause(None, backend, "disabled");
                }
                for service in 0..SERVICES.len() {
                    self.admin(service, backend, admin)?;
                }
            }
            Step::Weight(service, backend, weight) => {
                let (service_name, name) = (SERVICES[service].name, self.name(backend).to_owned());
                self.edge
                    .lbctl(&["backend", "weight", service_name, &name, &weight.to_string()])?;
                self.wanted.members[service][backend].weight = weight;
            }
            Step::Server(backend, server) => {
                if server != Server::Runs || self.wanted.servers[backend] == Server::Frozen {
                    cause(None, backend, if server == Server::Dead { "killed" } else { "frozen" });
                }
                self.server(backend, server)?;
            }
            Step::InFile(backend, present, bring) => {
                self.wanted.in_file[backend] = present;
                self.wanted.left[backend] = (!present).then(Instant::now);
                self.bring(bring)?;
                if present {
                    self.welcome(backend)?;
                }
            }
            Step::Restart(signal) => {
                if signal == Signal::SIGKILL {
                    self.edge.kill()?;
                } else {
                    self.edge.stop()?;
                }
                self.edge.start_again()?;
            }
        }
        self.wait().with_context(|| format!("after {step:?}\n{}", self.log()))?;
        let until = Instant::now();
        causes.iter_mut().for_each(|cause| cause.until = until);
        Ok(causes)
    }

    fn admin(&mut self, service: usize, backend: usize, admin: Admin) -> Result<()> {
        let verb = match admin {
            Admin::Enabled => "enable",
            Admin::Draining => "drain",
            Admin::Disabled => "disable",
        };
        let name = self.name(backend).to_owned();
        self.edge.lbctl(&["backend", verb, SERVICES[service].name, &name])?;
        self.wanted.members[service][backend].admin = admin;
        Ok(())
    }

    /// A backend that is back in the file begins as one that was always there.
    fn welcome(&mut self, backend: usize) -> Result<()> {
        let name = self.name(backend).to_owned();
        let api = self.edge.api()?;
        for (number, service) in SERVICES.iter().enumerate() {
            wait_until("the backend to be in force", PATIENCE, || {
                let shown = api.get(&format!("/v1/services/{}", service.name))?;
                let backends = shown["backends"].as_array().context("no backends")?;
                Ok(backends.iter().any(|backend| backend["name"] == *name))
            })?;
            self.edge
                .lbctl(&["backend", "weight", service.name, &name, &FILE_WEIGHT.to_string()])?;
            self.wanted.members[number][backend].weight = FILE_WEIGHT;
            self.admin(number, backend, Admin::Enabled)?;
        }
        Ok(())
    }

    fn server(&mut self, backend: usize, server: Server) -> Result<()> {
        let nginx = &mut self.servers[backend];
        let signal = |nginx: &Nginx, signal| -> Result<()> {
            let pid = nginx.pid().context("nginx does not run")?;
            Ok(kill(Pid::from_raw(pid.cast_signed()), signal)?)
        };
        match (self.wanted.servers[backend], server) {
            (_, Server::Dead) => nginx.kill()?,
            (Server::Dead, Server::Runs) => nginx.start_again(&self.net.backends[backend].host)?,
            (Server::Frozen, Server::Runs) => signal(nginx, Signal::SIGCONT)?,
            (Server::Runs, Server::Frozen) => signal(nginx, Signal::SIGSTOP)?,
            (before, after) => bail!("a server that is {before:?} does not become {after:?}"),
        }
        self.wanted.servers[backend] = server;
        Ok(())
    }

    fn bring(&mut self, bring: Bring) -> Result<()> {
        let text = file(self.net, &self.wanted);
        match bring {
            Bring::Reload => {
                self.edge.rewrite(&text)?;
                self.edge.signal(Signal::SIGHUP)?;
            }
            Bring::ApplyFile => {
                self.edge.rewrite(&text)?;
                let path = self.edge.configuration().display().to_string();
                self.edge.lbctl(&["apply", &path])?;
            }
            Bring::ApplyOther => {
                self.applied += 1;
                let name = format!("applied-{}.toml", self.applied);
                let path = self.edge.configuration().with_file_name(name);
                std::fs::write(&path, text)?;
                self.edge.lbctl(&["apply", &path.display().to_string()])?;
                std::fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Until each service's new connections go to those that are to have them, and the checks say so of all.
    fn wait(&self) -> Result<()> {
        let api = self.edge.api()?;
        let alive = |backend: &usize| self.wanted.in_file[*backend] && self.wanted.servers[*backend] == Server::Runs;
        let alive: Vec<usize> = (0..BACKENDS).filter(alive).collect();
        for (number, service) in SERVICES.iter().enumerate() {
            let expected = self.wanted.accepting(number);
            let in_file: Vec<usize> = (0..BACKENDS).filter(|backend| self.wanted.in_file[*backend]).collect();
            let (mut owners, mut up) = (Vec::new(), Vec::new());
            let done = wait_until(service.name, PATIENCE, || {
                let shown = api.get(&format!("/v1/services/{}", service.name))?;
                let backends = shown["backends"].as_array().context("no backends")?;
                let those = |has: fn(&Value) -> bool| -> Vec<usize> {
                    let named = backends.iter().filter(|backend| has(backend));
                    named
                        .filter_map(|backend| self.number(backend["name"].as_str()?))
                        .collect()
                };
                owners = those(|backend| backend["slots"].as_u64() > Some(0));
                up = those(|backend| backend["health"] == "up");
                // A file that was sent by SIGHUP is read beside the daemon's other work.
                Ok(owners == expected && up == alive && those(|_| true) == in_file)
            });
            done.with_context(|| {
                format!("slots are those of {owners:?}, to be those of {expected:?}; up are {up:?}, to be {alive:?}")
            })?;
        }
        Ok(())
    }
}

fn file(net: &Topology, wanted: &Wanted) -> String {
    let mut text = format!(
        "[node]\ninterfaces = [\"{}\"]\nhash_seed = \"0x5eed\"\n",
        Topology::EDGE_INTERFACE
    );
    for Kind {
        name,
        family,
        vip,
        lines,
    } in SERVICES
    {
        let vip = Topology::vip(family, vip);
        // Writing to a string cannot fail. The checks are patient: a machine that is busy is no cause.
        _ = write!(
            text,
            "\n[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nprotocol = \"tcp\"\nport = 80\ndrain_time = \"{}s\"\n{lines}\n\
             [service.health]\nkind = \"http\"\npath = \"/healthz\"\ninterval = \"400ms\"\ntimeout = \"400ms\"\nrise = 2\nfall = 4\n",
            DRAIN_TIME.as_secs()
        );
        for backend in net
            .backends
            .iter()
            .zip(wanted.in_file)
            .filter_map(|(one, present)| present.then_some(one))
        {
            let address = backend.address(family);
            _ = write!(
                text,
                "\n[[service.backend]]\nname = \"{}\"\naddress = \"{address}\"\n",
                backend.name()
            );
        }
    }
    text
}
