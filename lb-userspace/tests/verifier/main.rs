//! The programs' cost to the verifier, held against a budget: a program that grows too large is refused on some kernel.

mod counts;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use lb_userspace::object;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Budget {
    /// The compiler that built the programs when the counts were taken.
    rustc: String,
    /// Instructions processed, by kernel series and program: verifiers differ, and so do the programs that kernels take.
    kernels: BTreeMap<String, BTreeMap<String, u32>>,
}

/// On a kernel that the budget knows each count is within 5 % of it, fewer too: then the budget is to be lowered, so that the next
/// growth is seen. Within 25 % if another compiler built the programs. On other kernels no count is more than twice the highest
/// that is known. `UPDATE_BUDGET=1 cargo test -p lb-userspace --test verifier` writes the running kernel's counts.
#[test]
fn the_verifier_processes_as_many_instructions_as_budgeted() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/verifier/budget.toml");
    let counts: BTreeMap<String, u32> = counts::counts().expect("the programs load").into_iter().collect();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a kernel");
    let kernel = release.split('.').take(2).collect::<Vec<_>>().join(".");
    let text = fs::read_to_string(&path).expect("the budget is there");
    let mut budget: Budget = toml::from_str(&text).expect("the budget is TOML");
    if std::env::var_os("UPDATE_BUDGET").is_some_and(|value| !value.is_empty()) {
        budget.rustc = object::COMPILER.to_owned();
        budget.kernels.insert(kernel, counts);
        fs::write(&path, toml::to_string(&budget).expect("plain data")).expect("the budget can be written");
        return;
    }
    let same = budget.rustc == object::COMPILER;
    if !same {
        println!("built by rustc {}, budgeted for {}", object::COMPILER, budget.rustc);
    }
    let Some(known) = budget.kernels.get(&kernel) else {
        println!("the budget does not know Linux {kernel}: {counts:?}");
        for (program, count) in counts {
            let most = 2 * highest(&budget, &program);
            assert!(
                count <= most,
                "{program}: {count} instructions on Linux {kernel}, at most {most} expected"
            );
        }
        return;
    };
    let names = |counts: &BTreeMap<String, u32>| counts.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&counts), names(known), "programs on Linux {kernel}");
    for (program, count) in counts {
        let budgeted = known[&program];
        let room = if same { budgeted / 20 } else { budgeted / 4 };
        assert!(
            (budgeted - room..=budgeted + room).contains(&count),
            "{program}: {count} instructions on Linux {kernel}, budgeted are {budgeted}; `UPDATE_BUDGET=1 cargo test`, and say why"
        );
    }
}

/// The highest count of a program on any kernel.
fn highest(budget: &Budget, program: &str) -> u32 {
    let counts = budget.kernels.values().filter_map(|counts| counts.get(program));
    *counts.max().unwrap_or_else(|| panic!("the budget has no {program}"))
}
