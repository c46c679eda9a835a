//! Files that are root's alone: folders with mode 0700 and files with mode 0600, whatever the umask.
//!
//! What a daemon keeps on the disk holds configurations, and these hold secrets.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, DirEntry, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Why a file could not be replaced; the old one is there, unless its folder could not be synced.
#[derive(Debug, Error)]
#[error("cannot {action} {path}: {source}")]
pub struct ReplaceError {
    /// What was tried.
    pub action: &'static str,
    /// With what.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// Whether a file must outlive a crash of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// File and folder are synced: old or new, whenever the machine stops.
    Synced,
    /// A crash of the machine may lose it; a crash of the process does not.
    Unsynced,
}

/// Makes a folder and those above it, mode 0700. One that is there gets that mode.
///
/// # Errors
/// If the system refuses.
pub fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path)?;
    narrow(path, FOLDER_MODE)
}

/// Takes the rights of others from a folder and from the files in it. Other processes may write there: a file that is gone meanwhile is left out.
///
/// # Errors
/// If the system refuses.
pub fn tighten(folder: &Path) -> io::Result<()> {
    narrow(folder, FOLDER_MODE)?;
    for entry in fs::read_dir(folder)? {
        match tighten_file(&entry?) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            tightened => tightened?,
        }
    }
    Ok(())
}

fn tighten_file(entry: &DirEntry) -> io::Result<()> {
    // Links are not followed.
    if !entry.file_type()?.is_file() {
        return Ok(());
    }
    narrow(&entry.path(), FILE_MODE)
}

fn narrow(path: &Path, mode: u32) -> io::Result<()> {
    let now = fs::metadata(path)?.permissions().mode() & 0o7777;
    if now & !mode == 0 {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(now & mode))
}

/// For files of mode 0600: others have no moment in which they could open one.
pub fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(FILE_MODE);
    options
}

/// Replaces a file: the new one is written beside it and renamed into its place, so that the old one is there or the new one.
///
/// # Errors
/// If the system refuses.
pub fn replace(path: &Path, bytes: &[u8], durability: Durability) -> Result<(), ReplaceError> {
    let new = beside(path, ".new");
    let write = || -> io::Result<()> {
        let mut file = options().write(true).create(true).truncate(true).open(&new)?;
        // One that a crash left may have been made by a version that was less strict.
        file.set_permissions(Permissions::from_mode(FILE_MODE))?;
        file.write_all(bytes)?;
        match durability {
            Durability::Synced => file.sync_all(),
            Durability::Unsynced => Ok(()),
        }
    };
    write().map_err(|source| {
        // What was written of it may fill the disk.
        let _ = fs::remove_file(&new);
        failed("write", &new, source)
    })?;
    fs::rename(&new, path).map_err(|source| failed("replace", path, source))?;
    if durability == Durability::Unsynced {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let sync = || File::open(folder)?.sync_all();
    sync().map_err(|source| failed("sync", folder, source))
}

/// Moves a file that cannot be read out of the way, to be looked at: `state.json` becomes `state.json.unreadable`.
///
/// # Errors
/// If the system refuses.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = aside(path);
    fs::rename(path, &aside)?;
    Ok(aside)
}

/// Where [`set_aside`] moves a file.
pub fn aside(path: &Path) -> PathBuf {
    beside(path, ".unreadable")
}

/// Removes a file, and what a crash or [`set_aside`] left beside it.
///
/// # Errors
/// If one is there and cannot be removed.
pub fn remove(path: &Path) -> Result<(), ReplaceError> {
    for path in [path.to_owned(), beside(path, ".new"), aside(path)] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &path, error)),
            _ => {}
        }
    }
    Ok(())
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> ReplaceError {
    ReplaceError {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
    }

    #[test]
    fn what_is_made_or_found_is_roots_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("lbd/host");
        make_folder(&state).expect("made");
        assert_eq!((mode(&state), mode(&folder.path().join("lbd"))), (0o700, 0o700));
        let file = state.join("state.json");
        replace(&file, b"1", Durability::Synced).expect("written");
        assert_eq!(mode(&file), 0o600);
        // As an earlier version made them under the usual umask.
        fs::set_permissions(&state, Permissions::from_mode(0o755)).expect("root");
        fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("root");
        fs::write(state.join("state.json.new"), "half").expect("written");
        fs::set_permissions(state.join("state.json.new"), Permissions::from_mode(0o644)).expect("root");
        tighten(&state).expect("tightened");
        assert_eq!((mode(&state), mode(&file)), (0o700, 0o600));
        replace(&file, b"2", Durability::Unsynced).expect("written");
        assert_eq!((mode(&file), fs::read(&file).expect("read")), (0o600, b"2".to_vec()));
    }

    #[test]
    fn files_that_another_process_renames_meanwhile_are_no_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("record.json");
        std::thread::scope(|scope| {
            let neighbour = scope.spawn(|| {
                let begun = Instant::now();
                while begun.elapsed() < Duration::from_millis(500) {
                    replace(&file, b"1", Durability::Unsynced).expect("written");
                }
            });
            while !neighbour.is_finished() {
                tighten(folder.path()).expect("tightened");
            }
        });
        assert_eq!(mode(&file), 0o600);
        let gone = folder.path().join("gone");
        let error = tighten(&gone).expect_err("the folder itself has to be there");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_is_set_aside_is_found_and_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("state.json");
        fs::write(&file, "[").expect("written");
        let aside = set_aside(&file).expect("moved");
        assert!(aside.ends_with("state.json.unreadable") && aside.exists() && !file.exists());
        remove(&file).expect("removed");
        remove(&file).expect("gone already");
        assert!(!aside.exists());
    }

    #[test]
    fn a_full_disk_leaves_the_old_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("state.json");
        replace(&file, b"old", Durability::Synced).expect("written");
        fs::create_dir(folder.path().join("state.json.new")).expect("a folder in the way");
        let error = replace(&file, b"new", Durability::Synced).expect_err("a folder is in the way");
        assert!(error.to_string().starts_with("cannot write "), "{error}");
        assert_eq!(fs::read(&file).expect("read"), b"old");
    }
}
