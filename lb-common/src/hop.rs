//! TTL and hop limit of a packet that goes on as itself.

/// An IPv4 header's checksum after its TTL was lowered by one; both as on the wire, read as the machine reads.
///
/// By increment (RFC 1624): TTL is the upper byte of its word, so the sum falls by `0x0100` and its complement rises by it, with the carry
/// around the end. The result is never `0xFFFF`, as that of a header that is summed up anew is not either.
#[inline(always)]
pub const fn checksum_one_hop_on(checksum: u16) -> u16 {
    let sum = checksum as u32 + 0x0100_u16.to_be() as u32;
    (sum + (sum >= 0xFFFF) as u32) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums a header up anew (RFC 1071).
    fn checksum(header: &[u8; 20]) -> u16 {
        let mut sum: u32 = (0..20)
            .step_by(2)
            .filter(|at| *at != 10)
            .map(|at| u32::from(u16::from_be_bytes([header[at], header[at + 1]])))
            .sum();
        while sum > 0xFFFF {
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn is_what_a_header_summed_up_anew_has() {
        // Every identification: every checksum there is, those whose carry goes round among them.
        for id in 0..=u16::MAX {
            for ttl in [2, 64, 255] {
                let mut header = [
                    0x45, 0, 0, 28, 0, 0, 0x40, 0, ttl, 17, 0, 0, 198, 51, 100, 7, 192, 0, 2, 10,
                ];
                header[4..6].copy_from_slice(&id.to_be_bytes());
                let before = checksum(&header).to_be();
                header[8] -= 1;
                assert_eq!(
                    u16::from_be(checksum_one_hop_on(before)),
                    checksum(&header),
                    "id {id}, TTL {ttl}"
                );
            }
        }
    }

    #[test]
    fn carries_by_hand() {
        for (before, after) in [
            (0x4E7E, 0x4F7E),
            (0xFE00, 0xFF00),
            // 0xFEFF + 0x0100 = 0xFFFF, which is zero.
            (0xFEFF, 0x0000),
            (0xFF00, 0x0001),
            (0xFFFE, 0x00FF),
        ] {
            let found = u16::from_be(checksum_one_hop_on(u16::to_be(before)));
            assert_eq!(found, after, "{before:#06x}: {found:#06x}");
        }
    }
}
