//! The last stage: the packet gets its backend's headers and leaves.

use aya_ebpf::bindings::xdp_action::XDP_TX;
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::programs::XdpContext;
use lb_common::map::BackendRow;
use lb_common::parse::Flow;
use lb_common::reason::Reason;

use crate::encapsulate::{Front, encapsulate};
use crate::{frame, tables};

/// Rewrites the packet for its backend and says how it leaves.
#[inline(always)]
pub fn rewrite(ctx: &XdpContext, row: &BackendRow, flow: &Flow, hash: u64) -> Result<u32, Reason> {
    // SAFETY: an aligned field of a live map value; volatile, so that the choice of the copy is one load.
    let active = unsafe { core::ptr::read_volatile(&row.active) };
    // A branch and no index: predicted, it takes the load out of the way.
    let rewrite = if active & 1 == 0 {
        &row.rewrites[0]
    } else {
        &row.rewrites[1]
    };
    encapsulate(ctx, rewrite, flow.length, flow.traffic_class, hash)?;
    leave(ctx, rewrite.ifindex)
}

#[inline(always)]
fn leave(ctx: &XdpContext, ifindex: u32) -> Result<u32, Reason> {
    if ifindex == 0 || ifindex == ctx.ingress_ifindex() as u32 {
        Ok(XDP_TX)
    } else {
        tables::redirect(ifindex)
    }
}

impl Front for XdpContext {
    #[inline(always)]
    fn grow(&self, bytes: usize) -> bool {
        // SAFETY: the context is the program's own.
        unsafe { bpf_xdp_adjust_head(self.ctx, -(bytes as i32)) == 0 }
    }

    #[inline(always)]
    fn head<T>(&self) -> Option<*mut T> {
        frame::head(self)
    }
}
