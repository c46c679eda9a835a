//! The last stage: the packet gets its backend's headers and leaves.

use aya_ebpf::bindings::xdp_action::XDP_TX;
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::programs::XdpContext;
use lb_common::hop::checksum_one_hop_on;
use lb_common::map::{BackendRow, Mode};
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
    if rewrite.mode == Mode::L2 as u32 {
        lower_hop_limit(ctx, flow.v6)?;
    }
    encapsulate(ctx, rewrite, flow.length, flow.traffic_class, hash)?;
    leave(ctx, rewrite.ifindex)
}

/// Lowers TTL or hop limit, as every router does that sends a packet on as itself: two balancers that are each other's backend must not
/// send it to and fro for ever. A tunnel has a TTL of its own, and leaves the inner packet's to its end.
#[inline(always)]
fn lower_hop_limit(ctx: &XdpContext, v6: bool) -> Result<(), Reason> {
    let head = frame::head::<[u8; 26]>(ctx).ok_or(Reason::Truncated)?.cast::<u8>();
    let at = if v6 { IPV6_HOP_LIMIT } else { IPV4_TTL };
    // SAFETY: `head` checked the bounds. Alignment: as in `lb_common::parse`.
    unsafe {
        let limit = head.add(at).read();
        if limit <= 1 {
            return Err(Reason::TtlExceeded);
        }
        head.add(at).write(limit - 1);
        if !v6 {
            let checksum = head.add(IPV4_CHECKSUM).cast::<u16>();
            checksum.write(checksum_one_hop_on(checksum.read()));
        }
    }
    Ok(())
}

const IPV4_TTL: usize = 14 + 8;
const IPV4_CHECKSUM: usize = 14 + 10;
const IPV6_HOP_LIMIT: usize = 14 + 7;

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
