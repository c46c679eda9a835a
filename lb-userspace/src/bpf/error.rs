//! Why something between the daemon and the kernel did not come about.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::pin::PinError;
use aya::programs::ProgramError;
use thiserror::Error;

use super::link::LinkError;

/// Why the balancer cannot be brought into the kernel, or be asked.
#[derive(Debug, Error)]
pub enum KernelError {
    /// The object or its maps were refused.
    #[error("the kernel refuses the balancer's maps: {0}; memory asked for follows [node.capacity]")]
    Object(#[from] EbpfError),
    /// The verifier or another check refused the program.
    #[error("the kernel refuses the program `{name}`: {}", refusal(.source))]
    Program {
        /// Which one.
        name: &'static str,
        /// What it said.
        source: ProgramError,
    },
    /// The object could not be linked.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A table could not be made.
    #[error("the kernel refuses the table {name} of {bytes} bytes: {source}; its length follows [node.capacity]")]
    TooLarge {
        /// Which one.
        name: &'static str,
        /// How long it would be.
        bytes: u64,
        /// Why.
        source: io::Error,
    },
    /// A map could not be used.
    #[error("map {name}: {source}")]
    Map {
        /// Which one.
        name: &'static str,
        /// Why.
        source: MapError,
    },
    /// A map could not be mapped into memory.
    #[error("map {name} cannot be mapped into memory: {source}; Linux 5.5 or newer is needed")]
    Mapping {
        /// Which one.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Something is missing from the object: a build that went wrong.
    #[error("the object file has no `{0}`: build again with `cargo xtask build`")]
    Missing(&'static str),
    /// A pin could not be made, read or removed.
    #[error("pin {path}: {source}")]
    Pin {
        /// Where.
        path: PathBuf,
        /// Why.
        source: PinError,
    },
    /// A pin's file could not be handled.
    #[error("{path}: {source}")]
    File {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl KernelError {
    /// Whether the kernel refuses a program, not its maps.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            KernelError::Program {
                source: ProgramError::LoadError { .. },
                ..
            }
        )
    }
}

/// Why the kernel refused a program, without the verifier's whole account: its last words, where the reason stands.
pub(super) fn refusal(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return error.to_string();
    };
    let log = verifier_log.to_string();
    let words: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = words[words.len().saturating_sub(LAST_WORDS)..].join("\n  ");
    let hint = match io_error.raw_os_error() {
        Some(libc::EPERM) => "; it takes root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
        _ => "",
    };
    if last.is_empty() {
        format!("{io_error}{hint}")
    } else {
        format!("{io_error}{hint}; the verifier's last words:\n  {last}")
    }
}

/// Lines of the verifier's account that an error shows.
const LAST_WORDS: usize = 6;
