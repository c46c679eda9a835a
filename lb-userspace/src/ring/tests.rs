use proptest::collection::vec;
use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use super::*;
use crate::model::identity;

const SIZE: u32 = 65_537;

/// Backends web-0, web-1, … of these weights.
fn members(weights: &[u32]) -> Vec<Member> {
    let name = |(i, &weight): (usize, &u32)| Member {
        identity: identity(&format!("web-{i}")),
        weight,
    };
    weights.iter().enumerate().map(name).collect()
}

/// Weights 1 ..= 1000 in no order.
fn mixed(count: usize) -> Vec<u32> {
    (0..count)
        .map(|i| 1 + (xxh3_64(&(i as u64).to_le_bytes()) % 1000) as u32)
        .collect()
}

fn out(count: usize, who: &[usize]) -> Vec<Share> {
    (0..count)
        .map(|i| if who.contains(&i) { Share::OUT } else { Share::FULL })
        .collect()
}

/// The largest deviation from what weight × share says, as a part of it, among members due at least `least` slots.
fn deviation(slots: &[u16], members: &[Member], shares: &[Share], least: f64) -> f64 {
    let parts: Vec<f64> = members
        .iter()
        .zip(shares)
        .map(|(m, s)| f64::from(m.weight) * f64::from(s.0))
        .collect();
    let sum: f64 = parts.iter().sum();
    let due = parts.iter().map(|part| part / sum * slots.len() as f64);
    let counts = tally(slots, members.len());
    due.zip(counts)
        .filter(|&(due, _)| due >= least)
        .map(|(due, n)| (f64::from(n) / due - 1.0).abs())
        .fold(0.0, f64::max)
}

/// Slots of others than `leaver` that change when it leaves the file, as a part of all.
fn extra_moved(members: &[Member], leaver: usize) -> f64 {
    let before = Ring::populate(members, SIZE);
    let mut left = members.to_vec();
    left.remove(leaver);
    let after = Ring::populate(&left, SIZE);
    let old_index = |now: u16| now + u16::from(usize::from(now) >= leaver);
    let moved = before
        .owners()
        .iter()
        .zip(after.owners())
        .filter(|&(&b, &a)| usize::from(b) != leaver && old_index(a) != b);
    moved.count() as f64 / f64::from(SIZE)
}

/// What `lend` promises, of two health states of one ring.
#[track_caller]
fn check_moves(ring: &Ring, before: &[Share], after: &[Share]) {
    let moves = ring
        .lend(before)
        .into_iter()
        .zip(ring.lend(after))
        .enumerate()
        .filter(|(_, (b, a))| b != a);
    for (slot, (from, to)) in moves {
        let share = |shares: &[Share], member: u16| shares.get(usize::from(member)).copied();
        let fell = share(after, from) < share(before, from);
        let rose = share(after, to) > share(before, to);
        assert!(
            fell || rose,
            "slot {slot} moved from {from} to {to}, whose shares have not changed so"
        );
    }
}

#[test]
fn same_bits_as_ever() {
    // A change here is a change of the contract between the nodes of a fleet: they would disagree while it is rolled out.
    #[track_caller]
    fn check(slots: &[u16], first: [u16; 8], hash: u64) {
        let bytes: Vec<u8> = slots.iter().flat_map(|slot| slot.to_le_bytes()).collect();
        assert_eq!(
            (&slots[..8], xxh3_64(&bytes)),
            (&first[..], hash),
            "{:#018x}",
            xxh3_64(&bytes)
        );
    }
    let ring = Ring::populate(&members(&[100; 5]), SIZE);
    check(ring.owners(), [3, 3, 1, 0, 4, 2, 1, 1], 0x598e_cfde_aac1_0acc);
    check(
        &ring.lend(&out(5, &[1])),
        [3, 3, 4, 0, 4, 2, 2, 4],
        0x89f0_df5f_472f_838d,
    );
    check(
        &ring.lend(&[Share(6_000), Share::FULL, Share(50_000), Share::OUT, Share::OUT]),
        [2, 2, 1, 1, 2, 2, 1, 1],
        0xb6ff_3da0_da02_1b82,
    );
    check(
        &ring.lend(&[Share(600), Share::OUT, Share::OUT, Share::OUT, Share::OUT]),
        [0, 0, 0, 0, 0, 0, 0, 0],
        0x112b_1689_3817_1958,
    );
    check(
        Ring::populate(&members(&mixed(100)), SIZE).owners(),
        [54, 77, 40, 61, 5, 48, 88, 81],
        0x502f_45d9_22fe_545a,
    );
    check(
        Ring::populate(&members(&[3, 1, 65_535]), 31).owners(),
        [2, 2, 2, 2, 2, 2, 2, 2],
        0x52b8_f8f0_f5c4_c4e6,
    );
}

#[test]
fn shares_follow_weights() {
    for weights in [
        vec![100; 3],
        vec![100; 100],
        vec![100; 1000],
        mixed(10),
        mixed(100),
        mixed(1000),
        vec![65_535, 1],
    ] {
        let members = members(&weights);
        let counts = tally(Ring::populate(&members, SIZE).owners(), members.len());
        let sum: u32 = weights.iter().sum();
        for (weight, count) in weights.iter().zip(counts) {
            let due = f64::from(*weight) / f64::from(sum) * f64::from(SIZE);
            assert!((f64::from(count) - due).abs() < 1.0, "{count} slots for {due} due");
        }
    }
}

#[test]
fn shares_within_one_percent_at_100() {
    for weights in [vec![100; 100], mixed(100)] {
        let members = members(&weights);
        let slots = Ring::populate(&members, SIZE).owners().to_vec();
        // Below 100 slots due, one slot is more than 1 %.
        assert!(deviation(&slots, &members, &out(100, &[]), 100.0) < 0.01);
    }
}

#[test]
fn no_order() {
    for weights in [mixed(50), vec![100; 50]] {
        let members = members(&weights);
        let ring = Ring::populate(&members, SIZE);
        let shares: Vec<Share> = (0..50).map(|i| Share([0, 9_999, u16::MAX][i % 3])).collect();
        let (backwards, shares_backwards): (Vec<Member>, Vec<Share>) =
            members.iter().copied().zip(shares.clone()).rev().unzip();
        let ring_backwards = Ring::populate(&backwards, SIZE);
        let mapped = |slots: &[u16]| slots.iter().map(|&slot| 49 - slot).collect::<Vec<u16>>();
        assert!(ring.owners() == mapped(ring_backwards.owners()));
        assert!(ring.lend(&shares) == mapped(&ring_backwards.lend(&shares_backwards)));
    }
}

#[test]
fn weight_zero_is_nobody() {
    let some = members(&[7, 0, 9]);
    let ring = Ring::populate(&some, 251);
    assert_eq!(tally(ring.owners(), 3)[1], 0);
    let without = Ring::populate(&[some[0], some[2]], 251);
    assert_eq!(
        tally(ring.owners(), 3),
        [tally(without.owners(), 2)[0], 0, tally(without.owners(), 2)[1]]
    );
    // Nor does it borrow.
    assert_eq!(tally(&ring.lend(&out(3, &[0])), 3), [0, 0, 251]);
    assert_eq!(ring.lend(&out(3, &[0, 2])), [NOBODY; 251]);

    for members in [members(&[]), members(&[0, 0])] {
        let ring = Ring::populate(&members, 251);
        assert_eq!(ring.owners(), [NOBODY; 251]);
        assert_eq!(ring.lend(&vec![Share::OUT; members.len()]), [NOBODY; 251]);
        assert_eq!(ring.lend(&vec![Share(1); members.len()]), [NOBODY; 251]);
    }
}

#[test]
fn one_member_has_all() {
    let ring = Ring::populate(&members(&[1]), SIZE);
    assert_eq!(ring.owners(), vec![0; SIZE as usize]);
    assert_eq!(ring.lend(&[Share(1)]), vec![0; SIZE as usize]);
    assert_eq!(ring.lend(&[Share::OUT]), vec![NOBODY; SIZE as usize]);
}

#[test]
fn more_members_than_slots() {
    let members = members(&[1, 5, 5, 2, 3, 5, 4]);
    assert_eq!(tally(Ring::populate(&members, 5).owners(), 7), [0, 1, 1, 0, 1, 1, 1]);
    assert_eq!(tally(Ring::populate(&members, 2).owners(), 7).iter().sum::<u32>(), 2);
}

#[test]
fn failure_and_return_move_only_the_failed_ones_slots() {
    let members = members(&mixed(100));
    let ring = Ring::populate(&members, SIZE);
    for failed in [0, 17, 99] {
        let without = ring.lend(&out(100, &[failed]));
        let moved = ring.owners().iter().zip(&without).filter(|(owner, now)| owner != now);
        assert!(moved.clone().all(|(&owner, _)| usize::from(owner) == failed));
        assert_eq!(moved.count(), tally(ring.owners(), 100)[failed] as usize);
        // With two more already out, too, and back again: what is lent already does not move.
        check_moves(&ring, &out(100, &[5, 6]), &out(100, &[5, 6, failed]));
        check_moves(&ring, &out(100, &[5, 6, failed]), &out(100, &[5, 6]));
    }
    assert_eq!(ring.lend(&out(100, &[])), ring.owners());
}

#[test]
fn survivors_stay_even() {
    // A lent slot goes anywhere: with n of them on one member, their number varies by the root of n.
    for (weights, who, most) in [
        (vec![100; 100], vec![40], 0.012),
        (vec![100; 100], (0..100).step_by(10).collect(), 0.036),
        (vec![100; 10], vec![4], 0.012),
        (vec![100; 3], vec![1], 0.012),
        (vec![100; 3], vec![1, 2], 0.0),
        ((1..=100).map(|i| 500 + 5 * i).collect(), vec![40], 0.012),
        // So few serve that not every slot finds one by drawing.
        (vec![100; 100], (4..100).collect(), 0.05),
    ] {
        let members = members(&weights);
        let shares = out(weights.len(), &who);
        let found = deviation(&Ring::populate(&members, SIZE).lend(&shares), &members, &shares, 1.0);
        assert!(
            found <= most,
            "{} of {} out: {found}, expected at most {most}",
            who.len(),
            weights.len()
        );
    }
}

#[test]
fn fractions() {
    let members = members(&[100; 10]);
    let ring = Ring::populate(&members, SIZE);
    let owned = tally(ring.owners(), 10);
    let mut shares = out(10, &[]);
    for share in [1, 6_554, 32_768, 60_000, 65_534] {
        shares[3] = Share(share);
        let slots = ring.lend(&shares);
        let keeps = ring
            .owners()
            .iter()
            .zip(&slots)
            .filter(|&(&owner, &now)| owner == 3 && now == 3)
            .count();
        let due = f64::from(owned[3]) * f64::from(share) / 65_535.0;
        // Of what it lends it borrows back its part, like everybody: how much in all, the next line looks at.
        assert!(keeps as f64 >= due.round().max(1.0), "{keeps} kept, {due} due");
        assert!(deviation(&slots, &members, &shares, 100.0) < 0.03);
    }
    // All at a tenth is as all at full, and no borrower has more than its part.
    let low = vec![Share(6_554); 10];
    assert!(deviation(&ring.lend(&low), &members, &low, 100.0) < 0.03);
    let mixed: Vec<Share> = (1..=10).map(|i| Share(6_553 * i)).collect();
    assert!(deviation(&ring.lend(&mixed), &members, &mixed, 100.0) < 0.05);
}

#[test]
fn leaving_the_file() {
    let check = |weights: &[u32], most: f64| {
        let members = members(weights);
        let leavers = [0, members.len() / 2, members.len() - 1];
        let mean = leavers.iter().map(|&leaver| extra_moved(&members, leaver)).sum::<f64>() / 3.0;
        let count = weights.len();
        assert!(
            mean <= most,
            "{mean} of the slots moved besides those of the leaver of {count}, expected at most {most}"
        );
    };
    check(&[100; 2], 0.0);
    check(&[100; 10], 0.0045);
    check(&[100; 100], 0.0035);
    check(&[100; 1000], 0.0045);
    check(&mixed(10), 0.0045);
    check(&mixed(100), 0.0035);
}

#[test]
fn primes() {
    let below: Vec<u32> = (0..30).filter(|&n| is_prime(n)).collect();
    assert_eq!(below, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
    assert!(is_prime(SIZE) && is_prime(0xFFFF_FFFB) && !is_prime(65_536) && !is_prime(251 * 251));
}

fn small_prime() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![2, 3, 5, 31, 251, 1021, 4099])
}

fn any_weight() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), 1..=3u32, 1..=1000u32, 1..=65_535u32]
}

fn any_share() -> impl Strategy<Value = Share> {
    prop_oneof![Just(Share::OUT), Just(Share::FULL), any::<u16>().prop_map(Share)]
}

proptest! {
    #[test]
    fn population(weights in vec(any_weight(), 0..40), size in small_prime()) {
        let ring = Ring::populate(&members(&weights), size);
        let counts = tally(ring.owners(), weights.len());
        let serving = weights.iter().filter(|&&weight| weight > 0).count();
        prop_assert_eq!(counts.iter().sum::<u32>(), if serving > 0 { size } else { 0 });
        for (&weight, &count) in weights.iter().zip(&counts) {
            prop_assert!(weight > 0 || count == 0);
            prop_assert!(weight == 0 || count > 0 || serving > size as usize);
        }
        for (a, b) in (0..weights.len()).flat_map(|a| (0..weights.len()).map(move |b| (a, b))) {
            prop_assert!(weights[a] <= weights[b] || counts[a] >= counts[b]);
        }
    }

    #[test]
    fn lending(
        (weights, before, after) in (0..30usize).prop_flat_map(|n| (vec(any_weight(), n), vec(any_share(), n), vec(any_share(), n))),
        one in any::<prop::sample::Index>(),
        size in small_prime(),
    ) {
        let ring = Ring::populate(&members(&weights), size);
        let slots = ring.lend(&before);
        let serves = |member: u16| before.get(usize::from(member)).is_some_and(|&share| share > Share::OUT);
        let anybody = ring.owners().iter().any(|&owner| serves(owner));
        for (&owner, &now) in ring.owners().iter().zip(&slots) {
            prop_assert!(serves(now) || !anybody && now == NOBODY);
            prop_assert!(owner == NOBODY || before[usize::from(owner)] < Share::FULL || now == owner);
        }
        // A member with any share keeps something of its own.
        for (member, &count) in tally(ring.owners(), weights.len()).iter().enumerate() {
            prop_assert!(count == 0 || before[member] == Share::OUT || tally(&slots, weights.len())[member] > 0);
        }
        check_moves(&ring, &before, &after);
        if !weights.is_empty() {
            let mut one_changed = before.clone();
            one_changed[one.index(weights.len())] = after[one.index(weights.len())];
            check_moves(&ring, &before, &one_changed);
        }
    }
}
