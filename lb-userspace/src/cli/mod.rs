//! `lbctl`: reads the command line, asks the daemon, prints the answer.
//!
//! Answers go to standard output and nothing else does; errors and warnings go to standard error. [`render`] makes the
//! text, and knows neither socket nor terminal.

pub mod args;
mod events;
mod output;
pub mod render;
mod watch;

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use serde::Serialize;

use crate::api::MAX_REQUEST;
use crate::api::client::{Client, ClientError};
use crate::api::report::{BackendAction, CheckReport, Finding, SimulatedPacket, Verdict};
use crate::api::types::Detached;
use crate::policy::Confirm;
use args::{Arguments, BackendArguments, BackendVerb, Output, ServiceVerb, Simulation, Verb};
use output::Printer;

/// What `lbctl` does without a daemon, and others provide.
#[derive(Clone, Copy)]
pub struct Offline {
    /// Checks a configuration file's text; the second argument is its name for messages.
    pub check: fn(&str, &str) -> CheckReport,
    /// Runs a capture through the program. The configuration's text is given, too: it has been checked.
    pub simulate: fn(&Simulation, &str) -> Simulated,
}

/// One answer for each packet, in order, or why there is none.
pub type Simulated = Result<Vec<SimulatedPacket>, Box<dyn Error + Send + Sync>>;

/// How long a check waits for a daemon to say what the file would break.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot read {}: {source}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{file} is not a text file: byte {position} is not UTF-8")]
    NotText { file: String, position: usize },
    #[error("{file} has {length} bytes, more than the {} that the daemon takes", MAX_REQUEST)]
    TooLong { file: String, length: usize },
    /// The configuration has errors, and the text is at hand to show their places.
    #[error("{message}")]
    Config {
        message: String,
        file: String,
        text: String,
        findings: Vec<Finding>,
    },
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{0}")]
    Simulation(Box<dyn Error + Send + Sync>),
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

/// Runs `lbctl` with the process's own command line.
pub fn main(offline: Offline) -> ExitCode {
    let arguments = Arguments::parse();
    let printer = Printer::new(arguments.output, arguments.color);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            printer.failure(&error.into());
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(&arguments, offline, &printer)) {
        Ok(exit) => exit,
        // Whoever read the output has seen enough: `lbctl stats | head`.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            printer.failure(&failure);
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments, offline: Offline, printer: &Printer) -> Result<ExitCode, Failure> {
    let client = Client::new(&arguments.socket);
    match &arguments.verb {
        Verb::Check { file } => return check(file, offline, printer, client).await,
        Verb::Plan { file } => {
            let file = ConfigFile::read(file)?;
            let plan = client
                .plan(file.text.clone(), file.sent_name.as_deref())
                .await
                .map_err(|error| file.blame(error))?;
            printer.print(&plan, render::plan)?;
            printer.findings(&file.name, &file.text, &plan.warnings);
        }
        Verb::Apply { file } => {
            let file = ConfigFile::read(file)?;
            let report = client
                .apply(file.text.clone(), file.sent_name.as_deref())
                .await
                .map_err(|error| file.blame(error))?;
            printer.print(&report, render::apply)?;
            printer.findings(&file.name, &file.text, &report.plan.warnings);
            return Ok(exit_of(&report.detached));
        }
        Verb::Status => {
            let status = client.status().await?;
            printer.print(&status, render::status)?;
            return Ok(exit_of(&status.detached));
        }
        Verb::Reload => {
            // Detached interfaces are printed first; but `systemctl reload` is to fail only if the file does not count.
            let report = client.reload().await.map_err(own_file)?;
            printer.print(&report, render::apply)?;
        }
        Verb::Service(ServiceVerb::List) => printer.print(&client.services().await?, |services, view| {
            render::services(services, view)
        })?,
        Verb::Service(ServiceVerb::Show { name }) => printer.print(&client.service(name).await?, render::service)?,
        Verb::Backend(verb) => backend(verb, &client, printer).await?,
        Verb::Failover { service, backend } => {
            let done = client.confirm(service, backend.as_deref(), Confirm::Failover).await?;
            printer.print(&done, |done, view| render::confirmed(done, "failover", view))?;
        }
        Verb::Failback { service, backend } => {
            let done = client.confirm(service, backend.as_deref(), Confirm::Failback).await?;
            printer.print(&done, |done, view| render::confirmed(done, "failback", view))?;
        }
        Verb::Stats { watch: None } => {
            printer.print(&client.stats().await?, |stats, view| render::stats(stats, None, view))?
        }
        Verb::Stats { watch: Some(seconds) } => watch::stats(&client, *seconds, printer).await?,
        Verb::Events {
            follow,
            since,
            service,
            lines,
        } => {
            events::show(
                &client,
                &events::Wish::new(*since, service.clone(), *lines),
                *follow,
                printer,
            )
            .await?
        }
        Verb::Lookup { service, src } => printer.print(&client.lookup(service, *src).await?, render::lookup)?,
        Verb::Simulate(simulation) => simulate(simulation, offline, printer)?,
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "lbctl", &mut script);
            output::write(&script)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Whoever asks must not take it for good that packets of an interface are not balanced.
fn exit_of(detached: &[Detached]) -> ExitCode {
    if detached.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Adds the text of the daemon's file to its errors, if it can be read here, so that their places can be shown.
fn own_file(error: ClientError) -> Failure {
    match error {
        ClientError::Api(error) if !error.details.is_empty() => {
            let file = error.file.clone().unwrap_or_default();
            Failure::Config {
                text: std::fs::read_to_string(&file).unwrap_or_default(),
                message: error.message,
                file,
                findings: error.details,
            }
        }
        error => error.into(),
    }
}

async fn check(file: &Path, offline: Offline, printer: &Printer, client: Client) -> Result<ExitCode, Failure> {
    let file = ConfigFile::read(file)?;
    let mut report = (offline.check)(&file.text, &file.name);
    if report.valid {
        // No daemon, or one that has no answer: the file is valid all the same.
        let client = client.with_timeout(CHECK_TIMEOUT);
        let plan = client.plan(file.text.clone(), file.sent_name.as_deref()).await;
        report.disruptions = plan.map_or_else(|_| Vec::new(), |plan| plan.disruptions);
    }
    if printer.output == Output::Json {
        printer.json(&report)?;
    } else if report.valid {
        printer.print(&report, render::check)?;
        printer.findings(&file.name, &file.text, &report.warnings);
    } else {
        return Err(file.invalid(report));
    }
    Ok(if report.valid {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn backend(verb: &BackendVerb, client: &Client, printer: &Printer) -> Result<(), Failure> {
    let (BackendArguments { service, backend }, action) = match verb {
        BackendVerb::Drain { backend, timeout } => {
            let timeout_ms = timeout.map(milliseconds);
            (backend, BackendAction::Drain { timeout_ms })
        }
        BackendVerb::Enable(backend) => (backend, BackendAction::Enable),
        BackendVerb::Disable(backend) => (backend, BackendAction::Disable),
        BackendVerb::Weight { backend, weight, over } => {
            let (weight, over_ms) = (*weight, over.map(milliseconds));
            (backend, BackendAction::Weight { weight, over_ms })
        }
        BackendVerb::Reset(backend) => (backend, BackendAction::Reset),
    };
    let changed = client.backend(service, backend, action).await?;
    printer.print(&changed, render::backend_changed)?;
    Ok(())
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn simulate(simulation: &Simulation, offline: Offline, printer: &Printer) -> Result<(), Failure> {
    let file = ConfigFile::read(&simulation.config)?;
    let report = (offline.check)(&file.text, &file.name);
    if !report.valid {
        return Err(file.invalid(report));
    }
    let packets = (offline.simulate)(simulation, &file.text).map_err(Failure::Simulation)?;
    if let Some(warning) = longer_than_the_mtu(&packets, simulation.mtu) {
        printer.warning(&warning);
    }
    printer.print(&packets, |packets, view| render::simulation(packets, view))?;
    Ok(())
}

/// What is to be said of packets that leave longer than the interface would send them.
fn longer_than_the_mtu(packets: &[SimulatedPacket], mtu: u32) -> Option<String> {
    const ETHERNET_HEADER: u32 = 14;
    let leaves = |packet: &SimulatedPacket| matches!(packet.verdict, Verdict::Tx | Verdict::Redirect);
    let mut longer = packets
        .iter()
        .enumerate()
        .filter(|(_, packet)| leaves(packet) && packet.len_out.saturating_sub(ETHERNET_HEADER) > mtu);
    let (first, packet) = longer.next()?;
    Some(format!(
        "{} of {} packets leave longer than the MTU of {mtu} bytes and would be lost, the first is packet {} with {} bytes of IP: \
         raise the MTU between here and the backends, or lower the clients' MSS (--mtu tells simulate another)",
        longer.count() + 1,
        packets.len(),
        first + 1,
        packet.len_out - ETHERNET_HEADER,
    ))
}

/// A configuration file as it was read.
struct ConfigFile {
    /// As it was typed.
    name: String,
    /// As the daemon is told it: its full path; nothing for standard input.
    sent_name: Option<String>,
    text: String,
}

impl ConfigFile {
    fn read(path: &Path) -> Result<Self, Failure> {
        let (name, sent_name, bytes) = if path == Path::new("-") {
            ("<stdin>".to_owned(), None, read_stdin())
        } else {
            let full = path.canonicalize().unwrap_or_else(|_| path.to_owned());
            (
                path.display().to_string(),
                Some(full.display().to_string()),
                std::fs::read(path),
            )
        };
        let bytes = bytes.map_err(|source| Failure::Read {
            path: path.to_owned(),
            source,
        })?;
        if bytes.len() > MAX_REQUEST {
            return Err(Failure::TooLong {
                file: name,
                length: bytes.len(),
            });
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self { name, sent_name, text }),
            Err(error) => Err(Failure::NotText {
                file: name,
                position: error.utf8_error().valid_up_to(),
            }),
        }
    }

    /// Adds the text to the daemon's list of errors, so that their places can be shown.
    fn blame(&self, error: ClientError) -> Failure {
        match error {
            ClientError::Api(error) if !error.details.is_empty() => Failure::Config {
                message: error.message,
                file: self.name.clone(),
                text: self.text.clone(),
                findings: error.details,
            },
            error => error.into(),
        }
    }

    fn invalid(self, report: CheckReport) -> Failure {
        let count = report.errors.len();
        let plural = if count == 1 { "error" } else { "errors" };
        Failure::Config {
            message: format!("{} has {count} {plural}", self.name),
            file: self.name,
            text: self.text,
            findings: report.errors,
        }
    }
}

fn read_stdin() -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more than is allowed, so that too much is noticed.
    io::Read::read_to_end(
        &mut io::Read::take(io::stdin().lock(), MAX_REQUEST as u64 + 1),
        &mut bytes,
    )?;
    Ok(bytes)
}

/// A failure for programs: the same shape as the API's own errors.
#[derive(Serialize)]
struct FailureJson<'a> {
    error: String,
    kind: &'a str,
    details: &'a [Finding],
    suggestions: &'a [String],
}
