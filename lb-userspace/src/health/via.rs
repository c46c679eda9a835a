//! How a probe travels.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::path::Namespace;

/// How a probe travels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Via {
    /// To the backend's own address, as any packet of this host.
    Direct,
    /// To the VIP, as a client's packet would reach this backend.
    Vip(VipPath),
    /// It cannot be made, and why: nothing is learnt of the backend.
    Blocked(Arc<str>),
}

/// The users' path to one backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VipPath {
    /// Where the probe is addressed to.
    pub vip: IpAddr,
    /// Where it comes from.
    pub source: IpAddr,
    /// The target's number, by which the probe programs know the backend's header bytes: the socket's mark.
    pub number: u32,
    /// Whether it goes through a tunnel.
    pub tunnel: bool,
    /// Where its sockets are made.
    pub namespace: Namespace,
}

impl Via {
    /// Where a probe of a backend's address and port is addressed to.
    pub(super) fn destination(&self, backend: SocketAddr) -> SocketAddr {
        match self {
            Via::Vip(path) => SocketAddr::new(path.vip, backend.port()),
            Via::Direct | Via::Blocked(_) => backend,
        }
    }
}
