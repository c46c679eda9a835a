//! `cargo xtask clean`: what builds made, and what interrupted demos and tests left in the system.
//!
//! Hosts of demos and tests have no names, and go with their process, also when it is killed. What stays then is folders in the folder for
//! temporary files: `edgelb-PID-…` of the tests, `elb-PID-…` of `cargo xtask` itself, after the process that made them.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

pub(crate) fn run(all: bool) -> Result<()> {
    let mut removed = 0;
    let target = xtask::target_dir();
    let made = match all {
        true => vec![target],
        // What `setup` and `guest` made and `kernels` fetched stays: it took minutes and a network.
        false => entries(&target)
            .into_iter()
            .filter(|path| *path != xtask::record::path())
            .filter(|path| {
                !["tools", "kernels", "guest", "CACHEDIR.TAG"]
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

    for path in entries(&env::temp_dir()).iter().filter(|path| is_leftover(path)) {
        removed += remove(path)?;
    }
    eprintln!("{removed} removed");
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
    let rest = name.strip_prefix("edgelb-").or_else(|| name.strip_prefix("elb-"))?;
    let (pid, role) = rest.split_once('-')?;
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
            ("elb-123-record", Some(123)),
            ("edgelb-5730-BcdCL8", Some(5730)),
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
            "/tmp/edgelb-{}-aB3",
            std::process::id()
        ))));
        // Larger than the kernel's largest process number.
        assert!(is_leftover(Path::new("/tmp/edgelb-4194305-aB3")));
    }
}
