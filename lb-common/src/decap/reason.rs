//! Why the decapsulator did with a packet what it did.

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecapFate {
    /// Its inner packet went on to the host's own network stack.
    Unwrapped,
    /// It went on to the host's own network stack, untouched.
    Passed,
    /// It was dropped.
    Dropped,
}

/// The one named outcome of a packet at the decapsulator; the number is its counter's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum DecapReason {
    /// Unwrapped.
    Unwrapped = 0,
    /// Unwrapped, and the congestion mark of the outer header was carried over to the inner one.
    UnwrappedMarked = 1,
    /// Neither IPv4 nor IPv6.
    NotIp = 2,
    /// Tagged with a VLAN.
    Vlan = 3,
    /// Carries neither IPv4 nor IPv6: the host's ordinary traffic.
    NotATunnel = 4,
    /// Shorter than its outer header says.
    Truncated = 5,
    /// An outer header that contradicts itself: version, header length or total length.
    BadOuterHeader = 6,
    /// IPv4 options, or IPv6 destination options other than the tunnel encapsulation limit.
    OuterOptions = 7,
    /// A fragment of a tunnelled packet: the tunnel's path has a smaller MTU than the balancer thinks.
    OuterFragment = 8,
    /// The outer destination is none of this host's addresses.
    NotLocal = 9,
    /// The Ethernet destination is a group's or another host's: flooded by a switch, or taken in by a promiscuous interface.
    OtherHost = 10,
    /// The tunnelled packet ends within its own header.
    InnerTruncated = 11,
    /// An inner header that contradicts itself or the outer one: version, header length or total length.
    BadInnerHeader = 12,
    /// The inner destination is no VIP that was named.
    NotAVip = 13,
    /// For a VIP, but the inner packet says that it is longer than what the outer one carries.
    InnerTooLong = 14,
    /// For a VIP, but marked as congested on the way, which the inner packet cannot carry on (RFC 6040).
    CongestionLost = 15,
    /// For a VIP, but the kernel would not move the packet's start.
    HeadRefused = 16,
    /// For a VIP, but the outer source is none of the edges' addresses that were named (`lbd backend --from`).
    SourceNotAllowed = 17,
}

impl DecapReason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [DecapReason; 18] = [
        Self::Unwrapped,
        Self::UnwrappedMarked,
        Self::NotIp,
        Self::Vlan,
        Self::NotATunnel,
        Self::Truncated,
        Self::BadOuterHeader,
        Self::OuterOptions,
        Self::OuterFragment,
        Self::NotLocal,
        Self::OtherHost,
        Self::InnerTruncated,
        Self::BadInnerHeader,
        Self::NotAVip,
        Self::InnerTooLong,
        Self::CongestionLost,
        Self::HeadRefused,
        Self::SourceNotAllowed,
    ];

    /// How many reasons there are: the length of the counter array.
    pub const COUNT: usize = Self::ALL.len();

    /// The name of the reason in every output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unwrapped => "unwrapped",
            Self::UnwrappedMarked => "unwrapped_marked",
            Self::NotIp => "not_ip",
            Self::Vlan => "vlan",
            Self::NotATunnel => "not_a_tunnel",
            Self::Truncated => "truncated",
            Self::BadOuterHeader => "bad_outer_header",
            Self::OuterOptions => "outer_options",
            Self::OuterFragment => "outer_fragment",
            Self::NotLocal => "not_local",
            Self::OtherHost => "other_host",
            Self::InnerTruncated => "inner_truncated",
            Self::BadInnerHeader => "bad_inner_header",
            Self::NotAVip => "not_a_vip",
            Self::InnerTooLong => "inner_too_long",
            Self::CongestionLost => "congestion_lost",
            Self::HeadRefused => "head_refused",
            Self::SourceNotAllowed => "source_not_allowed",
        }
    }

    /// What becomes of a packet with this reason.
    ///
    /// What may belong to another tunnel of this host is passed; what is surely for a VIP but broken, or from a stranger, is dropped.
    #[inline(always)]
    pub const fn fate(self) -> DecapFate {
        match self {
            Self::Unwrapped | Self::UnwrappedMarked => DecapFate::Unwrapped,
            Self::InnerTooLong | Self::CongestionLost | Self::HeadRefused | Self::SourceNotAllowed => {
                DecapFate::Dropped
            }
            Self::NotIp
            | Self::Vlan
            | Self::NotATunnel
            | Self::Truncated
            | Self::BadOuterHeader
            | Self::OuterOptions
            | Self::OuterFragment
            | Self::NotLocal
            | Self::OtherHost
            | Self::InnerTruncated
            | Self::BadInnerHeader
            | Self::NotAVip => DecapFate::Passed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_positions_and_names_are_unique() {
        for (position, reason) in DecapReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, position, "{}", reason.name());
            let same = DecapReason::ALL
                .iter()
                .filter(|other| other.name() == reason.name())
                .count();
            assert_eq!(same, 1, "{}", reason.name());
        }
    }
}
