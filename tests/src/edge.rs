//! `lbd` and `lbctl` as processes on the hosts.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::api::Api;
use crate::net::{Backend, Family, Host, Process, Scratch, Topology, wait_until};
use crate::xdp::Mode;

/// Where the programs under test are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The daemon.
    pub lbd: PathBuf,
    /// Its client.
    pub lbctl: PathBuf,
}

impl Programs {
    /// Those that `LBD_BIN` and `LBCTL_BIN` name, else the workspace's release builds. An error if there are none.
    pub fn find() -> Result<Self> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
        let find = |variable: &str, name: &str| {
            let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
            let built = target.join("release").join(name);
            let path = std::env::var_os(variable).map_or(built, PathBuf::from);
            // Commands on hosts start in `/`.
            path.canonicalize()
                .with_context(|| format!("no {name} at {}: run `cargo xtask build`", path.display()))
        };
        Ok(Self {
            lbd: find("LBD_BIN", "lbd")?,
            lbctl: find("LBCTL_BIN", "lbctl")?,
        })
    }
}

/// One service of a configuration.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its address.
    pub vip: IpAddr,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Its port.
    pub port: u16,
    /// The forward mode as the configuration names it.
    pub forward: &'static str,
    /// The family of the backends' addresses.
    pub backend_family: Family,
    /// Lines of the service's `health` table; nothing: no checks.
    pub health: Option<&'static str>,
}

/// HTTP checks every 200 ms, three of which must fail: what the demo and the failover's test use.
pub const QUICK_HTTP_CHECKS: &str = r#"kind = "http"
path = "/healthz"
interval = "200ms"
timeout = "100ms"
rise = 2
fall = 3
"#;

/// A TCP service for every forward mode with every pair of families that it has.
pub fn every_mode(health: &'static str) -> Vec<Service> {
    use Family::{V4, V6};
    let modes = [
        ("l2", V4, V4),
        ("l2", V6, V6),
        ("ipip", V4, V4),
        ("ipip", V4, V6),
        ("ipip", V6, V4),
        ("ipip", V6, V6),
    ];
    let service = |(number, (forward, family, backend_family)): (u8, (&'static str, Family, Family))| Service {
        name: match forward {
            "l2" => format!("l2-{family:?}").to_lowercase(),
            _ => format!("{forward}-{family:?}-in-{backend_family:?}").to_lowercase(),
        },
        vip: Topology::vip(family, number),
        protocol: "tcp",
        port: 80,
        forward,
        backend_family,
        health: Some(health),
    };
    (10..).zip(modes).map(service).collect()
}

/// The configuration of an edge with these services, each with all backends of the topology.
pub fn configuration(net: &Topology, services: &[Service]) -> String {
    let mut text = format!(
        "[node]\ninterfaces = [\"{}\"]\nhash_seed = \"0x5eed\"\n",
        Topology::EDGE_INTERFACE
    );
    for service in services {
        let Service {
            name,
            vip,
            protocol,
            port,
            forward,
            ..
        } = service;
        // Writing to a string cannot fail.
        _ = write!(
            text,
            "\n[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nprotocol = \"{protocol}\"\nport = {port}\nforward = \"{forward}\"\n"
        );
        if let Some(health) = service.health {
            _ = write!(text, "\n[service.health]\n{health}");
        }
        for backend in &net.backends {
            let address = backend.address(service.backend_family);
            _ = write!(
                text,
                "\n[[service.backend]]\nname = \"{}\"\naddress = \"{address}\"\n",
                backend.name()
            );
        }
    }
    text
}

/// A running `lbd` on the topology's edge.
#[derive(Debug)]
pub struct Edge<'a> {
    host: &'a Host,
    programs: &'a Programs,
    configuration: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

impl<'a> Edge<'a> {
    /// Starts it with this configuration and waits until it answers `lbctl`.
    pub fn start(net: &'a Topology, programs: &'a Programs, scratch: &Scratch, configuration: &str) -> Result<Self> {
        let mut edge = Self {
            host: &net.edge,
            programs,
            configuration: scratch.write("lbd.toml", configuration)?,
            log: scratch.path().join("lbd.log"),
            process: None,
        };
        edge.start_again()?;
        Ok(edge)
    }

    /// Starts it with the same file after [`Edge::kill`].
    pub fn start_again(&mut self) -> Result<()> {
        let mut command = self.host.command(&self.programs.lbd);
        command.arg("run").arg("--config").arg(&self.configuration);
        self.process = Some(self.host.spawn(command, &self.log)?);
        wait_until("lbd to answer lbctl", Duration::from_secs(20), || {
            if let Some(process) = &mut self.process {
                process.check()?;
            }
            Ok(self.lbctl(&["status"]).is_ok())
        })
        .with_context(|| self.log())
    }

    /// Kills it (SIGKILL): what it pinned goes on.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.kill())
    }

    /// Asks it to end (SIGTERM) and waits for that.
    pub fn stop(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => {
                let status = process.stop(Duration::from_secs(10))?;
                if !status.success() {
                    bail!("lbd ended with {status} after SIGTERM\n{}", self.log());
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Writes another configuration file; the daemon reads it when it is started again, or by SIGHUP.
    pub fn rewrite(&self, configuration: &str) -> Result<()> {
        let text = Mode::of_run()?.configure(configuration);
        std::fs::write(&self.configuration, text.as_bytes()).context("cannot write the configuration")
    }

    /// Where the configuration file is.
    pub fn configuration(&self) -> &Path {
        &self.configuration
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.as_ref().map_or(Ok(()), |process| process.signal(signal))
    }

    /// The daemon's process; an error if it does not run.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("lbd does not run")?.pid())
    }

    /// The daemon's API without `lbctl`.
    pub fn api(&self) -> Result<Api> {
        let process = self.process.as_ref().context("lbd does not run")?;
        Ok(Api::of(process.pid()))
    }

    /// Applies a configuration; an error with the daemon's words if it refuses.
    pub fn apply(&self, configuration: &str) -> Result<Value> {
        let text = Mode::of_run()?.configure(configuration);
        match self.api()?.post("/v1/apply?file=applied.toml", &text)? {
            (200, report) => Ok(report),
            (status, error) => bail!("status {status}: {error}"),
        }
    }

    /// Runs `lbctl` with these arguments and returns what it printed.
    pub fn lbctl(&self, args: &[&str]) -> Result<String> {
        self.host.run(&self.programs.lbctl, args)
    }

    /// As [`Edge::lbctl`], with `-o json`.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let text = self.lbctl(&[&["-o", "json"], args].concat())?;
        serde_json::from_str(&text).with_context(|| format!("lbctl {}: not JSON: {text}", args.join(" ")))
    }

    /// Waits until all these backends of a service are up, and no others.
    pub fn wait_up(&self, service: &str, names: &[&str], patience: Duration) -> Result<()> {
        let mut seen = Vec::new();
        let waited = wait_until(&format!("{service}: {names:?} to be up"), patience, || {
            seen = self.up(service)?;
            Ok(seen == names)
        });
        waited.with_context(|| format!("up are {seen:?}\n{}", self.log()))
    }

    /// The names of a service's backends that are up and have slots, sorted.
    pub fn up(&self, service: &str) -> Result<Vec<String>> {
        let shown = self.json(&["service", "show", service])?;
        let backends = shown["backends"].as_array().context("service show: no backends")?;
        let serves = |backend: &&Value| backend["health"] == "up" && backend["slots"].as_u64() > Some(0);
        let names = backends
            .iter()
            .filter(serves)
            .filter_map(|backend| Some(backend["name"].as_str()?.to_owned()));
        let mut names: Vec<_> = names.collect();
        names.sort();
        Ok(names)
    }

    /// The backend that a client's flow has, asked of the loaded program.
    pub fn lookup(&self, service: &str, client: std::net::SocketAddr) -> Result<String> {
        let answer = self.json(&["lookup", "--service", service, "--src", &client.to_string()])?;
        answer["backend"]
            .as_str()
            .map(str::to_owned)
            .with_context(|| format!("lookup of {client}: {answer}"))
    }

    /// All that the daemon has written.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_else(|error| error.to_string())
    }
}

/// Starts `lbd backend` on a backend and waits until the VIPs are its own and the decapsulator is attached.
pub fn join(backend: &Backend, programs: &Programs, scratch: &Scratch, vips: &[IpAddr]) -> Result<Process> {
    let host = &backend.host;
    let mut command = host.command(&programs.lbd);
    command.args(["backend", "--interface", "eth0"]);
    command.args(Mode::of_run()?.backend_arguments());
    for vip in vips {
        command.arg("--vip").arg(vip.to_string());
    }
    let mut process = host.spawn(command, &scratch.path().join(format!("backend-{}.log", host.name())))?;
    let ready = wait_until("lbd backend", Duration::from_secs(20), || {
        process.check()?;
        let addresses = host.ip("-o addr show dev lo")?;
        let attached = host.ip("link show dev eth0")?.contains("xdp");
        Ok(attached && vips.iter().all(|vip| addresses.contains(&format!(" {vip}/"))))
    });
    ready.with_context(|| process.log())?;
    Ok(process)
}
