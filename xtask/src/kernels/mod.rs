//! `cargo xtask kernels`: the programs and their tests on other kernels, each booted under QEMU without KVM.

mod fetch;
mod guest;
mod initramfs;
mod jobs;
mod modules;
mod table;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use xtask::ebpf;

pub(crate) use self::fetch::{KEYRING, MIRROR};
use self::{
    fetch::Image,
    initramfs::Archive,
    jobs::Tests,
    table::{Ran, Row},
};
use crate::{
    build,
    setup::{self, Scope, packages},
};

/// Which kernels, and how.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only these: "6.1", "6.12", "newest"
    kernels: Vec<String>,
    /// The oldest and the newest, as `.ci/run` does
    #[arg(long, conflicts_with = "kernels")]
    ci: bool,
    /// For programs: what each kernel gave, as JSON on standard output
    #[arg(long)]
    json: bool,
    /// Fetches the kernels again, for newer ones
    #[arg(long)]
    update: bool,
    /// Only the test programs whose name contains this
    #[arg(long, value_name = "NAME")]
    test: Option<String>,
    /// Shows what the tests print, also when they pass
    #[arg(long)]
    verbose: bool,
    /// Debian's archive or a mirror of it
    #[arg(long, default_value = MIRROR, value_name = "URL")]
    mirror: String,
}

/// A kernel of Debian's.
pub(crate) struct Kernel {
    name: &'static str,
    suite: &'static str,
}

/// From the oldest to the newest.
const KERNELS: [Kernel; 3] = [
    Kernel {
        name: "6.1",
        suite: "bookworm",
    },
    Kernel {
        name: "6.12",
        suite: "bookworm-backports",
    },
    Kernel {
        name: "newest",
        suite: "trixie-backports",
    },
];

/// Programs of this machine that the tests start.
const PROGRAMS: [&str; 5] = ["ip", "tc", "ethtool", "nginx", "sysctl"];
/// Files of the workspace that tests read where they were compiled.
const FILES: [&str; 1] = ["lb-userspace/tests/verifier/budget.toml"];

/// Runs the tests on the kernels and prints the table.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let kernels = chosen(args)?;
    setup::ensure(Scope::Kernels)?;
    // First, since all that follows is for nothing without them.
    let images: Vec<(&Kernel, Image)> = kernels
        .into_iter()
        .map(|kernel| Ok((kernel, fetch::image(kernel, &args.mirror, args.update)?)))
        .collect::<Result<_>>()?;
    let programs = build()?;
    let tests = jobs::build(args.test.as_deref())?;
    let userland = userland(&tests, &[&programs.lbd, &programs.lbctl], args.ci)?;

    // The tests wait more than they compute.
    let at_once = thread::available_parallelism()
        .map_or(1, usize::from)
        .clamp(1, images.len());
    let mut rows = Vec::new();
    for images in images.chunks(at_once) {
        let boot = |(kernel, image): &(&Kernel, Image)| boot(kernel, image, &userland, &tests);
        let booted: Vec<Result<Row>> = thread::scope(|scope| {
            let guests: Vec<_> = images.iter().map(|image| scope.spawn(move || boot(image))).collect();
            let join = |guest: thread::ScopedJoinHandle<'_, _>| {
                guest.join().unwrap_or_else(|_| bail!("a thread panicked, see above"))
            };
            guests.into_iter().map(join).collect()
        });
        for row in booted {
            let row = row?;
            row.explain(args.verbose);
            rows.push(row);
        }
    }
    if args.json {
        let rows: Vec<_> = rows.iter().map(Row::json).collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print!("{}", table::render(&rows));
    }
    Ok(if rows.iter().all(|row| row.passed()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What a guest may take to start, and to end, on a busy machine; usually it is some ten seconds.
const BOOT: Duration = Duration::from_secs(300);
/// How often a kernel is booted whose first process did not come to report: an emulated processor on a busy machine now and then is
/// too slow for what a kernel expects of its clocks. None of our programs has run by then, so nothing of theirs is excused by it.
const BOOTS: u32 = 3;

/// Runs the jobs on one kernel.
fn boot(kernel: &Kernel, image: &Image, userland: &[u8], tests: &Tests) -> Result<Row> {
    eprintln!("booting Linux {} ({})", image.release, image.package);
    let place = fetch::directory().join(format!("run-{}", kernel.name));
    fs::create_dir_all(&place)?;
    let initramfs = place.join("initramfs");
    // The kernel unpacks one archive after the other.
    fs::write(&initramfs, [userland, &modules(image)?].concat())
        .with_context(|| format!("writing {}", initramfs.display()))?;
    let limit = tests.jobs.iter().map(|(_, job)| job.limit).sum::<Duration>() + BOOT;
    let begun = Instant::now();
    let mut boots = 1;
    let report = loop {
        let report = guest::run(&image.vmlinuz, &initramfs, &place, BOOT, limit)?;
        if report.began() || boots == BOOTS {
            break report;
        }
        eprintln!(
            "Linux {} ended before its first process; the end of its console:",
            image.release
        );
        table::show_console(&place);
        boots += 1;
        eprintln!("booting Linux {} again ({boots} of {BOOTS})", image.release);
    };
    let ran = Ran {
        report,
        took: begun.elapsed(),
        boots,
        place,
    };
    Ok(Row::new(kernel.name, image, &tests.jobs, ran))
}

fn chosen(args: &Args) -> Result<Vec<&'static Kernel>> {
    if args.ci {
        return Ok(vec![&KERNELS[0], &KERNELS[KERNELS.len() - 1]]);
    }
    if let Some(unknown) = args
        .kernels
        .iter()
        .find(|name| KERNELS.iter().all(|kernel| kernel.name != **name))
    {
        let names: Vec<_> = KERNELS.iter().map(|kernel| kernel.name).collect();
        bail!("no kernel {unknown:?}; there are {}", names.join(", "));
    }
    Ok(KERNELS
        .iter()
        .filter(|kernel| args.kernels.is_empty() || args.kernels.iter().any(|name| name == kernel.name))
        .collect())
}

/// A guest's files but for its kernel's modules.
fn userland(tests: &Tests, ours: &[&Path], short: bool) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    archive.file("/init", 0o755, include_bytes!("init.sh"));
    let needed = |program: &str| packages::find(program).with_context(|| format!("there is no {program}"));
    archive.program(&needed("busybox")?, Path::new("/bin/busybox"))?;
    // Not busybox's, which would start its own `ip` in place of the real one.
    archive.program(&needed("sh")?, Path::new("/bin/sh"))?;
    for program in PROGRAMS {
        archive.program(&needed(program)?, &Path::new("/usr/sbin").join(program))?;
    }
    for program in ours {
        archive.program(program, &inside(program))?;
    }
    for (file, path) in &tests.programs {
        archive.program(file, path)?;
    }
    for object in ["balance", "decap"].map(ebpf::object) {
        archive.copy(&object, &inside(&object))?;
    }
    for file in FILES.map(|file| xtask::root().join(file)) {
        if file.exists() {
            archive.copy(&file, &file)?;
        }
    }
    for (_, job) in &tests.jobs {
        archive.directory(Path::new(&job.directory));
    }
    let jobs: String = tests.jobs.iter().map(|(_, job)| job.line()).collect();
    archive.file("/edgelb/jobs", 0o644, jobs.as_bytes());
    archive.file("/edgelb/environment", 0o644, environment(short).as_bytes());
    // nginx looks its user up, even if it stays root.
    archive.file("/etc/passwd", 0o644, PASSWD.as_bytes());
    archive.file("/etc/group", 0o644, GROUP.as_bytes());
    Ok(archive.end())
}

/// The modules, named so that their order is their names'.
fn modules(image: &Image) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for (number, module) in modules::in_order(&image.modules)?.into_iter().enumerate() {
        let path = format!("/edgelb/modules/{number:02}-{}", module.name);
        archive.file(path, 0o644, &module.content);
    }
    Ok(archive.end())
}

fn inside(file: &Path) -> PathBuf {
    Path::new("/edgelb").join(file.file_name().unwrap_or_default())
}

/// What the tests find in their environment. `EDGELB_MATRIX`: every module is there, so that a test that is skipped for want of one fails;
/// `short`: fewer random packets do.
fn environment(short: bool) -> String {
    let matrix = if short { "short" } else { "all" };
    format!("export EDGELB_MATRIX={matrix} LBD_BIN=/edgelb/lbd LBCTL_BIN=/edgelb/lbctl EDGELB_DECAP=/edgelb/decap\n")
}

const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nwww-data:x:33:33::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n";
const GROUP: &str = "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n";
