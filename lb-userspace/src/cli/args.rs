//! What can be typed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use lb_common::encap::Mac;

use crate::api::DEFAULT_SOCKET;

/// Drives the load balancer lbd.
#[derive(Debug, Parser)]
#[command(
    name = "lbctl",
    version,
    about,
    infer_subcommands = false,
    arg_required_else_help = true
)]
#[command(after_help = "Exit status: 0 done, 1 failed, 2 wrong usage.")]
pub struct Arguments {
    /// The daemon's socket
    #[arg(long, global = true, env = "LBCTL_SOCKET", default_value = DEFAULT_SOCKET, value_name = "PATH")]
    pub socket: PathBuf,
    /// Tables for people, or JSON for programs
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Colours; "auto": on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_enum, default_value_t = When::Auto, value_name = "WHEN")]
    pub color: When,
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Checks a configuration file without a daemon; prints every error
    Check {
        /// The file; "-": standard input
        file: PathBuf,
    },
    /// Shows what a configuration file would change, and changes nothing
    Plan {
        /// The file; "-": standard input
        file: PathBuf,
    },
    /// Makes the running daemon serve a configuration file: all of it or nothing
    Apply {
        /// The file; "-": standard input
        file: PathBuf,
    },
    /// Has the daemon read its own file again: all of it counts or nothing, and errors are printed
    Reload,
    /// Shows the node: configuration, interfaces, traffic, capacity, warnings
    Status,
    /// Shows services
    #[command(subcommand)]
    Service(ServiceVerb),
    /// Overrides what the file says of a backend; it holds until it is taken back
    #[command(subcommand)]
    Backend(BackendVerb),
    /// Confirms a failover that waits for an operator (failover = "manual")
    Failover {
        /// The service
        service: String,
        /// The backend; all that wait, unless told
        backend: Option<String>,
    },
    /// Lets backends that are up again and held out serve
    Failback {
        /// The service
        service: String,
        /// The backend; all that wait, unless told
        backend: Option<String>,
    },
    /// Shows packets and bytes by service and backend, and packets by reason
    Stats {
        /// Shows them again every so many seconds (1 unless told), with rates
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1",
              value_parser = clap::value_parser!(u64).range(1..=3600))]
        watch: Option<u64>,
    },
    /// Shows what has happened: one line for every change
    Events {
        /// Goes on with what happens from now on, until it is interrupted
        #[arg(short, long)]
        follow: bool,
        /// Only what happened within this time, such as 10m or 2h
        #[arg(long, value_name = "TIME", value_parser = duration)]
        since: Option<Duration>,
        /// Only what is about this service
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// Only the latest so many; 0: all that the daemon has
        #[arg(short = 'n', long, default_value_t = 100, value_name = "NUMBER")]
        lines: usize,
    },
    /// Asks the loaded program which backend a flow has
    Lookup {
        /// The service
        #[arg(long, value_name = "NAME")]
        service: String,
        /// The client's address and port
        #[arg(long, value_name = "IP:PORT")]
        src: SocketAddr,
    },
    /// Runs a capture's packets through the program, without daemon or interface (needs root)
    Simulate(Simulation),
    /// Prints a completion script: lbctl completions bash > /etc/bash_completion.d/lbctl
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// What to show of the services.
#[derive(Debug, Subcommand)]
pub enum ServiceVerb {
    /// Lists all services with their health and rates
    List,
    /// Shows one service with its backends
    Show {
        /// The service
        name: String,
    },
}

/// What to say of a backend.
#[derive(Debug, Subcommand)]
pub enum BackendVerb {
    /// Gives it no new connections
    Drain {
        /// Which one
        #[command(flatten)]
        backend: BackendArguments,
        /// Disables it after this time, such as 10m, or as soon as it has no connection left
        #[arg(long, value_name = "TIME", value_parser = duration)]
        timeout: Option<Duration>,
    },
    /// Takes back a drain or disable
    Enable(BackendArguments),
    /// Gives it no packets at once
    Disable(BackendArguments),
    /// Gives it another weight than the file's
    Weight {
        /// Which one
        #[command(flatten)]
        backend: BackendArguments,
        /// The weight, 0 to 65535; 0: no traffic
        #[arg(value_parser = clap::value_parser!(u32).range(0..=65_535))]
        weight: u32,
        /// Moves the weight there step by step within this time, such as 10m
        #[arg(long, value_name = "TIME", value_parser = duration)]
        over: Option<Duration>,
    },
    /// Takes back every override: all as the file has it
    Reset(BackendArguments),
}

/// A backend, as two arguments.
#[derive(Debug, Args)]
pub struct BackendArguments {
    /// The service
    pub service: String,
    /// The backend
    pub backend: String,
}

/// What to simulate.
#[derive(Clone, Debug, Args)]
pub struct Simulation {
    /// The configuration file; "-": standard input
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// A backend that is down; may be given several times
    #[arg(long, value_name = "SERVICE/BACKEND")]
    pub down: Vec<BackendName>,
    /// The packets, as a pcap file
    #[arg(long = "in", value_name = "A.pcap")]
    pub input: PathBuf,
    /// Where those that leave are written, as a pcap file
    // An identifier of its own: "output" is the global option, and clap would take the one for the other.
    #[arg(id = "out", long = "out", value_name = "B.pcap")]
    pub output: Option<PathBuf>,
    /// Largest IP packet that the interface sends, in bytes
    #[arg(long, default_value_t = 1500, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(68..=65_535))]
    pub mtu: u32,
    /// The host's own Ethernet address: frames for others are passed as other_host. Without it, every frame that is not for a group is the host's
    #[arg(long, value_name = "MAC", value_parser = mac)]
    pub mac: Option<Mac>,
}

/// A backend, as `SERVICE/BACKEND`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendName {
    /// The service.
    pub service: String,
    /// The backend.
    pub backend: String,
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs; stable.
    Json,
}

/// Whether to do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// If it fits.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl FromStr for BackendName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((service, backend)) if !service.is_empty() && !backend.is_empty() => Ok(Self {
                service: service.to_owned(),
                backend: backend.to_owned(),
            }),
            _ => Err("expected SERVICE/BACKEND, such as web/web-1".to_owned()),
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    crate::config::duration(text)
        .ok_or_else(|| format!("{text:?} is not a time: a number and ms, s, m or h, such as 10m or 1.5h"))
}

fn mac(text: &str) -> Result<Mac, String> {
    crate::config::mac(text).filter(|mac| mac[0] & 1 == 0).ok_or_else(|| {
        format!("{text:?} is no interface's Ethernet address: six bytes, such as 02:00:00:00:00:01, the first one even")
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    /// clap finds two options of one identifier but of different types only when their values are taken.
    #[test]
    fn a_simulation_has_an_out_of_its_own() {
        let words = "lbctl -o json simulate --config c.toml --in a.pcap --out b.pcap";
        let arguments = Arguments::try_parse_from(words.split(' ')).expect("well-formed");
        assert_eq!(arguments.output, Output::Json);
        let Verb::Simulate(simulation) = arguments.verb else {
            panic!("{:?}", arguments.verb)
        };
        assert_eq!(simulation.output, Some("b.pcap".into()));
    }

    #[test]
    fn a_backend_is_named_by_service_and_name() {
        let name: BackendName = "web/web-1".parse().expect("well-formed");
        assert_eq!((name.service.as_str(), name.backend.as_str()), ("web", "web-1"));
        for wrong in ["", "web", "/web-1", "web/", "/"] {
            assert!(wrong.parse::<BackendName>().is_err(), "{wrong}");
        }
    }
}
