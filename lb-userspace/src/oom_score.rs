//! The daemon's programs are killed before the daemon when memory runs out.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// What a process has by default: proc_pid_oom_score_adj(5).
const DEFAULT: &[u8] = b"0";

/// Starts the program of a command with an `oom_score_adj` of 0, and not with the daemon's (`OOMScoreAdjust=` of its unit). Where that cannot be set it
/// keeps the daemon's.
///
/// Comes before [`crate::run_as::RunAs::apply`]: another user may not write the file.
pub(crate) fn reset(command: &mut Command) {
    // SAFETY: between fork and exec the closure makes three system calls with constants; it allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(|| {
            set_default();
            Ok(())
        });
    }
}

/// Makes system calls only. To raise it takes no right (`CAP_SYS_RESOURCE` is for less than the process has had), and /proc may be missing.
fn set_default() {
    // SAFETY: the path ends with a zero byte; the bytes live for ever; the descriptor is this function's own.
    unsafe {
        let file = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file >= 0 {
            libc::write(file, DEFAULT.as_ptr().cast(), DEFAULT.len());
            libc::close(file);
        }
    }
}

/// As long as this lives, this process has a score of 300, as the daemon has one of its own.
#[cfg(test)]
pub(crate) struct OtherScore {
    before: String,
    _one_at_a_time: std::sync::MutexGuard<'static, ()>,
}

#[cfg(test)]
const SCORE: &str = "/proc/self/oom_score_adj";

#[cfg(test)]
impl OtherScore {
    pub(crate) fn set() -> Self {
        static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let one_at_a_time = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = std::fs::read_to_string(SCORE).expect("a score");
        std::fs::write(SCORE, "300").expect("raised");
        Self {
            before,
            _one_at_a_time: one_at_a_time,
        }
    }
}

#[cfg(test)]
impl Drop for OtherScore {
    fn drop(&mut self) {
        let _ = std::fs::write(SCORE, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_as::RunAs;

    fn score(command: &mut Command) -> String {
        let output = command.arg(SCORE).output().expect("it runs");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    #[test]
    fn a_program_has_the_default_score_as_another_user_too() {
        let _score = OtherScore::set();
        assert_eq!(score(&mut Command::new("cat")), "300");
        let mut command = Command::new("cat");
        reset(&mut command);
        assert_eq!(score(&mut command), "0");
        if nix::unistd::geteuid().is_root() {
            let mut command = Command::new("cat");
            reset(&mut command);
            RunAs::named("nobody").expect("a user").apply(&mut command);
            assert_eq!(score(&mut command), "0");
        }
    }
}
