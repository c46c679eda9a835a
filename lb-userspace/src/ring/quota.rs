//! How many slots each member gets.

use std::cmp::Reverse;

/// Divides `size` slots in proportion to the weights, none of which is 0, by largest remainders.
///
/// Everybody gets at least one slot while there are enough; otherwise the heaviest get one each. Among equals the earlier
/// one comes first, so that the caller's order must be canonical.
pub(super) fn quotas(weights: &[u64], size: u32) -> Vec<u32> {
    let mut quotas = vec![0; weights.len()];
    let mut undecided: Vec<usize> = (0..weights.len()).collect();
    if weights.len() > size as usize {
        undecided.sort_by_key(|&i| Reverse(weights[i]));
        for &i in &undecided[..size as usize] {
            quotas[i] = 1;
        }
        return quotas;
    }

    // One slot for everybody whose share is less than one. That takes from the others, so that more may fall below one.
    let mut room = u64::from(size);
    let mut sum: u64 = weights.iter().sum();
    loop {
        let (light, heavy): (Vec<usize>, Vec<usize>) = undecided.iter().partition(|&&i| weights[i] * room < sum);
        for &i in &light {
            quotas[i] = 1;
            room -= 1;
            sum -= weights[i];
        }
        undecided = heavy;
        if light.is_empty() {
            break;
        }
    }

    for &i in &undecided {
        quotas[i] = (weights[i] * room / sum) as u32;
    }
    let rounded_off = room - undecided.iter().map(|&i| u64::from(quotas[i])).sum::<u64>();
    undecided.sort_by_key(|&i| Reverse(weights[i] * room % sum));
    for &i in undecided.iter().take(rounded_off as usize) {
        quotas[i] += 1;
    }
    quotas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(weights: &[u64], size: u32, expected: &[u32]) {
        assert_eq!(quotas(weights, size), expected);
    }

    #[test]
    fn in_proportion() {
        check(&[], 7, &[]);
        check(&[5], 7, &[7]);
        check(&[1, 2, 4], 7, &[1, 2, 4]);
        check(&[100, 200, 400], 7, &[1, 2, 4]);
    }

    #[test]
    fn largest_remainders_then_the_earlier() {
        check(&[1, 1, 1], 7, &[3, 2, 2]);
        check(&[10, 11, 11], 7, &[2, 3, 2]);
        check(&[10, 10, 12], 7, &[2, 2, 3]);
    }

    #[test]
    fn nobody_is_left_without() {
        check(&[1, 65_535, 65_535], 7, &[1, 3, 3]);
        // 3 has 1.05 of 7 slots, but 0.9 of the 6 that the first one leaves.
        check(&[1, 3, 8, 8], 7, &[1, 1, 3, 2]);
    }

    #[test]
    fn more_members_than_slots() {
        check(&[1, 3, 2, 3, 1], 3, &[0, 1, 1, 1, 0]);
        check(&[1, 1, 1, 1], 3, &[1, 1, 1, 0]);
    }
}
