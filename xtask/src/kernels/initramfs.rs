//! A guest's file system: an archive in the format that the kernel unpacks at its start (cpio, "newc").
//!
//! The format is `Documentation/driver-api/early-userspace/buffer-format.rst` of the kernel.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// An archive in the making.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    /// Paths that are in it, so that nothing is twice.
    present: BTreeSet<PathBuf>,
}

const DIRECTORY: u32 = 0o040_755;
const REGULAR: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_600;

impl Archive {
    /// An archive with `/dev/console`, which the kernel opens for process 1 before anything is mounted.
    pub(super) fn new() -> Self {
        let mut archive = Self::default();
        archive.directory(Path::new("/dev"));
        archive.entry("dev/console", CHARACTER_DEVICE, (5, 1), &[]);
        archive
    }

    /// Adds a directory and those above it.
    pub(super) fn directory(&mut self, path: &Path) {
        if path == Path::new("/") || !self.present.insert(path.to_owned()) {
            return;
        }
        if let Some(parent) = path.parent() {
            self.directory(parent);
        }
        self.entry(&inside(path), DIRECTORY, (0, 0), &[]);
    }

    /// Adds a file with this content and these permissions.
    pub(super) fn file(&mut self, path: impl AsRef<Path>, permissions: u32, content: &[u8]) {
        let path = path.as_ref();
        if !self.present.insert(path.to_owned()) {
            return;
        }
        if let Some(parent) = path.parent() {
            self.directory(parent);
        }
        self.entry(&inside(path), REGULAR | permissions, (0, 0), content);
    }

    /// Adds a file of this machine.
    pub(super) fn copy(&mut self, from: &Path, path: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        self.file(path, 0o644, &content);
        Ok(())
    }

    /// Adds a program of this machine, without its debugging information and with the shared libraries that it is linked to.
    pub(super) fn program(&mut self, from: &Path, path: &Path) -> Result<()> {
        for library in libraries(from)? {
            let content = fs::read(&library).with_context(|| format!("reading {}", library.display()))?;
            self.file(&library, 0o755, &content);
        }
        self.file(path, 0o755, &stripped(from)?);
        Ok(())
    }

    /// The archive's bytes.
    pub(super) fn end(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        let fields = [
            self.present.len() as u32,
            mode,
            0, // user
            0, // group
            1, // links
            0, // time
            content.len() as u32,
            0, // device that holds it
            0,
            device.0,
            device.1,
            name.len() as u32 + 1,
            0, // checksum, of another variant of the format
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

fn inside(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}

/// The shared libraries that a program is linked to, and its loader, as `ldd` finds them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("`ldd` cannot be started")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("not found") {
        bail!("{} lacks a library:\n{text}", program.display());
    }
    // One of a static program fails, and prints no path.
    Ok(paths(&text))
}

/// `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, or `/lib64/ld-linux-x86-64.so.2 (0x…)`
fn paths(ldd: &str) -> Vec<PathBuf> {
    ldd.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

/// The program without debugging information, which is nine tenths of a test; with it, if there is no `strip`.
fn stripped(program: &Path) -> Result<Vec<u8>> {
    let copy = std::env::temp_dir().join(format!("elb-{}-stripped", std::process::id()));
    let done = Command::new("strip").arg("-o").arg(&copy).arg(program).status();
    let from = match &done {
        Ok(status) if status.success() => copy.as_path(),
        _ => program,
    };
    let content = fs::read(from).with_context(|| format!("reading {}", from.display()));
    // It may not have been made.
    drop(fs::remove_file(&copy));
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_as_the_kernel_wants_it() {
        let mut archive = Archive::default();
        archive.file("/etc/passwd", 0o644, b"root");
        archive.file("/etc/passwd", 0o644, b"only the first counts");
        let bytes = archive.end();
        let header = |ino: u32, mode: &str, size: u32, name: u32| {
            format!(
                "070701{ino:08x}{mode}{z}{z}00000001{z}{size:08x}{z}{z}{z}{z}{name:08x}{z}",
                z = "00000000"
            )
        };
        let expected = [
            &header(2, "000041ed", 0, 4),
            "etc\0\0\0",
            &header(2, "000081a4", 4, 11),
            "etc/passwd\0\0\0\0",
            "root",
            &header(2, "00000000", 0, 11),
            "TRAILER!!!\0\0\0\0",
        ]
        .concat();
        assert_eq!(String::from_utf8_lossy(&bytes), expected);
    }

    #[test]
    fn libraries_are_found_in_what_ldd_prints() {
        let text =
            "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)\n\t/lib64/ld.so.2 (0x00007f)\n";
        assert_eq!(
            paths(text),
            [PathBuf::from("/lib/x/libc.so.6"), "/lib64/ld.so.2".into()]
        );
        assert_eq!(paths("\tnot a dynamic executable\n"), Vec::<PathBuf>::new());
    }
}
