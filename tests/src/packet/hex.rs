//! Bytes written out by hand, and bytes shown to people.

use std::fmt::Write;

/// Reads hex digits; white space between bytes is free, and `#` begins a comment to the line's end.
///
/// # Panics
///
/// If anything else is in it, or a digit has no partner: the test's own mistake.
#[track_caller]
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .lines()
        .flat_map(|line| line.split('#').next().unwrap_or("").chars())
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).unwrap_or_else(|| panic!("not a hex digit: {c:?}")) as u8)
        .collect();
    assert!(
        digits.len().is_multiple_of(2),
        "an odd number of hex digits: {}",
        digits.len()
    );
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// A dump of 16 bytes a line; bytes that differ from `other` (or that it does not have) stand in brackets.
pub fn dump(bytes: &[u8], other: Option<&[u8]>) -> String {
    let mut text = String::new();
    for (line, chunk) in bytes.chunks(16).enumerate() {
        _ = write!(text, "  {:04x} ", line * 16);
        for (column, byte) in chunk.iter().enumerate() {
            let differs = other.is_some_and(|other| other.get(line * 16 + column) != Some(byte));
            let (open, close) = if differs { ('[', ']') } else { (' ', ' ') };
            _ = write!(text, "{open}{byte:02x}{close}");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_with_spaces_and_comments() {
        assert_eq!(hex("45 00 # version\n 0034\n\n#nothing\nfF"), [0x45, 0, 0, 0x34, 0xFF]);
    }

    #[test]
    #[should_panic(expected = "odd number")]
    fn half_a_byte() {
        hex("450");
    }

    #[test]
    fn a_dump_marks_what_differs() {
        assert_eq!(dump(&[1, 2, 3], Some(&[1, 9])), "  0000  01 [02][03]\n");
    }
}
