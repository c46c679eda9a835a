//! Taking a pinned link off its interface at once.
//!
//! Removing the last pin detaches too, but only when the kernel gets around to it: after an RCU grace period, in which the interface
//! refuses another program and packets are still balanced. aya has no call for this.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// The beginning of `union bpf_attr` for `BPF_OBJ_GET`; the kernel takes what is missing as zeros.
#[repr(C)]
struct ObjectGet {
    path: u64,
    descriptor: u32,
    flags: u32,
}

/// The beginning of `union bpf_attr` for `BPF_LINK_DETACH`.
#[repr(C)]
struct LinkDetach {
    link: u32,
}

const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_DETACH: libc::c_int = 34;

/// Detaches the link pinned at `pin` (Linux 5.9); the pin stays. Nothing happens if its interface is gone.
///
/// # Errors
/// The kernel's.
pub fn detach(pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let get = ObjectGet {
        path: path.as_ptr() as u64,
        descriptor: 0,
        flags: 0,
    };
    let fd = bpf(BPF_OBJ_GET, &get)?;
    // SAFETY: the command returns a new descriptor, which nobody else owns.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };
    let detach = LinkDetach {
        link: link.as_raw_fd().cast_unsigned(),
    };
    bpf(BPF_LINK_DETACH, &detach).map(drop)
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: `attributes` is a `repr(C)` struct laid out as the kernel's for this command and has the size given; the path that it may
    // point to lives in the caller. The kernel only reads.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>() as libc::c_uint,
        )
    };
    match libc::c_int::try_from(answer) {
        Ok(answer) if answer >= 0 => Ok(answer),
        _ => Err(io::Error::last_os_error()),
    }
}
