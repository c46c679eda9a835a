//! `icmp`: an echo request is answered.
//!
//! By a raw socket (CAP_NET_RAW), because ping sockets are switched off in most namespaces. Each probe sends a token of its own: backends of
//! one VIP answer from the same address.

use std::io;

use nix::sys::socket::setsockopt;
use nix::{setsockopt_impl, sockopt_impl};

use super::connect::echo;
use super::{Answer, Deadline, Fault, Job};

sockopt_impl!(
    /// Bits of the ICMP types that a raw socket does not get.
    IcmpFilter,
    SetOnly,
    libc::SOL_RAW,
    ICMP_FILTER,
    u32
);

/// As in `linux/icmp.h`.
const ICMP_FILTER: libc::c_int = 1;
const ECHO_V4: u8 = 8;
const REPLY_V4: u8 = 0;
const ECHO_V6: u8 = 128;
const REPLY_V6: u8 = 129;
/// Head and token.
const LENGTH: usize = 16;

pub(super) async fn probe(job: &Job, deadline: Deadline) -> Result<Answer, Fault> {
    let socket = echo(job)?;
    let v4 = job.to.is_ipv4();
    if v4 {
        // Without it there is only more to read.
        let _ = setsockopt(&socket, IcmpFilter, &!(1 << REPLY_V4));
    }
    let request = request(v4, fastrand::u16(1..), fastrand::u64(..));
    let sent = socket.send(&request).await;
    sent.map_err(|error| Fault::of_io(&error))?;
    let mut packet = [0; 2_048];
    let answered = async {
        loop {
            let length = socket.recv(&mut packet).await?;
            if answers(v4, &packet[..length], &request) {
                return Ok::<(), io::Error>(());
            }
        }
    };
    let answered = deadline.wait("echo reply", answered).await?;
    answered.map_err(|error| Fault::of_io(&error))?;
    Ok(Answer::now("echo reply"))
}

/// Type, code, checksum, identifier, sequence number (RFC 792, RFC 4443); the kernel sums ICMPv6 itself.
fn request(v4: bool, identifier: u16, token: u64) -> [u8; LENGTH] {
    let mut message = [0; LENGTH];
    message[0] = if v4 { ECHO_V4 } else { ECHO_V6 };
    message[4..6].copy_from_slice(&identifier.to_be_bytes());
    message[7] = 1;
    message[8..].copy_from_slice(&token.to_be_bytes());
    if v4 {
        let sum: u32 = message
            .chunks_exact(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        let sum = (sum & 0xFFFF) + (sum >> 16);
        let sum = !((sum & 0xFFFF) + (sum >> 16)) as u16;
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

/// Whether a received packet, with its header if it is IPv4, answers the request.
fn answers(v4: bool, packet: &[u8], request: &[u8; LENGTH]) -> bool {
    let start = match packet.first() {
        Some(first) if v4 => usize::from(first & 0x0F) * 4,
        _ => 0,
    };
    let Some(message) = packet.get(start..start + LENGTH) else {
        return false;
    };
    message[0] == if v4 { REPLY_V4 } else { REPLY_V6 } && message[4..] == request[4..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_their_answers() {
        for v4 in [true, false] {
            let request = request(v4, 0xABCD, 0x0102_0304_0506_0708);
            let mut reply = request.to_vec();
            reply[0] = if v4 { REPLY_V4 } else { REPLY_V6 };
            if v4 {
                let sum: u32 = request
                    .chunks_exact(2)
                    .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
                    .sum();
                assert_eq!((sum & 0xFFFF) + (sum >> 16), 0xFFFF, "the checksum");
                let mut header = vec![0x46];
                header.resize(24, 0);
                reply = [header, reply].concat();
            }
            assert!(answers(v4, &reply, &request));
            let last = reply.len() - 1;
            reply[last] ^= 1;
            assert!(!answers(v4, &reply, &request), "another token");
            assert!(!answers(v4, &reply[..10], &request));
            assert!(!answers(v4, &[], &request));
        }
    }
}
