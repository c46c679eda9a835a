//! Every program of every object is accepted by the running kernel's verifier: from Linux 6.1 on.
//!
//! Prints `verified NAME INSTRUCTIONS` for each, which `cargo xtask kernels` puts into its table. That a faster program is refused has no other
//! sign than a line in the log and a lower rate, so each is asked for by its name.

#[path = "verifier/counts.rs"]
mod counts;

#[test]
fn the_verifier_accepts_every_program() {
    // The verifier's last lines say why not.
    let counts = counts::counts().unwrap_or_else(|error| panic!("{error:#}"));
    let programs = ["balance", "balance_large_ring", "balance_by_key"];
    let lookups = ["lookup", "lookup_large_ring", "lookup_by_key"];
    for name in [programs, lookups].concat() {
        assert!(counts.iter().any(|(other, _)| other == name), "no {name}: {counts:?}");
    }
    for (name, count) in counts {
        println!("verified {name} {count}");
    }
}
