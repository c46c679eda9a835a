//! Waiting until no program can still be reading what was just made unreachable.

use std::thread;
use std::time::Duration;

use tracing::warn;

/// Returns after an RCU grace period: every packet that was being handled when it was called has left the program.
///
/// `MEMBARRIER_CMD_GLOBAL` (Linux 4.16; `MEMBARRIER_CMD_SHARED` before) is `synchronize_rcu()` in the kernel, and XDP programs run inside of
/// an RCU read-side section. Takes some 10 ms. A kernel with `nohz_full` CPUs refuses it: then 100 ms are waited instead, a
/// packet taking microseconds.
pub fn period() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes three integers and touches no memory.
    let answer = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if answer != 0 {
        warn!(
            "membarrier is refused ({}): waiting 100 ms instead",
            std::io::Error::last_os_error()
        );
        thread::sleep(Duration::from_millis(100));
    }
}
