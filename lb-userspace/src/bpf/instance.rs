//! Where this instance keeps what outlives its process: pins in a BPF file system, a state folder, a lock.
//!
//! One balancer belongs to one network namespace, so everything is named by it: `host` for the namespace of process 1,
//! `net-COOKIE` for any other (the cookie is never used twice while the kernel runs; Linux 5.14).

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use thiserror::Error;

use crate::private;

/// What is wrong with the instance's surroundings.
#[derive(Debug, Error)]
pub enum InstanceError {
    /// Another daemon serves this network namespace.
    #[error("another lbd runs in this network namespace: one balancer per namespace; stop it first")]
    AlreadyRunning,
    /// The lock could not be tried.
    #[error("cannot lock this network namespace for one balancer: {0}")]
    Lock(io::Error),
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
    /// The instance of this network namespace. Mounts a BPF file system if there is none, and makes the folders.
    ///
    /// # Errors
    /// If the surroundings do not allow it.
    pub fn find() -> Result<Self, InstanceError> {
        let name = name()?;
        let pins = bpf_fs()?.join("edgelb").join(&name);
        // A namespace other than the host's is gone after a reboot, and so may its state be.
        let state = Path::new(if name == "host" { "/var/lib/lbd" } else { "/run/lbd" }).join(&name);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| InstanceError::Folder { path, source }
        };
        fs::create_dir_all(&pins).map_err(failed(&pins))?;
        private::make_folder(&state).map_err(failed(&state))?;
        // Earlier versions left to the umask who may read.
        for folder in state.parent().into_iter().chain([state.as_path()]) {
            private::tighten(folder).map_err(failed(folder))?;
        }
        Ok(Self { name, pins, state })
    }

    /// Removes the folders that are empty; what is in one keeps it.
    pub fn tidy(&self) {
        for folder in [&self.pins, &self.state] {
            // `rmdir` takes empty folders only. The parents may hold another namespace's.
            if fs::remove_dir(folder).is_ok()
                && let Some(parent) = folder.parent().filter(|parent| parent.ends_with("edgelb"))
            {
                let _ = fs::remove_dir(parent);
            }
        }
    }

    /// Keeps any other daemon out of this network namespace as long as the answer lives.
    ///
    /// # Errors
    /// If another one holds it.
    pub fn lock() -> Result<UnixListener, InstanceError> {
        use std::os::linux::net::SocketAddrExt as _;
        // An abstract socket name belongs to the network namespace and goes with the process, however that ends.
        let address = SocketAddr::from_abstract_name("edgelb.lbd").map_err(InstanceError::Lock)?;
        UnixListener::bind_addr(&address).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => InstanceError::AlreadyRunning,
            _ => InstanceError::Lock(error),
        })
    }
}

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
