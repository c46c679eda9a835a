//! A verifier that does not follow the program into large values: the one that looks tables up by key is used.
//!
//! A process remembers that its kernel is so: every test runs in one of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use ::object::{Object as _, ObjectSection as _, ObjectSymbol as _};
use lb_common::map::{ABI_VERSION, Meta};
use lb_userspace::bpf::instance::Instance;
use lb_userspace::bpf::program::{Balancer, Settings};
use lb_userspace::bpf::shape;
use lb_userspace::config;
use lb_userspace::daemon::kernel::{Kernel, settings_for};
use lb_userspace::object::BALANCE;
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};

const CONFIG: &str =
    "[node]\ninterfaces = [\"lo\"]\n[node.capacity]\nservices = 60\nbackends = 60\nring_slots = 1024\nflows = 1024\n";
const BY_KEY: [&str; 2] = ["balance_by_key", "lookup_by_key"];

#[test]
fn a_program_that_is_refused_has_a_stand_in() {
    alone("a_program_that_is_refused_has_a_stand_in", |place| {
        let mut balancer = Balancer::load_pinned(&spoilt(BALANCE), settings(None), &place.tables).unwrap();
        assert_eq!(programs(&mut balancer), BY_KEY);
        let why = balancer.slower().expect("it says so");
        assert!(why.starts_with("the kernel refuses the program balance"), "{why}");
        // The maps of the first attempt are gone: those that are there are the ones that are used.
        let lengths = settings(None).lengths;
        assert!(shape::fits(&place.tables, lengths).is_err_and(|why| why.contains("never filled")));
    });
}

#[test]
fn a_restart_keeps_the_tables_of_the_stand_in() {
    alone("a_restart_keeps_the_tables_of_the_stand_in", |place| {
        // As an earlier daemon left them, whose program had been refused.
        drop(left_behind(Some(0), place));
        let mut kernel =
            Kernel::open(BALANCE, place.instance(), &config::parse(CONFIG, "file").unwrap().model).unwrap();
        assert!(kernel.taken_over());
        assert_eq!(programs(&mut kernel.balancer), BY_KEY);
        let said = kernel.slower().expect("it says so");
        assert!(
            said.contains("an earlier daemon whose faster program was refused"),
            "{said}"
        );
    });
}

#[test]
fn another_daemon_whose_program_is_refused_makes_other_tables() {
    alone("another_daemon_whose_program_is_refused_makes_other_tables", |place| {
        drop(left_behind(None, place));
        let spoilt: &'static [u8] = spoilt(BALANCE).leak();
        let mut kernel = Kernel::open(spoilt, place.instance(), &config::parse(CONFIG, "file").unwrap().model).unwrap();
        assert!(!kernel.taken_over());
        assert_eq!(programs(&mut kernel.balancer), BY_KEY);
        assert!(kernel.slower().is_some());
        assert!(
            kernel
                .not_taken_over()
                .is_some_and(|why| why.contains("refuses the program"))
        );
    });
}

#[test]
fn nothing_is_said_of_the_fastest_program() {
    alone("nothing_is_said_of_the_fastest_program", |place| {
        drop(left_behind(None, place));
        let kernel = Kernel::open(BALANCE, place.instance(), &config::parse(CONFIG, "file").unwrap().model).unwrap();
        assert!(kernel.taken_over());
        assert_eq!(kernel.slower(), None);
    });
}

/// Tables that a daemon filled, pinned.
fn left_behind(longest_value: Option<u32>, place: &Place) -> Balancer {
    let mut balancer = Balancer::load_pinned(BALANCE, settings(longest_value), &place.tables).unwrap();
    let meta = Meta {
        abi_version: ABI_VERSION,
        ..Meta::default()
    };
    balancer.set_meta(meta).unwrap();
    balancer
}

fn settings(longest_value: Option<u32>) -> Settings {
    let model = config::parse(CONFIG, "file").unwrap().model;
    Settings {
        longest_value,
        ..settings_for(&model, None)
    }
}

fn programs(balancer: &mut Balancer) -> [&'static str; 2] {
    balancer.verified_instructions().unwrap().map(|(name, _)| name)
}

/// A BPF file system of the test's own.
struct Place {
    root: PathBuf,
    tables: PathBuf,
}

impl Place {
    fn instance(&self) -> Instance {
        Instance {
            name: "refused".to_owned(),
            pins: self.root.clone(),
            state: self.root.clone(),
        }
    }
}

/// Runs the test of this name in a process of its own, unless the kernel is an older one: there is nothing to fall back from.
fn alone(name: &str, test: impl FnOnce(&Place)) {
    if programs(&mut Balancer::load(BALANCE, settings(None)).unwrap()) == BY_KEY {
        return;
    }
    if std::env::var_os(ALONE).is_none() {
        let itself = std::env::current_exe().unwrap();
        let output = Command::new(itself)
            .args(["--exact", name, "--nocapture"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    private_bpf_fs(folder.path()).unwrap();
    let place = Place {
        root: folder.path().to_owned(),
        tables: folder.path().join("tables"),
    };
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&place)));
    umount(folder.path()).unwrap();
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

const ALONE: &str = "EDGELB_TEST_ALONE";

/// Mounts a BPF file system that only this thread sees: the machine may have none.
fn private_bpf_fs(at: &Path) -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none: Option<&Path> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("bpf"), at, Some("bpf"), MsFlags::empty(), none)
}

/// The object, with an instruction that does not exist at the beginning of the fastest program.
fn spoilt(elf: &[u8]) -> Vec<u8> {
    let file = ::object::File::parse(elf).unwrap();
    let symbol = file.symbols().find(|symbol| symbol.name() == Ok("balance")).unwrap();
    let section = file.section_by_index(symbol.section_index().unwrap()).unwrap();
    let at = section.file_range().unwrap().0 + symbol.address();
    let mut spoilt = elf.to_vec();
    spoilt[at as usize] = 0xFF;
    spoilt
}
