//! The program on the interfaces: attached through links that are pinned, so that no daemon's end detaches it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, XdpMode as Attach};
use thiserror::Error;
use tracing::{info, warn};

use super::program::{Balancer, KernelError};
use crate::model::XdpMode;

/// Why the program is not on an interface.
#[derive(Debug, Error)]
pub enum AttachError {
    /// No such interface.
    #[error("interface {name}: there is none of this name; see `ip link`")]
    NoInterface {
        /// As configured.
        name: String,
    },
    /// The driver has no native XDP.
    #[error(
        "interface {name}: its driver refuses native XDP ({problem}); xdp_mode = \"auto\" or \"generic\" would work, more slowly"
    )]
    NotNative {
        /// As configured.
        name: String,
        /// What the kernel said.
        problem: String,
    },
    /// Another XDP program is there.
    #[error("interface {name}: another XDP program is attached; see `ip link show {name}`, and detach it first")]
    Occupied {
        /// As configured.
        name: String,
    },
    /// The kernel refused.
    #[error("interface {name}: {problem}")]
    Refused {
        /// As configured.
        name: String,
        /// What the kernel said.
        problem: String,
    },
    /// A pin could not be handled.
    #[error("{path}: {source}")]
    Pin {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program is missing.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// Puts the loaded program on an interface, in place of an earlier daemon's if there is one, and pins the link in `folder`.
///
/// `present` says whether the program that is on the interface now, if there is one, is native. Returns the interface's index.
///
/// # Errors
/// If it cannot be.
pub fn attach(
    balancer: &mut Balancer,
    folder: &Path,
    interface: &str,
    mode: XdpMode,
    present: Option<bool>,
) -> Result<u32, AttachError> {
    let name = interface.to_owned();
    let ifindex =
        nix::net::if_::if_nametoindex(interface).map_err(|_| AttachError::NoInterface { name: name.clone() })?;
    let pin = folder.join(format!("link-{ifindex}"));
    let program = balancer.balance_mut()?;
    if pin.exists() {
        match replace(program, &pin) {
            Ok(()) => {
                let fits = match mode {
                    XdpMode::Auto => true,
                    XdpMode::Native => present == Some(true),
                    XdpMode::Generic => present == Some(false),
                };
                if fits {
                    info!(interface, "program replaced in place");
                    return Ok(ifindex);
                }
                info!(interface, "attaching again: the mode asked for is another");
            }
            Err(error) => info!(interface, %error, "the earlier attachment is gone: attaching anew"),
        }
        remove(&pin)?;
    }
    let attempts: &[(Attach, bool)] = match mode {
        XdpMode::Auto => &[(Attach::Driver, true), (Attach::Skb, false)],
        XdpMode::Native => &[(Attach::Driver, true)],
        XdpMode::Generic => &[(Attach::Skb, false)],
    };
    let mut refusal = String::new();
    for (attach, native) in attempts {
        match program.attach_to_if_index(ifindex, *attach) {
            Ok(id) => {
                let refused = |problem: String| AttachError::Refused {
                    name: name.clone(),
                    problem,
                };
                let link = program.take_link(id).map_err(|error| refused(chain(&error)))?;
                // A netlink attachment cannot be pinned and would not survive this process.
                let link: FdLink = link.try_into().map_err(|error: LinkError| {
                    refused(format!("it takes no BPF link (Linux 5.9 or newer is needed): {error}"))
                })?;
                link.pin(&pin).map_err(|error| refused(chain(&error)))?;
                if !native && mode == XdpMode::Auto {
                    warn!(interface, refusal, "no native XDP: generic mode, several times slower");
                }
                return Ok(ifindex);
            }
            Err(error) if is_busy(&error) => return Err(AttachError::Occupied { name }),
            Err(error) => refusal = chain(&error),
        }
    }
    Err(match mode {
        XdpMode::Native => AttachError::NotNative { name, problem: refusal },
        _ => AttachError::Refused { name, problem: refusal },
    })
}

/// Takes the program off every interface that is not in `keep`. Says off how many.
///
/// # Errors
/// If a pin cannot be removed.
pub fn detach_others(folder: &Path, keep: &[u32]) -> Result<usize, AttachError> {
    let at = |source| AttachError::Pin {
        path: folder.to_owned(),
        source,
    };
    let mut detached = 0;
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(at(error)),
    };
    for entry in entries {
        let path = entry.map_err(at)?.path();
        let ifindex = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_prefix("link-")?.parse::<u32>().ok());
        if let Some(ifindex) = ifindex
            && !keep.contains(&ifindex)
        {
            remove(&path)?;
            detached += 1;
        }
    }
    Ok(detached)
}

fn replace(program: &mut aya::programs::Xdp, pin: &Path) -> Result<(), String> {
    let link: FdLink = PinnedLink::from_pin(pin).map_err(|error| chain(&error))?.into();
    let link = XdpLink::try_from(link).map_err(|error| chain(&error))?;
    // The kernel answers ENOLINK when the interface has gone and taken the attachment with it.
    let id = program.attach_to_link(link).map_err(|error| chain(&error))?;
    drop(program.take_link(id));
    Ok(())
}

fn remove(pin: &Path) -> Result<(), AttachError> {
    fs::remove_file(pin).map_err(|source| AttachError::Pin {
        path: pin.to_owned(),
        source,
    })
}

fn is_busy(error: &ProgramError) -> bool {
    let mut error: Option<&dyn std::error::Error> = Some(error);
    while let Some(cause) = error {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return matches!(io.raw_os_error(), Some(libc::EBUSY | libc::EEXIST));
        }
        error = cause.source();
    }
    false
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
