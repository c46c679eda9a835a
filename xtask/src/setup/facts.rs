//! Looks at the machine: toolchains, linkers, packages.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    decide::{Apt, Facts, Linker, LinkerLlvm, Release, Step, Toolchain, packages_of, packages_of_interest},
    packages::{find, find_all},
};

/// Everything that a decision rests on; `tried` and `updated` are what this run did so far.
pub(super) fn gather(tried: Vec<Step>, updated: bool) -> Facts {
    Facts {
        toolchains: toolchains(),
        linkers: linkers(),
        rustup: find("rustup").is_some(),
        apt: apt(updated),
        tried,
    }
}

/// Where set-up puts linkers, each in a directory of its own.
pub(super) fn tools_dir() -> PathBuf {
    xtask::target_dir().join("tools")
}

/// The name of a linker's directory if it borrows its LLVM: nothing in the file itself tells which it needs.
pub(super) fn borrowing_dir(release: &str, llvm: u32) -> PathBuf {
    tools_dir().join(format!("bpf-linker-{release}-rustc-llvm-{llvm}"))
}

/// True if we may install packages and change interfaces.
pub(crate) fn is_root() -> bool {
    // The owner of this process's own directory is its effective user.
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// The cargo that runs us, not rustup's proxy of it.
pub(super) fn our_cargo() -> Option<PathBuf> {
    env::var_os("CARGO").map(PathBuf::from).or_else(|| find("cargo"))
}

fn toolchains() -> Vec<Toolchain> {
    let rustups = rustup_home().map(|home| home.join("toolchains"));
    let installed = rustups
        .iter()
        .filter_map(|dir| fs::read_dir(dir).ok())
        .flatten()
        .flatten();
    let mut dirs: Vec<PathBuf> = installed.map(|entry| entry.path()).collect();
    // A link to another toolchain comes after it and is then known already.
    dirs.sort_by_key(|dir| (dir.is_symlink(), dir.clone()));
    let ours = our_cargo().and_then(|cargo| fs::canonicalize(cargo.parent()?.parent()?).ok());

    let mut found: Vec<Toolchain> = Vec::new();
    for rustc in dirs.iter().map(|dir| dir.join("bin/rustc")).chain(find_all("rustc")) {
        let Some(mut toolchain) = toolchain(&rustc) else {
            continue;
        };
        if found.iter().any(|known| known.sysroot == toolchain.sysroot) {
            continue;
        }
        let name = rustups
            .as_ref()
            .filter(|dir| toolchain.sysroot.parent() == Some(dir.as_path()));
        toolchain.rustup = name.and_then(|_| Some(toolchain.sysroot.file_name()?.to_str()?.to_owned()));
        toolchain.default = ours.as_ref() == Some(&toolchain.sysroot);
        found.push(toolchain);
    }
    found
}

fn rustup_home() -> Option<PathBuf> {
    let home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(env::home_dir()?.join(".rustup")))?;
    fs::canonicalize(home).ok()
}

fn toolchain(rustc: &Path) -> Option<Toolchain> {
    let sysroot = fs::canonicalize(output(Command::new(rustc).args(["--print", "sysroot"]))?.trim()).ok()?;
    // Past rustup's proxy, so that no override changes it later.
    let rustc = Some(sysroot.join("bin/rustc"))
        .filter(|direct| direct.is_file())
        .unwrap_or_else(|| rustc.into());
    let version = output(Command::new(&rustc).arg("-vV"))?;
    let release = field(&version, "release: ")?;
    let shares_llvm = fs::read_dir(sysroot.join("lib")).ok()?.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libLLVM") && name.contains("-rust-")
    });
    Some(Toolchain {
        rustup: None,
        release: parse_release(release)?,
        nightly: release.contains('-'),
        default: false,
        llvm: field(&version, "LLVM version: ")?.split('.').next()?.parse().ok()?,
        has_source: library(&sysroot).join("core").is_dir(),
        shares_llvm,
        rustc,
        sysroot,
    })
}

/// Where a toolchain keeps the standard library's sources, if it has them.
pub(super) fn library(sysroot: &Path) -> PathBuf {
    sysroot.join("lib/rustlib/src/rust/library")
}

fn linkers() -> Vec<Linker> {
    let own = fs::read_dir(tools_dir())
        .into_iter()
        .flatten()
        .flatten()
        .map(|dir| dir.path().join("bin/bpf-linker"));
    let cargo_bin = env::home_dir().map(|home| home.join(".cargo/bin/bpf-linker"));
    find_all("bpf-linker")
        .into_iter()
        .chain(cargo_bin)
        .chain(own)
        .filter_map(|path| linker(&path))
        .collect()
}

fn linker(path: &Path) -> Option<Linker> {
    // One whose libraries are gone does not even say its version.
    let version = output(Command::new(path).arg("--version"))?;
    let release = version.split_whitespace().nth(1)?.to_owned();
    let borrowed = [20, 21]
        .into_iter()
        .find(|llvm| path.starts_with(borrowing_dir(&release, *llvm)));
    let llvm = match borrowed {
        Some(llvm) => LinkerLlvm::Borrowed(llvm),
        None => fs::read(path)
            .ok()
            .and_then(|file| llvm_of(&file))
            .map_or(LinkerLlvm::Unknown, LinkerLlvm::Own),
    };
    Some(Linker {
        path: path.into(),
        release,
        llvm,
    })
}

/// The major version of the LLVM in or under a program: the name of the shared library that it needs, or else what
/// LLVM signs its bitcode with.
fn llvm_of(file: &[u8]) -> Option<u32> {
    ["libLLVM.so.", "libLLVM-", "LLVM"].iter().find_map(|mark| {
        let mut rest = file;
        loop {
            let at = rest.windows(mark.len()).position(|window| window == mark.as_bytes())?;
            rest = &rest[at + mark.len()..];
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let major = std::str::from_utf8(&rest[..digits])
                .ok()
                .and_then(|digits| digits.parse().ok());
            // "LLVM0700" is a relic that every release has; "LLVM22.1.8" is the signature.
            if let Some(major) = major.filter(|major| (15..100).contains(major) && rest.get(digits) == Some(&b'.')) {
                return Some(major);
            }
        }
    })
}

fn apt(updated: bool) -> Apt {
    let interest = packages_of_interest();
    if find("dpkg-query").is_none() {
        // Not Debian's kin: an LLVM that says where it is counts as installed with all it needs.
        let llvm = output(Command::new("llvm-config").arg("--version"))
            .and_then(|version| version.split('.').next()?.parse::<u32>().ok());
        return Apt {
            installed: llvm.map(packages_of).unwrap_or_default().into_iter().collect(),
            ..Apt::default()
        };
    }
    // dpkg-query fails if it does not know one of the names, and prints the others all the same.
    let mut query = Command::new("dpkg-query");
    let installed = text(
        query
            .args(["-W", "-f", "${db:Status-Status} ${Package}\n"])
            .args(&interest),
    )
    .lines()
    .filter_map(|line| Some(line.strip_prefix("installed ")?.to_owned()))
    .collect();
    let offers = offered(&text(Command::new("apt-cache").arg("policy").args(&interest)));
    Apt {
        usable: is_root() && find("apt-get").is_some(),
        updated,
        offers,
        installed,
    }
}

/// The packages of which `apt-cache policy` names a candidate.
fn offered(policy: &str) -> BTreeSet<String> {
    let mut offered = BTreeSet::new();
    let mut package = "";
    for line in policy.lines() {
        if let Some(candidate) = line.trim().strip_prefix("Candidate: ") {
            if candidate != "(none)" {
                offered.insert(package.to_owned());
            }
        } else if let Some(name) = line.strip_suffix(':').filter(|name| !name.starts_with(' ')) {
            package = name;
        }
    }
    offered
}

fn parse_release(release: &str) -> Option<Release> {
    let mut numbers = release.split(['.', '-']).map(str::parse);
    let mut number = || numbers.next()?.ok();
    Some(Release(number()?, number()?, number()?))
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name))
}

/// Standard output of a command that succeeds.
fn output(command: &mut Command) -> Option<String> {
    xtask::ebpf::scrub(command);
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

/// Standard output of a command, however it ends; in English.
fn text(command: &mut Command) -> String {
    let output = command.env("LC_ALL", "C").output();
    output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linkers_llvm_is_read_from_its_file() {
        for (file, llvm) in [
            ("\0libLLVM.so.22.1\0libc.so.6\0", Some(22)),
            ("\0libLLVM-19.so.1\0", Some(19)),
            ("LLVM0700H\0LLVM21.1.8\0", Some(21)),
            ("LLVM0700H\0LLVM_SYS\0LLVM", None),
            ("unable to find LLVM shared lib", None),
        ] {
            assert_eq!(llvm_of(file.as_bytes()), llvm, "{file:?}");
        }
    }

    #[test]
    fn apts_candidates_are_told_from_names_without_one() {
        let policy = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0\n  Version table:\n     1.96.0 500\n\
                      llvm-23-dev:\n  Installed: (none)\n  Candidate: (none)\n";
        assert_eq!(offered(policy), BTreeSet::from(["rustc-web".into()]));
    }

    #[test]
    fn releases_are_read_with_their_suffixes() {
        assert_eq!(parse_release("1.96.0"), Some(Release(1, 96, 0)));
        assert_eq!(parse_release("1.97.0-nightly"), Some(Release(1, 97, 0)));
        assert_eq!(parse_release("dev"), None);
    }
}
