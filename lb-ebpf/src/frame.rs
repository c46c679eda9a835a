//! A received frame as `lb_common` reads it.

use core::mem::size_of;

use aya_ebpf::helpers::bpf_xdp_get_buff_len;
use aya_ebpf::programs::XdpContext;
use lb_common::parse::Packet;

/// The directly readable part of a frame, and its context for the rest.
pub struct Frame<'a> {
    ctx: &'a XdpContext,
    start: usize,
    end: usize,
}

impl<'a> Frame<'a> {
    /// The frame as it is now; `bpf_xdp_adjust_head` makes it stale.
    #[inline(always)]
    pub fn of(ctx: &'a XdpContext) -> Self {
        Frame {
            ctx,
            start: ctx.data(),
            end: ctx.data_end(),
        }
    }
}

impl Packet for Frame<'_> {
    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        let from = self.start + offset;
        if from + N > self.end {
            return None;
        }
        // SAFETY: the comparison above is the one that the verifier demands. A packet is not at address 0, and the compiler
        // would else compare with it.
        unsafe {
            core::hint::assert_unchecked(from != 0);
            Some(&*(from as *const [u8; N]))
        }
    }

    #[inline(always)]
    fn holds(&self, length: usize) -> bool {
        // Only a frame of several buffers is longer than what can be read directly; then the helper knows.
        self.end - self.start >= length || self.holds_in_fragments(length)
    }
}

impl Frame<'_> {
    // Not marked cold: that would put it into a section of its own, and aya-obj 0.3 links a call by the function's address within its
    // section alone. It took this one for the first function of `.text`.
    #[inline(never)]
    fn holds_in_fragments(&self, length: usize) -> bool {
        // SAFETY: the context is the program's own. The helper is there since Linux 5.18.
        unsafe { bpf_xdp_get_buff_len(self.ctx.ctx) >= length as u64 }
    }
}

/// The frames that nearly all are: one buffer, no IPv4 options. What is not so looks truncated or broken through this.
pub struct Plain<'a>(pub Frame<'a>);

impl Packet for Plain<'_> {
    const PLAIN: bool = true;

    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.0.bytes(offset)
    }

    #[inline(always)]
    fn holds(&self, length: usize) -> bool {
        self.0.end - self.0.start >= length
    }
}

/// The first `size_of::<T>()` bytes of the frame, for writing.
#[inline(always)]
pub fn head<T>(ctx: &XdpContext) -> Option<*mut T> {
    let start = ctx.data();
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    Some(start as *mut T)
}

/// Overwrites the frame's first 8 bytes with an answer for userspace.
#[inline(always)]
pub fn answer(ctx: &XdpContext, row_index: u32, reason: u32) -> Option<()> {
    let out = head::<[u32; 2]>(ctx)?;
    // SAFETY: `head` checked the bounds.
    unsafe { out.write([row_index, reason]) };
    Some(())
}
