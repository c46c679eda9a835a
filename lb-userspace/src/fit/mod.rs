//! Whether clients' full-size packets fit the path to their backends with a tunnel's header in front.
//!
//! Where they do not, connections, requests and checks work, and so do downloads, which come back past the tunnel. Uploads hang for
//! ever, because no sender learns that its packet was too big. This host knows the MTU of its routes and interfaces beforehand. A smaller
//! link further on is found by full-size probes ([`crate::health::full_size`]).

mod host;

use std::fmt;
use std::net::IpAddr;

use lb_common::encap::{IPV4_LEN, IPV6_LEN};

use crate::api::types::FoundBy;
use crate::model::{Backend, Forward, Protocol, Service};

pub use host::{check, warnings};

/// Ethernet's MTU (IEEE 802.3), in bytes: the largest packet that clients send. Larger ones are not assumed: where one interface serves
/// clients and backends, its MTU has to be larger than clients' packets.
const ETHERNET_MTU: u32 = 1_500;

/// The largest packet, in bytes, that clients can send to this host by interfaces of these MTUs; nothing: there are none.
pub fn full_size(interfaces: impl IntoIterator<Item = u32>) -> Option<u32> {
    interfaces.into_iter().max().map(|mtu| mtu.min(ETHERNET_MTU))
}

/// Bytes that a backend's outer header takes.
fn overhead(backend: &Backend) -> u32 {
    match (backend.forward, backend.address) {
        (Forward::L2, _) => 0,
        (Forward::Ipip, IpAddr::V4(_)) => IPV4_LEN as u32,
        (Forward::Ipip, IpAddr::V6(_)) => IPV6_LEN as u32,
    }
}

/// A path that takes less than a full-size packet needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSmall {
    /// The largest packet that clients send, in bytes.
    pub full: u32,
    /// What it needs with the outer header, in bytes.
    pub needed: u32,
    /// The largest packet that the path takes, in bytes; nothing where that is not known, or not yet.
    pub mtu: Option<u32>,
    /// By what that is known: the MTU of the route or interface, or probes.
    pub found_by: FoundBy,
}

impl TooSmall {
    /// What is wrong with the path to a backend whose route or interface has this MTU; nothing: it fits.
    pub fn of(full: u32, backend: &Backend, mtu: u32) -> Option<Self> {
        let needed = full + overhead(backend);
        let found_by = FoundBy::Route;
        (mtu < needed).then_some(Self {
            full,
            needed,
            mtu: Some(mtu),
            found_by,
        })
    }

    /// The same where probes of `full` bytes get no answer and those of `passes` do, both without the outer header.
    pub fn probed(full: u32, backend: &Backend, passes: Option<u32>) -> Self {
        let overhead = overhead(backend);
        Self {
            full,
            needed: full + overhead,
            mtu: passes.map(|passes| passes + overhead),
            found_by: FoundBy::Probe,
        }
    }

    /// The largest TCP segment that fits, in bytes (RFC 9293 section 3.7.1): for a service with this address.
    fn segment(self, vip: IpAddr) -> Option<u32> {
        let headers = if vip.is_ipv4() { IPV4_LEN } else { IPV6_LEN } as u32 + TCP_LEN;
        let outer = self.needed - self.full;
        self.mtu.map(|mtu| mtu.saturating_sub(outer + headers))
    }

    /// How much is missing, in bytes; 0 where that is not known.
    fn deficit(self) -> u32 {
        self.mtu.map_or(0, |mtu| self.needed.saturating_sub(mtu))
    }
}

/// A TCP header without options, in bytes.
const TCP_LEN: u32 = 20;

impl fmt::Display for TooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { full, needed, mtu, .. } = self;
        match (needed - full, mtu) {
            (0, Some(mtu)) => write!(f, "packets of {full} bytes do not fit a path MTU of {mtu}")?,
            (0, None) => write!(f, "packets of {full} bytes do not fit the path")?,
            (outer, Some(mtu)) => write!(
                f,
                "packets of {full} bytes need {needed} with {outer} bytes of outer header, and the path MTU is {mtu}"
            )?,
            (outer, None) => write!(
                f,
                "packets of {full} bytes need {needed} with {outer} bytes of outer header, and do not fit the path"
            )?,
        }
        if self.found_by == FoundBy::Probe {
            f.write_str(" as probes show")?;
        }
        match mtu {
            Some(_) => Ok(()),
            None => f.write_str(" (path MTU unknown)"),
        }
    }
}

/// What is wrong with the paths of one service, in a sentence: which backends, what follows, and what mends it.
pub fn sentence(service: &Service, concerned: &[(&str, TooSmall)]) -> Option<String> {
    // The worst is what must be mended.
    let (_, worst) = concerned.iter().max_by_key(|(_, found)| found.deficit())?;
    let (first, more) = (concerned[0].0, concerned.len() - 1);
    let more = match more {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let needed = worst.needed;
    let cure = match service.protocol {
        Protocol::Udp => format!("large datagrams are lost: raise the MTU of every link to the backends to {needed}"),
        Protocol::Tcp => {
            let ip = if service.vip.is_ipv4() { "ip" } else { "ip -6" };
            let (set, segment) = match worst.segment(service.vip) {
                Some(segment) => (format!("`advmss {segment}`"), segment.to_string()),
                None => ("an `advmss` that fits".to_owned(), "BYTES".to_owned()),
            };
            format!(
                "uploads hang: raise the MTU of every link to the backends to {needed}, or set {set} on each backend's \
                 routes to clients (`{ip} route change … advmss {segment}`), that of its own link included"
            )
        }
    };
    Some(format!("{first}{more}: {worst}; {cure}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(forward: Forward, address: &str) -> Backend {
        Backend {
            forward,
            name: "web-1".to_owned(),
            address: address.parse().unwrap(),
            weight: 100,
            priority: 0,
            sorry: false,
        }
    }

    #[test]
    fn what_clients_send_is_no_larger_than_ethernets() {
        assert_eq!(full_size([]), None);
        assert_eq!(full_size([1_400]), Some(1_400));
        assert_eq!(full_size([1_400, 1_500]), Some(1_500));
        // One arm, raised for the tunnel.
        assert_eq!(full_size([1_540]), Some(1_500));
        assert_eq!(full_size([9_000]), Some(1_500));
    }

    #[test]
    fn an_outer_header_must_fit_too() {
        let check = |forward, address, mtu, needed: Option<u32>| {
            let found = TooSmall::of(1_500, &backend(forward, address), mtu);
            assert_eq!(found.map(|found| found.needed), needed, "{forward:?} {address} {mtu}");
        };
        check(Forward::Ipip, "10.0.0.1", 1_500, Some(1_520));
        check(Forward::Ipip, "10.0.0.1", 1_519, Some(1_520));
        check(Forward::Ipip, "10.0.0.1", 1_520, None);
        check(Forward::Ipip, "2001:db8::1", 1_520, Some(1_540));
        check(Forward::Ipip, "2001:db8::1", 1_540, None);
        check(Forward::L2, "10.0.0.1", 1_500, None);
        check(Forward::L2, "10.0.0.1", 1_400, Some(1_500));
    }

    #[test]
    fn the_segment_that_fits() {
        let segment = |address, mtu, vip: &str| {
            let found = TooSmall::of(1_500, &backend(Forward::Ipip, address), mtu).unwrap();
            found.segment(vip.parse().unwrap())
        };
        let (v4, v6) = ("192.0.2.1", "2001:db8::1");
        assert_eq!(segment("10.0.0.1", 1_500, v4), Some(1_440));
        assert_eq!(segment("10.0.0.1", 1_500, v6), Some(1_420));
        assert_eq!(segment("2001:db8::1", 1_500, v4), Some(1_420));
        assert_eq!(segment("2001:db8::1", 1_500, v6), Some(1_400));
        assert_eq!(segment("10.0.0.1", 10, v4), Some(0));
    }

    #[test]
    fn a_path_mtu_that_is_not_known_is_called_unknown() {
        let text = |passes| TooSmall::probed(1_500, &backend(Forward::Ipip, "10.0.0.1"), passes).to_string();
        let needs = "packets of 1500 bytes need 1520 with 20 bytes of outer header, and";
        assert_eq!(
            text(Some(1_380)),
            format!("{needs} the path MTU is 1400 as probes show")
        );
        assert_eq!(
            text(None),
            format!("{needs} do not fit the path as probes show (path MTU unknown)")
        );
    }
}
