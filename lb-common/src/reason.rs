//! The one named outcome of a packet.
//!
//! Every way out of the program has its reason, a reason *is* its counter and its name in every output, and the sum of
//! all reasons is the number of packets received. There is no catch-all.

/// What a reason means for the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It went to a backend.
    Forwarded,
    /// It went on to the host's own network stack, untouched.
    Passed,
    /// It was dropped.
    Dropped,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal, $fate:ident;)+) => {
        /// Why a packet left the program the way it did; the number is its counter's index.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant = $number,)+
        }

        impl Reason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant),+];

            /// The name of the reason in every output.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Reason::$variant => $name,)+
                }
            }

            /// What becomes of a packet with this reason.
            pub const fn fate(self) -> Fate {
                match self {
                    $(Reason::$variant => Fate::$fate,)+
                }
            }

            /// One sentence for people.
            pub const fn explanation(self) -> &'static str {
                match self {
                    $(Reason::$variant => concat!($($doc),+),)+
                }
            }
        }
    };
}

reasons! {
    /// Sent to a backend. Not counted on its own: it is the sum of the backends' packets.
    Forwarded = 0, "forwarded", Forwarded;
    /// Neither IPv4 nor IPv6: ARP, LLDP and the like.
    NotIp = 1, "not_ip", Passed;
    /// Tagged with a VLAN: not balanced in this version.
    Vlan = 2, "vlan", Passed;
    /// Shorter than its own headers say.
    Truncated = 3, "truncated", Passed;
    /// An IP header that contradicts itself: version, header length or total length.
    BadIpHeader = 4, "bad_ip_header", Passed;
    /// A fragment: only the first one has ports, so none is balanced in this version.
    Fragment = 5, "fragment", Passed;
    /// An IPv6 extension header stands before the transport header: not balanced in this version.
    Ipv6Extension = 6, "ipv6_extension", Passed;
    /// Neither TCP nor UDP: ICMP, routing protocols, tunnels.
    NotTcpOrUdp = 7, "not_tcp_or_udp", Passed;
    /// No service has this address, protocol and port.
    NotAVip = 8, "not_a_vip", Passed;
    /// For a service, but its Ethernet destination is a group's or another host's: flooded by a switch, taken in by a promiscuous interface, or sent with a wrong gateway MAC.
    OtherHost = 9, "other_host", Passed;
    /// No backend of the service is up.
    NoBackend = 10, "no_backend", Dropped;
    /// The way to the backend is not known: no route, or no neighbour answered.
    NoNextHop = 11, "no_next_hop", Dropped;
    /// With its outer header the packet would be longer than 65,535 bytes.
    TooLong = 12, "too_long", Dropped;
    /// The driver left no room in front of the packet for the outer header.
    NoHeadroom = 13, "no_headroom", Dropped;
    /// Its TTL or hop limit is used up, and `l2` would send it on as a router does: a routing loop, or a traceroute.
    TtlExceeded = 14, "ttl_exceeded", Dropped;
    /// An index in the tables points outside of them: a bug in the daemon.
    BrokenTable = 15, "broken_table", Dropped;
}

impl Reason {
    /// How many reasons there are: the length of the counter array.
    pub const COUNT: usize = Self::ALL.len();

    /// Whether [`fate`](Self::fate) is to be dropped: the reasons are numbered so that one comparison tells.
    #[inline(always)]
    pub const fn is_drop(self) -> bool {
        self as u32 >= Reason::NoBackend as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_positions_and_names_are_unique() {
        for (position, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, position, "{}", reason.name());
            let same = Reason::ALL.iter().filter(|other| other.name() == reason.name()).count();
            assert_eq!(same, 1, "{}", reason.name());
            assert_eq!(reason.is_drop(), reason.fate() == Fate::Dropped, "{}", reason.name());
        }
    }
}
