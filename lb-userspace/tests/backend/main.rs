//! The backends' side with the real program and the real kernel: one packet at a time, and as a whole in network namespaces.
//!
//! Needs root, and the decapsulator's object file (built by `cargo xtask build`, or named by `EDGELB_DECAP`).

mod frames;
mod net;
mod packets;
mod role;

/// The decapsulator's object file.
fn object_path() -> std::path::PathBuf {
    let built = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../target/ebpf/bpfel-unknown-none/release/decap"
    );
    std::env::var_os("EDGELB_DECAP").map_or(built.into(), Into::into)
}

fn object() -> Vec<u8> {
    let path = object_path();
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}: run `cargo xtask build`", path.display()))
}
