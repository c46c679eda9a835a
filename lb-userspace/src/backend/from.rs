//! Where tunnels may begin: `--from`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use lb_common::decap::{AddressKey, SourceKey};
use thiserror::Error;

/// An address prefix of edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix(IpNet);

/// What is no prefix.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadPrefix {
    /// Something else.
    #[error("{0:?} is neither an address nor a prefix: 10.0.0.1, 10.0.0.0/24 and 2001:db8::/64 are")]
    NotAPrefix(String),
    /// Bits are set behind the prefix: one of the two numbers is wrong.
    #[error("{given} has bits set beyond its length: {network} is the prefix, {address} the address alone")]
    HostBits {
        /// As it was given.
        given: IpNet,
        /// Without these bits.
        network: IpNet,
        /// The address of it.
        address: IpAddr,
    },
}

impl FromStr for Prefix {
    type Err = BadPrefix;

    fn from_str(text: &str) -> Result<Self, BadPrefix> {
        let given = match text.parse::<IpAddr>() {
            Ok(address) => address.into(),
            Err(_) => text
                .parse::<IpNet>()
                .map_err(|_| BadPrefix::NotAPrefix(text.to_owned()))?,
        };
        let network = given.trunc();
        if network != given {
            return Err(BadPrefix::HostBits {
                given,
                network,
                address: given.addr(),
            });
        }
        Ok(Self(given))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            return self.0.addr().fmt(f);
        }
        self.0.fmt(f)
    }
}

impl Prefix {
    /// Its key in the trie of sources, and how many bits of it count.
    pub fn key(&self) -> (u32, SourceKey) {
        let bits = SourceKey::FAMILY_BITS + u32::from(self.0.prefix_len());
        (bits, SourceKey::from(&AddressKey::from(self.0.network())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_prefixes_of_both_families() {
        for (text, shown, bits) in [
            ("10.0.0.1", "10.0.0.1", 64),
            ("10.0.0.0/24", "10.0.0.0/24", 56),
            ("0.0.0.0/0", "0.0.0.0/0", 32),
            ("2001:db8::1", "2001:db8::1", 160),
            ("2001:DB8::/64", "2001:db8::/64", 96),
            ("::/0", "::/0", 32),
        ] {
            let prefix: Prefix = text.parse().expect(text);
            assert_eq!((prefix.to_string().as_str(), prefix.key().0), (shown, bits), "{text}");
        }
    }

    #[test]
    fn what_is_no_prefix_is_named() {
        for text in [
            "",
            "edge-1",
            "10.0.0.0/33",
            "10.0.0/24",
            "::/129",
            "10.0.0.1/",
            "10.0.0.1-10.0.0.9",
        ] {
            assert_eq!(
                text.parse::<Prefix>(),
                Err(BadPrefix::NotAPrefix(text.to_owned())),
                "{text}"
            );
        }
        let error = "10.0.0.5/24".parse::<Prefix>().expect_err("host bits").to_string();
        assert_eq!(
            error,
            "10.0.0.5/24 has bits set beyond its length: 10.0.0.0/24 is the prefix, 10.0.0.5 the address alone"
        );
    }
}
