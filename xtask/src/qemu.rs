//! QEMU without KVM, as every verb starts it that boots a kernel.

use std::{fs, path::Path, process::Command};

/// Words for the kernel's command line. A kernel that reports a fault is not to go on; with `-no-reboot` its panic ends QEMU. And it is not
/// to panic because an emulated timer's interrupts do not come at the pace that it checks for when it starts.
pub(crate) const KERNEL_WORDS: &str = "console=ttyS0 panic=-1 oops=panic no_timer_check";

/// A machine of two emulated processors without devices. QEMU ends with the thread that started it, however that ends.
pub(crate) fn command(mebibytes: u32) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
        .args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m"])
        .arg(mebibytes.to_string())
        .args(["-nodefaults", "-no-reboot", "-display", "none"]);
    command
}

/// The last lines of a file that may hold anything.
pub(crate) fn tail(file: &Path, lines: usize) -> Vec<String> {
    let text = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    all[all.len().saturating_sub(lines)..]
        .iter()
        .map(|line| {
            line.chars()
                .filter(|character| !character.is_control())
                .collect::<String>()
        })
        .collect()
}
