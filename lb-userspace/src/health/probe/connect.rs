//! The sockets of probes, and how they travel.

use std::io;
use std::net::SocketAddr;

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
    let socket = open(job, Type::STREAM, None)?;
    // Without the option the probe works as well, it only leaves a TIME-WAIT.
    let _ = setsockopt(&socket, Linger2, &-1);
    bind(job, &socket)?;
    let socket = TcpSocket::from_std_stream(socket.into());
    let connected = deadline.wait("connection", socket.connect(job.to)).await?;
    let stream = connected.map_err(|error| job.via.fault_of(&error))?;
    if let Some(padding) = &job.padding {
        padding.connected(&stream);
    }
    Ok(stream)
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
        Fault::Own(why) if why == FORBIDDEN => Fault::Own("an ICMP socket takes CAP_NET_RAW".into()),
        other => other,
    })?;
    UdpSocket::from_std(socket.into()).map_err(|error| Fault::of_io(&error))
}

fn connected(job: &Job, kind: Type, protocol: Option<Protocol>) -> Result<Socket, Fault> {
    let socket = open(job, kind, protocol)?;
    bind(job, &socket)?;
    let to = match protocol {
        // Raw sockets have no port; IPv6 insists.
        Some(_) => SocketAddr::new(job.to.ip(), 0),
        None => job.to,
    };
    let done = socket.connect(&to.into());
    done.map_err(|error| job.via.fault_of(&error))?;
    Ok(socket)
}

/// Makes a socket where the way begins.
fn open(job: &Job, kind: Type, protocol: Option<Protocol>) -> Result<Socket, Fault> {
    let domain = Domain::for_address(job.to);
    let make = || Socket::new(domain, kind.nonblocking(), protocol);
    let made = match &job.via {
        Via::Direct => make(),
        Via::Vip(path) => {
            let made = match kind {
                Type::STREAM => path.namespace.tcp_socket(domain),
                _ => path.namespace.within(make),
            };
            made.map_err(|error| Fault::Own(format!("the users' path cannot be entered: {error}").into()))?
        }
        Via::Blocked(why) => return Err(Fault::Own(why.to_string().into())),
    };
    made.map_err(|error| Fault::of_io(&error))
}

/// By the users' path, marks a socket for its target and binds it to where probes come from.
fn bind(job: &Job, socket: &Socket) -> Result<(), Fault> {
    let Via::Vip(path) = &job.via else { return Ok(()) };
    let own = |errno: nix::Error| Fault::Own(format!("the users' path needs a mark on the socket: {errno}").into());
    setsockopt(socket, Mark, &path.number).map_err(own)?;
    if let Some(padding) = &job.padding {
        padding
            .apply(socket)
            .map_err(|errno| Fault::Own(format!("a padded probe needs a priority on the socket: {errno}").into()))?;
    }
    // Only saves ports.
    let _ = setsockopt(socket, BindAddressNoPort, &true);
    let bound = socket.bind(&SocketAddr::new(path.source, 0).into());
    bound.map_err(|error| job.via.fault_of(&error))
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
