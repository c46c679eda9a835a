//! How many sockets this process may have.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Files that are left to the rest of the daemon: maps, API clients, netlink, logs.
const RESERVED_FILES: u64 = 1_024;
/// More probes than this at once would only wait for the processor.
const MOST_IN_FLIGHT: u64 = 16_384;

/// Raises this process's limit of open files to the most that it may have; returns the limit that then holds.
///
/// For the start of the daemon: the usual 1,024 would bound the probes in flight. Errors: getrlimit(2) and setrlimit(2).
pub fn raise_file_limit() -> nix::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// How many probes may be in flight under the present limit of open files; the rest wait their turn.
pub(super) fn probes_in_flight() -> usize {
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(RESERVED_FILES, |(soft, _)| soft);
    in_flight_for(files)
}

/// All but the reserved files, or half of the few that there are.
fn in_flight_for(files: u64) -> usize {
    let most = files.saturating_sub(RESERVED_FILES).max(files / 2);
    most.clamp(16, MOST_IN_FLIGHT) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_leave_files_to_others() {
        for (files, expected) in [
            (0, 16),
            (1_024, 512),
            (20_000, 16_384),
            (4_096, 3_072),
            (u64::MAX, 16_384),
        ] {
            assert_eq!(in_flight_for(files), expected, "{files} files");
        }
    }
}
