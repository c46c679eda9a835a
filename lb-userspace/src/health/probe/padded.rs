//! A probe whose packets are padded inside of the tunnel, as large as users' full-size packets.
//!
//! The probe program appends zeros behind the inner packet and counts them in the outer header (`lb-ebpf/src/probe.rs`). So routers see a
//! packet of that size with "don't fragment" set, as the balancer sets it for users' packets, and everything inside is the same probe as ever.
//!
//! What was weighed against it: data in a SYN works for TCP alone, some firewalls drop it, and a server that takes TCP Fast Open without a
//! cookie hands it to its application. A long request is known to the application, and needs a connection whose segments are that large.
//! A large echo request depends on ICMP. The zeros need nothing of the server, and are the same for each kind of check.

use std::io;
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::Instant;

use nix::sys::socket::sockopt::TcpMaxSeg;
use nix::sys::socket::{getsockopt, setsockopt};
use nix::{setsockopt_impl, sockopt_impl};

use super::{Deadline, Fault, Job, ask};

sockopt_impl!(
    /// The priority of the socket's packets.
    Priority,
    SetOnly,
    libc::SOL_SOCKET,
    libc::SO_PRIORITY,
    libc::c_int
);
sockopt_impl!(
    /// Whether the socket is to be looked at and not to be used (tcp(7), CAP_NET_ADMIN).
    Repair,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_REPAIR,
    libc::c_int
);

/// Values of [`Repair`] (`linux/tcp.h`): on; and off without a packet that says so (Linux 4.19).
const REPAIR_ON: libc::c_int = 1;
const REPAIR_OFF_NO_WINDOW_PROBE: libc::c_int = -1;

/// How a probe's packets are padded, and what came of its connection.
#[derive(Clone, Debug)]
pub(in crate::health) struct Padding {
    /// Bytes that an inner packet has with its padding. Larger packets are sent as they are.
    length: u16,
    /// Set once a connection is made: the largest segment that the server announces (RFC 9293 section 3.7.1), if that can be told.
    connection: OnceLock<Option<u32>>,
}

/// What came of a padded probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::health) enum Reply {
    /// Packets of this size get there.
    Answered {
        /// The largest TCP segment that the server takes; nothing where there is no connection.
        mss: Option<u32>,
    },
    /// Nothing came back.
    Silent,
    /// It says nothing about the size: this host could not ask, or the backend refuses.
    Unknown,
}

impl Padding {
    fn new(length: u16) -> Self {
        Self {
            length,
            connection: OnceLock::new(),
        }
    }

    /// Makes the probe program pad the socket's packets: it reads the length from their priority.
    pub(super) fn apply(&self, socket: &impl AsFd) -> nix::Result<()> {
        setsockopt(socket, Priority, &self.length.into())
    }

    /// A connection is made: the SYN, padded like all packets, was answered.
    pub(super) fn connected(&self, socket: &impl AsFd) {
        let _ = self.connection.set(announced_mss(socket).ok());
    }
}

/// The largest segment that the peer of a TCP connection has announced, in bytes; 536 if it has not.
///
/// Of a socket in [`Repair`], `TCP_MAXSEG` is that; else the smaller of it and of what the probes' interface takes.
fn announced_mss(socket: &impl AsFd) -> io::Result<u32> {
    setsockopt(socket, Repair, &REPAIR_ON)?;
    let mss = getsockopt(socket, TcpMaxSeg);
    setsockopt(socket, Repair, &REPAIR_OFF_NO_WINDOW_PROBE)?;
    Ok(mss?)
}

/// Makes one probe with packets padded to `length` bytes, as the tunnel counts them.
pub(in crate::health) async fn ask_padded(job: Job, length: u16) -> Reply {
    let job = Job {
        padding: Some(Padding::new(length)),
        ..job
    };
    let deadline = Deadline {
        at: Instant::now() + job.timeout,
        timeout: job.timeout,
        excuse_stall: job.excuse_stall,
    };
    let result = ask(&job, deadline).await;
    let connection = job.padding.and_then(|padding| padding.connection.into_inner());
    match (connection, result) {
        // What the application makes of the request is the plain probe's affair.
        (Some(mss), _) => Reply::Answered { mss },
        (None, Ok(_)) => Reply::Answered { mss: None },
        (None, Err(Fault::Silence(_))) => Reply::Silent,
        (None, Err(Fault::Backend(_) | Fault::Own(_))) => Reply::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_peers_segment_is_read_and_the_connection_stays_usable() {
        use std::io::{Read as _, Write as _};

        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        setsockopt(&listener, TcpMaxSeg, &1_234).expect("a smaller segment");
        let mut client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        match announced_mss(&client) {
            Ok(mss) => assert_eq!(mss, 1_234),
            // It takes CAP_NET_ADMIN.
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}"),
        }
        let (mut server, _) = listener.accept().expect("a connection");
        client.write_all(b"hello").expect("it is usable");
        let mut heard = [0; 5];
        server.read_exact(&mut heard).expect("it is usable");
        assert_eq!(&heard, b"hello");
    }
}
