//! The last stage: the packet gets its backend's headers and leaves.

use aya_ebpf::bindings::xdp_action::XDP_TX;
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::programs::XdpContext;
use lb_common::encap::{IPV4_LEN, IPV6_LEN, LONGEST_IN_IPV4, LONGEST_IN_IPV6, ipv4_header, ipv6_header};
use lb_common::map::{BackendRow, Mode, Rewrite};
use lb_common::parse::Flow;
use lb_common::reason::Reason;

use crate::{frame, tables};

const L2: u32 = Mode::L2 as u32;
const IPIP_V4: u32 = Mode::IpipV4 as u32;
const IPIP_V6: u32 = Mode::IpipV6 as u32;

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
    match rewrite.mode {
        IPIP_V4 => ipip_v4(ctx, rewrite, flow)?,
        IPIP_V6 => ipip_v6(ctx, rewrite, flow, hash)?,
        L2 => l2(ctx, rewrite)?,
        _ => return Err(Reason::NoNextHop),
    }
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

#[inline(always)]
fn l2(ctx: &XdpContext, rewrite: &Rewrite) -> Result<(), Reason> {
    let head = frame::head::<[u32; 3]>(ctx).ok_or(Reason::Truncated)?;
    let [first, second, ..] = rewrite.header;
    // SAFETY: `head` checked the bounds.
    unsafe { head.write([first as u32, (first >> 32) as u32, second as u32]) };
    Ok(())
}

#[inline(always)]
fn ipip_v4(ctx: &XdpContext, rewrite: &Rewrite, flow: &Flow) -> Result<(), Reason> {
    if flow.length > LONGEST_IN_IPV4 {
        return Err(Reason::TooLong);
    }
    grow(ctx, IPV4_LEN)?;
    let head = frame::head::<[u8; 34]>(ctx).ok_or(Reason::NoHeadroom)?.cast::<u8>();
    // Only now: what is read from the row before `grow` would have to be kept on the stack across it.
    let (words, tail) = ipv4_header(rewrite, flow.length, flow.traffic_class);
    // SAFETY: `head` checked the bounds. Alignment: as in `lb_common::parse`.
    unsafe {
        head.cast::<[u64; 4]>().write(words);
        head.add(32).cast::<u16>().write(tail);
    }
    Ok(())
}

#[inline(always)]
fn ipip_v6(ctx: &XdpContext, rewrite: &Rewrite, flow: &Flow, hash: u64) -> Result<(), Reason> {
    if flow.length > LONGEST_IN_IPV6 {
        return Err(Reason::TooLong);
    }
    grow(ctx, IPV6_LEN)?;
    let head = frame::head::<[u8; 54]>(ctx).ok_or(Reason::NoHeadroom)?.cast::<u8>();
    let (words, middle, tail) = ipv6_header(rewrite, flow.length, flow.traffic_class, hash);
    // SAFETY: as in `ipip_v4`.
    unsafe {
        head.cast::<[u64; 6]>().write(words);
        head.add(48).cast::<u32>().write(middle);
        head.add(52).cast::<u16>().write(tail);
    }
    Ok(())
}

/// Makes room in front of the packet; its pointers are stale afterwards.
#[inline(always)]
fn grow(ctx: &XdpContext, bytes: usize) -> Result<(), Reason> {
    // SAFETY: the context is the program's own.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(bytes as i32)) } == 0 {
        Ok(())
    } else {
        Err(Reason::NoHeadroom)
    }
}
