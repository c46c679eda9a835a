//! A directory for configurations and logs, removed when dropped; one that an ended process left is removed by the next.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::xdp::Mode;

const PREFIX: &str = "edgelb-";

/// A directory of this process below the system's temporary one.
#[derive(Debug)]
pub struct Scratch {
    directory: TempDir,
}

impl Scratch {
    /// A new, empty one, readable by all: nginx's worker may be another user.
    pub fn new() -> Result<Self> {
        sweep();
        let directory = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}-", std::process::id()))
            .tempdir()
            .context("cannot make a temporary directory")?;
        std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(Self { directory })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file into it and returns the file's path. A configuration (`*.toml`) is in the XDP mode of this run.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        let text = if name.ends_with(".toml") {
            Mode::of_run()?.configure(text)
        } else {
            text.into()
        };
        std::fs::write(&path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

/// Removes what a killed process could not remove itself.
fn sweep() {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            // Somebody else may be sweeping too.
            _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_go_and_the_living_stay() -> Result<()> {
        // No process has this id: the kernel's limit is 4,194,304.
        let leftover = std::env::temp_dir().join(format!("{PREFIX}4200000-test"));
        std::fs::create_dir_all(leftover.join("logs"))?;
        let mine = Scratch::new()?;
        assert!(!leftover.exists());
        let other = Scratch::new()?;
        assert!(mine.path().exists() && other.path().exists());
        Ok(())
    }
}
