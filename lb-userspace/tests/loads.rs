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
    assert!(counts.iter().any(|(name, _)| name == "balance_by_key"), "{counts:?}");
    for (name, count) in counts {
        println!("verified {name} {count}");
    }
}
