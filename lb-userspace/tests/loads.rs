//! Every program of every object is accepted by the running kernel's verifier: from Linux 6.1 on.
//!
//! Prints `verified NAME INSTRUCTIONS` for each, which `cargo xtask kernels` puts into its table. The programs for tables that are one
//! value each are left out by kernels that do not take such.

#[path = "verifier/counts.rs"]
mod counts;

#[test]
fn the_verifier_accepts_every_program() {
    // The verifier's last lines say why not.
    let counts = counts::counts().unwrap_or_else(|error| panic!("{error:#}"));
    // The first is what a node gets whose tables are of usual length; the last is there for longer ones.
    for name in ["balance", "lookup", "balance_by_key", "lookup_by_key"] {
        assert!(counts.iter().any(|(other, _)| other == name), "no {name}: {counts:?}");
    }
    for (name, count) in counts {
        println!("verified {name} {count}");
    }
}
