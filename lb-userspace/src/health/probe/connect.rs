//! The sockets of probes, and how they travel.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Mark;
use nix::{setsockopt_impl, sockopt_impl};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use super::{Deadline, FORBIDDEN, Fault, Job};
use crate::health::Via;

sockopt_impl!(
    /// How long an orphaned socket stays in FIN-WAIT-2, in seconds; negative: not at all.
    Linger2,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_LINGER2,
    i32
);

sockopt_impl!(
    /// Leaves the choice of a port to connect(2), which knows the other three parts of the connection: so probes of several
    /// targets can share a port.
    BindAddressNoPort,
    SetOnly,
    libc::IPPROTO_IP,
    libc::IP_BIND_ADDRESS_NO_PORT,
    bool
);

/// Connects to where the job is addressed to. The stream it returns closes cleanly when dropped, and leaves no TIME-WAIT behind.
///
/// Thousands of probes a second that close as usual would each hold a source port for a minute. A reset instead of a FIN
/// (`SO_LINGER` of 0) frees it, but servers see and log `connection reset by peer`, some as an error.
/// With a negative `TCP_LINGER2`, a close sends the FIN, so that the server reads an orderly end of file, and the
/// kernel answers the acknowledgement of that FIN with a reset, which frees both ends (tcp_rcv_state_process, FIN-WAIT-1).
/// If the server has closed first there is no reset at all. Bytes that the server sent and nobody read make it a plain reset.
pub(super) async fn connect(job: &Job, deadline: Deadline) -> Result<TcpStream, Fault> {
    let socket = open(&job.via, || match job.to {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    })?;
    // Without the option the probe works as well, it only leaves a TIME-WAIT.
    let _ = setsockopt(&socket, Linger2, &-1);
    if let Some(source) = settle(&job.via, &socket)? {
        socket.bind(source).map_err(|error| job.via.fault_of(&error))?;
    }
    let connected = deadline.wait("connection", socket.connect(job.to)).await?;
    connected.map_err(|error| job.via.fault_of(&error))
}

/// A UDP socket that speaks with where the job is addressed to, and with nobody else.
pub(super) fn datagram(job: &Job) -> Result<UdpSocket, Fault> {
    let socket = connected(job, Type::DGRAM, None)?;
    UdpSocket::from_std(socket.into()).map_err(|error| Fault::of_io(&error))
}

/// A raw ICMP socket, likewise. It takes CAP_NET_RAW. To tokio it is one of datagrams: that it was made for another protocol only the
/// kernel knows.
pub(super) fn echo(job: &Job) -> Result<UdpSocket, Fault> {
    let protocol = if job.to.is_ipv4() {
        Protocol::ICMPV4
    } else {
        Protocol::ICMPV6
    };
    let socket = connected(job, Type::RAW, Some(protocol)).map_err(|fault| match fault {
        Fault::Backend(why) if why == FORBIDDEN => Fault::Own("an ICMP socket takes CAP_NET_RAW".into()),
        other => other,
    })?;
    UdpSocket::from_std(socket.into()).map_err(|error| Fault::of_io(&error))
}

fn connected(job: &Job, kind: Type, protocol: Option<Protocol>) -> Result<Socket, Fault> {
    let socket = open(&job.via, || {
        Socket::new(Domain::for_address(job.to), kind.nonblocking(), protocol)
    })?;
    let at_fault = |error: io::Error| job.via.fault_of(&error);
    if let Some(source) = settle(&job.via, &socket)? {
        socket.bind(&source.into()).map_err(at_fault)?;
    }
    let to = match protocol {
        // Raw sockets have no port; IPv6 insists.
        Some(_) => SocketAddr::new(job.to.ip(), 0),
        None => job.to,
    };
    socket.connect(&to.into()).map_err(at_fault)?;
    Ok(socket)
}

/// Makes a socket where the way begins.
fn open<T>(via: &Via, make: impl FnOnce() -> io::Result<T>) -> Result<T, Fault> {
    let made = match via {
        Via::Direct => make(),
        Via::Vip(path) => {
            let entered = path.namespace.within(make);
            entered.map_err(|error| Fault::Own(format!("the users' path cannot be entered: {error}").into()))?
        }
        Via::Blocked(why) => return Err(Fault::Own(why.to_string().into())),
    };
    made.map_err(|error| Fault::of_io(&error))
}

/// Marks a socket for its target; returns the address to bind it to, if it needs one.
fn settle(via: &Via, socket: &impl AsFd) -> Result<Option<SocketAddr>, Fault> {
    let Via::Vip(path) = via else { return Ok(None) };
    let own = |errno: nix::Error| Fault::Own(format!("the users' path needs a mark on the socket: {errno}").into());
    setsockopt(socket, Mark, &path.number).map_err(own)?;
    // Only saves ports.
    let _ = setsockopt(socket, BindAddressNoPort, &true);
    Ok(Some(SocketAddr::new(path.source, 0)))
}

impl Via {
    /// In the prober's namespace everything has a route, unless somebody took the interface away.
    pub(super) fn fault_of(&self, error: &io::Error) -> Fault {
        match (self, error.raw_os_error()) {
            (Via::Vip(_), Some(libc::ENETUNREACH | libc::ENETDOWN | libc::ENODEV)) => {
                Fault::Own("the users' path is broken on this host: its interface is gone".into())
            }
            _ => Fault::of_io(error),
        }
    }
}
