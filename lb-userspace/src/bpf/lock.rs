//! A folder as a lock: who has it locked is the only one to use what is in it, until its process ends, however that ends.
//!
//! A lock file, an abstract socket or a port can be taken by whoever comes first. A folder that only root can open cannot: flock needs a
//! descriptor.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use thiserror::Error;
use tracing::warn;

use super::owner::{self, Owner};

/// Why a folder cannot be locked.
#[derive(Debug, Error)]
pub enum LockError {
    /// A step failed.
    #[error("cannot {action} {path}: {source}")]
    Step {
        /// What was to be done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it was not.
        source: io::Error,
    },
    /// Another user puts something in its place again and again.
    #[error("{path} is not this user's, and is made again whenever it is removed: find out who does that")]
    Contested {
        /// Which.
        path: PathBuf,
    },
}

/// The folder's owner and mode: nobody else may open it, for whoever can open it can lock it.
const PRIVATE: u32 = 0o700;
/// How often to try again what another process undoes meanwhile.
const ATTEMPTS: usize = 100;

/// A folder that this process has locked.
#[derive(Debug)]
pub struct FolderLock {
    _file: Flock<File>,
}

impl FolderLock {
    /// Locks a folder, which is made if there is none; or says who has it.
    ///
    /// # Errors
    /// If it cannot be made, opened or locked.
    pub fn take(folder: &Path) -> Result<Result<Self, Option<Owner>>, LockError> {
        for _ in 0..ATTEMPTS {
            own_folder(folder)?;
            let mut options = OpenOptions::new();
            options.read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW);
            let file = match options.open(folder) {
                // Its last owner has removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.map_err(failed("open", folder))?,
            };
            let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
            let opened = file.metadata().map(identity).map_err(failed("look at", folder))?;
            let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(locked) => locked,
                Err((_, Errno::EWOULDBLOCK)) => return Ok(Err(owner::of_lock(opened))),
                Err((_, errno)) => return Err(failed("lock", folder)(errno.into())),
            };
            // What was locked may be a folder that nobody else finds any more.
            if fs::symlink_metadata(folder)
                .map(identity)
                .is_ok_and(|now| now == opened)
            {
                return Ok(Ok(Self { _file: file }));
            }
        }
        Err(LockError::Contested {
            path: folder.to_owned(),
        })
    }
}

/// Makes a folder that is this user's alone, in place of whatever another user has put there.
///
/// # Errors
/// The system's.
pub fn own_folder(path: &Path) -> Result<(), LockError> {
    for _ in 0..ATTEMPTS {
        match DirBuilder::new().mode(PRIVATE).create(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("make the folder", path)(error)),
        }
        let found = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            found => found.map_err(failed("look at", path))?,
        };
        if found.is_dir() && found.uid() == geteuid().as_raw() {
            if found.mode() & 0o777 != PRIVATE {
                fs::set_permissions(path, Permissions::from_mode(PRIVATE)).map_err(failed("close to others", path))?;
            }
            return Ok(());
        }
        warn!(path = %path.display(), uid = found.uid(), "this is another user's: it is removed");
        let removed = if found.is_dir() {
            fs::remove_dir_all(path)
        } else {
            fs::remove_file(path)
        };
        match removed {
            // Its owner may be faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed.map_err(failed("remove", path))?,
        }
    }
    Err(LockError::Contested { path: path.to_owned() })
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> LockError + use<'a> {
    move |source| LockError::Step {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).expect("it exists").mode() & 0o777
    }

    #[test]
    fn one_at_a_time_and_its_owner_is_named() {
        let scratch = tempfile::tempdir().expect("a folder");
        let folder = scratch.path().join("lock");
        let lock = FolderLock::take(&folder).expect("possible").expect("free");
        assert_eq!(mode(&folder), PRIVATE);
        let owner = FolderLock::take(&folder).expect("possible").expect_err("taken");
        assert_eq!(owner.map(|owner| owner.pid), Some(std::process::id()));
        // Removed by its owner: the next one makes its own.
        fs::remove_dir(&folder).expect("empty");
        drop(lock);
        FolderLock::take(&folder).expect("possible").expect("free again");
    }

    #[test]
    fn what_others_could_open_is_closed_to_them() {
        let scratch = tempfile::tempdir().expect("a folder");
        let folder = scratch.path().join("lock");
        DirBuilder::new().mode(0o755).create(&folder).expect("free");
        own_folder(&folder).expect("ours");
        assert_eq!(mode(&folder), PRIVATE);
    }

    #[test]
    fn what_is_no_folder_is_replaced() {
        let scratch = tempfile::tempdir().expect("a folder");
        let folder = scratch.path().join("lock");
        std::os::unix::fs::symlink("/", &folder).expect("free");
        own_folder(&folder).expect("replaced");
        assert!(fs::symlink_metadata(&folder).expect("there").is_dir());
    }
}
