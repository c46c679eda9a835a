//! Primes near a number: a ring's size must be one, and an error names its neighbours.

/// Slots of the largest ring: the largest prime below 2^24, 64 MiB of slots.
pub const MAX_RING_SIZE: u32 = 16_777_213;

/// The smallest prime that is at least `from`; nothing above [`MAX_RING_SIZE`].
pub fn next_prime(from: u32) -> Option<u32> {
    (from.max(2)..=MAX_RING_SIZE).find(|&n| is_prime(n))
}

/// The largest prime that is at most `from`.
pub(super) fn previous_prime(from: u32) -> Option<u32> {
    (2..=from.min(MAX_RING_SIZE)).rev().find(|&n| is_prime(n))
}

/// Whether `n` is a prime; by trial division, at most 2^16 of them.
pub(super) fn is_prime(n: u32) -> bool {
    n == 2
        || n > 2
            && !n.is_multiple_of(2)
            && (3..)
                .step_by(2)
                .take_while(|&d| d <= n / d)
                .all(|d| !n.is_multiple_of(d))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_numbers() {
        let primes: Vec<u32> = (0..50).filter(|&n| is_prime(n)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47]);
    }

    #[test]
    fn large_numbers() {
        assert!(is_prime(65_537) && is_prime(MAX_RING_SIZE) && is_prime(4_294_967_291));
        assert!(!is_prime(65_535) && !is_prime(u32::MAX) && !is_prime(65_521 * 65_519));
    }

    #[test]
    fn neighbours() {
        assert_eq!(
            (previous_prime(65_536), next_prime(65_536)),
            (Some(65_521), Some(65_537))
        );
        assert_eq!((previous_prime(1), next_prime(0)), (None, Some(2)));
        assert_eq!(
            (next_prime(MAX_RING_SIZE), next_prime(MAX_RING_SIZE + 1)),
            (Some(MAX_RING_SIZE), None)
        );
        assert_eq!(next_prime((1 << 24) - 16).unwrap(), MAX_RING_SIZE, "none between");
    }
}
