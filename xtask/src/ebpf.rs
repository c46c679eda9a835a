//! Builds the eBPF crate, with cargo and a toolchain of its own.
//!
//! It has a target directory of its own as well: a build script that used the outer cargo's would wait for its lock forever.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::record::Record;

/// Little-endian BPF: nodes of the other endianness are not supported.
pub const TARGET: &str = "bpfel-unknown-none";

/// Builds every program of the crate and returns the directory that holds their object files, named as the programs are.
///
/// cargo's own output goes to standard error.
///
/// # Errors
///
/// If cargo cannot be started or the build fails.
pub fn build(record: &Record) -> Result<PathBuf> {
    let mut cargo = cargo(record);
    cargo
        .args(["build", "--release", "--bins", "--locked"])
        .args(target_args());
    let status = cargo
        .status()
        .with_context(|| format!("{} cannot be started", record.cargo.display()))?;
    if !status.success() {
        bail!(
            "the eBPF crate does not build with {} ({}) and {} ({}); what it says is above",
            record.rustc.display(),
            record.release,
            record.linker.display(),
            record.linker_release
        );
    }
    Ok(target_dir().join(TARGET).join("release"))
}

/// cargo, called so that it builds the eBPF crate; the caller adds the verb and [`target_args`].
pub fn cargo(record: &Record) -> Command {
    let mut command = Command::new(&record.cargo);
    scrub(&mut command);
    let flags = [
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        format!("-Clinker={}", record.linker.display()),
    ];
    command
        .current_dir(crate::root())
        .env("RUSTC", &record.rustc)
        // `build-std` is unstable. This lets a stable compiler have it.
        .env("RUSTC_BOOTSTRAP", "1")
        // Not RUSTFLAGS, where a space would end a path.
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    if let Some(dir) = &record.llvm_lib {
        command.env("LD_LIBRARY_PATH", dir);
    }
    command
}

/// What every call of [`cargo`] for the eBPF target ends with.
pub fn target_args() -> Vec<OsString> {
    let mut args: Vec<OsString> = ["-Zbuild-std=core", "--target", TARGET, "--manifest-path"]
        .map(OsString::from)
        .into();
    args.push(manifest().into());
    args.push("--target-dir".into());
    args.push(target_dir().into());
    args
}

/// The eBPF crate's manifest.
pub fn manifest() -> PathBuf {
    crate::root().join("lb-ebpf/Cargo.toml")
}

/// The eBPF crate's target directory.
pub fn target_dir() -> PathBuf {
    crate::target_dir().join("ebpf")
}

/// The object file of a program, where [`build`] puts it.
pub fn object(program: &str) -> PathBuf {
    target_dir().join(TARGET).join("release").join(program)
}

/// Takes from a command's environment what an outer cargo (or clippy, or rustup) put there for its own children.
pub fn scrub(command: &mut Command) {
    for (key, value) in env::vars_os() {
        if key == "LD_LIBRARY_PATH" {
            command.env(key, without_toolchains(&value));
        } else if is_outer_cargos(&key) {
            command.env_remove(key);
        }
    }
}

fn is_outer_cargos(key: &OsStr) -> bool {
    const SETTINGS: [&str; 6] = [
        "CARGO_NET_",
        "CARGO_HTTP_",
        "CARGO_REGISTRY_",
        "CARGO_REGISTRIES_",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
    ];
    const NAMES: [&str; 10] = [
        "RUSTUP_TOOLCHAIN",
        "TARGET",
        "HOST",
        "PROFILE",
        "OUT_DIR",
        "OPT_LEVEL",
        "DEBUG",
        "NUM_JOBS",
        "MAKEFLAGS",
        "CLIPPY_ARGS",
    ];
    let Some(key) = key.to_str() else { return false };
    if key == "CARGO_HOME" || SETTINGS.iter().any(|prefix| key.starts_with(prefix)) {
        return false;
    }
    NAMES.contains(&key)
        || ["CARGO", "__CARGO", "DEP_", "RUSTC", "RUSTDOC", "RUSTFLAGS"]
            .iter()
            .any(|prefix| key.starts_with(prefix))
}

/// Search paths but for compilers' own directories, which cargo adds: another compiler would load their libraries.
fn without_toolchains(paths: &OsStr) -> OsString {
    let ours = crate::target_dir();
    let kept = env::split_paths(paths).filter(|dir| !is_toolchains(dir) && !dir.starts_with(&ours));
    env::join_paths(kept).unwrap_or_default()
}

fn is_toolchains(dir: &Path) -> bool {
    dir.join("rustlib").is_dir() || dir.ancestors().any(|above| above.ends_with("lib/rustlib"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outer_cargos_variables_stay_outside_and_the_users_settings_come_in() {
        for (key, goes) in [
            ("CARGO", true),
            ("CARGO_PKG_NAME", true),
            ("CARGO_ENCODED_RUSTFLAGS", true),
            ("CARGO_TARGET_DIR", true),
            ("CARGO_MAKEFLAGS", true),
            ("RUSTC_WORKSPACE_WRAPPER", true),
            ("RUSTC", true),
            ("RUSTFLAGS", true),
            ("RUSTUP_TOOLCHAIN", true),
            ("OUT_DIR", true),
            ("DEP_Z_ROOT", true),
            ("CARGO_HOME", false),
            ("CARGO_NET_OFFLINE", false),
            ("CARGO_HTTP_CAINFO", false),
            ("CARGO_TERM_COLOR", false),
            ("RUSTUP_HOME", false),
            ("PATH", false),
            ("HTTPS_PROXY", false),
        ] {
            assert_eq!(is_outer_cargos(OsStr::new(key)), goes, "{key}");
        }
    }
}
