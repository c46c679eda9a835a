//! What was probably meant by a misspelt word.

/// The candidate nearest to `typed`, if it is near enough to be a slip of the keys; upper and lower case are alike.
pub(super) fn nearest<'c>(typed: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    // No candidate is longer than this, and the distance costs the product of both lengths.
    if typed.len() > 32 {
        return None;
    }
    let typed: Vec<char> = typed.to_lowercase().chars().collect();
    candidates
        .into_iter()
        .map(|candidate| (distance(&typed, candidate), candidate))
        .filter(|&(distance, candidate)| distance <= (candidate.len() / 3).max(1))
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other (optimal string alignment).
fn distance(typed: &[char], candidate: &str) -> usize {
    let candidate: Vec<char> = candidate.chars().collect();
    let width = candidate.len() + 1;
    let mut before_last: Vec<usize> = vec![0; width];
    let mut last: Vec<usize> = (0..width).collect();
    for (i, &a) in typed.iter().enumerate() {
        let mut row = vec![i + 1; width];
        for (j, &b) in candidate.iter().enumerate() {
            let replaced = last[j] + usize::from(a != b);
            row[j + 1] = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a == candidate[j - 1] && typed[i - 1] == b {
                row[j + 1] = row[j + 1].min(before_last[j - 1] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[width - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_seen_through() {
        let keys = ["name", "vip", "protocol", "port", "ring_size"];
        assert_eq!(nearest("nmae", keys), Some("name"), "swap");
        assert_eq!(nearest("Protocol", keys), Some("protocol"), "case");
        assert_eq!(nearest("ringsize", keys), Some("ring_size"), "missing");
        assert_eq!(nearest("ports", keys), Some("port"), "one more");
        assert_eq!(nearest("vlp", keys), Some("vip"), "replaced");
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(nearest("", keys), None);
        assert_eq!(nearest(&"x".repeat(1_000_000), keys), None);
    }

    #[test]
    fn distances() {
        let of = |a: &str, b| distance(&a.chars().collect::<Vec<_>>(), b);
        assert_eq!((of("", "abc"), of("abc", ""), of("abc", "abc")), (3, 3, 0));
        assert_eq!((of("kitten", "sitting"), of("ab", "ba")), (3, 1));
    }
}
