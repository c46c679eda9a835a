//! Where this instance keeps what outlives its process: pins in a BPF file system, a state folder; and who may use them.
//!
//! One balancer belongs to one network namespace, so everything is named by it: `host` for the namespace of process 1,
//! `net-COOKIE` for any other (the cookie is never used twice while the kernel runs; Linux 5.14).
//!
//! A daemon locks both folders (flock), so that two which share either are kept apart, whatever their mount namespaces. Nobody but root can
//! open them. Daemons that share neither are told apart by `rival`.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use thiserror::Error;
use tracing::warn;

use super::lock::{FolderLock, LockError, own_folder};
use super::owner::Owner;

use crate::private;

/// What is wrong with the instance's surroundings.
#[derive(Debug, Error)]
pub enum InstanceError {
    /// Another daemon serves this network namespace.
    #[error(
        "another lbd runs in this network namespace{}, and has locked {}: one balancer per namespace; stop it first",
        .owner.as_ref().map_or(String::new(), |owner| format!(" ({owner})")), .folder.display()
    )]
    AlreadyRunning {
        /// The folder that it has locked.
        folder: PathBuf,
        /// Which process it is, where that can be told.
        owner: Option<Owner>,
    },
    /// A folder could not be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// There is no BPF file system and none could be mounted.
    #[error(
        "no BPF file system at {path}, and mounting one there failed: {problem}; run as root: mount -t bpf bpf {path}"
    )]
    NoBpfFs {
        /// Where it should be.
        path: PathBuf,
        /// What mount said.
        problem: String,
    },
    /// A folder could not be made or read.
    #[error("{path}: {source}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The network namespace could not be told.
    #[error("cannot tell this network namespace's cookie: {0}; Linux 5.14 or newer is needed")]
    Cookie(io::Error),
}

/// This instance's places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// `host`, or `net-COOKIE`.
    pub name: String,
    /// The folder of its pins.
    pub pins: PathBuf,
    /// The folder of its state: what must survive a crash, and on the host a reboot.
    pub state: PathBuf,
}

const BPF_FS: &str = "/sys/fs/bpf";

impl Instance {
    /// The instance of this network namespace, and the lock that keeps any other daemon out of it for as long as it lives. Mounts a BPF file
    /// system if there is none, and makes the folders.
    ///
    /// # Errors
    /// If another daemon has it, or the surroundings do not allow it.
    pub fn claim() -> Result<(Self, InstanceLock), InstanceError> {
        let name = name()?;
        let all_pins = bpf_fs()?.join(PINS);
        // A namespace other than the host's is gone after a reboot, and so may its state be.
        let state = Path::new(if name == "host" { "/var/lib/lbd" } else { "/run/lbd" });
        let failed = |source| InstanceError::Folder {
            path: state.to_owned(),
            source,
        };
        private::make_folder(state).map_err(failed)?;
        // Anybody may make folders in a BPF file system.
        own_folder(&all_pins)?;
        let instance = Self {
            pins: all_pins.join(&name),
            state: state.join(&name),
            name,
        };
        let lock = |folder: &Path| {
            FolderLock::take(folder)?.map_err(|owner| InstanceError::AlreadyRunning {
                folder: folder.to_owned(),
                owner,
            })
        };
        let lock = InstanceLock {
            _pins: lock(&instance.pins)?,
            _state: lock(&instance.state)?,
        };
        // Earlier versions left to the umask who may read.
        for folder in [state, &instance.state] {
            private::tighten(folder).map_err(failed)?;
        }
        instance.name_namespace();
        Ok((instance, lock))
    }

    /// Says beside the pins which network namespace they belong to, so that they can be removed when it is gone. The host's never goes.
    fn name_namespace(&self) {
        let link = self.pins.join(NAMESPACE);
        if self.name == "host" || fs::symlink_metadata(&link).is_ok() {
            return;
        }
        let named = fs::read_link("/proc/thread-self/ns/net").and_then(|namespace| symlink(namespace, &link));
        if let Err(error) = named {
            warn!(%error, "what is pinned here will stay when this network namespace is gone");
        }
    }

    /// Removes the folders that are empty; what is in one keeps it.
    pub fn tidy(&self) {
        let rest = fs::read_dir(&self.pins).map_or(0, Iterator::count);
        if rest == 1 {
            // The namespace's name alone. What else it may be is kept.
            if fs::symlink_metadata(self.pins.join(NAMESPACE)).is_ok() {
                let _ = fs::remove_file(self.pins.join(NAMESPACE));
            }
        }
        for folder in [&self.pins, &self.state] {
            // `rmdir` takes empty folders only. The parents may hold another namespace's.
            if fs::remove_dir(folder).is_ok()
                && let Some(parent) = folder.parent().filter(|parent| parent.ends_with(PINS))
            {
                let _ = fs::remove_dir(parent);
            }
        }
    }
}

/// Keeps any other daemon out of a network namespace as long as it lives.
#[derive(Debug)]
pub struct InstanceLock {
    _pins: FolderLock,
    _state: FolderLock,
}

/// The folder of all pins in a BPF file system.
const PINS: &str = "edgelb";
/// A symbolic link in an instance's folder whose target is its network namespace's name, as in `/proc/PID/ns/net`.
pub(super) const NAMESPACE: &str = "namespace";

fn name() -> Result<String, InstanceError> {
    let own = fs::read_link("/proc/self/ns/net");
    let first = fs::read_link("/proc/1/ns/net");
    match (own, first) {
        (Ok(own), Ok(first)) if own == first => Ok("host".to_owned()),
        _ => Ok(format!("net-{}", netns_cookie().map_err(InstanceError::Cookie)?)),
    }
}

fn netns_cookie() -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    // SAFETY: plain calls; the descriptor is owned at once, and the kernel writes 8 bytes into 8 bytes.
    unsafe {
        let fd = libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(fd);
        let mut cookie = 0_u64;
        let mut length = size_of::<u64>() as libc::socklen_t;
        let answer = libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        );
        if answer == 0 {
            Ok(cookie)
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

/// A BPF file system that outlives this process.
///
/// `ip netns exec` gives its command a mount namespace of its own with a fresh `/sys`: a BPF file system mounted there would
/// go with the process, and all pins with it. Then the one of process 1 is used, through `/proc/1/root`.
fn bpf_fs() -> Result<PathBuf, InstanceError> {
    let here = PathBuf::from(BPF_FS);
    let of_init = PathBuf::from(format!("/proc/1/root{BPF_FS}"));
    for path in [&here, &of_init] {
        if is_bpf_fs(path) {
            return Ok(path.clone());
        }
    }
    let own_mounts = fs::read_link("/proc/self/ns/mnt").ok();
    let shared = own_mounts.is_some() && own_mounts == fs::read_link("/proc/1/ns/mnt").ok();
    let mut mount = if shared {
        Command::new("mount")
    } else {
        Command::new("nsenter")
    };
    if !shared {
        mount.args(["--target", "1", "--mount", "mount"]);
    }
    let problem = match mount.args(["-t", "bpf", "bpf", BPF_FS]).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(error.to_string()),
    };
    let path = if shared { here } else { of_init };
    if is_bpf_fs(&path) {
        Ok(path)
    } else {
        Err(InstanceError::NoBpfFs {
            path,
            problem: problem.unwrap_or_else(|| "it is still none".to_owned()),
        })
    }
}

fn is_bpf_fs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}
