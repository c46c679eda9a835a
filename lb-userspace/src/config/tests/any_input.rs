//! Files that nobody wrote: whatever comes in, there is a model or there are errors with places that exist, and no panic.

use proptest::prelude::*;

use super::{BASE, parse_bytes};

/// Pieces that get a parser into trouble, besides those of the base.
const PIECES: &[&str] = &[
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "=",
    ".",
    ",",
    "\"",
    "'",
    "\"\"\"",
    "'''",
    "\n",
    "\r\n",
    "\r",
    "#",
    "\\",
    "\0",
    "\t",
    " ",
    "-1",
    "0x",
    "1e999",
    "nan",
    "-inf",
    "99999999999999999999999999999999999999999",
    "1979-05-27T07:32:00Z",
    "é",
    "\u{FEFF}",
    "\u{202E}",
    "[node]",
    "[[service]]",
    "[service]",
    "[service.health]",
    "[[service.backend]]",
    "node.capacity.",
    "name = \"a\"",
    "true",
    "\"99999999999999999999999999999999999h\"",
    "\"1.99999999999999999999s\"",
    "\"::ffff:1.2.3.4\"",
    "\"0x\"",
    "ring_size = 4294967296",
    "weight = 0",
    "service = []",
    "service = {}",
    "backend = [[]]",
    "node = 1",
];

fn whole(bytes: &[u8]) {
    let lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
    match parse_bytes(bytes, "f") {
        Ok(parsed) => {
            assert!(!parsed.model.node.interfaces.is_empty());
            for service in &parsed.model.services {
                assert!(service.ring_size as usize > service.backends.len());
            }
        }
        Err(errors) => {
            assert!(!errors.as_slice().is_empty());
            let _ = errors.to_string();
            let mut last = 1;
            for error in &errors {
                assert!(last <= error.line && error.line <= lines.len(), "{error}");
                assert!(
                    1 <= error.column && error.column <= lines[error.line - 1].len() + 2,
                    "{error}"
                );
                assert!(!error.problem.contains("this is a bug"), "{error}");
                last = error.line;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        whole(&bytes);
    }

    #[test]
    fn random_pieces(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..60)) {
        whole(pieces.concat().as_bytes());
    }

    /// Cuts, doubles, moves and overwrites stretches of a good file.
    #[test]
    fn mutated_good_files(changes in prop::collection::vec((any::<prop::sample::Index>(), 0..80usize, 0..6u8, prop::sample::select(PIECES), any::<u8>()), 1..6)) {
        let mut bytes = BASE.as_bytes().to_vec();
        for (at, length, how, piece, byte) in changes {
            let at = at.index(bytes.len().max(1)).min(bytes.len());
            let end = (at + length).min(bytes.len());
            match how {
                0 => drop(bytes.drain(at..end)),
                1 => { let copy = bytes[at..end].to_vec(); bytes.splice(at..at, copy); }
                2 => { let moved: Vec<u8> = bytes.drain(at..end).collect(); bytes.extend(moved); }
                3 => { bytes.splice(at..at, piece.bytes()); }
                4 => { bytes.splice(at..end, piece.bytes()); }
                _ => if let Some(target) = bytes.get_mut(at) { *target = byte },
            }
        }
        whole(&bytes);
    }

    /// Swaps whole values, so that the TOML stays good and the checks behind it are reached.
    #[test]
    fn swapped_values(swaps in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..4)) {
        let mut lines: Vec<String> = BASE.lines().map(str::to_owned).collect();
        let values: Vec<usize> = (0..lines.len()).filter(|&i| lines[i].contains(" = ")).collect();
        for (to, from) in swaps {
            let (to, from) = (values[to.index(values.len())], values[from.index(values.len())]);
            let value = lines[from].split_once(" = ").map(|(_, value)| value.to_owned()).unwrap_or_default();
            let key = lines[to].split_once(" = ").map(|(key, _)| key.to_owned()).unwrap_or_default();
            lines[to] = format!("{key} = {value}");
        }
        whole(lines.join("\n").as_bytes());
    }
}
