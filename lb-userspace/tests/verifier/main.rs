//! The programs' cost to the verifier, held against a budget: a program that grows too large is refused on some kernel.

mod counts;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Budget {
    /// Of which kernel series the counts are: verifiers differ.
    kernel: String,
    /// Instructions processed, by program.
    instructions: BTreeMap<String, u32>,
}

/// On the budget's own kernel each count is within 5 % of the budget, fewer too: then the budget is to be lowered, so that the next
/// growth is seen. On others it is at most four times as high. `UPDATE_BUDGET=1 cargo test` writes it anew.
#[test]
fn the_verifier_processes_as_many_instructions_as_budgeted() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/verifier/budget.toml");
    let instructions: BTreeMap<String, u32> = counts::counts().expect("the programs load").into_iter().collect();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a kernel");
    let kernel = release.split('.').take(2).collect::<Vec<_>>().join(".");
    if std::env::var_os("UPDATE_BUDGET").is_some() {
        let budget = Budget { kernel, instructions };
        let text = toml::to_string(&budget).expect("plain data");
        fs::write(&path, text).expect("the budget can be written");
        return;
    }
    let text = fs::read_to_string(&path).expect("the budget is there");
    let budget: Budget = toml::from_str(&text).expect("the budget is TOML");
    let names = |counts: &BTreeMap<String, u32>| counts.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&instructions), names(&budget.instructions), "programs");
    for (program, count) in instructions {
        let budgeted = budget.instructions[&program];
        let most = if kernel == budget.kernel {
            budgeted + budgeted / 20
        } else {
            4 * budgeted
        };
        let least = if kernel == budget.kernel {
            budgeted - budgeted / 20
        } else {
            0
        };
        assert!(
            (least..=most).contains(&count),
            "{program}: {count} instructions on Linux {kernel}, budgeted are {budgeted} on {}; `UPDATE_BUDGET=1 cargo test`, and say why",
            budget.kernel
        );
    }
}
