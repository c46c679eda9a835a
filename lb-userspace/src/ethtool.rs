//! What an interface's driver does with frames before the program sees them, by the ioctl of `ethtool -k` and `ethtool -K` (`linux/ethtool.h`).

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd as _;

const ETHTOOL_GSTRINGS: u32 = 0x1B;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3A;
const ETHTOOL_SFEATURES: u32 = 0x3B;
/// The set of the features' names.
const ETH_SS_FEATURES: u32 = 4;
/// Bytes of a name, with zeros at its end.
const NAME: usize = 32;

/// A feature of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its name, as the kernel has it.
    pub name: String,
    /// It is on.
    pub active: bool,
    /// It can be switched.
    pub changeable: bool,
}

/// Asks about, and switches, features of interfaces of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Ethtool {
    socket: UdpSocket,
    names: Vec<String>,
}

impl Ethtool {
    /// Opens it for an interface's features; all interfaces have the same names of them.
    ///
    /// # Errors
    /// The kernel's; `EOPNOTSUPP` if the interface's driver has none.
    pub fn open(interface: &str) -> io::Result<Self> {
        let mut ethtool = Self {
            socket: UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?,
            names: Vec::new(),
        };
        // Command, reserved, the sets asked for in 64 bits, and the size of the one.
        let mask = (1_u64 << ETH_SS_FEATURES).to_ne_bytes();
        let half = |at: usize| u32::from_ne_bytes([mask[at], mask[at + 1], mask[at + 2], mask[at + 3]]);
        let mut sizes = [ETHTOOL_GSSET_INFO, 0, half(0), half(4), 0];
        ethtool.ask(interface, &mut sizes)?;
        let count = sizes[4] as usize;
        let mut strings = vec![0; 3 + count * NAME / 4];
        strings[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count as u32]);
        ethtool.ask(interface, &mut strings)?;
        let bytes: Vec<u8> = strings[3..].iter().flat_map(|word| word.to_ne_bytes()).collect();
        ethtool.names = bytes.chunks_exact(NAME).map(name).collect();
        Ok(ethtool)
    }

    /// An interface's features.
    ///
    /// # Errors
    /// The kernel's.
    pub fn features(&self, interface: &str) -> io::Result<Vec<Feature>> {
        let blocks = self.blocks();
        // Command, number of blocks; of each: available, requested, active, never changed.
        let mut words = vec![0; 2 + 4 * blocks];
        words[..2].copy_from_slice(&[ETHTOOL_GFEATURES, blocks as u32]);
        self.ask(interface, &mut words)?;
        let feature = |(bit, name): (usize, &String)| {
            let is = |column: usize| words[2 + 4 * (bit / 32) + column] >> (bit % 32) & 1 == 1;
            Feature {
                name: name.clone(),
                active: is(2),
                changeable: is(0) && !is(3),
            }
        };
        Ok(self.names.iter().enumerate().map(feature).collect())
    }

    /// Switches features by name; names that the kernel does not have are left out.
    ///
    /// # Errors
    /// The kernel's. That all was done it does not say: ask again.
    pub fn switch(&self, interface: &str, features: &[&str], on: bool) -> io::Result<()> {
        let blocks = self.blocks();
        // Command, number of blocks; of each: which are meant, which of them are to be on.
        let mut words = vec![0; 2 + 2 * blocks];
        words[..2].copy_from_slice(&[ETHTOOL_SFEATURES, blocks as u32]);
        for bit in (0..self.names.len()).filter(|bit| features.contains(&self.names[*bit].as_str())) {
            let at = 2 + 2 * (bit / 32);
            words[at] |= 1 << (bit % 32);
            words[at + 1] |= u32::from(on) << (bit % 32);
        }
        self.ask(interface, &mut words)
    }

    fn blocks(&self) -> usize {
        self.names.len().div_ceil(32)
    }

    fn ask(&self, interface: &str, words: &mut [u32]) -> io::Result<()> {
        // SAFETY: zeros are a valid `ifreq`.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        if interface.len() >= request.ifr_name.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
        // SAFETY: `request` names an interface and points to `words`, which is as long as its command and the sizes in it say, and which
        // the kernel may write.
        let answer = unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
        if answer >= 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

fn name(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_features_with_names() {
        let ethtool = Ethtool::open("lo").expect("there is lo");
        let features = ethtool.features("lo").expect("it has some");
        let of = |name: &str| features.iter().find(|feature| feature.name == name);
        assert!(features.len() > 40, "{features:?}");
        let loopback = of("loopback").expect("it is one");
        assert!(loopback.active && !loopback.changeable, "{loopback:?}");
        assert!(of("rx-vlan-hw-parse").is_some_and(|feature| !feature.active));
        assert!(Ethtool::open("a-name-that-is-too-long").is_err());
    }
}
