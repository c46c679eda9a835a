//! The socket in the file system: who may open it, and whose it is.
//!
//! Whoever can open it commands the balancer, so it is root's alone (mode 0600). A lock file beside it, held for as long as the
//! daemon lives, decides between two daemons that start at once; a socket that a killed daemon left behind is removed.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{Mode, fchmod};
use tokio::net::{UnixListener, UnixSocket};

/// Clients that may wait to be accepted.
const BACKLOG: u32 = 128;

/// A socket that this process listens on. Dropping it removes the socket from the file system.
#[derive(Debug)]
pub struct Bound {
    pub(super) listener: UnixListener,
    pub(super) file: SocketFile,
}

/// The socket's place in the file system.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode: the path may name another daemon's socket by the time this one ends.
    identity: (u64, u64),
    _lock: Flock<File>,
}

/// Why there is no socket to listen on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process answers on it, or holds its lock.
    #[error("another lbd serves {}: stop it first, or choose another socket with --socket", .0.display())]
    Served(PathBuf),
    /// Something that is not ours to remove.
    #[error("{} exists and is not a socket: remove it, or choose another socket with --socket", .0.display())]
    NotASocket(PathBuf),
    /// The system said no.
    #[error("cannot {action} {}: {source}", .path.display())]
    System {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Listens on `path`; makes its directory (0700) if there is none. Must be called within a tokio runtime.
pub fn bind(path: &Path) -> Result<Bound, SocketError> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(failed("make the directory", directory))?;
    }
    let lock = lock(path)?;
    remove_stale(path)?;
    let listener = listen(path).map_err(failed("listen on", path))?;
    let metadata = path.symlink_metadata().map_err(failed("look at", path))?;
    let file = SocketFile {
        path: path.to_owned(),
        identity: (metadata.dev(), metadata.ino()),
        _lock: lock,
    };
    Ok(Bound { listener, file })
}

/// Takes the lock that a living daemon holds. Its file stays: whoever removed it could not know who else has it open.
fn lock(socket: &Path) -> Result<Flock<File>, SocketError> {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed("open", &path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => SocketError::Served(socket.to_owned()),
        errno => failed("lock", &path)(errno.into()),
    })
}

/// Removes a socket that nobody answers on.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => return Err(SocketError::NotASocket(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", path)(error)),
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(SocketError::Served(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed("remove the stale socket", path))
        }
        Err(error) => Err(failed("ask who serves", path)(error)),
    }
}

/// A socket takes its mode from its descriptor when it is bound (Linux): set before, there is no moment at which others
/// could open it.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    fchmod(socket.as_fd(), Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket.bind(path)?;
    socket.listen(BACKLOG)
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> SocketError + use<'a> {
    move |source| SocketError::System {
        action,
        path: path.to_owned(),
        source,
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = self
            .path
            .symlink_metadata()
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if !ours {
            return;
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn only_root_may_open_it_and_it_goes_with_its_owner() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("run/lbd/lbd.sock");
        let bound = bind(&path).expect("a free path");
        let mode = |path: &Path| path.symlink_metadata().expect("it exists").permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().expect("a parent")), 0o700);
        drop(bound);
        assert!(!path.exists());
        bind(&path).expect("free again");
    }

    #[tokio::test]
    async fn one_daemon_to_a_socket() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("lbd.sock");
        let _bound = bind(&path).expect("a free path");
        let error = bind(&path).expect_err("it is served");
        assert!(matches!(error, SocketError::Served(_)), "{error}");
        assert!(path.exists(), "the loser must not remove the winner's socket");
    }

    #[tokio::test]
    async fn somebody_elses_socket_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("lbd.sock");
        let _other = std::os::unix::net::UnixListener::bind(&path).expect("a free path");
        let error = bind(&path).expect_err("it is served");
        assert!(matches!(error, SocketError::Served(_)), "{error}");
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_file_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("lbd.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a free path"));
        assert!(path.exists());
        drop(bind(&path).expect("nobody answers on it"));

        std::fs::write(&path, "precious").expect("writable");
        let error = bind(&path).expect_err("not a socket");
        assert!(matches!(error, SocketError::NotASocket(_)), "{error}");
        assert_eq!(std::fs::read_to_string(&path).expect("still there"), "precious");
    }

    #[tokio::test]
    async fn a_socket_that_was_replaced_is_not_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("lbd.sock");
        let bound = bind(&path).expect("a free path");
        std::fs::remove_file(&path).expect("ours");
        let _other = std::os::unix::net::UnixListener::bind(&path).expect("free now");
        drop(bound);
        assert!(path.exists());
    }
}
