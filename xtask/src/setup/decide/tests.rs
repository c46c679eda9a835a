use super::*;

fn toolchain(name: Option<&str>, release: Release, llvm: u32, has_source: bool) -> Toolchain {
    let sysroot = PathBuf::from(name.map_or("/usr".into(), |name| format!("/rustup/{name}")));
    Toolchain {
        rustup: name.map(String::from),
        rustc: sysroot.join("bin/rustc"),
        sysroot,
        release,
        nightly: name == Some("nightly"),
        default: name == Some("stable"),
        llvm,
        has_source,
        shares_llvm: name.is_some(),
    }
}

fn stable(has_source: bool) -> Toolchain {
    toolchain(Some("stable"), Release(1, 95, 0), 22, has_source)
}

fn nightly(has_source: bool) -> Toolchain {
    toolchain(Some("nightly"), Release(1, 97, 0), 23, has_source)
}

fn system() -> Toolchain {
    toolchain(None, Release(1, 96, 0), 22, true)
}

fn linker(name: &str, llvm: LinkerLlvm) -> Linker {
    Linker {
        path: name.into(),
        release: "0.13.0".into(),
        llvm,
    }
}

/// A fresh machine with rustup, as root: apt's lists are fetched, and these LLVMs are in them.
fn debian(llvms: &[u32], more: &[&str]) -> Apt {
    let offers = llvms
        .iter()
        .flat_map(|llvm| packages_of(*llvm))
        .chain(more.iter().map(|name| name.to_string()));
    Apt {
        usable: true,
        updated: true,
        offers: offers.collect(),
        installed: BTreeSet::new(),
    }
}

fn with_installed(mut apt: Apt, llvm: u32) -> Apt {
    apt.installed = packages_of(llvm).into_iter().collect();
    apt
}

fn apt_install(llvm: u32) -> Step {
    Step::Apt(packages_of(llvm))
}

fn add_source(toolchain: &str) -> Step {
    Step::AddSource {
        toolchain: toolchain.into(),
    }
}

fn build(recipe: Recipe, toolchain: &str) -> Step {
    Step::BuildLinker {
        recipe,
        toolchain: toolchain.into(),
    }
}

fn ready(facts: &Facts, rustc: &str, linker: &str) {
    match next(facts) {
        Next::Ready(toolchain, found) => {
            assert_eq!(
                (toolchain.rustc.to_str(), found.path.to_str()),
                (Some(rustc), Some(linker))
            );
        }
        other => panic!("{other:?} for {facts:?}"),
    }
}

#[test]
fn what_is_on_the_machine_is_used() {
    let own = |llvm| linker("/bin/bpf-linker", LinkerLlvm::Own(llvm));
    let facts = |toolchains: &[Toolchain], linkers: &[Linker]| Facts {
        toolchains: toolchains.to_vec(),
        linkers: linkers.to_vec(),
        ..Facts::default()
    };
    ready(
        &facts(&[nightly(true), system(), stable(true)], &[own(23)]),
        "/rustup/stable/bin/rustc",
        "/bin/bpf-linker",
    );
    ready(
        &facts(&[nightly(true), system(), stable(false)], &[own(23)]),
        "/usr/bin/rustc",
        "/bin/bpf-linker",
    );
    ready(
        &facts(&[nightly(true), stable(false)], &[own(23)]),
        "/rustup/nightly/bin/rustc",
        "/bin/bpf-linker",
    );
    // The first toolchain's bitcode is too new for the linker that is there, the second's is not.
    ready(
        &facts(&[nightly(true), system()], &[own(22)]),
        "/usr/bin/rustc",
        "/bin/bpf-linker",
    );
    // Of two linkers the one that can read it.
    let two = [own(19), linker("/tools/bpf-linker", LinkerLlvm::Own(22))];
    ready(&facts(&[system()], &two), "/usr/bin/rustc", "/tools/bpf-linker");
    let borrows = [linker("/tools/bpf-linker", LinkerLlvm::Borrowed(21))];
    let older = toolchain(Some("1.94.0"), Release(1, 94, 0), 21, true);
    ready(
        &facts(&[stable(true), older], &borrows),
        "/rustup/1.94.0/bin/rustc",
        "/tools/bpf-linker",
    );
}

#[test]
fn one_step_after_another_on_a_fresh_machine() {
    let fresh = Facts {
        toolchains: vec![stable(false)],
        rustup: true,
        apt: debian(&[22], &DEBIANS_RUST),
        ..Facts::default()
    };
    let rustc_web = Step::Apt(DEBIANS_RUST.map(String::from).into());

    let unlisted = Facts {
        apt: Apt {
            usable: true,
            ..Apt::default()
        },
        ..fresh.clone()
    };
    assert_eq!(next(&unlisted), Next::Do(Step::AptUpdate));

    assert_eq!(next(&fresh), Next::Do(add_source("stable")));
    let offline = Facts {
        tried: vec![add_source("stable")],
        ..fresh.clone()
    };
    assert_eq!(next(&offline), Next::Do(rustc_web.clone()));

    let sources = Facts {
        toolchains: vec![stable(true)],
        ..fresh.clone()
    };
    assert_eq!(next(&sources), Next::Do(apt_install(22)));
    let llvm = Facts {
        apt: with_installed(fresh.apt.clone(), 22),
        ..sources.clone()
    };
    assert_eq!(next(&llvm), Next::Do(build(WITH_LLVM[1], "/rustup/stable")));
    // A linker that is too old does not help, and is left alone.
    let old = Facts {
        linkers: vec![linker("/bin/bpf-linker", LinkerLlvm::Own(20))],
        ..llvm.clone()
    };
    assert_eq!(next(&old), Next::Do(build(WITH_LLVM[1], "/rustup/stable")));
    let unknown = Facts {
        linkers: vec![linker("/bin/bpf-linker", LinkerLlvm::Unknown)],
        ..llvm
    };
    assert_eq!(next(&unknown), Next::Do(build(WITH_LLVM[1], "/rustup/stable")));

    // Only what lacks is installed.
    let mut apt = fresh.apt.clone();
    apt.installed.insert("gcc".into());
    let Next::Do(Step::Apt(packages)) = next(&Facts { apt, ..sources }) else {
        panic!("nothing to install")
    };
    assert!(!packages.contains(&"gcc".to_owned()) && packages.contains(&"llvm-22-dev".to_owned()));
}

#[test]
fn an_llvm_newer_than_the_compilers_will_do() {
    let facts = Facts {
        toolchains: vec![system()],
        apt: debian(&[21, 23], &[]),
        ..Facts::default()
    };
    assert_eq!(next(&facts), Next::Do(apt_install(23)));
}

#[test]
fn without_an_llvm_a_compiler_is_had_that_lends_its_own() {
    // Ubuntu: rustup's stable has LLVM 22, the distribution none of it, and no rustc-web.
    let ubuntu = Facts {
        toolchains: vec![stable(false)],
        rustup: true,
        apt: debian(&[], &[]),
        ..Facts::default()
    };
    if cfg!(not(target_arch = "x86_64")) {
        assert!(matches!(next(&ubuntu), Next::Cannot(_)));
        return;
    }
    assert_eq!(next(&ubuntu), Next::Do(Step::AddToolchain { release: BORROWABLE }));
    let older = toolchain(Some("1.94.0"), Release(1, 94, 0), 21, true);
    let added = Facts {
        toolchains: vec![stable(false), older],
        ..ubuntu.clone()
    };
    assert_eq!(next(&added), Next::Do(build(WITHOUT_LLVM[0], "/rustup/1.94.0")));
    // The same for somebody who is not root.
    let user = Facts {
        apt: Apt::default(),
        ..ubuntu
    };
    assert_eq!(next(&user), Next::Do(Step::AddToolchain { release: BORROWABLE }));
}

#[test]
fn what_cannot_be_had_is_said_in_one_sentence() {
    let check = |facts: &Facts, parts: &[&str]| {
        let Next::Cannot(why) = next(facts) else {
            panic!("{:?}", next(facts))
        };
        assert!(!why.contains('\n'), "{why}");
        for part in parts {
            assert!(why.contains(part), "{part:?} is not in: {why}");
        }
    };
    check(
        &Facts::default(),
        &[
            "rust-src",
            "as root `apt-get install rustc-web rust-web-src`",
            "cargo xtask setup",
        ],
    );
    let too_old = toolchain(None, Release(1, 85, 0), 19, true);
    check(
        &Facts {
            toolchains: vec![too_old],
            ..Facts::default()
        },
        &["no Rust from 1.87 on"],
    );
    check(
        &Facts {
            toolchains: vec![system()],
            ..Facts::default()
        },
        &["LLVM 22", "as root install llvm-22-dev", "apt.llvm.org"],
    );

    let tried = vec![add_source("stable"), Step::AddToolchain { release: BORROWABLE }];
    let offline = Facts {
        toolchains: vec![stable(false)],
        rustup: true,
        tried,
        ..Facts::default()
    };
    check(
        &offline,
        &["tried: rustup component add rust-src --toolchain stable, rustup toolchain install"],
    );

    // Every step fails, one after another: it ends.
    let mut facts = Facts {
        toolchains: vec![stable(false)],
        rustup: true,
        apt: debian(&[22], &DEBIANS_RUST),
        ..Facts::default()
    };
    for _ in 0..10 {
        match next(&facts) {
            Next::Do(step) => facts.tried.push(step),
            Next::Cannot(_) => return,
            Next::Ready(..) => panic!("ready with nothing"),
        }
    }
    panic!("still trying: {:?}", facts.tried);
}
