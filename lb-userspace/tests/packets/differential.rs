//! The loaded program against the model, packet by packet, while everything that can change under it changes.
//!
//! Every family, transport, way of hashing and forward mode; slots stable, moving and settled; flows remembered, forgotten, bounded, too
//! old; backends that die, come back, leave and come back under the same name, are replaced, get another way. Compared for each packet: what a look-up says before it, the verdict,
//! the bytes, the backend's counter, and what is remembered of its flow; and every few packets each reason's count, whose sum is
//! the packets sent, and the whole memory.
//!
//! `DIFFERENTIAL_PACKETS` says how many packets, `DIFFERENTIAL_SEED` which: `cargo xtask fuzz --differential N` sets the first.

mod fleet;
mod traffic;

use std::collections::BTreeMap;
use std::time::Instant;

use fastrand::Rng;
use lb_common::reason::Reason;
use lb_tests::kernel::random_packets;

use crate::reference::{REDIRECT, Way};
use fleet::Fleet;

/// What a run of the tests has time for, of each program.
const PACKETS: u32 = 20_000;
const SEED: u64 = 0xED6E;

/// Tables that are one value each, as the kernel allows.
#[test]
fn with_tables_as_whole_values() {
    agree(None, Some("balance"));
}

/// The ring has a value for each pair of slots: it is the longest of the tables.
#[test]
fn with_a_large_ring() {
    agree(Some(fleet::LARGE_RING), Some("balance_large_ring"));
}

/// Every table has a value for each element.
#[test]
fn with_tables_by_key() {
    agree(Some(0), Some("balance_by_key"));
}

/// The program and the model agree on packet after packet while everything changes.
fn agree(longest_value: Option<u32>, program: Option<&str>) {
    let packets = setting("DIFFERENTIAL_PACKETS").unwrap_or_else(|| random_packets(PACKETS).into());
    let seed = setting("DIFFERENTIAL_SEED").unwrap_or(SEED);
    let mut rng = Rng::with_seed(seed);
    let mut fleet = Fleet::new(longest_value);
    if let Some(program) = program {
        assert_eq!(fleet.program(), program);
    }
    let mut ways: BTreeMap<Way, u64> = BTreeMap::new();
    let mut redirected = 0_u64;
    let begun = Instant::now();
    for number in 0..packets {
        if rng.u8(..16) == 0 {
            fleet.change(&mut rng);
        }
        let outcome = fleet.agrees(&format!("seed {seed}, packet {number}"), &traffic::frame(&mut rng));
        *ways.entry(outcome.change.way).or_default() += 1;
        redirected += u64::from(outcome.verdict == REDIRECT);
        if number % 16 == 0 {
            fleet.counters_agree();
        }
        if number % 8192 == 0 {
            fleet.memory_agrees();
        }
    }
    fleet.counters_agree();
    fleet.memory_agrees();
    let reasons: Vec<_> = Reason::ALL
        .iter()
        .map(|reason| (reason.name(), fleet.count(*reason)))
        .collect();
    println!(
        "{packets} packets of seed {seed} agreed in {:.1?}: {reasons:?}, {redirected} redirected, {ways:?}",
        begun.elapsed()
    );
    assert_eq!(fleet.received(), packets);
    // A test that no longer gets somewhere has lost its teeth.
    if packets >= u64::from(PACKETS) {
        for reason in Reason::ALL {
            let cannot = matches!(reason, Reason::NoHeadroom);
            assert!(cannot || fleet.count(*reason) > 5, "{} was hardly seen", reason.name());
        }
        assert!(redirected > 5, "none was redirected");
        assert_eq!(ways.len(), 15, "a way was not gone: {ways:?}");
        assert!(ways.values().all(|times| *times > 5), "a way was hardly gone: {ways:?}");
    }
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}={text:?}: {error}")))
}
