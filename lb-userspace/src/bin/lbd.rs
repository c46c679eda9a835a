//! `lbd`, the balancer's daemon: see [`lb_userspace::daemon`] and [`lb_userspace::backend`].

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lb_userspace::api::DEFAULT_SOCKET;
use lb_userspace::backend::BackendArgs;
use lb_userspace::daemon::{self, DaemonError};
use lb_userspace::object;
use tracing_subscriber::EnvFilter;

/// An L4 load balancer: fills and watches over the XDP program that balances.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Balance as a configuration file says
    ///
    /// Loads the program, attaches it, fills its tables, checks the backends and serves lbctl. When it ends, however it ends, the
    /// kernel goes on balancing with what it has; the next start takes over without losing a packet. SIGHUP reads the file
    /// again. LBD_LOG sets what is logged (error, warn, info, debug).
    Run {
        /// The configuration
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Where lbctl finds the daemon
        #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
        socket: PathBuf,
    },
    /// Take the program off all interfaces and remove all that it left in the kernel
    Detach {
        /// Accepted for symmetry with `run`; everything of this network namespace is removed
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Be a backend: unwrap tunnelled packets for the VIPs named, and have the VIPs, until told to stop
    Backend(BackendArgs),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("LBD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    match arguments.command {
        Command::Run { config, socket } => match runtime.block_on(daemon::run(&config, &socket)) {
            Err(error @ DaemonError::Config(_)) => {
                failed(&error);
                return ExitCode::from(EX_CONFIG);
            }
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => return failed(&error),
        },
        Command::Detach { .. } => match runtime.block_on(daemon::detach()) {
            Ok(0) => println!("nothing was attached; pins and state, if any, are removed"),
            Ok(count) => println!("detached from {count} interface{}", if count == 1 { "" } else { "s" }),
            Err(error) => return failed(&error),
        },
        Command::Backend(arguments) => match runtime.block_on(arguments.execute(object::DECAP)) {
            Ok(()) => {}
            Err(error) => return failed(&error),
        },
    }
    ExitCode::SUCCESS
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("lbd: {error}");
    ExitCode::FAILURE
}

/// The configuration is bad, and there is no other: sysexits.h.
const EX_CONFIG: u8 = 78;
