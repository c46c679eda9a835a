//! Placeholder until the daemon stands.
fn main() {}
