//! What the packet benchmark's wrapper and its driver agree on: `lb-ebpf/src/bench.rs` and `lb-userspace/benches/packets`.

use bytemuck::{Pod, Zeroable};

/// Packets of one run of the wrapper: `BPF_PROG_TEST_RUN` reports whole nanoseconds a run, so 16 resolve a sixteenth.
pub const PACKETS: u32 = 16;

/// Name of the wrapper's program array, whose only entry is the program under test.
pub const TARGET: &str = "TARGET";
/// Name of the wrapper's array of one [`Wrapper`].
pub const WRAPPER: &str = "WRAPPER";

/// What the wrapper does to every packet, and what it saw. Userspace writes it whole before each measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Wrapper {
    /// The packet's first 64 bytes as they should be when the program gets it.
    pub head: [u64; 8],
    /// How many packets there were.
    pub packets: u64,
    /// How often the program gave each verdict (`enum xdp_action`; 7: it was not reached, or gave another one).
    pub verdicts: [u64; 8],
    /// Packets whose length the program changed by something else than `growth`.
    pub other_growth: u64,
    /// By how many bytes the program is to grow the packet.
    pub growth: i32,
    /// Number of the first flow.
    pub first_flow: u32,
    /// Number of flows less one: a power of two less one. 0: the packet is left as it is.
    pub flow_mask: u32,
    /// Odd multiplier that puts the flows out of order.
    pub stride: u32,
    /// Destination addresses, in a row from the packet's own on: 1 leaves it as it is.
    pub destinations: u32,
    /// The sum of [`bit`]s.
    pub bits: u32,
}

/// Bits of [`Wrapper::bits`].
pub mod bit {
    /// The packet is IPv6.
    pub const IPV6: u32 = 1 << 0;
    /// Grow and shrink the packet once more: prices the `bpf_xdp_adjust_head` that undoes the program's growth.
    pub const PAIR: u32 = 1 << 1;
    /// Write single fields (4 bytes of an address, 2 of a port, the Ethernet header in halfwords) instead of words of 8 bytes.
    pub const FIELDS: u32 = 1 << 2;
}

/// Ports of one client address; the flow's number above them is the address.
pub const PORTS_OF_A_CLIENT: u32 = 64;

const _: () = assert!(size_of::<Wrapper>() == 64 + 8 + 64 + 8 + 24);

#[cfg(feature = "user")]
mod user {
    // SAFETY: `Pod`: any bytes are a value, and none of them are padding.
    unsafe impl aya::Pod for super::Wrapper {}
}
