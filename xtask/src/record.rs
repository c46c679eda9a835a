//! The record of the eBPF crate's toolchain, `target/ebpf-toolchain.toml`.
//!
//! `cargo xtask setup` writes it. Everyone else reads it and checks it by size and time of the files that it names, which
//! starts no process and takes microseconds.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use anyhow::{Context as _, Result, bail};

/// What to say when the record is missing or no longer true.
const REMEDY: &str = "run `cargo xtask setup`";

/// Where the record is.
pub fn path() -> PathBuf {
    crate::target_dir().join("ebpf-toolchain.toml")
}

/// The toolchain that builds the eBPF crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The compiler itself, not rustup's proxy of it.
    pub rustc: PathBuf,
    /// The compiler's release, such as `1.96.0`.
    pub release: String,
    /// The major version of the compiler's LLVM.
    pub llvm: u32,
    /// The standard library's sources, which hold `core`.
    pub library: PathBuf,
    /// The cargo that is run with that compiler.
    pub cargo: PathBuf,
    /// `bpf-linker`.
    pub linker: PathBuf,
    /// The linker's release, such as `0.13.0`.
    pub linker_release: String,
    /// Set if the linker has no LLVM of its own and uses the compiler's: the directory that holds it.
    pub llvm_lib: Option<PathBuf>,
    /// A digest of the lock files whose crates have been fetched.
    pub fetched: String,
}

impl Record {
    /// Reads the record and makes sure that it is still true.
    ///
    /// # Errors
    ///
    /// If there is none, or if a file that it names is gone or has changed since. The message says to run
    /// `cargo xtask setup`.
    pub fn load() -> Result<Self> {
        let path = path();
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("the eBPF crate's toolchain is not set up: {REMEDY}")
            }
            text => text.with_context(|| format!("reading {}", path.display()))?,
        };
        Self::parse(&text).with_context(|| format!("{} cannot be used: {REMEDY}", path.display()))
    }

    /// Writes the record.
    ///
    /// # Errors
    ///
    /// If it cannot be written, or if a file that it names does not exist.
    pub fn save(&self) -> Result<()> {
        let path = path();
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
        }
        fs::write(&path, self.to_text()?).with_context(|| format!("writing {}", path.display()))
    }

    fn to_text(&self) -> Result<String> {
        let mut text =
            String::from("# Written by `cargo xtask setup`. Delete it to have the toolchain looked for again.\n");
        let mut line = |key: &str, value: &str| -> Result<()> {
            if value.contains(['"', '\\', '\n']) {
                bail!("{key} {value:?} has a character that cannot be recorded: move it elsewhere");
            }
            text.push_str(&format!("{key} = \"{value}\"\n"));
            Ok(())
        };
        for (key, file) in self.files() {
            line(key, utf8(file)?)?;
            line(&format!("{key}_stamp"), &stamp(file)?)?;
        }
        line("release", &self.release)?;
        line("llvm", &self.llvm.to_string())?;
        line("linker_release", &self.linker_release)?;
        if let Some(dir) = &self.llvm_lib {
            line("llvm_lib", utf8(dir)?)?;
        }
        line("fetched", &self.fetched)?;
        Ok(text)
    }

    fn parse(text: &str) -> Result<Self> {
        let values: BTreeMap<&str, &str> = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.trim(), value.trim().trim_matches('"')))
            .collect();
        let value = |key: &str| values.get(key).copied().with_context(|| format!("it has no {key:?}"));
        let record = Self {
            rustc: value("rustc")?.into(),
            release: value("release")?.into(),
            llvm: value("llvm")?.parse().context("llvm is not a number")?,
            library: value("library")?.into(),
            cargo: value("cargo")?.into(),
            linker: value("linker")?.into(),
            linker_release: value("linker_release")?.into(),
            llvm_lib: value("llvm_lib").ok().map(PathBuf::from),
            fetched: value("fetched")?.into(),
        };
        for (key, file) in record.files() {
            if stamp(file)? != value(&format!("{key}_stamp"))? {
                bail!("{} has changed", file.display());
            }
        }
        Ok(record)
    }

    fn files(&self) -> [(&'static str, &Path); 4] {
        [
            ("rustc", &self.rustc),
            ("library", &self.library),
            ("cargo", &self.cargo),
            ("linker", &self.linker),
        ]
    }
}

/// Size and time of change: enough to see that a file was replaced.
fn stamp(file: &Path) -> Result<String> {
    let meta = fs::metadata(file).with_context(|| format!("{} is gone", file.display()))?;
    if meta.is_dir() {
        // A directory's time changes whenever somebody touches it: that it holds `core` is what counts.
        return match file.join("core").is_dir() {
            true => Ok("dir".into()),
            false => bail!("{} holds no core", file.display()),
        };
    }
    let changed = meta
        .modified()?
        .duration_since(UNIX_EPOCH)
        .map_or(0, |age| age.as_millis());
    Ok(format!("{}-{changed}", meta.len()))
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8: move it elsewhere", path.display()))
}

#[cfg(test)]
mod tests {
    use std::env;

    use super::*;

    fn sample(dir: &Path) -> Record {
        fs::create_dir_all(dir.join("library/core")).unwrap();
        for name in ["rustc", "cargo", "bpf-linker"] {
            fs::write(dir.join(name), name).unwrap();
        }
        Record {
            rustc: dir.join("rustc"),
            release: "1.96.0".into(),
            llvm: 22,
            library: dir.join("library"),
            cargo: dir.join("cargo"),
            linker: dir.join("bpf-linker"),
            linker_release: "0.13.0".into(),
            llvm_lib: None,
            fetched: "feed".into(),
        }
    }

    #[test]
    fn a_record_is_read_as_written_until_a_file_changes() {
        let dir = env::temp_dir().join(format!("elb-{}-record", std::process::id()));
        let record = sample(&dir);
        for llvm_lib in [None, Some(dir.clone())] {
            let record = Record {
                llvm_lib,
                ..record.clone()
            };
            assert_eq!(Record::parse(&record.to_text().unwrap()).unwrap(), record);
        }

        let text = record.to_text().unwrap();
        fs::write(&record.linker, "another linker").unwrap();
        let error = Record::parse(&text).unwrap_err().to_string();
        assert!(error.contains("bpf-linker has changed"), "{error}");

        let text = record.to_text().unwrap();
        fs::remove_dir(dir.join("library/core")).unwrap();
        let error = Record::parse(&text).unwrap_err().to_string();
        assert!(error.contains("holds no core"), "{error}");
        fs::remove_dir_all(&dir).unwrap();
    }
}
