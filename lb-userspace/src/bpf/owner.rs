//! Which process has something: a lock, or a BPF program. For messages alone.

use std::fmt;
use std::fs;

/// Characters of a command line that are shown.
const COMMAND: usize = 120;

/// A process, as this one sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its number.
    pub pid: u32,
    /// Its command line; empty if it cannot be read.
    pub command: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.command.as_str() {
            "" => write!(f, "process {}", self.pid),
            command => write!(f, "process {}: {command}", self.pid),
        }
    }
}

impl Owner {
    fn of(pid: u32) -> Self {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let shown = command.trim().chars().filter(|character| !character.is_control());
        Self {
            pid,
            command: shown.take(COMMAND).collect(),
        }
    }
}

/// The process that has locked a file, given as its device and inode.
pub fn of_lock((device, inode): (u64, u64)) -> Option<Owner> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    holder(&locks, device, inode).map(Owner::of)
}

/// Finds a file's lock in `/proc/locks`: `1: FLOCK  ADVISORY  WRITE 1234 00:1f:567 0 EOF`.
fn holder(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let file = format!("{:02x}:{:02x}:{inode}", libc::major(device), libc::minor(device));
    let pid = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            // One that waits for the lock has an arrow before its kind.
            [_, "FLOCK", _, _, pid, found, ..] if found == file => pid.parse().ok(),
            _ => None,
        }
    };
    locks.lines().find_map(pid)
}

/// A living process that has a BPF program, or a link with it, open.
pub fn of_program(program: u32) -> Option<Owner> {
    let line = format!("prog_id:\t{program}");
    let own = std::process::id();
    let mut processes = fs::read_dir("/proc").ok()?.flatten();
    processes.find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let mut open = fs::read_dir(process.path().join("fdinfo")).ok()?.flatten();
        let has = open.any(|file| {
            let text = fs::read_to_string(file.path()).unwrap_or_default();
            text.lines().any(|found| found == line)
        });
        (has && pid != own).then(|| Owner::of(pid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 00:1f:567 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 12 00:20:567 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 13 00:1f:567 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 14 00:1f:567 0 EOF\n";
        assert_eq!(holder(locks, libc::makedev(0, 0x1F), 567), Some(13));
        assert_eq!(holder(locks, libc::makedev(0, 0x1F), 568), None);
        assert_eq!(holder("", 0, 0), None);
    }

    #[test]
    fn a_command_has_no_zeros() {
        let own = Owner::of(std::process::id());
        assert!(!own.command.is_empty() && !own.command.contains('\0'), "{own:?}");
        assert_eq!(
            Owner {
                pid: 7,
                command: String::new()
            }
            .to_string(),
            "process 7"
        );
    }
}
