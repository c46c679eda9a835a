//! The user that a program of the configuration runs as: its id, its group and its supplementary groups.
//!
//! The names are looked up once, when the configuration is read: a service for names that is away later stops no program, and a user
//! who gets another group has it after the next reload. A user that could not be looked up then is looked up whenever its program is to run.

use std::ffi::{CString, NulError};
use std::hash::{Hash, Hasher};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, User, getgrouplist, setgid, setgroups, setuid};
use thiserror::Error;

/// A user of this host, and what `initgroups(3)` would give to a process of that user.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RunAs {
    name: String,
    user: Uid,
    group: Gid,
    /// With `group` among them.
    groups: Vec<Gid>,
    home: PathBuf,
}

/// Why no program can run as a user.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RunAsError {
    /// This host does not know the name.
    #[error("user {0:?} is unknown: a user of this host is wanted, as `getent passwd` lists them")]
    Unknown(String),
    /// The system could not say.
    #[error("user {name:?} cannot be looked up: {source}")]
    Lookup {
        /// The user's name.
        name: String,
        /// What the system said.
        source: Errno,
    },
}

/// A user as a configuration names it, and what the host said of it when the configuration was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedUser {
    name: String,
    found: Result<RunAs, RunAsError>,
}

impl Hash for NamedUser {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // What failed has no hash; the name is enough.
        self.name.hash(state);
        self.found.as_ref().ok().hash(state);
    }
}

impl NamedUser {
    /// Looks a user up. It may block: names may come from a server.
    pub fn look_up(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            found: RunAs::named(name),
        }
    }

    /// As the configuration has it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Why no program could run as this user when the configuration was read.
    pub fn problem(&self) -> Option<&RunAsError> {
        self.found.as_ref().err()
    }

    /// The user, who is looked up once more if that has failed before; on another thread, as it may block.
    ///
    /// # Errors
    /// If the host has no such user, or cannot say.
    pub async fn run_as(&self) -> Result<RunAs, RunAsError> {
        if let Ok(found) = &self.found {
            return Ok(found.clone());
        }
        let name = self.name.clone();
        let found = tokio::task::spawn_blocking(move || RunAs::named(&name)).await;
        found.unwrap_or_else(|_| self.found.clone())
    }
}

impl RunAs {
    /// Looks a user up. It may block: names may come from a server.
    ///
    /// # Errors
    /// If the host has no such user, or cannot say.
    pub fn named(name: &str) -> Result<Self, RunAsError> {
        let unknown = || RunAsError::Unknown(name.to_owned());
        let failed = |source| {
            let name = name.to_owned();
            RunAsError::Lookup { name, source }
        };
        let c_name = CString::new(name).map_err(|_: NulError| unknown())?;
        let user = User::from_name(name).map_err(failed)?.ok_or_else(unknown)?;
        Ok(Self {
            name: user.name,
            user: user.uid,
            group: user.gid,
            groups: getgrouplist(&c_name, user.gid).map_err(failed)?,
            home: user.dir,
        })
    }

    /// The user's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The program of a command runs as this user, with none of the daemon's capabilities, and with the user's `HOME`, `USER` and
    /// `LOGNAME`. If the system does not let it, the program is not started. It needs `CAP_SETUID` and `CAP_SETGID`, and to end
    /// the program `CAP_KILL`.
    ///
    /// Comes after `env_clear`, and before `pre_exec` with a signal for the parent's death: the kernel forgets that signal when the user changes.
    pub fn apply(&self, command: &mut Command) {
        let Self {
            user, group, groups, ..
        } = self.clone();
        command
            .env("HOME", &self.home)
            .env("USER", &self.name)
            .env("LOGNAME", &self.name);
        let become_user = move || {
            // Groups first: another user may not set them.
            setgroups(&groups)?;
            setgid(group)?;
            setuid(user)?;
            drop_ambient_capabilities()
        };
        // `Command::uid` would take all supplementary groups away, and `Command::groups` is not stable.
        //
        // SAFETY: between fork and exec the closure makes four system calls with what it owns; it allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(become_user);
        }
    }
}

/// Root's go with `setuid`; those of a daemon that is not root, but may become others, would stay.
fn drop_ambient_capabilities() -> std::io::Result<()> {
    // SAFETY: the call takes numbers alone; the kernel wants the unused ones to be 0 (Linux 4.3).
    let answer = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    Ok(Errno::result(answer).map(drop)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use nix::unistd::geteuid;

    use super::*;

    fn output(command: &mut Command) -> String {
        let output = command.output().expect("the program runs");
        assert!(output.status.success(), "{command:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    fn numbers(text: &str) -> BTreeSet<u32> {
        text.split_whitespace()
            .map(|word| word.parse().expect("a number"))
            .collect()
    }

    #[test]
    fn each_user_of_the_host_has_what_id_says() {
        if !geteuid().is_root() {
            // Only root becomes somebody else.
            return;
        }
        let passwd = output(Command::new("getent").arg("passwd"));
        let names: Vec<&str> = passwd.lines().filter_map(|line| line.split(':').next()).collect();
        assert!(names.contains(&"nobody"), "{names:?}");
        for name in names {
            let run_as = RunAs::named(name).expect("a user of this host");
            let with = |arguments: &[&str]| {
                let mut command = Command::new("id");
                run_as.apply(command.args(arguments));
                output(&mut command)
            };
            for word in ["-u", "-g", "-G"] {
                let right = output(Command::new("id").args([word, name]));
                assert_eq!(numbers(&with(&[word])), numbers(&right), "{name}: id {word}");
            }
        }
    }

    #[test]
    fn another_user_has_no_capabilities_and_its_own_home() {
        if !geteuid().is_root() {
            // Only root becomes somebody else.
            return;
        }
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "grep -E 'Cap(Inh|Prm|Eff|Amb)' /proc/self/status; echo $USER $LOGNAME $HOME",
        ]);
        RunAs::named("nobody").expect("a user").apply(&mut command);
        let text = output(&mut command);
        let (capabilities, names) = text.trim().rsplit_once('\n').expect("lines");
        for line in capabilities.lines() {
            assert!(line.ends_with("\t0000000000000000"), "{line}");
        }
        assert_eq!(names, "nobody nobody /nonexistent");
    }

    #[test]
    fn a_user_that_the_host_does_not_have_is_named() {
        for name in ["no-such-user", "", "a:b", "with\0zero", "65534"] {
            let error = RunAs::named(name).expect_err("nobody has this name");
            assert_eq!(error, RunAsError::Unknown(name.to_owned()));
        }
        assert_eq!(
            RunAs::named("no-such-user").expect_err("nobody").to_string(),
            "user \"no-such-user\" is unknown: a user of this host is wanted, as `getent passwd` lists them"
        );
    }
}
