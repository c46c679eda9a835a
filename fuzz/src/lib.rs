//! What the fuzz targets share.
//!
//! | target | what it shows |
//! | --- | --- |
//! | `parse` | the balancer's parser agrees with a slow reading of the same bytes, whole and in part |
//! | `decap` | the decapsulator decides as a slow reading of the same bytes, and what it leaves is whole |
//! | `tunnel` | what the balancer wraps, the decapsulator unwraps to the same bytes |

pub mod wire;

use lb_common::parse::Packet;

/// A frame of which only the beginning can be read directly, as XDP gives those of several buffers.
pub struct Partly<'a> {
    /// The frame.
    pub frame: &'a [u8],
    /// How many bytes can be read.
    pub readable: usize,
}

impl Packet for Partly<'_> {
    fn bytes<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.frame[..self.readable].get(offset..)?.first_chunk()
    }

    fn holds(&self, length: usize) -> bool {
        self.frame.len() >= length
    }
}
