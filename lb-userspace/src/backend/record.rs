//! What was changed on the host and how it was before, on record in `/run/lbd`, one file for each network namespace.
//!
//! An entry is written before its change is made. Whoever holds the [`Claim`] is the only one to make changes.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::{fmt, mem};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use serde::{Deserialize, Serialize};

use super::BackendError;
use super::sysctl::Change;
use crate::private::{self, Durability};

/// Where records are kept: gone after a reboot, like the changes themselves.
const DIRECTORY: &str = "/run/lbd";

/// What was changed on the host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Addresses that were put on `lo`.
    pub vips: Vec<IpAddr>,
    /// Settings that were changed.
    pub sysctls: Vec<Change>,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vips = self.vips.iter().map(|vip| format!("{vip} on lo"));
        let sysctls = self.sysctls.iter().map(|change| change.sysctl.to_string());
        f.write_str(&vips.chain(sysctls).collect::<Vec<_>>().join(", "))
    }
}

/// Who has the claim.
#[derive(Debug)]
pub enum Claimed {
    /// This process.
    Ours(Claim),
    /// Another one.
    Theirs {
        /// Its process id as seen from here; 0 if it is not visible from here.
        pid: i32,
    },
}

/// The right to change this host (this network namespace). It ends with the process, however that ends.
#[derive(Debug)]
pub struct Claim {
    lock_path: PathBuf,
    record_path: PathBuf,
    _lock: File,
}

impl Claim {
    /// Claims this host, unless another process has.
    ///
    /// # Errors
    ///
    /// If `/run/lbd` cannot be written, or the kernel is older than 5.14 and does not number network namespaces.
    pub fn try_new() -> Result<Claimed, BackendError> {
        let cookie = namespace_cookie()?;
        let directory = Path::new(DIRECTORY);
        private::make_folder(directory).map_err(file_error(directory))?;
        let lock_path = directory.join(format!("backend-{cookie}.lock"));
        let record_path = directory.join(format!("backend-{cookie}.json"));
        loop {
            let lock = private::options()
                .create(true)
                .truncate(false)
                .write(true)
                // Whoever can open it can lock it, if only for reading, and that keeps this process out.
                .mode(0o600)
                .open(&lock_path)
                .map_err(file_error(&lock_path))?;
            lock.set_permissions(fs::Permissions::from_mode(0o600))
                .map_err(file_error(&lock_path))?;
            if let Some(pid) = lock_or_owner(&lock).map_err(|errno| file_error(&lock_path)(errno.into()))? {
                return Ok(Claimed::Theirs { pid });
            }
            // The last owner removes the file: what was locked may be one that nobody else finds any more.
            let locked = lock.metadata().map_err(file_error(&lock_path))?.ino();
            if fs::metadata(&lock_path).is_ok_and(|found| found.ino() == locked) {
                return Ok(Claimed::Ours(Claim {
                    lock_path,
                    record_path,
                    _lock: lock,
                }));
            }
        }
    }

    /// What is on record; nothing if there is no record.
    ///
    /// # Errors
    ///
    /// [`BackendError::BadRecord`] if the file is not a record.
    pub fn load(&self) -> Result<Record, BackendError> {
        match fs::read(&self.record_path) {
            Ok(json) => serde_json::from_slice(&json).map_err(|source| BackendError::BadRecord {
                path: self.record_path.clone(),
                source,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Record::default()),
            Err(source) => Err(file_error(&self.record_path)(source)),
        }
    }

    /// Puts `record` in place of what is on record, at once or not at all. An empty one removes the file.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn save(&self, record: &Record) -> Result<(), BackendError> {
        self.try_save(record).map_err(file_error(&self.record_path))
    }

    fn try_save(&self, record: &Record) -> io::Result<()> {
        if *record == Record::default() {
            return match fs::remove_file(&self.record_path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let json = serde_json::to_vec_pretty(record)?;
        private::replace(&self.record_path, &json, Durability::Synced).map_err(|error| error.source)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // The lock ends with the file's closing; a file that stays behind does no harm.
        let _ = fs::remove_file(&self.lock_path);
    }
}

/// Takes the whole file's lock, or says which process has it.
///
/// A POSIX lock, because the kernel tells its owner's id in the asker's own PID namespace. Such a lock ends when *any*
/// descriptor of the file is closed by its process, so a process claims only once.
fn lock_or_owner(file: &File) -> nix::Result<Option<i32>> {
    let mut whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    loop {
        match fcntl(file, FcntlArg::F_SETLK(&whole)) {
            Ok(_) => return Ok(None),
            Err(Errno::EACCES | Errno::EAGAIN) => {}
            Err(errno) => return Err(errno),
        }
        fcntl(file, FcntlArg::F_GETLK(&mut whole))?;
        if whole.l_type != libc::F_UNLCK as libc::c_short {
            return Ok(Some(whole.l_pid));
        }
        // It was let go in between.
        whole.l_type = libc::F_WRLCK as libc::c_short;
    }
}

/// The number that the kernel gives this network namespace; not used twice until a reboot. Since Linux 5.14.
fn namespace_cookie() -> Result<u64, BackendError> {
    let system = |what| move |source| BackendError::System { what, source };
    let socket = UdpSocket::bind("[::]:0")
        .or_else(|_| UdpSocket::bind("0.0.0.0:0"))
        .map_err(system("a socket of this network namespace"))?;
    let mut cookie = 0_u64;
    let mut length = mem::size_of_val(&cookie) as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel writes at most `length` bytes to `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(system("the number of this network namespace (Linux 5.14 or newer)")(
            io::Error::last_os_error(),
        ));
    }
    Ok(cookie)
}

fn file_error(path: &Path) -> impl Fn(io::Error) -> BackendError {
    move |source| BackendError::File {
        path: path.to_owned(),
        source,
    }
}
