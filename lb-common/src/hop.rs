//! TTL and hop limit of a packet that goes on as itself.

/// The part of an IPv4 header from TTL to checksum, one hop on; `None` if the packet must not go on: its TTL is 1 or less.
///
/// The four bytes are read as a little-endian number. The checksum is updated by increment (RFC 1624): TTL is the upper byte of its word, so
/// the sum falls by `0x0100` and its complement rises by it, with the carry around the end. In the order of these bytes that is 1. The
/// result is never `0xFFFF`, as that of a header that is summed up anew is not either.
#[inline(always)]
pub const fn ipv4_one_hop_on(word: u32) -> Option<u32> {
    if word & 0xFF <= 1 {
        return None;
    }
    // The two checksums whose carry goes around; a branch, predicted, is the shorter way for all others.
    if word >= 0xFFFE_0000 {
        let checksum = if word >> 16 == 0xFFFE { 0 } else { 1 };
        return Some(((word & 0xFFFF) - 1) | checksum << 16);
    }
    Some(word + 0x1_0000 - 1)
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
                let [high, low] = checksum(&header).to_be_bytes();
                let before = u32::from_le_bytes([ttl, 17, high, low]);
                header[8] -= 1;
                let [high, low] = checksum(&header).to_be_bytes();
                let after = [ttl - 1, 17, high, low];
                assert_eq!(
                    ipv4_one_hop_on(before).map(u32::to_le_bytes),
                    Some(after),
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
            let word = |ttl, checksum: u16| {
                u32::from_be_bytes([ttl, 6, 0, 0]).swap_bytes() | u32::from(checksum.swap_bytes()) << 16
            };
            assert_eq!(
                ipv4_one_hop_on(word(64, before)),
                Some(word(63, after)),
                "{before:#06x}"
            );
        }
    }

    #[test]
    fn ends_where_no_hop_is_left() {
        assert_eq!(ipv4_one_hop_on(u32::from_le_bytes([0, 6, 0x4E, 0x7E])), None);
        assert_eq!(ipv4_one_hop_on(u32::from_le_bytes([1, 6, 0x4E, 0x7E])), None);
        assert_eq!(
            ipv4_one_hop_on(u32::from_le_bytes([2, 6, 0x4E, 0x7E])),
            Some(u32::from_le_bytes([1, 6, 0x4F, 0x7E]))
        );
    }
}
