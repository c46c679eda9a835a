//! What this host knows before a configuration is in force, or without a daemon: its interfaces and routes.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use nix::sys::socket::{getsockopt, sockopt};
use nix::{getsockopt_impl, sockopt_impl};

use super::{TooSmall, full_size, sentence};
use crate::api::report::{CheckReport, Finding};
use crate::config;
use crate::model::Model;
use crate::netlink::link_by_name;

sockopt_impl!(
    /// The path MTU of a connected IPv6 socket.
    Ipv6Mtu,
    GetOnly,
    libc::IPPROTO_IPV6,
    libc::IPV6_MTU,
    libc::c_int
);

/// What a file's text is worth on this host; `file` is its name for messages.
pub fn check(text: &str, file: &str) -> CheckReport {
    let mut report = config::check(text, file);
    if report.valid
        && let Ok(parsed) = config::parse(text, file)
    {
        report.warnings.extend(warnings(&parsed.model));
    }
    report
}

/// Services whose full-size packets do not fit the path to some backend. Nothing where this host cannot know: it lacks the interfaces,
/// so the file is another's, or it has no route.
pub fn warnings(model: &Model) -> Vec<Finding> {
    let Some(full) = full_size_of(&model.node.interfaces) else {
        return Vec::new();
    };
    let mut known: HashMap<IpAddr, Option<u32>> = HashMap::new();
    let services = model.services.iter().filter_map(|service| {
        let mut concerned = Vec::new();
        for backend in &service.backends {
            let mtu = *known
                .entry(backend.address)
                .or_insert_with(|| route_mtu(backend.address).ok());
            let found = mtu.and_then(|mtu| TooSmall::of(full, backend, mtu));
            concerned.extend(found.map(|found| (backend.name.as_str(), found)));
        }
        let sentence = sentence(service, &concerned)?;
        Some(Finding {
            line: None,
            column: None,
            message: format!("service {}: {sentence}", service.name),
        })
    });
    services.collect()
}

/// Asks on a thread of its own: the caller may have a runtime that must not block in another.
fn full_size_of(interfaces: &[String]) -> Option<u32> {
    let ask = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .ok()?;
        runtime.block_on(async {
            let mut mtus = Vec::new();
            for interface in interfaces {
                mtus.push(link_by_name(interface).await.ok()?.mtu);
            }
            full_size(mtus)
        })
    };
    std::thread::scope(|scope| scope.spawn(ask).join().ok().flatten())
}

/// The MTU of the route to an address, as the kernel has it for a packet of this host. Sends nothing.
fn route_mtu(address: IpAddr) -> io::Result<u32> {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    // The port is no matter; 9 is `discard`.
    socket.connect(SocketAddr::new(address, 9))?;
    let mtu = match address {
        IpAddr::V4(_) => getsockopt(&socket, sockopt::IpMtu)?,
        IpAddr::V6(_) => getsockopt(&socket, Ipv6Mtu)?,
    };
    u32::try_from(mtu).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_of_this_host_have_an_mtu() {
        for address in ["127.0.0.1", "::1"] {
            match route_mtu(address.parse().unwrap()) {
                Ok(mtu) => assert!(mtu >= 1_280, "{address}: {mtu}"),
                // A host without IPv6.
                Err(error) => assert!(address == "::1", "{address}: {error}"),
            }
        }
    }

    #[test]
    fn a_host_without_the_interfaces_does_not_know() {
        assert_eq!(full_size_of(&["no-such-link".to_owned()]), None);
        assert_eq!(full_size_of(&["lo".to_owned()]), Some(1_500));
    }
}
