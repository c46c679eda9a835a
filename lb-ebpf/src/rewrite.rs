//! The last stage: the packet gets its backend's headers and leaves.

use aya_ebpf::bindings::xdp_action::XDP_TX;
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::programs::XdpContext;
use lb_common::encap::ETH_LEN;
use lb_common::hop::ipv4_one_hop_on;
use lb_common::map::{BackendRow, Rewrite};
use lb_common::parse::Flow;
use lb_common::reason::Reason;

use crate::encapsulate::{Front, encapsulate, write_ethernet};
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
    let packet = Routed { ctx, v6: flow.v6 };
    encapsulate(&packet, rewrite, flow.length, flow.traffic_class, hash)?;
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

/// A packet that this host sends on, as a router does.
struct Routed<'a> {
    ctx: &'a XdpContext,
    v6: bool,
}

impl Front for Routed<'_> {
    #[inline(always)]
    fn grow(&self, bytes: usize) -> bool {
        // SAFETY: the context is the program's own.
        unsafe { bpf_xdp_adjust_head(self.ctx.ctx, -(bytes as i32)) == 0 }
    }

    #[inline(always)]
    fn head<T>(&self) -> Option<*mut T> {
        frame::head(self.ctx)
    }

    /// Lowers TTL or hop limit too, as every router does that sends a packet on as itself: two balancers that are each other's backend must
    /// not send it to and fro for ever. A tunnel has a TTL of its own, and leaves the inner packet's to its end.
    #[inline(always)]
    fn go_on(&self, rewrite: &Rewrite) -> Result<(), Reason> {
        let head = self.head::<[u8; IPV4_TTL + 4]>().ok_or(Reason::Truncated)?.cast::<u8>();
        // SAFETY: `head` checked the bounds. Alignment: as in `lb_common::parse`.
        unsafe {
            if self.v6 {
                let limit = head.add(IPV6_HOP_LIMIT).read();
                if limit <= 1 {
                    return Err(Reason::TtlExceeded);
                }
                head.add(IPV6_HOP_LIMIT).write(limit - 1);
            } else {
                let at = head.add(IPV4_TTL).cast::<u32>();
                let word = ipv4_one_hop_on(u32::from_le(at.read())).ok_or(Reason::TtlExceeded)?;
                at.write(word.to_le());
            }
            write_ethernet(head.cast(), rewrite);
        }
        Ok(())
    }
}

const IPV4_TTL: usize = ETH_LEN + 8;
const IPV6_HOP_LIMIT: usize = ETH_LEN + 7;
