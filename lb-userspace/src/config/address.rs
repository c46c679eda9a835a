//! Single values that are addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::encap::Mac;

use super::problem::Problem;
use super::scalar::Value;

impl Value<'_, '_> {
    pub(super) fn mac(&self) -> Result<Mac, Problem> {
        let text = self.string("a MAC address in quotes")?;
        let mac = mac(text).ok_or_else(|| self.malformed("a MAC address, such as \"02:00:5e:10:00:01\""))?;
        let kind = if mac == [0; 6] {
            "zero"
        } else if mac[0] & 1 != 0 {
            "a multicast address"
        } else {
            return Ok(mac);
        };
        Err(Problem::UnusableMac {
            key: self.key,
            value: (self.typed)(),
            kind,
        })
    }

    /// An address that packets can be sent to or come from; `link_local` says whether those of one link are among them.
    pub(super) fn address(&self, link_local: bool) -> Result<IpAddr, Problem> {
        let text = self.string("an address in quotes")?;
        let (key, value) = (self.key, || (self.typed)());
        let address = text.parse().map_err(|_| Problem::NotAnAddress {
            key,
            value: value(),
            hint: address_hint(text),
        })?;
        if let IpAddr::V6(v6) = address
            && let Some(v4) = v6.to_ipv4_mapped()
        {
            return Err(Problem::MappedAddress {
                key,
                value: value(),
                v4,
            });
        }
        match unusable(address, link_local) {
            None => Ok(address),
            Some(kind) => Err(Problem::UnusableAddress {
                key,
                value: value(),
                kind,
                want: "a unicast address that others can reach",
            }),
        }
    }

    /// As [`address`](Self::address), of IPv4.
    pub(super) fn source_v4(&self) -> Result<Ipv4Addr, Problem> {
        match self.address(false)? {
            IpAddr::V4(address) => Ok(address),
            IpAddr::V6(_) => Err(self.malformed("an IPv4 address: tunnel_source_v6 is for IPv6")),
        }
    }

    /// As [`address`](Self::address), of IPv6.
    pub(super) fn source_v6(&self) -> Result<Ipv6Addr, Problem> {
        match self.address(false)? {
            IpAddr::V6(address) => Ok(address),
            IpAddr::V4(_) => Err(self.malformed("an IPv6 address: tunnel_source_v4 is for IPv4")),
        }
    }

    /// The address that clients use.
    pub(super) fn vip(&self) -> Result<IpAddr, Problem> {
        let text = self.string("an address in quotes")?;
        if let Some((address, prefix)) = text.split_once('/')
            && let Ok(address) = address.parse::<IpAddr>()
            && prefix
                .parse::<u8>()
                .is_ok_and(|prefix| prefix <= if address.is_ipv4() { 32 } else { 128 })
        {
            let has = "this version has VIPs of one address".to_owned();
            return Err(Problem::NotBuilt {
                key: self.key,
                value: (self.typed)(),
                has,
            });
        }
        self.address(true)
    }
}

/// Six bytes in hexadecimal digits, with colons or hyphens between them.
pub fn mac(text: &str) -> Option<Mac> {
    let separator = if text.contains('-') { '-' } else { ':' };
    let mut mac = [0; 6];
    let mut parts = text.split(separator);
    for byte in &mut mac {
        let part = parts.next()?;
        if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

fn address_hint(text: &str) -> &'static str {
    if text.parse::<SocketAddr>().is_ok() {
        ": the port has a key of its own"
    } else if text.contains('/') {
        ": a prefix length does not belong here"
    } else if text.contains('%') {
        ": a zone does not belong here"
    } else if text.contains('[') {
        ": write it without brackets"
    } else if text.bytes().any(|byte| byte.is_ascii_alphabetic()) && !text.contains(':') {
        ": names are not looked up"
    } else {
        ""
    }
}

/// What kind of address it is, if nobody can be reached at it.
fn unusable(address: IpAddr, link_local: bool) -> Option<&'static str> {
    let is_link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let this_network = matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 0);
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    [
        (address.is_unspecified(), "the unspecified address"),
        (this_network, "an address of \"this network\""),
        (address.is_loopback(), "a loopback address"),
        (address.is_multicast(), "a multicast address"),
        (broadcast, "the broadcast address"),
        (is_link_local && !link_local, "a link-local address"),
    ]
    .into_iter()
    .find_map(|(is, kind)| is.then_some(kind))
}
