//! `cargo xtask clean`: what builds made, and what interrupted demos and tests left in the system.
//!
//! Everything that a demo or a test makes outside the tree is called `elb-PID-ROLE`, after the process that made it, and is
//! a leftover once that process is gone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

pub(crate) fn run(all: bool) -> Result<()> {
    let mut removed = 0;
    let target = xtask::target_dir();
    let made = match all {
        true => vec![target],
        // What `setup` made and `kernels` fetched stays: it took minutes and a network.
        false => entries(&target)
            .into_iter()
            .filter(|path| *path != xtask::record::path())
            .filter(|path| {
                !["tools", "kernels", "CACHEDIR.TAG"]
                    .iter()
                    .any(|kept| path.ends_with(kept))
            })
            .collect(),
    };
    for path in made
        .into_iter()
        .chain([xtask::root().join("lb-ebpf/target"), xtask::root().join("fuzz/target")])
    {
        removed += remove(&path)?;
    }

    for (dir, kind) in [
        ("/run/netns", Kind::Namespace),
        ("/sys/class/net", Kind::Link),
        ("/sys/fs/bpf", Kind::Files),
        ("/run", Kind::Files),
        ("/tmp", Kind::Files),
    ] {
        for path in entries(Path::new(dir)).iter().filter(|path| is_leftover(path)) {
            // The other end of a veth pair is gone with the first.
            if path.symlink_metadata().is_err() {
                continue;
            }
            remove_leftover(path, kind).with_context(|| format!("removing the leftover {}", path.display()))?;
            removed += 1;
        }
    }
    eprintln!("{removed} removed");
    Ok(())
}

#[derive(Clone, Copy)]
enum Kind {
    Namespace,
    Link,
    Files,
}

fn remove_leftover(path: &Path, kind: Kind) -> Result<()> {
    let name = path.file_name().unwrap_or_default();
    let args = match kind {
        Kind::Namespace => ["netns", "delete"],
        Kind::Link => ["link", "delete"],
        Kind::Files => return remove(path).map(drop),
    };
    eprintln!("removing {}", path.display());
    let status = Command::new("ip")
        .args(args)
        .arg(name)
        .status()
        .context("`ip` cannot be started")?;
    if !status.success() {
        bail!("`ip {}` failed", args.join(" "));
    }
    Ok(())
}

fn remove(path: &Path) -> Result<usize> {
    let Ok(meta) = path.symlink_metadata() else {
        return Ok(0);
    };
    eprintln!("removing {}", crate::short(path).display());
    if meta.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
    .with_context(|| format!("removing {}", path.display()))?;
    Ok(1)
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    entries.sort();
    entries
}

fn is_leftover(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    maker(name).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

/// The process that made a thing of that name.
fn maker(name: &str) -> Option<u32> {
    let (pid, role) = name.strip_prefix("elb-")?.split_once('-')?;
    if role.is_empty() || !pid.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    pid.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_have_a_maker() {
        for (name, pid) in [
            ("elb-123-edge", Some(123)),
            ("elb-1-web-2", Some(1)),
            ("elb-123", None),
            ("elb-123-", None),
            ("elb-+1-edge", None),
            ("elb-x-edge", None),
            ("web-123-edge", None),
            ("", None),
        ] {
            assert_eq!(maker(name), pid, "{name}");
        }
    }

    #[test]
    fn a_living_process_leaves_nothing() {
        assert!(!is_leftover(Path::new(&format!(
            "/run/netns/elb-{}-edge",
            std::process::id()
        ))));
        // Larger than the kernel's largest process number.
        assert!(is_leftover(Path::new("/run/netns/elb-4194305-edge")));
    }
}
