//! Links to interfaces by their descriptors: what the kernel says of one, and what aya has no call for.
//!
//! A link outlives its interface as an empty shell: the kernel then says that its interface is number 0.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// The beginning of `union bpf_attr` for `BPF_OBJ_PIN` and `BPF_OBJ_GET`; the kernel takes what is missing as zeros.
#[repr(C)]
struct Object {
    path: u64,
    descriptor: u32,
    flags: u32,
}

/// The same for `BPF_LINK_DETACH`.
#[repr(C)]
struct LinkDetach {
    link: u32,
}

/// The same for `BPF_LINK_GET_FD_BY_ID`.
#[repr(C)]
struct LinkById {
    id: u32,
    next: u32,
    flags: u32,
}

/// The same for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct Info {
    descriptor: u32,
    length: u32,
    info: u64,
}

/// The beginning of `struct bpf_link_info` for links to interfaces: XDP (Linux 5.9) and tcx (6.6) have the index at the same place.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    ifindex: u32,
    attach_type: u32,
}

const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_GET_FD_BY_ID: libc::c_int = 30;
const BPF_LINK_DETACH: libc::c_int = 34;

/// What the kernel says of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// The interface that it is attached to; 0: none any more.
    pub ifindex: u32,
    /// The program in it.
    pub program: u32,
}

/// The link pinned at `pin`.
///
/// # Errors
/// The kernel's.
pub fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut get = Object {
        path: path.as_ptr() as u64,
        descriptor: 0,
        flags: 0,
    };
    let fd = bpf(BPF_OBJ_GET, &mut get)?;
    // SAFETY: the command returns a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The link with this id.
///
/// # Errors
/// The kernel's; `ENOENT` if it is gone.
pub fn by_id(id: u32) -> io::Result<OwnedFd> {
    let mut get = LinkById { id, next: 0, flags: 0 };
    let fd = bpf(BPF_LINK_GET_FD_BY_ID, &mut get)?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins a link at `pin`, where nothing may be.
///
/// # Errors
/// The kernel's.
pub fn pin(link: BorrowedFd<'_>, pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut object = Object {
        path: path.as_ptr() as u64,
        descriptor: link.as_raw_fd().cast_unsigned(),
        flags: 0,
    };
    bpf(BPF_OBJ_PIN, &mut object).map(drop)
}

/// Takes a link's program off its interface at once (Linux 5.9). Nothing happens if the interface is gone.
///
/// Closing and unpinning a link detaches too, but only when the kernel gets around to it: after an RCU grace period, in which the
/// interface refuses another program and packets are still balanced.
///
/// # Errors
/// The kernel's.
pub fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut detach = LinkDetach {
        link: link.as_raw_fd().cast_unsigned(),
    };
    bpf(BPF_LINK_DETACH, &mut detach).map(drop)
}

/// What the kernel says of an XDP or tcx link.
///
/// # Errors
/// The kernel's.
pub fn state(link: BorrowedFd<'_>) -> io::Result<LinkState> {
    let mut info = LinkInfo::default();
    let mut request = Info {
        descriptor: link.as_raw_fd().cast_unsigned(),
        length: size_of::<LinkInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut request)?;
    Ok(LinkState {
        ifindex: info.ifindex,
        program: info.program,
    })
}

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: `attributes` is a `repr(C)` struct laid out as the kernel's for this command and has the size given; what it points to
    // (a path, or a buffer of the length named in it) lives in the caller. The kernel writes nowhere else.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>() as libc::c_uint,
        )
    };
    match libc::c_int::try_from(answer) {
        Ok(answer) if answer >= 0 => Ok(answer),
        _ => Err(io::Error::last_os_error()),
    }
}
