//! The programs that the demo and the tests start, and the packages that have them.

use std::{env, path::PathBuf};

use super::Scope;

/// A program that must be there, the Debian or Ubuntu package that has it, and what it is for.
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) program: &'static str,
    pub(crate) purpose: &'static str,
}

/// Those of the demo and the tests. A new need is a new line.
pub(crate) const PACKAGES: &[Package] = &[
    Package {
        name: "iproute2",
        program: "ip",
        purpose: "namespaces, links and routes of the demo and the tests",
    },
    Package {
        name: "util-linux",
        program: "nsenter",
        purpose: "programs inside a namespace",
    },
    Package {
        name: "ethtool",
        program: "ethtool",
        purpose: "offloads of a veth off, so that checksums are on the wire",
    },
    Package {
        name: "procps",
        program: "sysctl",
        purpose: "rp_filter and forwarding inside the namespaces",
    },
    Package {
        name: "curl",
        program: "curl",
        purpose: "the client, a real one",
    },
    Package {
        name: "nginx-light",
        program: "nginx",
        purpose: "the backends' HTTP servers, real ones",
    },
    Package {
        name: "netcat-openbsd",
        program: "nc",
        purpose: "TCP and UDP by hand",
    },
    Package {
        name: "iperf3",
        program: "iperf3",
        purpose: "load",
    },
    Package {
        name: "tcpdump",
        program: "tcpdump",
        purpose: "captures when a test fails",
    },
];

/// What boots a kernel.
const MACHINE: &[Package] = &[
    Package {
        name: "qemu-system-x86",
        program: "qemu-system-x86_64",
        purpose: "the machine that other kernels run on",
    },
    Package {
        name: "util-linux",
        program: "setpriv",
        purpose: "a machine that ends with what started it",
    },
];

/// What `cargo xtask guest` needs beside them.
const GUEST: &[Package] = &[
    Package {
        name: "mmdebstrap",
        program: "mmdebstrap",
        purpose: "the guest's Debian",
    },
    Package {
        name: "e2fsprogs",
        program: "mke2fs",
        purpose: "the guest's disk",
    },
];

/// What `cargo xtask kernels` needs beside them.
const KERNELS: &[Package] = &[
    Package {
        name: "busybox-static",
        program: "busybox",
        purpose: "the shell in it",
    },
    Package {
        name: "xz-utils",
        program: "xz",
        purpose: "kernels' modules, which are packed",
    },
    Package {
        name: "binutils",
        program: "strip",
        purpose: "test programs a tenth as large",
    },
];

/// Those of the scope whose program is not on the machine.
pub(crate) fn missing(scope: Scope) -> Vec<&'static Package> {
    let lists: &[&'static [Package]] = match scope {
        Scope::Build => &[],
        Scope::All => &[PACKAGES],
        Scope::Kernels => &[PACKAGES, MACHINE, KERNELS],
        Scope::Guest => &[PACKAGES, MACHINE, GUEST],
    };
    lists
        .iter()
        .copied()
        .flatten()
        .filter(|package| find(package.program).is_none())
        .collect()
}

/// A program in `PATH`, or where administrators' programs are even if `PATH` leaves them out.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    find_all(program).into_iter().next()
}

/// All programs of that name, those of `PATH` first.
pub(crate) fn find_all(program: &str) -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from));
    let mut found: Vec<PathBuf> = Vec::new();
    for file in dirs.map(|dir| dir.join(program)).filter(|file| file.is_file()) {
        if !found.contains(&file) {
            found.push(file);
        }
    }
    found
}
