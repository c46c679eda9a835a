//! A backend's headers in front of a packet: for the balancer's packets, and for probes that take the same way.

use lb_common::encap::{IPV4_LEN, IPV6_LEN, LONGEST_IN_IPV4, LONGEST_IN_IPV6, ipv4_header, ipv6_header};
use lb_common::map::{Mode, Rewrite};
use lb_common::reason::Reason;

const L2: u32 = Mode::L2 as u32;
const IPIP_V4: u32 = Mode::IpipV4 as u32;
const IPIP_V6: u32 = Mode::IpipV6 as u32;

/// A packet whose beginning can be moved and written.
pub trait Front {
    /// Makes room in front of the packet; pointers into it are stale afterwards. Says whether there was room.
    fn grow(&self, bytes: usize) -> bool;

    /// The first `size_of::<T>()` bytes, for writing.
    fn head<T>(&self) -> Option<*mut T>;

    /// Replaces the Ethernet header of a packet that goes on as itself.
    #[inline(always)]
    fn go_on(&self, rewrite: &Rewrite) -> Result<(), Reason> {
        let head = self.head().ok_or(Reason::Truncated)?;
        // SAFETY: `head` checked the bounds.
        unsafe { write_ethernet(head, rewrite) };
        Ok(())
    }
}

/// Puts a backend's headers in front of an IP packet of `length` bytes, its own Ethernet header replaced.
#[inline(always)]
pub fn encapsulate(
    packet: &impl Front,
    rewrite: &Rewrite,
    length: u32,
    traffic_class: u8,
    hash: u64,
) -> Result<(), Reason> {
    match rewrite.mode {
        IPIP_V4 => ipip_v4(packet, rewrite, length, traffic_class),
        IPIP_V6 => ipip_v6(packet, rewrite, length, traffic_class, hash),
        L2 => packet.go_on(rewrite),
        _ => Err(Reason::NoNextHop),
    }
}

/// Writes a backend's Ethernet addresses; the EtherType stays.
///
/// # Safety
/// `head` must be the frame's beginning, with as many bytes.
#[inline(always)]
pub unsafe fn write_ethernet(head: *mut [u32; 3], rewrite: &Rewrite) {
    let [first, second, ..] = rewrite.header;
    // SAFETY: the caller's. Alignment: as in `lb_common::parse`.
    unsafe { head.write([first as u32, (first >> 32) as u32, second as u32]) };
}

#[inline(always)]
fn ipip_v4(packet: &impl Front, rewrite: &Rewrite, length: u32, traffic_class: u8) -> Result<(), Reason> {
    if length > LONGEST_IN_IPV4 {
        return Err(Reason::TooLong);
    }
    grow(packet, IPV4_LEN)?;
    let head = packet.head::<[u8; 34]>().ok_or(Reason::NoHeadroom)?.cast::<u8>();
    // Only now: what is read from the row before `grow` would have to be kept on the stack across it.
    let (words, tail) = ipv4_header(rewrite, length, traffic_class);
    // SAFETY: `head` checked the bounds. Alignment: as in `lb_common::parse`.
    unsafe {
        head.cast::<[u64; 4]>().write(words);
        head.add(32).cast::<u16>().write(tail);
    }
    Ok(())
}

#[inline(always)]
fn ipip_v6(packet: &impl Front, rewrite: &Rewrite, length: u32, traffic_class: u8, hash: u64) -> Result<(), Reason> {
    if length > LONGEST_IN_IPV6 {
        return Err(Reason::TooLong);
    }
    grow(packet, IPV6_LEN)?;
    let head = packet.head::<[u8; 54]>().ok_or(Reason::NoHeadroom)?.cast::<u8>();
    let (words, middle, tail) = ipv6_header(rewrite, length, traffic_class, hash);
    // SAFETY: as in `ipip_v4`.
    unsafe {
        head.cast::<[u64; 6]>().write(words);
        head.add(48).cast::<u32>().write(middle);
        head.add(52).cast::<u16>().write(tail);
    }
    Ok(())
}

#[inline(always)]
fn grow(packet: &impl Front, bytes: usize) -> Result<(), Reason> {
    if packet.grow(bytes) {
        Ok(())
    } else {
        Err(Reason::NoHeadroom)
    }
}
