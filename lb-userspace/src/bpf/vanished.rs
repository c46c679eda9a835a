//! What daemons left pinned for network namespaces that are gone: memory that nobody would ever free.
//!
//! What a living one has is never removed. So it must be sure that a namespace is gone: no interface of it has the program, no daemon has the
//! folder locked, and no process, open file or mount leads to it.

use std::collections::HashSet;
use std::fs;
use std::os::fd::AsFd as _;
use std::path::Path;

use tracing::{debug, info, warn};

use super::instance::{Instance, NAMESPACE};
use super::lock::FolderLock;
use super::{link_fd, links};

/// The number of the first PID namespace: only from there all processes are seen (`PROC_PID_INIT_INO`).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Removes what is pinned beside an instance for namespaces that are gone; says of how many.
pub fn remove(instance: &Instance) -> usize {
    let Some(all) = instance.pins.parent() else { return 0 };
    let folders = fs::read_dir(all).into_iter().flatten().flatten();
    let others: Vec<String> = folders
        .filter_map(|folder| folder.file_name().into_string().ok())
        .filter(|name| name.starts_with("net-") && *name != instance.name)
        .collect();
    if others.is_empty() || !sees_all_processes() {
        return 0;
    }
    let living = living_namespaces();
    let mut removed = 0;
    for name in others {
        let pins = all.join(&name);
        // Kept until the folder is gone: no daemon begins in it meanwhile.
        let Ok(Ok(_lock)) = FolderLock::take(&pins) else {
            continue;
        };
        if !is_vanished(&pins, &living) {
            debug!(name, "its network namespace may be there still");
            continue;
        }
        let state = Path::new("/run/lbd").join(&name);
        match fs::remove_dir_all(&pins) {
            Ok(()) => removed += 1,
            Err(error) => warn!(pins = %pins.display(), %error, "left behind by a network namespace that is gone"),
        }
        let _ = fs::remove_dir_all(state);
    }
    if removed > 0 {
        info!(removed, "removed what was pinned for network namespaces that are gone");
    }
    removed
}

fn sees_all_processes() -> bool {
    fs::read_link("/proc/self/ns/pid").is_ok_and(|own| own == Path::new(FIRST_PID_NAMESPACE))
}

fn is_vanished(pins: &Path, living: &HashSet<String>) -> bool {
    let attached = |ifindex: &u32| {
        let state = link_fd::open(&pins.join(format!("link-{ifindex}"))).and_then(|link| link_fd::state(link.as_fd()));
        // What cannot be asked may be attached.
        state.map_or(true, |state| state.ifindex != 0)
    };
    let Ok(links) = links::pinned(pins) else { return false };
    if links.iter().any(attached) {
        return false;
    }
    let namespace = fs::read_link(pins.join(NAMESPACE)).ok();
    let namespace = namespace.and_then(|namespace| namespace.into_os_string().into_string().ok());
    namespace.is_some_and(|namespace| !living.contains(&namespace))
}

/// Every network namespace that a thread is in, or that a file or a mount leads to, as `net:[NUMBER]`.
fn living_namespaces() -> HashSet<String> {
    let mut living = HashSet::new();
    let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    for process in entries(Path::new("/proc")) {
        let path = process.path();
        if !process
            .file_name()
            .as_encoded_bytes()
            .first()
            .is_some_and(u8::is_ascii_digit)
        {
            continue;
        }
        let threads = entries(&path.join("task")).map(|thread| thread.path().join("ns/net"));
        let files = entries(&path.join("fd")).map(|file| file.path());
        for link in threads.chain(files) {
            let target = fs::read_link(link)
                .ok()
                .and_then(|target| target.into_os_string().into_string().ok());
            living.extend(target.filter(|target| target.starts_with("net:[")));
        }
        // `36 25 0:4 net:[4026532285] /run/netns/blue rw - nsfs nsfs rw`
        let mounts = fs::read_to_string(path.join("mountinfo")).unwrap_or_default();
        let mounts = mounts.split_whitespace().filter(|word| word.starts_with("net:["));
        living.extend(mounts.map(str::to_owned));
    }
    living
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_namespace_lives() {
        let own = fs::read_link("/proc/thread-self/ns/net").expect("there is one");
        assert!(living_namespaces().contains(own.to_str().expect("text")));
    }

    #[test]
    fn what_is_not_known_is_not_vanished() {
        let scratch = tempfile::tempdir().expect("a folder");
        let pins = scratch.path();
        // Without its namespace's name; with a link that cannot be asked; with a namespace that lives.
        assert!(!is_vanished(pins, &HashSet::new()));
        std::os::unix::fs::symlink("net:[1]", pins.join(NAMESPACE)).expect("free");
        assert!(is_vanished(pins, &HashSet::new()));
        assert!(!is_vanished(pins, &["net:[1]".to_owned()].into()));
        fs::write(pins.join("link-7"), "").expect("free");
        assert!(!is_vanished(pins, &HashSet::new()));
    }
}
