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
/// Not a failure: the sender is to send less at once.
const FRAGMENTATION_NEEDED: u8 = 4;
const UNREACHABLE_V6: u8 = 1;

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

/// Calls `tell` with the address of each backend that something could not be delivered to, until it says false. Ends at once if this
/// host gives no such socket.
///
/// # Errors
/// Why it has ended.
pub async fn watch(v4: bool, mut tell: impl FnMut(IpAddr) -> bool) -> io::Result<()> {
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
            let Some(address) = quoted(v4, &message[..length]) else {
                continue;
            };
            if told.len() < MOST_AT_ONCE && told.insert(address) && !tell(address) {
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
        blocked[0] &= !(1 << UNREACHABLE_V6);
        setsockopt(&socket, FilterV6, &blocked)?;
    }
    Ok(socket)
}

/// Where the packet that a message quotes was going to. An IPv4 message comes with its own header.
fn quoted(v4: bool, message: &[u8]) -> Option<IpAddr> {
    if v4 {
        let own = usize::from(message.first()? & 0x0F) * 4;
        let error = message.get(own..)?;
        if error.first() != Some(&UNREACHABLE_V4) || error.get(1) == Some(&FRAGMENTATION_NEEDED) {
            return None;
        }
        let address: [u8; 4] = error.get(8 + 16..8 + 20)?.try_into().ok()?;
        return Some(Ipv4Addr::from(address).into());
    }
    if message.first() != Some(&UNREACHABLE_V6) {
        return None;
    }
    let address: [u8; 16] = message.get(8 + 24..8 + 40)?.try_into().ok()?;
    Some(Ipv6Addr::from(address).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_message_quotes() {
        let mut v4 = vec![0x46];
        v4.resize(24, 0);
        v4.extend([UNREACHABLE_V4, 1, 0, 0, 0, 0, 0, 0]);
        v4.extend([0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 4, 0, 0, 10, 0, 0, 5, 10, 0, 0, 11]);
        assert_eq!(quoted(true, &v4), Some(Ipv4Addr::new(10, 0, 0, 11).into()));
        for length in 0..v4.len() {
            assert_eq!(quoted(true, &v4[..length]), None, "{length} bytes");
        }
        v4[25] = FRAGMENTATION_NEEDED;
        assert_eq!(quoted(true, &v4), None);
        let mut v6 = vec![UNREACHABLE_V6, 0, 0, 0, 0, 0, 0, 0];
        v6.extend([0; 39]);
        assert_eq!(quoted(false, &v6), None);
        v6.push(7);
        assert_eq!(quoted(false, &v6), Some("::7".parse().unwrap()));
        v6[0] = 3;
        assert_eq!(quoted(false, &v6), None);
    }
}
