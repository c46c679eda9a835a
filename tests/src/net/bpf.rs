//! XDP programs of two instructions, loaded without a compiler.
//!
//! They are what the far end of a wire needs, and they let the hosts be tested without the balancer.

use std::ffi::{CString, c_long, c_uint};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A program that gives every frame the same verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    verdict: u32,
}

/// Where a program sees frames; the values are the kernel's flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// In the network stack (`XDP_FLAGS_SKB_MODE`).
    Generic = 1 << 1,
    /// In the driver (`XDP_FLAGS_DRV_MODE`).
    Native = 1 << 2,
}

/// A program on an interface, until dropped.
#[derive(Debug)]
pub struct XdpLink {
    #[expect(dead_code, reason = "held open: closing it detaches the program")]
    link: OwnedFd,
}

impl Program {
    /// Gives every frame to the host (`XDP_PASS`).
    pub const PASS: Program = Program { verdict: 2 };
    /// Sends every frame back over the wire that it came from (`XDP_TX`).
    pub const REFLECT: Program = Program { verdict: 3 };

    /// Loads it and puts it on an interface of the calling thread's network. Linux 5.18 for the flag that admits frames in several
    /// pieces.
    pub(super) fn attach(self, device: &str, mode: AttachMode) -> io::Result<XdpLink> {
        let index = nix::net::if_::if_nametoindex(device)?;
        let program = self.load()?;
        let link = bpf(
            BPF_LINK_CREATE,
            &mut LinkCreate {
                program: program.as_raw_fd(),
                interface: index,
                attach_type: BPF_XDP,
                flags: mode as u32,
            },
        )?;
        Ok(XdpLink { link })
    }

    fn load(self) -> io::Result<OwnedFd> {
        let instructions = [move_to_r0(self.verdict), EXIT];
        bpf(
            BPF_PROG_LOAD,
            &mut ProgramLoad {
                kind: BPF_PROG_TYPE_XDP,
                count: instructions.len() as u32,
                instructions: instructions.as_ptr() as u64,
                license: c"GPL".as_ptr() as u64,
                log_level: 0,
                log_size: 0,
                log: 0,
                kernel_version: 0,
                flags: BPF_F_XDP_HAS_FRAGS,
            },
        )
    }
}

/// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes what is missing as zeros.
#[repr(C)]
struct ProgramLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The beginning of `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    program: i32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

/// Takes the program of a pinned link off its interface, as `bpftool link detach pinned PATH` does; the pin stays.
pub fn detach_pinned(pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let link = bpf(
        BPF_OBJ_GET,
        &mut ObjectGet {
            path: path.as_ptr() as u64,
            descriptor: 0,
            flags: 0,
        },
    )?;
    let detach = LinkDetach { link: link.as_raw_fd() };
    // SAFETY: as in `bpf`; this command returns no descriptor.
    let done = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_bpf,
            BPF_LINK_DETACH,
            &raw const detach,
            size_of::<LinkDetach>() as c_uint,
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// The beginning of `union bpf_attr` for `BPF_OBJ_GET`.
#[repr(C)]
struct ObjectGet {
    path: u64,
    descriptor: u32,
    flags: u32,
}

/// The beginning of `union bpf_attr` for `BPF_LINK_DETACH`.
#[repr(C)]
struct LinkDetach {
    link: i32,
}

fn bpf<T>(command: c_uint, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: `attributes` is a `repr(C)` struct laid out as the kernel's for this command and has the size given; what it points to
    // (instructions, licence) lives in the caller's frame. The kernel only reads.
    let fd = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>() as c_uint,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd as c_long).map_err(io::Error::other)?;
    // SAFETY: both commands return a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `r0 = verdict`: opcode, registers, offset, immediate (RFC 9669).
const fn move_to_r0(verdict: u32) -> u64 {
    0xB7 | (verdict as u64) << 32
}

const EXIT: u64 = 0x95;

const BPF_PROG_LOAD: c_uint = 5;
const BPF_OBJ_GET: c_uint = 7;
const BPF_LINK_CREATE: c_uint = 28;
const BPF_LINK_DETACH: c_uint = 34;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
