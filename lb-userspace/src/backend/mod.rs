//! The backends' side: `lbd backend`.
//!
//! A backend gets its clients' packets in a tunnel and answers to the client directly. For that it needs three things, and
//! [`run`] sees to all of them until it is told to stop, then undoes them:
//!
//! - a decapsulator on the interfaces where tunnelled packets arrive ([`program`]),
//! - the VIPs as addresses of its own, on `lo` ([`host`]),
//! - silence about the VIPs: no ARP for them ([`sysctl`]). IPv6 needs nothing: Linux answers neighbour solicitations only for
//!   addresses of the interface that they came by, and `lo` is none of those.
//!
//! What is changed on the host stands in a [`record`] before it is changed, so that nothing stays behind a killed instance for
//! longer than until the next start or [`remove`].

use std::net::IpAddr;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::model::XdpMode;
use crate::systemd::Supervisor;
use from::Prefix;
use host::Host;
use keeper::Keeper;
use program::Decapsulator;
use record::{Claim, Claimed, Record};

mod args;
mod changes;
mod checks;
mod error;
pub mod from;
pub mod host;
mod keeper;
mod output;
pub mod program;
pub mod record;
mod serve;
pub mod sysctl;

pub use args::BackendArgs;
pub use error::BackendError;

/// What a backend is to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Names of the interfaces where tunnelled packets arrive.
    pub interfaces: Vec<String>,
    /// The VIPs whose packets are unwrapped, and which this host is to have.
    pub vips: Vec<IpAddr>,
    /// Where tunnels may begin, the edges; none: everywhere.
    pub from: Vec<Prefix>,
    /// How the decapsulator is attached.
    pub mode: XdpMode,
}

/// Is a backend until SIGTERM, SIGINT or SIGHUP, then undoes what it did. `object` is the decapsulator's object file.
///
/// Nothing is changed before everything has been checked and the kernel's verifier has accepted the program. SIGUSR1
/// prints the counters.
///
/// # Errors
///
/// Whatever keeps this host from being a backend; what had been changed by then is undone.
pub async fn run(options: Options, object: &[u8]) -> Result<(), BackendError> {
    let options = checks::options(options)?;
    checks::capabilities()?;
    let claim = match Claim::try_new()? {
        Claimed::Ours(claim) => claim,
        Claimed::Theirs { pid } => return Err(BackendError::Running { pid }),
    };
    let mut host = Host::connect()?;
    let interfaces = checks::interfaces(&host, &options).await?;
    let signals = serve::Signals::catch()?;
    let mut record = claim.load()?;
    let mut decapsulator = Decapsulator::load(object, &options.vips, &options.from)?;

    let served = async {
        changes::apply(&claim, &mut record, &host, &options).await?;
        for interface in &interfaces {
            let mode = decapsulator.attach(interface, options.mode)?;
            output::say!(
                "{}: decapsulator attached, {mode}, program {}",
                interface.name,
                decapsulator.id()
            );
        }
        checks::surroundings(&host, &options).await;
        let mut keeper = Keeper::new(&options, &claim, &mut record);
        serve::serve(&mut host, &mut keeper, &mut decapsulator, signals).await
    }
    .await;
    Supervisor::stopping();
    if served.is_err() {
        output::caution!("it failed: undoing what was done");
    }
    decapsulator.say_counters();
    // The program goes first: from here on nothing arrives for the VIPs any more.
    drop(decapsulator);
    let undone = changes::undo(&claim, &mut record, &host, &Record::default()).await;
    served.and(undone)
}

/// What [`remove`] undoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Everything: an instance that runs is told to stop, and is waited for.
    All,
    /// What a killed instance has left. One that runs keeps all that is there.
    LeftOver,
}

/// Undoes what an instance on this host (in this network namespace) has changed.
///
/// # Errors
///
/// [`BackendError::StillRunning`] if it does not stop within 10 seconds; [`BackendError::NotUndone`] if something could not be
/// restored: it stays on record.
pub async fn remove(removal: Removal) -> Result<(), BackendError> {
    checks::capabilities()?;
    let claim = match (Claim::try_new()?, removal) {
        (Claimed::Ours(claim), _) => claim,
        (Claimed::Theirs { pid }, Removal::All) => stop(pid).await?,
        (Claimed::Theirs { pid }, Removal::LeftOver) => {
            output::say!("process {pid} runs here: nothing is undone");
            return Ok(());
        }
    };
    let host = Host::connect()?;
    let mut record = claim.load()?;
    if record == Record::default() {
        output::say!("nothing is left to undo");
    }
    changes::undo(&claim, &mut record, &host, &Record::default()).await
}

async fn stop(pid: i32) -> Result<Claim, BackendError> {
    // The kernel says 0 for a process that this process's PID namespace does not show.
    if pid <= 0 {
        return Err(BackendError::StillRunning { pid });
    }
    output::say!("process {pid} runs: told to stop");
    kill(Pid::from_raw(pid), Signal::SIGTERM).map_err(|_| BackendError::StillRunning { pid })?;
    for _ in 0..100 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        if let Claimed::Ours(claim) = Claim::try_new()? {
            return Ok(claim);
        }
    }
    Err(BackendError::StillRunning { pid })
}
