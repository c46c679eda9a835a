//! The program on the interfaces: attached through links that are pinned, so that no daemon's end detaches it.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp, XdpMode as Attach};
use thiserror::Error;
use tracing::{error, info, warn};

use super::error::KernelError;
use super::link_fd::{self, LinkState};
use super::program::Balancer;
use crate::model::XdpMode;
use crate::netlink::{XdpAttachment, XdpState};

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
    #[error(
        "interface {name}: another XDP program{} is attached; see `ip link show {name}`, and detach it first",
        .program.map_or(String::new(), |id| format!(" (id {id})"))
    )]
    Occupied {
        /// As configured.
        name: String,
        /// Its number in the kernel.
        program: Option<u32>,
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

/// The program on an interface. Dropped, the program stays: the pin keeps it.
///
/// The descriptor is held, so that a pin that somebody removes takes no program off.
#[derive(Debug)]
pub struct Attachment {
    /// The interface's name, as configured.
    pub interface: String,
    /// Its index when the program was attached.
    pub ifindex: u32,
    link: OwnedFd,
    pin: PathBuf,
}

impl Attachment {
    fn open(interface: &str, ifindex: u32, pin: PathBuf) -> Result<Self, AttachError> {
        let link = link_fd::open(&pin).map_err(|source| AttachError::Pin {
            path: pin.clone(),
            source,
        })?;
        Ok(Self {
            interface: interface.to_owned(),
            ifindex,
            link,
            pin,
        })
    }

    /// What the kernel says of the link.
    ///
    /// # Errors
    /// The kernel's.
    pub fn state(&self) -> io::Result<LinkState> {
        link_fd::state(self.link.as_fd())
    }

    /// Holds the link that is pinned now: another may have been made in its place.
    pub fn hold_pinned(&mut self) {
        match link_fd::open(&self.pin) {
            Ok(link) => self.link = link,
            // As it was: what becomes of the link is looked at all the time.
            Err(error) => info!(interface = self.interface, %error, "no pin"),
        }
    }

    /// Pins the link again if its pin is gone; says whether it was.
    ///
    /// # Errors
    /// If it cannot be pinned: the program then ends with this process.
    pub fn pin_again(&self) -> Result<bool, AttachError> {
        if self.pin.exists() {
            return Ok(false);
        }
        let pinned = link_fd::pin(self.link.as_fd(), &self.pin);
        pinned.map(|()| true).map_err(|source| AttachError::Pin {
            path: self.pin.clone(),
            source,
        })
    }

    /// Takes the program off, wherever the interface is now, and removes the pin.
    pub fn detach(self) {
        if let Err(error) = link_fd::detach(self.link.as_fd()) {
            info!(interface = self.interface, %error, "not detached at once");
        }
        match fs::remove_file(&self.pin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(pin = %self.pin.display(), %error, "left behind");
            }
            _ => {}
        }
    }
}

/// Puts the loaded program on an interface, in place of an earlier daemon's if there is one, and pins the link in `folder`.
///
/// `present` is the program that is on the interface now.
///
/// # Errors
/// If it cannot be. An earlier daemon's attachment is still there then, and may have this program.
pub fn attach(
    balancer: &mut Balancer,
    folder: &Path,
    interface: &str,
    mode: XdpMode,
    present: Option<XdpState>,
) -> Result<Attachment, AttachError> {
    let name = interface.to_owned();
    let ifindex =
        nix::net::if_::if_nametoindex(interface).map_err(|_| AttachError::NoInterface { name: name.clone() })?;
    let pin = pin(folder, ifindex);
    let program = balancer.balance_mut()?;
    let native = present.map(|present| present.mode != XdpAttachment::Generic);
    let mut earlier = None;
    if pin.exists() {
        match replace(program, &pin) {
            Ok(()) => {
                let fits = match mode {
                    XdpMode::Auto => true,
                    XdpMode::Native => native == Some(true),
                    XdpMode::Generic => native == Some(false),
                };
                if fits {
                    info!(interface, "program replaced in place");
                    return Attachment::open(interface, ifindex, pin);
                }
                info!(interface, "attaching again: the mode asked for is another");
                earlier = native;
            }
            Err(error) => info!(interface, %error, "the earlier attachment is gone: attaching anew"),
        }
        remove(&pin)?;
    }
    let attempts: &[Attach] = match mode {
        XdpMode::Auto => &[Attach::Driver, Attach::Skb],
        XdpMode::Native => &[Attach::Driver],
        XdpMode::Generic => &[Attach::Skb],
    };
    let mut refusal = String::new();
    for attempt in attempts {
        match attach_pinned(program, ifindex, *attempt, &pin) {
            Ok(()) => {
                if mode == XdpMode::Auto && matches!(attempt, Attach::Skb) {
                    warn!(interface, refusal, "no native XDP: generic mode, several times slower");
                }
                return Attachment::open(interface, ifindex, pin);
            }
            Err(Refusal::Busy) => {
                let program = present.map(|present| present.program_id);
                return Err(AttachError::Occupied { name, program });
            }
            Err(Refusal::Other(problem)) => refusal = problem,
        }
    }
    if let Some(native) = earlier {
        let mode = if native { Attach::Driver } else { Attach::Skb };
        match attach_pinned(program, ifindex, mode, &pin) {
            Ok(()) => info!(interface, "attached again in the mode before"),
            Err(Refusal::Busy) => error!(interface, "another program has taken the interface meanwhile"),
            Err(Refusal::Other(problem)) => error!(interface, problem, "not attached any more"),
        }
    }
    Err(match mode {
        XdpMode::Native => AttachError::NotNative { name, problem: refusal },
        _ => AttachError::Refused { name, problem: refusal },
    })
}

enum Refusal {
    /// Another program is there.
    Busy,
    Other(String),
}

fn attach_pinned(program: &mut Xdp, ifindex: u32, mode: Attach, pin: &Path) -> Result<(), Refusal> {
    let other = |error: &dyn std::error::Error| Refusal::Other(chain(error));
    let id = program
        .attach_to_if_index(ifindex, mode)
        .map_err(|error| if is_busy(&error) { Refusal::Busy } else { other(&error) })?;
    let link = program.take_link(id).map_err(|error| other(&error))?;
    // A netlink attachment cannot be pinned and would not survive this process.
    let link: FdLink = link.try_into().map_err(|error: LinkError| {
        Refusal::Other(format!(
            "it takes no BPF link (Linux 5.9 or newer is needed): {}",
            chain(&error)
        ))
    })?;
    link.pin(pin).map_err(|error| other(&error))?;
    Ok(())
}

/// Indices of the interfaces whose links are pinned in `folder`; some may be gone.
///
/// # Errors
/// If the folder cannot be read.
pub fn pinned(folder: &Path) -> Result<Vec<u32>, AttachError> {
    let at = |source| AttachError::Pin {
        path: folder.to_owned(),
        source,
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(at(error)),
    };
    let mut indices = Vec::new();
    for entry in entries {
        let name = entry.map_err(at)?.file_name();
        indices.extend(
            name.to_str()
                .and_then(|name| name.strip_prefix("link-")?.parse::<u32>().ok()),
        );
    }
    Ok(indices)
}

/// Puts the loaded program in the place of whatever is attached through links pinned in `folder`.
///
/// # Errors
/// If the folder cannot be read.
pub fn replace_all(balancer: &mut Balancer, folder: &Path) -> Result<(), AttachError> {
    for ifindex in pinned(folder)? {
        if let Err(problem) = replace(balancer.balance_mut()?, &pin(folder, ifindex)) {
            error!(ifindex, problem, "the program could not be put back");
        }
    }
    Ok(())
}

/// Puts the loaded program in the place of what is attached through the links pinned in `folder`, but for those in `done`: interfaces that
/// cannot be told from ones that are configured and missing, because they have another name now.
///
/// # Errors
/// If the folder cannot be read.
pub fn replace_others(balancer: &mut Balancer, folder: &Path, done: &[u32]) -> Result<(), AttachError> {
    for ifindex in pinned(folder)?.into_iter().filter(|ifindex| !done.contains(ifindex)) {
        // One whose interface is gone has no program any more.
        if let Err(problem) = replace(balancer.balance_mut()?, &pin(folder, ifindex)) {
            info!(ifindex, problem, "nothing to replace");
        }
    }
    Ok(())
}

/// Takes the program off every interface that is not in `keep`. Says off how many.
///
/// # Errors
/// If a pin cannot be removed.
pub fn detach_others(folder: &Path, keep: &[u32]) -> Result<usize, AttachError> {
    let mut detached = 0;
    for ifindex in pinned(folder)? {
        if !keep.contains(&ifindex) {
            remove(&pin(folder, ifindex))?;
            detached += 1;
        }
    }
    Ok(detached)
}

fn pin(folder: &Path, ifindex: u32) -> PathBuf {
    folder.join(format!("link-{ifindex}"))
}

fn replace(program: &mut Xdp, pin: &Path) -> Result<(), String> {
    let link: FdLink = PinnedLink::from_pin(pin).map_err(|error| chain(&error))?.into();
    let link = XdpLink::try_from(link).map_err(|error| chain(&error))?;
    // The kernel answers ENOLINK when the interface has gone and taken the attachment with it.
    let id = program.attach_to_link(link).map_err(|error| chain(&error))?;
    drop(program.take_link(id));
    Ok(())
}

fn remove(pin: &Path) -> Result<(), AttachError> {
    if let Err(error) = link_fd::open(pin).and_then(|link| link_fd::detach(link.as_fd())) {
        // Then it goes a little after its pin.
        info!(pin = %pin.display(), %error, "not detached at once");
    }
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
