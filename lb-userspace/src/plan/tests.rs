//! Plans tried in memory: after every single write, each service must be whole.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;

use lb_common::encap;
use lb_common::hash::service_places;
use lb_common::map::{Counter, NOBODY, Rewrite, ServiceEntry, ServiceKey, flag};
use proptest::prelude::*;

use super::layout::Layout;
use super::make::plan;
use super::transition::Rule;
use super::*;
use crate::bpf::tables::{Lengths, Tables};

/// Owners by identity of every slot of a service, found as a packet finds them.
fn owners(tables: &Tables, key: ServiceKey) -> Option<Vec<Option<u64>>> {
    let (first, second) = service_places(key, tables.service_mask());
    let entry = match tables.service(first) {
        entry if entry.key() == key => entry,
        entry if entry.overflow == 0 => return None,
        _ => Some(tables.service(second)).filter(|entry| entry.key() == key)?,
    };
    let owner = |n: u32| {
        let slot = tables.slot(entry.ring_base() + n);
        if slot.previous() != NOBODY {
            assert!(
                u32::from(slot.previous()) < entry.backend_room(),
                "slot {n} goes on to number {}",
                slot.previous()
            );
            let row = tables.row(entry.backend_base() + u32::from(slot.previous()));
            assert_ne!(row.identity, 0, "slot {n} goes on to a freed row");
        }
        let number = slot.current();
        (number != NOBODY).then(|| {
            assert!(
                u32::from(number) < entry.backend_room(),
                "slot {n} names number {number} of {}",
                entry.backend_room()
            );
            let row = tables.row(entry.backend_base() + u32::from(number));
            assert_ne!(row.identity, 0, "slot {n} names a freed row");
            let rewrite = row.rewrites[(row.active & 1) as usize];
            assert_eq!(rewrite.header[0], row.identity, "the rewrite is another backend's");
            row.identity
        })
    };
    Some((0..entry.ring_size).map(owner).collect())
}

fn key(n: u8) -> ServiceKey {
    ServiceKey::v4([192, 0, 2, n], 6, [0, 80])
}

/// A rewrite that tells whose it is, in the first word.
fn rewrite(identity: u64, version: u32) -> Rewrite {
    let mut rewrite = encap::l2([0; 6], [0; 6]);
    rewrite.header[0] = identity;
    rewrite.ifindex = version;
    rewrite
}

fn service(n: u8, ring_size: u32, version: u32, backends: &BTreeSet<u8>, out: u8) -> WantedService {
    let identity = |name: u8| (u64::from(n) << 8) | (u64::from(name) + 1);
    // Some change it with the version.
    let rules = [Rule::Never, Rule::Adaptive, Rule::Always];
    let rule = rules[(usize::from(n) + usize::from(n.is_multiple_of(8)) * version as usize) % 3];
    let backends: Vec<WantedBackend> = backends
        .iter()
        .map(|name| WantedBackend {
            identity: identity(*name),
            rewrite: rewrite(identity(*name), version),
            serves: *name != out || version == 1,
        })
        .collect();
    let serving: Vec<u16> = (0..backends.len() as u16)
        .filter(|index| *index != u16::from(out))
        .collect();
    let owner = |slot: u32| {
        serving
            .get(slot as usize % serving.len().max(1))
            .copied()
            .unwrap_or(NOBODY)
    };
    WantedService {
        key: key(n),
        flags: version % 4,
        inserts: 7,
        idle: if rule == Rule::Never { 0 } else { 3 },
        rule,
        ring_size,
        owners: (0..ring_size).map(owner).collect(),
        backends,
    }
}

fn identities(service: &WantedService) -> Vec<Option<u64>> {
    service
        .owners
        .iter()
        .map(|owner| service.backends.get(usize::from(*owner)).map(|b| b.identity))
        .collect()
}

fn no_counts(_: u32) -> Result<Counter, Infallible> {
    Ok(Counter::default())
}

/// Makes one write; no packet is on its way that would have to be waited for.
fn make(tables: &Tables, write: &Write) {
    if *write != Write::Grace {
        let Ok(()) = apply::step(write, tables, &no_counts);
    }
}

/// Every life that was ever seen: whose it is, of which service, and whether it is over.
#[derive(Default)]
struct Lives(HashMap<u32, (ServiceKey, u64, bool)>);

impl Lives {
    /// Looks at every backend of every service: a life is one backend's, and none that is over begins again.
    fn look(&mut self, tables: &Tables) {
        let mut present = BTreeSet::new();
        for (key, service) in Layout::read(tables).services {
            for (row, identity) in (service.entry.backend_base()..).zip(service.identities) {
                let life = tables.row(row).life;
                if life == 0 {
                    continue;
                }
                assert_ne!(identity, 0, "a free row is in a life");
                assert!(life < tables.next_life(), "life {life} would be given again");
                assert!(present.insert(life), "life {life} is of two backends");
                let known = *self.0.entry(life).or_insert((key, identity, false));
                assert_eq!(known, (key, identity, false), "life {life} is another's, or over");
            }
        }
        for (life, (_, _, over)) in &mut self.0 {
            *over |= !present.contains(life);
        }
    }

    /// The life of a backend, now.
    fn of(&self, service: ServiceKey, identity: u64) -> Option<u32> {
        let mut lives = self.0.iter();
        let found = lives.find(|(_, known)| **known == (service, identity, false));
        found.map(|(life, _)| *life)
    }
}

/// What is remembered of a service's flows counts after a change as before it: its slots are looked after all the time.
fn goes_on(before: &WantedService, after: &WantedService) -> bool {
    let same_slots = before.ring_size == after.ring_size && (before.flags ^ after.flags) & flag::HASH_FLOW == 0;
    same_slots && before.idle != 0 && after.idle != 0
}

/// Carries a plan out write by write and looks at every service after each.
fn carry_out(
    tables: &Tables,
    lives: &mut Lives,
    before: &BTreeMap<u8, WantedService>,
    after: &BTreeMap<u8, WantedService>,
    plan: &Plan,
) {
    let mut frozen: BTreeSet<u32> = BTreeSet::new();
    let serving = |service: &WantedService| -> Vec<u64> {
        let serving = service.backends.iter().filter(|backend| backend.serves);
        serving.map(|backend| backend.identity).collect()
    };
    let earlier: HashMap<(u8, u64), u32> = before
        .iter()
        .flat_map(|(n, service)| serving(service).into_iter().map(|identity| (*n, identity)))
        .map(|(n, identity)| ((n, identity), lives.of(key(n), identity).expect("it serves")))
        .collect();
    for write in &plan.writes {
        match write {
            Write::Grace => frozen.clear(),
            Write::Remove { place } => assert!(frozen.insert(*place)),
            Write::Insert { place, .. } => {
                assert!(
                    !frozen.contains(place),
                    "a place is filled again without a grace period"
                );
                assert_eq!(tables.service(*place).word, 0, "a place is filled that is not free");
            }
            _ => {}
        }
        make(tables, write);
        lives.look(tables);
        for n in before.keys().chain(after.keys()) {
            let known = |wish: Option<&WantedService>| -> BTreeSet<u64> {
                wish.iter()
                    .flat_map(|service| service.backends.iter().map(|b| b.identity))
                    .collect()
            };
            let (old, new) = (before.get(n), after.get(n));
            match owners(tables, key(*n)) {
                Some(owners) => {
                    let allowed: BTreeSet<u64> = known(old).union(&known(new)).copied().collect();
                    assert!(
                        owners.iter().flatten().all(|owner| allowed.contains(owner)),
                        "a stranger owns a slot"
                    );
                }
                None => assert!(
                    old.is_none() || new.is_none(),
                    "service {n} cannot be found for a moment"
                ),
            }
        }
    }
    for (n, service) in after {
        let entry = Layout::read(tables).services[&key(*n)].entry;
        assert_eq!((entry.idle, entry.flags), (service.idle, service.flags));
        for identity in serving(service) {
            let life = lives.of(key(*n), identity).expect("it serves");
            let Some(old) = earlier.get(&(*n, identity)) else {
                continue;
            };
            let kept = before.get(n).is_some_and(|before| goes_on(before, service));
            // Without memory nothing begins anew until there is some.
            if kept {
                assert_eq!(life, *old, "{identity} of service {n} never ceased to serve");
            } else if service.idle != 0 {
                assert_ne!(life, *old, "what was remembered of service {n} counts for other slots");
            }
        }
    }
    for n in 0..=u8::MAX {
        assert_eq!(
            owners(tables, key(n)),
            after.get(&n).map(identities),
            "service {n} at the end"
        );
    }
    let entries = (0..=tables.service_mask())
        .filter(|place| tables.service(*place).word != 0)
        .count();
    assert_eq!(entries, after.len(), "each service stands in the table once");
}

fn tables() -> Tables {
    Tables::private(Lengths {
        services: 64,
        slots: 4096,
        rows: 512,
        flows: 64,
    })
    .expect("memory")
}

type Step = BTreeMap<u8, (usize, u32, BTreeSet<u8>, u8)>;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let service = (
        0..3_usize,
        0..3_u32,
        prop::collection::btree_set(0..12_u8, 0..10),
        0..12_u8,
    );
    prop::collection::vec(prop::collection::btree_map(0..24_u8, service, 0..16), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_prefix_of_every_plan_is_sound(steps in steps()) {
        let tables = tables();
        let mut before = BTreeMap::new();
        let mut lives = Lives::default();
        for step in steps {
            let after: BTreeMap<u8, WantedService> = step
                .into_iter()
                .map(|(n, (size, version, backends, out))| (n, service(n, [13, 31, 61][size], version, &backends, out)))
                .collect();
            let wanted: Vec<WantedService> = after.values().cloned().collect();
            let plan = plan(&tables, &wanted, Scope::Everything).expect("there is room");
            carry_out(&tables, &mut lives, &before, &after, &plan);
            let again = super::make::plan(&tables, &wanted, Scope::Everything).expect("there is room");
            prop_assert!(again.is_empty(), "nothing is left to do, yet {:?}", again.writes);
            before = after;
        }
    }

    #[test]
    fn a_daemon_that_stops_anywhere_leaves_what_the_next_one_can_finish(steps in steps(), stop in 0..100_usize) {
        let tables = tables();
        let mut lives = Lives::default();
        for step in steps {
            let wanted: Vec<WantedService> = step
                .into_iter()
                .map(|(n, (size, version, backends, out))| service(n, [13, 31, 61][size], version, &backends, out))
                .collect();
            let half = plan(&tables, &wanted, Scope::Everything).expect("there is room");
            for write in half.writes.iter().take(half.writes.len() * stop / 100) {
                make(&tables, write);
                lives.look(&tables);
            }
            let rest = plan(&tables, &wanted, Scope::Everything).expect("there is room");
            for write in &rest.writes {
                make(&tables, write);
                lives.look(&tables);
            }
            for service in &wanted {
                prop_assert_eq!(owners(&tables, service.key), Some(identities(service)));
            }
            prop_assert_eq!(Layout::read(&tables).services.len(), wanted.len());
        }
    }
}

#[test]
fn what_is_not_in_scope_is_left_alone() {
    let tables = tables();
    let both = [
        service(1, 13, 0, &[1, 2].into(), 99),
        service(2, 13, 0, &[1, 2].into(), 99),
    ];
    let Ok(()) = apply::apply(
        &plan(&tables, &both, Scope::Everything).expect("room"),
        &tables,
        no_counts,
    );
    let one_out = service(2, 13, 0, &[1, 2].into(), 0);
    let change = plan(&tables, std::slice::from_ref(&one_out), Scope::TheseOnly).expect("room");
    assert_eq!(change.moved, [(key(2), 7)]);
    let Ok(()) = apply::apply(&change, &tables, no_counts);
    assert_eq!(owners(&tables, key(1)), Some(identities(&both[0])));
    assert_eq!(owners(&tables, key(2)), Some(identities(&one_out)));
}

#[test]
fn a_new_way_to_a_backend_moves_no_slot_and_waits_before_the_next() {
    let tables = tables();
    let Ok(()) = apply::apply(
        &plan(&tables, &[service(1, 13, 0, &[1, 2].into(), 99)], Scope::Everything).expect("room"),
        &tables,
        no_counts,
    );
    let change = plan(&tables, &[service(1, 13, 4, &[1, 2].into(), 99)], Scope::Everything).expect("room");
    let kinds: Vec<&str> = change
        .writes
        .iter()
        .map(|write| match write {
            Write::SetRewrite { .. } => "rewrite",
            Write::Grace => "grace",
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["rewrite", "rewrite", "grace"]);
}

#[test]
fn a_full_table_is_refused_with_what_would_fit() {
    let tables = tables();
    let wanted = [service(1, 8191, 0, &[1].into(), 99)];
    let refused = plan(&tables, &wanted, Scope::Everything).expect_err("4096 slots");
    assert_eq!(
        refused,
        PlanError::Slots {
            slots: 4096,
            wanted: 8192,
            free: 4096
        }
    );
    let many: Vec<WantedService> = (0..100).map(|n| service(n, 13, 0, &[1].into(), 99)).collect();
    assert!(matches!(
        plan(&tables, &many, Scope::Everything),
        Err(PlanError::Services {
            places: 64,
            wanted: 100,
            ..
        })
    ));
}

#[test]
fn counters_go_on_when_rows_move() {
    let tables = tables();
    let counted: HashMap<u32, u64> = [(0, 1000), (1, 50)].into();
    let count = |row: u32| -> Result<Counter, Infallible> {
        let packets = counted.get(&row).copied().unwrap_or(0);
        Ok(Counter {
            packets,
            bytes: packets * 100,
        })
    };
    tables.set_baseline(0, Counter { packets: 0, bytes: 0 });
    let few = service(1, 13, 0, &[1, 2].into(), 99);
    let Ok(()) = apply::apply(
        &plan(&tables, &[few], Scope::Everything).expect("room"),
        &tables,
        no_counts,
    );
    let many = service(1, 13, 0, &(0..12).collect(), 99);
    let change = plan(&tables, &[many], Scope::Everything).expect("room");
    let Ok(()) = apply::apply(&change, &tables, count);
    let row = change.writes.iter().find_map(|write| match write {
        Write::FillRow {
            row,
            continues: Some(0),
            ..
        } => Some(*row),
        _ => None,
    });
    let baseline = tables.baseline(row.expect("row 0 moves"));
    assert_eq!(0_u64.wrapping_sub(baseline.packets), 1000);
    assert_eq!(0_u64.wrapping_sub(baseline.bytes), 100_000);
}

#[test]
fn an_entry_that_points_outside_is_removed() {
    let tables = tables();
    let (place, _) = service_places(key(1), tables.service_mask());
    let word = key(1).word;
    let ServiceKey {
        address_high,
        address_low,
        ..
    } = key(1);
    let bases = ServiceEntry::pack_bases(4000, 0);
    let entry = ServiceEntry {
        address_high,
        address_low,
        word,
        bases,
        ring_room: 200,
        ..ServiceEntry::default()
    };
    tables.insert_service(place, entry);
    let cleaned = plan(&tables, &[], Scope::Everything).expect("room");
    assert_eq!(cleaned.writes, [Write::Remove { place }, Write::Grace]);
}

/// A backend that leaves the file and comes back under the same name, into the same row or another: nothing of before is its own.
#[test]
fn who_comes_back_is_in_another_life() {
    let tables = tables();
    let serve = |backends: &[u8], out: u8| {
        let wanted = service(1, 13, 0, &backends.iter().copied().collect(), out);
        let Ok(()) = apply::apply(
            &plan(&tables, &[wanted], Scope::Everything).expect("room"),
            &tables,
            no_counts,
        );
        let installed = &Layout::read(&tables).services[&key(1)];
        let number = installed.identities.iter().position(|identity| *identity == 1 << 8 | 2);
        let row = |number: usize| installed.entry.backend_base() + number as u32;
        number.map(|number| (row(number), tables.row(row(number)).life))
    };
    let (row, first) = serve(&[0, 1], 99).expect("there");
    assert!(first != 0);
    assert_eq!(
        serve(&[0, 1, 2], 99),
        Some((row, first)),
        "it is the same while it stays"
    );
    assert_eq!(serve(&[0, 1], 1), Some((row, 0)), "it is down");
    let (again, second) = serve(&[0, 1], 99).expect("there");
    assert!(again == row && second > first, "it is back: {second} after {first}");
    assert_eq!(serve(&[0], 99), None);
    let (again, third) = serve(&[0, 1], 99).expect("there");
    assert!(again == row && third > second, "it was removed: {third} after {second}");
    let (moved, same) = serve(&(0..12).collect::<Vec<_>>(), 99).expect("there");
    assert!(moved != row && same == third, "its row moves, and it goes on");
}

/// Where a plan that makes the slots anew is stopped, nothing that is remembered counts until the next one is through.
#[test]
fn memory_of_other_slots_ends_however_far_a_plan_comes() {
    let mut changed = service(1, 13, 0, &[1, 2, 3].into(), 99);
    let ways: [fn(&mut WantedService); 3] = [
        |service| (service.ring_size, service.owners) = (31, (0..31).map(|slot| slot % 3).collect()),
        |service| service.flags ^= flag::HASH_PORT,
        |service| service.flags ^= flag::HASH_FLOW,
    ];
    for way in ways {
        let before = service(1, 13, 0, &[1, 2, 3].into(), 99);
        changed.clone_from(&before);
        way(&mut changed);
        for stop in 0.. {
            let tables = tables();
            let Ok(()) = apply::apply(
                &plan(&tables, std::slice::from_ref(&before), Scope::Everything).expect("room"),
                &tables,
                no_counts,
            );
            let lives = || -> Vec<u32> { (0..3).map(|row| tables.row(row).life).collect() };
            let old = lives();
            let first = plan(&tables, std::slice::from_ref(&changed), Scope::Everything).expect("room");
            first.writes.iter().take(stop).for_each(|write| make(&tables, write));
            let rest = plan(&tables, std::slice::from_ref(&changed), Scope::Everything).expect("room");
            rest.writes.iter().for_each(|write| make(&tables, write));
            let entry = Layout::read(&tables).services[&key(1)].entry;
            assert_eq!((entry.idle, entry.flags), (changed.idle, changed.flags));
            assert!(lives().iter().all(|life| !old.contains(life)), "stopped after {stop}");
            if stop >= first.writes.len() {
                break;
            }
        }
    }
}
