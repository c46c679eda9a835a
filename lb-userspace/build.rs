//! Builds the XDP programs, so that a plain `cargo build` embeds what their sources say.

use std::{env, fs, path::Path, path::PathBuf};

use anyhow::{Context as _, Result};
use xtask::{ebpf, record::Record};

fn main() -> Result<()> {
    let root = xtask::root();
    for input in [
        "Cargo.toml",
        "lb-common/Cargo.toml",
        "lb-common/src",
        "lb-ebpf/Cargo.toml",
        "lb-ebpf/Cargo.lock",
        "lb-ebpf/src",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    println!("cargo::rerun-if-changed={}", xtask::record::path().display());

    let out_dir = PathBuf::from(env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    let built = Record::load().and_then(|record| Ok((ebpf::build(&record)?, record.release)));
    let (objects, compiler) = match built {
        Ok(built) => built,
        Err(error) => {
            // As cargo's own error line: the output of a build script that fails is long.
            println!("cargo::error={error:#}");
            return Ok(());
        }
    };
    println!("cargo::rustc-env=EBPF_RUSTC={compiler}");
    for name in ["balance", "decap", "probe", "bench"] {
        copy(&objects.join(name), &out_dir.join(name))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    Ok(())
}
