//! What the XDP program and the daemon must agree on bit for bit.
//!
//! Code is here only if the program in the kernel runs it, or if both sides must compute the same bits from it. All of it
//! is `no_std`, allocates nothing and is tested on the host, so that no kernel is needed to find a wrong byte.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`map`] | the types in the BPF maps, and the ABI version that a change to them bumps |
//! | [`parse`] | Ethernet → IPv4 or IPv6 → TCP or UDP, over any [`parse::Packet`] |
//! | [`hash`] | the keyed flow hash, the service table's two places, the ring's slot |
//! | [`encap`] | outer headers: their template, and the fields that a packet adds to it |
//! | [`hop`] | TTL and hop limit of packets that go on as themselves |
//! | [`local_mac`] | whose a frame is: the host's own Ethernet addresses |
//! | [`reason`] | the one named outcome of a packet |
//! | [`mod@bench`] | what the packet benchmark's wrapper and its driver share |
//! | [`decap`] | the backends' side: whether a packet is a tunnelled one for a VIP, and how it is unwrapped |
//! | [`probe`] | the users' path of health probes |
//!
//! Hashes and map keys are computed from the bytes of the wire in the machine's own order. Nodes of one fleet must
//! therefore be of one endianness; all that eBPF is deployed on at the edge is little-endian.
#![cfg_attr(not(test), no_std)]

pub mod bench;
pub mod decap;
pub mod encap;
pub mod hash;
pub mod hop;
pub mod local_mac;
pub mod map;
pub mod parse;
pub mod probe;
pub mod reason;
