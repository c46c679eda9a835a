//! A verifier that does not follow the program into large values: the one that looks tables up by key is used.
//!
//! A test program of its own: the process remembers.

use std::path::Path;

use ::object::{Object as _, ObjectSection as _, ObjectSymbol as _};
use lb_userspace::bpf::program::{Balancer, Settings};
use lb_userspace::bpf::tables::Lengths;
use lb_userspace::object::BALANCE;
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};

#[test]
fn a_program_that_is_refused_has_a_stand_in() {
    let settings = Settings {
        lengths: Lengths {
            services: 64,
            slots: 1024,
            rows: 64,
            flows: 1024,
        },
        hash_seed: 1,
        longest_value: None,
    };
    let [(name, _), _] = Balancer::load(BALANCE, settings)
        .unwrap()
        .verified_instructions()
        .unwrap();
    if name == "balance_by_key" {
        // An older kernel: there is nothing to fall back from.
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    private_bpf_fs(folder.path()).unwrap();
    let mut balancer = Balancer::load_pinned(&spoilt(BALANCE, name), settings, folder.path()).unwrap();
    let programs = balancer.verified_instructions().unwrap().map(|(name, _)| name);
    assert_eq!(programs, ["balance_by_key", "lookup_by_key"]);
    // The maps of the first attempt are gone: those that are there are the ones that are used.
    assert!(
        lb_userspace::bpf::shape::fits(folder.path(), settings.lengths).is_err_and(|why| why.contains("never filled"))
    );
    drop(balancer);
    umount(folder.path()).unwrap();
}

/// Mounts a BPF file system that only this thread sees: the machine may have none.
fn private_bpf_fs(at: &Path) -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none: Option<&Path> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("bpf"), at, Some("bpf"), MsFlags::empty(), none)
}

/// The object, with an instruction that does not exist at the beginning of a program.
fn spoilt(elf: &[u8], program: &str) -> Vec<u8> {
    let file = ::object::File::parse(elf).unwrap();
    let symbol = file.symbols().find(|symbol| symbol.name() == Ok(program)).unwrap();
    let section = file.section_by_index(symbol.section_index().unwrap()).unwrap();
    let at = section.file_range().unwrap().0 + symbol.address();
    let mut spoilt = elf.to_vec();
    spoilt[at as usize] = 0xFF;
    spoilt
}
