//! A kernel from Debian's packages, kept in `target/kernels/NAME`: its image, and the modules of its network stack.
//!
//! apt does the fetching and the checking of signatures, with lists and a source of its own below `target/kernels/apt`: the
//! machine's sources stay as they are, and nothing is installed.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::Kernel;
use crate::progress::Progress;

/// Where the archive is, unless somebody has a mirror.
pub(crate) const MIRROR: &str = "http://deb.debian.org/debian";
/// Who signs it.
pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The package that depends on a suite's present kernel.
const META: &str = "linux-image-amd64";
/// How the names of the packages begin that a kernel consists of: one, or since 7.x several.
const PARTS: [&str; 4] = ["linux-image-", "linux-binary-", "linux-modules-", "linux-base-"];
/// What of a kernel's modules is kept; all the rest are drivers of things that a guest does not have.
const KEPT: [&str; 4] = ["net", "lib", "crypto", "drivers/net"];

/// A kernel on disk.
#[derive(Clone, Debug)]
pub(super) struct Image {
    /// What `uname -r` will say: `6.1.0-50-amd64`.
    pub(super) release: String,
    /// The package's version: `6.1.176-1`.
    pub(super) package: String,
    pub(super) vmlinuz: PathBuf,
    /// The directory that holds `modules.builtin` and `kernel`.
    pub(super) modules: PathBuf,
}

/// The kernel that is there, else the suite's present one; `update`: the present one in any case.
pub(super) fn image(kernel: &Kernel, mirror: &str, update: bool) -> Result<Image> {
    let place = directory().join(kernel.name);
    if !update && let Ok(image) = find(&place) {
        return Ok(image);
    }
    fetch(kernel, mirror, &place).with_context(|| {
        format!(
            "apt cannot fetch Debian's kernel {} from {mirror}, which takes a network once (`cargo xtask kernels --mirror URL` for another archive)",
            kernel.name
        )
    })
}

fn fetch(kernel: &Kernel, mirror: &str, place: &Path) -> Result<Image> {
    let progress = Progress::new();
    progress.heading(&format!("Fetching kernel {} from {}", kernel.name, kernel.suite));
    let apt = Apt::new(kernel.suite, mirror)?;
    progress.run(
        "apt-get update",
        "the suite's list of packages, kept apart from the machine's own",
        apt.command("apt-get").args(["update", "-q"]),
    )?;
    let meta = apt.show(META)?;
    let packages = apt.parts(&meta)?;
    let debs = apt.state.join("debs");
    fresh(&debs)?;
    progress.run(
        &format!("apt-get download {}", packages.join(" ")),
        "the kernel; 70 to 180 MB",
        apt.command("apt-get")
            .args(["download", "-q"])
            .args(&packages)
            .current_dir(&debs),
    )?;

    let whole = apt.state.join("whole");
    fresh(&whole)?;
    for deb in entries(&debs)? {
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("-x").arg(&deb).arg(&whole);
        let name = deb.file_name().unwrap_or_default().to_string_lossy().into_owned();
        progress.run(&format!("dpkg-deb -x {name}"), "its files", &mut unpack)?;
    }
    keep(&whole, &apt.state.join("kept"), field(&meta, "Version")?)?;
    // The whole kernel is there before the old one goes.
    if place.exists() {
        fs::remove_dir_all(place)?;
    }
    fs::rename(apt.state.join("kept"), place)?;
    for used in [&debs, &whole] {
        fs::remove_dir_all(used)?;
    }
    find(place)
}

/// Where all kernels are.
pub(super) fn directory() -> PathBuf {
    xtask::target_dir().join("kernels")
}

fn find(place: &Path) -> Result<Image> {
    let read = |name: &str| -> Result<String> {
        let text = fs::read_to_string(place.join(name)).with_context(|| format!("{}", place.join(name).display()))?;
        Ok(text.trim().to_owned())
    };
    Ok(Image {
        // Written last: whoever was interrupted has none.
        package: read("package")?,
        release: read("release")?,
        vmlinuz: place.join("vmlinuz"),
        modules: place.join("modules"),
    })
}

/// Puts what a guest needs of a kernel's packages into `place`.
fn keep(whole: &Path, place: &Path, package: &str) -> Result<()> {
    fresh(place)?;
    // Debian moved modules from /lib to /usr/lib, and the image from /boot to the modules (7.x).
    let modules = ["usr/lib/modules", "lib/modules"]
        .iter()
        .find_map(|below| entries(&whole.join(below)).ok()?.into_iter().next())
        .context("the packages have no modules: has their layout changed?")?;
    let release = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let vmlinuz = [
        modules.join("vmlinuz"),
        whole.join("boot").join(format!("vmlinuz-{release}")),
    ];
    let vmlinuz = vmlinuz
        .iter()
        .find(|path| path.is_file())
        .context("the packages have no vmlinuz: has their layout changed?")?;
    fs::rename(vmlinuz, place.join("vmlinuz"))?;
    let kept = place.join("modules");
    fs::create_dir_all(kept.join("kernel/drivers"))?;
    for name in ["modules.builtin", "modules.order"] {
        fs::rename(modules.join(name), kept.join(name)).with_context(|| format!("{name} of {release}"))?;
    }
    for below in KEPT {
        let from = modules.join("kernel").join(below);
        if from.exists() {
            fs::rename(from, kept.join("kernel").join(below))?;
        }
    }
    // Two thirds of the rest, and no guest has such hardware.
    for below in ["ethernet", "wireless", "can", "usb"] {
        let hardware = kept.join("kernel/drivers/net").join(below);
        if hardware.exists() {
            fs::remove_dir_all(hardware)?;
        }
    }
    fs::write(place.join("release"), release)?;
    fs::write(place.join("package"), package)?;
    Ok(())
}

/// apt with one suite as its only source.
struct Apt {
    state: PathBuf,
}

impl Apt {
    fn new(suite: &str, mirror: &str) -> Result<Self> {
        if !Path::new(KEYRING).exists() {
            bail!("{KEYRING} is missing: Debian's packages cannot be checked; install debian-archive-keyring");
        }
        let apt = Self {
            state: directory().join("apt").join(suite),
        };
        for below in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(apt.state.join(below))?;
        }
        let source = format!("deb [arch=amd64 signed-by={KEYRING}] {mirror} {suite} main\n");
        fs::write(apt.state.join("sources.list"), source)?;
        fs::write(apt.state.join("status"), "")?;
        Ok(apt)
    }

    /// One of apt's programs, told to look at nothing of the machine's but its proxy.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let state = self.state.display();
        for option in [
            format!("Dir::Etc::sourcelist={state}/sources.list"),
            "Dir::Etc::sourceparts=/dev/null".into(),
            "Dir::Etc::preferences=/dev/null".into(),
            "Dir::Etc::preferencesparts=/dev/null".into(),
            format!("Dir::State={state}"),
            format!("Dir::State::lists={state}/lists"),
            format!("Dir::State::status={state}/status"),
            format!("Dir::Cache={state}/cache"),
            "APT::Architecture=amd64".into(),
            "APT::Architectures=amd64".into(),
            // The user that apt would become may not look into somebody's home.
            "APT::Sandbox::User=".into(),
            // Icons, translations and the like.
            "Acquire::Languages=none".into(),
            // Without it a list that did not come is a warning.
            "APT::Update::Error-Mode=any".into(),
            "Acquire::Retries=3".into(),
            "Acquire::http::Timeout=30".into(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
            "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false".into(),
        ] {
            command.arg("-o").arg(option);
        }
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
        command
    }

    fn show(&self, package: &str) -> Result<String> {
        let output = self
            .command("apt-cache")
            .args(["show", "--no-all-versions", package])
            .output()
            .context("`apt-cache` cannot be started")?;
        if !output.status.success() {
            bail!(
                "no package {package}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The packages that hold the kernel that the meta package depends on: one, or since 7.x image and modules apart.
    fn parts(&self, meta: &str) -> Result<Vec<String>> {
        let mut found = BTreeSet::new();
        let mut open = kernel_parts(meta);
        while let Some(package) = open.pop() {
            if found.insert(package.clone()) {
                open.extend(kernel_parts(&self.show(&package)?));
            }
        }
        if found.is_empty() {
            bail!("{META} depends on no kernel:\n{meta}");
        }
        Ok(found.into_iter().collect())
    }
}

/// Those of a package's dependencies that are parts of a kernel.
fn kernel_parts(control: &str) -> Vec<String> {
    let depends = field(control, "Depends").unwrap_or_default();
    depends
        .split([',', '|'])
        .filter_map(|dependency| dependency.split_whitespace().next())
        .filter(|name| {
            // Those with a version: "linux-base" and "linux-base-amd64" are scripts.
            PARTS
                .iter()
                .filter_map(|part| name.strip_prefix(part))
                .any(|version| version.starts_with(|character: char| character.is_ascii_digit()))
        })
        .map(str::to_owned)
        .collect()
}

fn field<'a>(control: &'a str, name: &str) -> Result<&'a str> {
    control
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        .with_context(|| format!("no {name} in:\n{control}"))
}

fn fresh(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
    let mut paths: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_kernel_are_found_in_old_and_new_packages() {
        for (depends, parts) in [
            (
                "linux-image-6.1.0-50-amd64 (= 6.1.176-1)",
                vec!["linux-image-6.1.0-50-amd64"],
            ),
            (
                "linux-base-amd64 (= 7.2.12-1), linux-image-7.2.12+deb13-amd64 (= 7.2.12-1)",
                vec!["linux-image-7.2.12+deb13-amd64"],
            ),
            (
                "dracut | initramfs-tools, linux-base-7.2-amd64 (= 1), linux-binary-7.2-amd64 (= 1), linux-modules-7.2-amd64 (= 1)",
                vec![
                    "linux-base-7.2-amd64",
                    "linux-binary-7.2-amd64",
                    "linux-modules-7.2-amd64",
                ],
            ),
            ("kmod, linux-base (>= 4.3~)", vec![]),
        ] {
            let control = format!("Package: x\nVersion: 1\nPre-Depends: linux-image-no\nDepends: {depends}\n");
            assert_eq!(kernel_parts(&control), parts, "{depends}");
        }
    }
}
