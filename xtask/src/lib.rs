//! How the eBPF crate is built: what `cargo xtask` and lb-userspace's build script share.
//!
//! [`record`] is what `cargo xtask setup` found out and everything else relies on; [`ebpf`] calls cargo by it. With the
//! feature `cli` off the library needs next to nothing, so that a build script may use it.

pub mod ebpf;
pub mod record;

use std::{env, path::PathBuf};

/// The top of the workspace.
pub fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map(PathBuf::from).unwrap_or(here)
}

/// The workspace's target directory: `CARGO_TARGET_DIR`, seen from the top of the workspace, else `target`.
pub fn target_dir() -> PathBuf {
    root().join(
        env::var_os("CARGO_TARGET_DIR")
            .filter(|dir| !dir.is_empty())
            .unwrap_or_else(|| "target".into()),
    )
}
