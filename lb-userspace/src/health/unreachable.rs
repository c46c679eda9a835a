//! ICMP errors about tunnelled packets: a reason to ask a backend at once.
//!
//! A router that cannot deliver a packet to a backend says so to its source, this host, and quotes the outer header. That is no verdict,
//! since anybody can send such a message; but a probe made now finds out sooner than one made when the interval has passed.
//!
//! A raw socket for each family (CAP_NET_RAW), which gets "destination unreachable" and nothing else. Reading is bounded: what
//! comes faster is dropped by the kernel with the socket's buffer.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::{setsockopt_impl, sockopt_impl};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

/// For so long an address is not told again, nor are there more than [`MOST_AT_ONCE`].
const PAUSE: Duration = Duration::from_millis(100);
/// Addresses told within a pause.
const MOST_AT_ONCE: usize = 100;
/// Messages read within a pause.
const MOST_READ: usize = 1_000;

/// As in `linux/icmp.h` and `linux/icmpv6.h`.
const ICMP_FILTER: libc::c_int = 1;
const ICMPV6_FILTER: libc::c_int = 1;

const UNREACHABLE_V4: u8 = 3;
const PROTOCOL_UNREACHABLE: u8 = 2;
const PORT_UNREACHABLE: u8 = 3;
/// Not a failure: the sender is to send less at once.
const FRAGMENTATION_NEEDED: u8 = 4;
const UNREACHABLE_V6: u8 = 1;
const PORT_UNREACHABLE_V6: u8 = 4;
const PARAMETER_PROBLEM_V6: u8 = 4;
const UNKNOWN_NEXT_HEADER: u8 = 1;

/// IP in IP, by the inner packet's family.
const TUNNELS: [u8; 2] = [4, 41];

sockopt_impl!(
    /// Bits of the ICMP types that a raw socket does not get.
    FilterV4,
    SetOnly,
    libc::SOL_RAW,
    ICMP_FILTER,
    u32
);
sockopt_impl!(
    /// The same for ICMPv6, 256 bits.
    FilterV6,
    SetOnly,
    libc::IPPROTO_ICMPV6,
    ICMPV6_FILTER,
    [u32; 8]
);

/// What a message says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Unreachable {
    /// Where the packet was going to.
    pub address: IpAddr,
    /// Its host got it, and knows no such tunnel. Linux says "protocol unreachable", or "port unreachable" if it has other tunnels; in IPv6
    /// "unknown next header".
    pub refused: bool,
}

/// Calls `tell` for each backend that something could not be delivered to, until it says false. Ends at once if this
/// host gives no such socket.
///
/// # Errors
/// Why it has ended.
pub async fn watch(v4: bool, mut tell: impl FnMut(Unreachable) -> bool) -> io::Result<()> {
    // To tokio it is a socket of datagrams: that it was made for another protocol only the kernel knows.
    let socket = UdpSocket::from_std(open(v4)?.into())?;
    let mut message = [0; 576];
    loop {
        let mut told = HashSet::new();
        let pause = tokio::time::sleep(PAUSE);
        tokio::pin!(pause);
        for _ in 0..MOST_READ {
            let length = tokio::select! {
                () = &mut pause, if !told.is_empty() => break,
                length = socket.recv(&mut message) => length?,
            };
            let Some(word) = quoted(v4, &message[..length]) else {
                continue;
            };
            if told.len() < MOST_AT_ONCE && told.insert(word) && !tell(word) {
                return Ok(());
            }
        }
        pause.await;
    }
}

fn open(v4: bool) -> io::Result<Socket> {
    let (domain, protocol) = if v4 {
        (Domain::IPV4, Protocol::ICMPV4)
    } else {
        (Domain::IPV6, Protocol::ICMPV6)
    };
    let socket = Socket::new(domain, Type::RAW.nonblocking(), Some(protocol))?;
    if v4 {
        setsockopt(&socket, FilterV4, &!(1 << UNREACHABLE_V4))?;
    } else {
        let mut blocked = [u32::MAX; 8];
        blocked[0] &= !(1 << UNREACHABLE_V6 | 1 << PARAMETER_PROBLEM_V6);
        setsockopt(&socket, FilterV6, &blocked)?;
    }
    Ok(socket)
}

/// What a message says of the packet that it quotes. An IPv4 message comes with its own header.
fn quoted(v4: bool, message: &[u8]) -> Option<Unreachable> {
    let own = if v4 {
        usize::from(message.first()? & 0x0F) * 4
    } else {
        0
    };
    let error = message.get(own..)?;
    let (kind, code) = (*error.first()?, *error.get(1)?);
    // Of the quoted header: the place of the protocol, and that of the destination.
    let (protocol, address): (usize, IpAddr) = if v4 {
        let address: [u8; 4] = error.get(8 + 16..8 + 20)?.try_into().ok()?;
        (9, Ipv4Addr::from(address).into())
    } else {
        let address: [u8; 16] = error.get(8 + 24..8 + 40)?.try_into().ok()?;
        (6, Ipv6Addr::from(address).into())
    };
    let tunnel = TUNNELS.contains(error.get(8 + protocol)?);
    let refused = match (v4, kind, code) {
        (true, UNREACHABLE_V4, FRAGMENTATION_NEEDED) => return None,
        (true, UNREACHABLE_V4, PROTOCOL_UNREACHABLE | PORT_UNREACHABLE)
        | (false, UNREACHABLE_V6, PORT_UNREACHABLE_V6) => tunnel,
        (true, UNREACHABLE_V4, _) | (false, UNREACHABLE_V6, _) => false,
        // Of another header than the tunnel's it is the sender's own affair.
        (false, PARAMETER_PROBLEM_V6, UNKNOWN_NEXT_HEADER) if tunnel => true,
        _ => return None,
    };
    Some(Unreachable { address, refused })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: u8 = 1;

    fn word(address: &str, refused: bool) -> Option<Unreachable> {
        let address = address.parse().unwrap();
        Some(Unreachable { address, refused })
    }

    #[test]
    fn what_a_message_quotes() {
        let mut v4 = vec![0x46];
        v4.resize(24, 0);
        v4.extend([UNREACHABLE_V4, HOST, 0, 0, 0, 0, 0, 0]);
        v4.extend([0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 4, 0, 0, 10, 0, 0, 5, 10, 0, 0, 11]);
        assert_eq!(quoted(true, &v4), word("10.0.0.11", false));
        for length in 0..v4.len() {
            assert_eq!(quoted(true, &v4[..length]), None, "{length} bytes");
        }
        for (code, refused) in [(PROTOCOL_UNREACHABLE, true), (PORT_UNREACHABLE, true), (13, false)] {
            v4[25] = code;
            assert_eq!(quoted(true, &v4), word("10.0.0.11", refused), "code {code}");
        }
        v4[25] = FRAGMENTATION_NEEDED;
        assert_eq!(quoted(true, &v4), None);
        v4[25] = PORT_UNREACHABLE;
        // A UDP packet to a port where nobody listens has nothing to do with tunnels.
        v4[24 + 8 + 9] = 17;
        assert_eq!(quoted(true, &v4), word("10.0.0.11", false));
        v4[24] = 11;
        assert_eq!(quoted(true, &v4), None);

        let mut v6 = vec![UNREACHABLE_V6, 0, 0, 0, 0, 0, 0, 0];
        v6.extend([0; 39]);
        assert_eq!(quoted(false, &v6), None);
        v6.push(7);
        assert_eq!(quoted(false, &v6), word("::7", false));
        for (kind, code, protocol, expected) in [
            (UNREACHABLE_V6, PORT_UNREACHABLE_V6, 41, word("::7", true)),
            (UNREACHABLE_V6, PORT_UNREACHABLE_V6, 6, word("::7", false)),
            (PARAMETER_PROBLEM_V6, UNKNOWN_NEXT_HEADER, 4, word("::7", true)),
            (PARAMETER_PROBLEM_V6, UNKNOWN_NEXT_HEADER, 41, word("::7", true)),
            (PARAMETER_PROBLEM_V6, UNKNOWN_NEXT_HEADER, 6, None),
            (PARAMETER_PROBLEM_V6, 0, 41, None),
            (3, 0, 41, None),
        ] {
            (v6[0], v6[1], v6[8 + 6]) = (kind, code, protocol);
            assert_eq!(quoted(false, &v6), expected, "type {kind} code {code} of {protocol}");
        }
    }
}
