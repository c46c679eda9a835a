//! The guest's image: a small Debian with systemd, its kernel and its initramfs, kept in `target/guest/image` for as long as its recipe
//! stays the same.
//!
//! mmdebstrap makes the file system, by apt, with a source of its own: the machine's sources and packages stay as they are.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{kernels::KEYRING, progress::Progress, setup};

/// What QEMU boots.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) disk: PathBuf,
    pub(super) vmlinuz: PathBuf,
    pub(super) initrd: PathBuf,
}

const SUITE: &str = "bookworm";

/// What the guest has beside apt and dpkg. A new need is a new line, and makes the image anew.
const PACKAGES: &[&str] = &[
    "linux-image-amd64",
    "systemd",
    "systemd-sysv",
    "udev",
    "dbus",
    "iproute2",
    "ethtool",
    "procps",
    "nginx-light",
    "curl",
    "ca-certificates",
];

/// What of the packages stays out, and what of that comes in again: dpkg's patterns.
const PATHS: &[(Keep, &str)] = &[
    (Keep::Out, "/usr/share/doc/*"),
    (Keep::Out, "/usr/share/man/*"),
    (Keep::Out, "/usr/share/locale/*"),
    (Keep::Out, "/usr/share/i18n/*"),
    // Of the kernel's modules the drivers are three quarters.
    (Keep::Out, "/lib/modules/*/kernel/sound/*"),
    (Keep::Out, "/lib/modules/*/kernel/drivers/*"),
    (Keep::In, "/lib/modules/*/kernel/drivers/virtio/*"),
    (Keep::In, "/lib/modules/*/kernel/drivers/block/virtio_blk.ko*"),
    (Keep::In, "/lib/modules/*/kernel/drivers/net/*.ko*"),
    (Keep::In, "/lib/modules/*/kernel/drivers/net/ethernet/intel/e1000e/*"),
    (Keep::In, "/lib/modules/*/kernel/drivers/net/vmxnet3/*"),
    (Keep::In, "/lib/modules/*/kernel/drivers/ptp/*"),
    (Keep::In, "/lib/modules/*/kernel/drivers/pps/*"),
];

#[derive(Clone, Copy, Debug)]
enum Keep {
    In,
    Out,
}

/// What is done in the file system at last; `$1` is its root.
const FINISH: &str = r#"set -eu
# The one disk and its file system are all that has to be there before the root is.
echo MODULES=list > "$1/etc/initramfs-tools/conf.d/guest"
printf '%s\n' virtio_pci virtio_blk ext4 >> "$1/etc/initramfs-tools/modules"
chroot "$1" update-initramfs -u
# With an identity of its own a start is not the first, which would enable all services.
echo 0123456789abcdef0123456789abcdef > "$1/etc/machine-id"
echo edge-1 > "$1/etc/hostname"
printf '127.0.0.1 localhost\n::1 localhost\n127.0.1.1 edge-1\n' > "$1/etc/hosts"
# Servers run in namespaces, where the guest's network is made.
for unit in nginx.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer; do
    ln -sf /dev/null "$1/etc/systemd/system/$unit"
done
# A person at the console is root.
chroot "$1" passwd -d root
mkdir -p "$1/etc/systemd/system/serial-getty@ttyS0.service.d"
printf '[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200 %%I xterm\n' \
    > "$1/etc/systemd/system/serial-getty@ttyS0.service.d/console.conf"
"#;

/// Where everything of the guest's is.
pub(super) fn directory() -> PathBuf {
    xtask::target_dir().join("guest")
}

/// The image that is there, if it was made by this recipe, else a new one; `update`: a new one in any case.
pub(super) fn image(mirror: &str, update: bool) -> Result<Image> {
    let place = directory().join("image");
    let image = Image {
        disk: place.join("disk"),
        vmlinuz: place.join("vmlinuz"),
        initrd: place.join("initrd"),
    };
    let (stamp, digest) = (place.join("recipe"), digest());
    // Written last: what was interrupted has none.
    if !update && fs::read_to_string(&stamp).is_ok_and(|made| made == digest) {
        return Ok(image);
    }
    if !setup::is_root() {
        bail!("a guest's image is made by root, for the owners of its files: run this as root");
    }
    if !Path::new(KEYRING).exists() {
        bail!("{KEYRING} is missing: Debian's packages cannot be checked; install debian-archive-keyring");
    }
    if place.exists() {
        fs::remove_dir_all(&place).with_context(|| format!("removing {}", place.display()))?;
    }
    fs::create_dir_all(&place).with_context(|| format!("creating {}", place.display()))?;
    make(&place, mirror, &image)?;
    fs::write(&stamp, digest).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(image)
}

fn make(place: &Path, mirror: &str, image: &Image) -> Result<()> {
    let root = place.join("root");
    let progress = Progress::new();
    progress.heading("Making the guest's image");
    // Mounts below the new root go with mmdebstrap, also when it is killed.
    let mut bootstrap = Command::new("unshare");
    bootstrap.args(["--mount", "mmdebstrap"]).args(recipe());
    bootstrap
        .arg(SUITE)
        .arg(&root)
        .arg(format!("deb [signed-by={KEYRING}] {mirror} {SUITE} main"));
    if let Some(proxy) = proxy() {
        bootstrap.env("http_proxy", proxy);
    }
    progress
        .run(
            "mmdebstrap",
            "a Debian with systemd; some 150 MB to fetch",
            &mut bootstrap,
        )
        .with_context(|| format!("mmdebstrap cannot make a Debian from {mirror}, which takes a network once (`cargo xtask guest --mirror URL` for another archive)"))?;
    for (link, file) in [("vmlinuz", &image.vmlinuz), ("initrd.img", &image.initrd)] {
        fs::copy(root.join(link), file).with_context(|| format!("the image has no /{link}"))?;
    }
    progress.run(
        "mke2fs",
        "the guest's disk",
        Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-d"])
            .arg(&root)
            .arg(&image.disk)
            // As large as it needs to be; what is not written takes no room.
            .arg("3G"),
    )?;
    fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))
}

/// mmdebstrap's options: what the image is made of.
fn recipe() -> Vec<String> {
    let mut options = vec![
        "--mode=root".into(),
        "--variant=apt".into(),
        "--format=directory".into(),
        r#"--aptopt=Acquire::Languages "none""#.into(),
        r#"--aptopt=APT::Install-Recommends "false""#.into(),
        format!("--include={}", PACKAGES.join(",")),
        format!("--customize-hook={FINISH}"),
    ];
    options.extend(PATHS.iter().map(|(keep, pattern)| match keep {
        Keep::In => format!("--dpkgopt=path-include={pattern}"),
        Keep::Out => format!("--dpkgopt=path-exclude={pattern}"),
    }));
    options
}

fn digest() -> String {
    let mut digest = DefaultHasher::new();
    (SUITE, recipe()).hash(&mut digest);
    format!("{:016x}", digest.finish())
}

/// The proxy that the machine's apt uses: mmdebstrap reads nothing of apt's configuration.
fn proxy() -> Option<String> {
    let output = Command::new("apt-config")
        .args(["shell", "PROXY", "Acquire::http::Proxy"])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let proxy = text.trim().strip_prefix("PROXY='")?.strip_suffix('\'')?;
    (!proxy.is_empty()).then(|| proxy.to_owned())
}
