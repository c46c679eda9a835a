//! How long a ring takes, how even it is, and what a change of the file moves; beside Maglev's own population.
//!
//! `cargo bench -p lb-userspace --bench ring`

use std::hint::black_box;
use std::time::Instant;

use lb_common::map::NOBODY;
use lb_userspace::model::identity;
use lb_userspace::ring::{Member, Ring, Share, tally};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

const SIZE: u32 = 65_537;
const RUNS: usize = 101;
/// Pools of other names over which movement is averaged.
const POOLS: u64 = 12;

fn main() {
    println!("{SIZE} slots; milliseconds: median (min, max) of {RUNS} runs");
    println!(
        "members  weights  population               as Maglev has it         one out              a tenth out          all at half"
    );
    for (count, mixed) in cases() {
        let members = members(count, mixed, 0);
        let ring = Ring::populate(&members, SIZE);
        let lend = |shares: Vec<Share>| time(|| drop(black_box(ring.lend(&shares))));
        println!(
            "{count:7}  {:7}  {:23}  {:23}  {:19}  {:19}  {}",
            kind(mixed),
            time(|| drop(black_box(Ring::populate(&members, SIZE)))),
            time(|| drop(black_box(maglev(&members)))),
            lend(out(count, 1)),
            lend(out(count, count / 10)),
            lend(vec![Share(32_768); count]),
        );
    }

    println!("\nslots moved besides those that have to, % of all: mean (max) over {POOLS} pools, two changes each");
    println!("members  weights  one leaves the file   as Maglev has it      one weighs 10 % more  as Maglev has it");
    let ours = |members: &[Member]| Ring::populate(members, SIZE).owners().to_vec();
    for (count, mixed) in cases() {
        println!(
            "{count:7}  {:7}  {:20}  {:20}  {:20}  {}",
            kind(mixed),
            moved(count, mixed, &ours, &leaves),
            moved(count, mixed, &maglev, &leaves),
            moved(count, mixed, &ours, &|m, who| gains(m, who)),
            moved(count, mixed, &maglev, &|m, who| gains(m, who)),
        );
    }

    println!(
        "\nlargest deviation from the weights, %, among members due 100 slots or more (60 at 1,000), over {POOLS} pools: mean (max)"
    );
    println!("members  weights  none out         as Maglev has it  one out          a tenth out");
    for (count, mixed) in cases() {
        let over = |slots: &dyn Fn(&[Member]) -> Vec<u16>, gone: usize| {
            mean_and_max((0..POOLS).map(|pool| {
                let members = members(count, mixed, pool);
                deviation(&slots(&members), &members, &out(count, gone))
            }))
        };
        let lent = |gone: usize| over(&|members| Ring::populate(members, SIZE).lend(&out(count, gone)), gone);
        println!(
            "{count:7}  {:7}  {:15}  {:16}  {:15}  {}",
            kind(mixed),
            lent(0),
            over(&maglev, 0),
            lent(1),
            lent(count / 10)
        );
    }
}

fn cases() -> impl Iterator<Item = (usize, bool)> {
    [false, true]
        .into_iter()
        .flat_map(|mixed| [10, 100, 1000].map(|count| (count, mixed)))
}

fn kind(mixed: bool) -> &'static str {
    if mixed { "1..1000" } else { "equal" }
}

fn members(count: usize, mixed: bool, pool: u64) -> Vec<Member> {
    let weight = |i: usize| {
        if mixed {
            1 + (xxh3_64_with_seed(&i.to_le_bytes(), pool) % 1000) as u32
        } else {
            100
        }
    };
    (0..count)
        .map(|i| Member {
            identity: identity(&format!("{pool}-{i}")),
            weight: weight(i),
        })
        .collect()
}

/// `gone` members out, evenly over the pool.
fn out(count: usize, gone: usize) -> Vec<Share> {
    let each = count.checked_div(gone).unwrap_or(usize::MAX);
    (0..count)
        .map(|i| if i % each == each / 2 { Share::OUT } else { Share::FULL })
        .collect()
}

fn time(run: impl Fn()) -> String {
    let mut times: Vec<f64> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    format!("{:.2} ({:.2}, {:.2})", times[RUNS / 2], times[0], times[RUNS - 1])
}

/// Takes one out of the pool; gives each remaining member's index before.
fn leaves(members: &mut Vec<Member>, who: usize) -> Vec<u16> {
    members.remove(who);
    (0..=members.len() as u16).filter(|&i| usize::from(i) != who).collect()
}

fn gains(members: &mut [Member], who: usize) -> Vec<u16> {
    members[who].weight += members[who].weight.div_ceil(10);
    (0..members.len() as u16).collect()
}

/// What moves more than it has to: as many slots as members gain have to.
fn moved(
    count: usize,
    mixed: bool,
    populate: &dyn Fn(&[Member]) -> Vec<u16>,
    change: &dyn Fn(&mut Vec<Member>, usize) -> Vec<u16>,
) -> String {
    mean_and_max(
        (0..POOLS)
            .flat_map(|pool| [1, 6].map(|who| (pool, who)))
            .map(|(pool, who)| {
                let mut members = members(count, mixed, pool);
                let before = populate(&members);
                let old_index = change(&mut members, who);
                let after: Vec<u16> = populate(&members)
                    .into_iter()
                    .map(|now| old_index[usize::from(now)])
                    .collect();
                let moved = before.iter().zip(&after).filter(|(b, a)| b != a).count();
                let gained: u32 = tally(&before, count)
                    .iter()
                    .zip(tally(&after, count))
                    .map(|(b, a)| a.saturating_sub(*b))
                    .sum();
                (moved as f64 - f64::from(gained)) / f64::from(SIZE) * 100.0
            }),
    )
}

fn deviation(slots: &[u16], members: &[Member], shares: &[Share]) -> f64 {
    let parts: Vec<u32> = members
        .iter()
        .zip(shares)
        .map(|(m, s)| if *s == Share::OUT { 0 } else { m.weight })
        .collect();
    let sum: u32 = parts.iter().sum();
    let due = parts
        .iter()
        .map(|&part| f64::from(part) / f64::from(sum) * f64::from(SIZE));
    let least = if members.len() < 1000 { 100.0 } else { 60.0 };
    let counts = tally(slots, members.len());
    due.zip(counts)
        .filter(|&(due, _)| due >= least)
        .map(|(due, n)| (f64::from(n) / due - 1.0).abs() * 100.0)
        .fold(0.0, f64::max)
}

fn mean_and_max(values: impl Iterator<Item = f64>) -> String {
    let values: Vec<f64> = values.collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    format!("{mean:.3} ({:.3})", values.iter().copied().fold(0.0, f64::max))
}

/// Maglev as the paper has it: in turns, each the more often the greater its weight, the next free slot of its list.
fn maglev(members: &[Member]) -> Vec<u16> {
    let heaviest = members.iter().map(|member| member.weight).max().unwrap_or(1);
    let mut order: Vec<usize> = (0..members.len()).collect();
    order.sort_by_key(|&i| members[i].identity);
    let scale = |hash: u64, range: u32| ((u128::from(hash) * u128::from(range)) >> 64) as u32;
    let mut walks: Vec<(u32, u32, u32, u32, u16)> = order
        .iter()
        .map(|&i| {
            let identity = members[i].identity.to_le_bytes();
            let (slot, skip) = (
                scale(xxh3_64_with_seed(&identity, 1), SIZE),
                1 + scale(xxh3_64(&identity), SIZE - 1),
            );
            (slot, skip, 0, members[i].weight, i as u16)
        })
        .collect();
    let mut owners = vec![NOBODY; SIZE as usize];
    let mut taken = [0_u64; 2048];
    let mut free = SIZE;
    loop {
        for (slot, skip, credit, weight, member) in &mut walks {
            *credit += *weight;
            if *credit < heaviest {
                continue;
            }
            *credit -= heaviest;
            let advance = |slot: u32| (slot + *skip).min((slot + *skip).wrapping_sub(SIZE));
            while taken[(*slot >> 6) as usize & 2047] >> (*slot & 63) & 1 != 0 {
                *slot = advance(*slot);
            }
            taken[(*slot >> 6) as usize & 2047] |= 1 << (*slot & 63);
            owners[*slot as usize] = *member;
            *slot = advance(*slot);
            free -= 1;
            if free == 0 {
                return owners;
            }
        }
    }
}
