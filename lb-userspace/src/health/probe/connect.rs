//! The sockets of probes.

use std::net::SocketAddr;

use nix::sys::socket::setsockopt;
use nix::{setsockopt_impl, sockopt_impl};
use tokio::net::{TcpSocket, TcpStream};

use super::{Deadline, Fault};

sockopt_impl!(
    /// How long an orphaned socket stays in FIN-WAIT-2, in seconds; negative: not at all.
    Linger2,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_LINGER2,
    i32
);

/// Connects to `address`. The stream it returns closes cleanly when dropped, and leaves no TIME-WAIT behind.
///
/// Thousands of probes a second that close as usual would each hold a source port for a minute. A reset instead of a FIN
/// (`SO_LINGER` of 0) frees it, but servers see and log `connection reset by peer`, some as an error.
/// With a negative `TCP_LINGER2`, a close sends the FIN, so that the server reads an orderly end of file, and the
/// kernel answers the acknowledgement of that FIN with a reset, which frees both ends (tcp_rcv_state_process, FIN-WAIT-1).
/// If the server has closed first there is no reset at all. Bytes that the server sent and nobody read make it a plain reset.
pub(super) async fn connect(address: SocketAddr, deadline: Deadline) -> Result<TcpStream, Fault> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let socket = socket.map_err(|error| Fault::of_io(&error))?;
    // Without the option the probe works as well, it only leaves a TIME-WAIT.
    let _ = setsockopt(&socket, Linger2, &-1);
    let connected = deadline.wait("connection", socket.connect(address)).await?;
    connected.map_err(|error| Fault::of_io(&error))
}
