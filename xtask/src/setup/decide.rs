//! What set-up does next about the eBPF crate's toolchain: a pure function of what is on the machine.
//!
//! It is asked again after every step, with the machine looked at anew and the steps taken remembered, until nothing
//! is left to do or nothing can be done.

use std::{cmp::Reverse, collections::BTreeSet, path::PathBuf};

/// A compiler's release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Release(pub(super) u32, pub(super) u32, pub(super) u32);

/// A Rust toolchain on the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Toolchain {
    /// rustup's name of it; none if it is the system's.
    pub(super) rustup: Option<String>,
    pub(super) rustc: PathBuf,
    pub(super) sysroot: PathBuf,
    pub(super) release: Release,
    pub(super) nightly: bool,
    pub(super) default: bool,
    pub(super) llvm: u32,
    /// The standard library's sources are there.
    pub(super) has_source: bool,
    /// Its LLVM is a shared library that a linker without one can use.
    pub(super) shares_llvm: bool,
}

/// A `bpf-linker` on the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Linker {
    pub(super) path: PathBuf,
    pub(super) release: String,
    pub(super) llvm: LinkerLlvm,
}

/// Which bitcode a linker reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkerLlvm {
    /// That of its own LLVM's major version and of older ones.
    Own(u32),
    /// It has none and borrows the compiler's, which must be of this major version.
    Borrowed(u32),
    Unknown,
}

/// What apt could do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Apt {
    /// We are root and there is an apt-get.
    pub(super) usable: bool,
    /// Its lists were fetched by this run.
    pub(super) updated: bool,
    /// Packages of interest that it could install, or has.
    pub(super) offers: BTreeSet<String>,
    /// Packages of interest that are installed.
    pub(super) installed: BTreeSet<String>,
}

/// What is on the machine, and which steps this run has taken, well or not.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) toolchains: Vec<Toolchain>,
    pub(super) linkers: Vec<Linker>,
    pub(super) rustup: bool,
    pub(super) apt: Apt,
    pub(super) tried: Vec<Step>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    AptUpdate,
    Apt(Vec<String>),
    AddSource { toolchain: String },
    AddToolchain { release: &'static str },
    BuildLinker { recipe: Recipe, toolchain: PathBuf },
}

/// A release of bpf-linker, and the LLVM to build it for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recipe {
    pub(super) release: &'static str,
    pub(super) llvm: LinkerLlvm,
    pub(super) feature: &'static str,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next<'a> {
    /// These fit together.
    Ready(&'a Toolchain, &'a Linker),
    Do(Step),
    /// What is missing and what would help, one sentence.
    Cannot(String),
}

/// What to do next.
pub(super) fn next(facts: &Facts) -> Next<'_> {
    let mut usable: Vec<&Toolchain> = facts
        .toolchains
        .iter()
        .filter(|toolchain| toolchain.release >= OLDEST)
        .collect();
    // The one that also builds the daemon first; a nightly last, for it may break any day.
    usable.sort_by_key(|toolchain| (toolchain.nightly, !toolchain.default, Reverse(toolchain.release)));
    let (with_source, without): (Vec<_>, Vec<_>) = usable.into_iter().partition(|toolchain| toolchain.has_source);

    for toolchain in &with_source {
        if let Some(linker) = linker_for(facts, toolchain) {
            return Next::Ready(toolchain, linker);
        }
    }
    let way = with_source
        .iter()
        .find_map(|toolchain| way_to_linker(facts, toolchain))
        .or_else(|| {
            without.iter().find_map(|toolchain| {
                let step = Step::AddSource {
                    toolchain: toolchain.rustup.clone()?,
                };
                let linkable = linker_for(facts, toolchain).is_some() || way_to_linker(facts, toolchain).is_some();
                (facts.rustup && linkable)
                    .then_some(step)
                    .filter(|step| untried(facts, step))
            })
        });
    way.or_else(|| Some(Step::AptUpdate).filter(|step| facts.apt.usable && !facts.apt.updated && untried(facts, step)))
        .or_else(|| debians_rust(facts))
        .or_else(|| {
            let step = Step::AddToolchain { release: BORROWABLE };
            (facts.rustup && cfg!(target_arch = "x86_64") && untried(facts, &step)).then_some(step)
        })
        .map_or_else(|| Next::Cannot(why_not(facts, with_source.first())), Next::Do)
}

/// The packages that a linker needs to be built against that LLVM.
pub(super) fn packages_of(llvm: u32) -> Vec<String> {
    let fixed = ["gcc", "g++", "libzstd-dev", "zlib1g-dev", "libxml2-dev"].map(String::from);
    [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")]
        .into_iter()
        .chain(fixed)
        .collect()
}

/// All packages that a decision may rest on.
pub(super) fn packages_of_interest() -> BTreeSet<String> {
    let llvms = WITH_LLVM.iter().filter_map(|recipe| match recipe.llvm {
        LinkerLlvm::Own(llvm) => Some(llvm),
        LinkerLlvm::Borrowed(_) | LinkerLlvm::Unknown => None,
    });
    llvms
        .flat_map(packages_of)
        .chain(DEBIANS_RUST.map(String::from))
        .collect()
}

fn linker_for<'a>(facts: &'a Facts, toolchain: &Toolchain) -> Option<&'a Linker> {
    facts.linkers.iter().find(|linker| reads(linker.llvm, toolchain))
}

fn reads(linker: LinkerLlvm, toolchain: &Toolchain) -> bool {
    match linker {
        LinkerLlvm::Own(llvm) => llvm >= toolchain.llvm,
        LinkerLlvm::Borrowed(llvm) => llvm == toolchain.llvm && toolchain.shares_llvm,
        LinkerLlvm::Unknown => false,
    }
}

/// The next step to a linker that reads this toolchain's bitcode: of the LLVMs that would do the lowest.
fn way_to_linker(facts: &Facts, toolchain: &Toolchain) -> Option<Step> {
    let build = |recipe: &Recipe| Step::BuildLinker {
        recipe: *recipe,
        toolchain: toolchain.sysroot.clone(),
    };
    let with = WITH_LLVM
        .iter()
        .filter(|recipe| reads(recipe.llvm, toolchain))
        .find_map(|recipe| {
            let LinkerLlvm::Own(llvm) = recipe.llvm else {
                return None;
            };
            let build = Some(build(recipe)).filter(|step| untried(facts, step))?;
            let lacking: Vec<String> = packages_of(llvm)
                .into_iter()
                .filter(|package| !facts.apt.installed.contains(package))
                .collect();
            if lacking.is_empty() {
                return Some(build);
            }
            let install = facts.apt.usable && lacking.iter().all(|package| facts.apt.offers.contains(package));
            install
                .then_some(Step::Apt(lacking))
                .filter(|step| untried(facts, step))
        });
    let without = || {
        WITHOUT_LLVM
            .iter()
            .filter(|recipe| reads(recipe.llvm, toolchain))
            .map(build)
    };
    with.or_else(|| without().find(|step| untried(facts, step)))
}

fn debians_rust(facts: &Facts) -> Option<Step> {
    let linkable = !facts.linkers.is_empty()
        || WITH_LLVM.iter().any(|recipe| match recipe.llvm {
            LinkerLlvm::Own(llvm) => facts.apt.offers.contains(&format!("llvm-{llvm}-dev")),
            LinkerLlvm::Borrowed(_) | LinkerLlvm::Unknown => false,
        });
    let offered = DEBIANS_RUST.iter().all(|package| facts.apt.offers.contains(*package));
    let step = Step::Apt(DEBIANS_RUST.map(String::from).into());
    (facts.apt.usable && linkable && offered && untried(facts, &step)).then_some(step)
}

fn untried(facts: &Facts, step: &Step) -> bool {
    !facts.tried.contains(step)
}

fn why_not(facts: &Facts, best: Option<&&Toolchain>) -> String {
    let Release(major, minor, _) = OLDEST;
    let tried = match facts.tried.iter().map(Step::name).collect::<Vec<_>>().as_slice() {
        [] => String::new(),
        names => format!(" (tried: {})", names.join(", ")),
    };
    let root = if facts.apt.usable { "" } else { "as root " };
    match best {
        None => format!(
            "no Rust from {major}.{minor} on with the sources of its standard library is here or to be had{tried}: run \
             `rustup component add rust-src`, or on Debian {root}`apt-get install {}`, then `cargo xtask setup` again",
            DEBIANS_RUST.join(" ")
        ),
        Some(Toolchain { llvm, rustc, .. }) => format!(
            "no bpf-linker that reads the LLVM {llvm} bitcode of {} is here or can be built{tried}: {root}install {} (from \
             https://apt.llvm.org where the distribution has none), then run `cargo xtask setup` again",
            rustc.display(),
            packages_of((*llvm).max(21)).join(" ")
        ),
    }
}

impl Step {
    /// What it does, in a few words.
    pub(super) fn name(&self) -> String {
        match self {
            Self::AptUpdate => "apt-get update".into(),
            Self::Apt(packages) => format!("apt-get install {}", packages.join(" ")),
            Self::AddSource { toolchain } => format!("rustup component add rust-src --toolchain {toolchain}"),
            Self::AddToolchain { release } => format!("rustup toolchain install {release} with rust-src"),
            Self::BuildLinker { recipe, .. } => {
                format!("cargo install bpf-linker {} with {}", recipe.release, recipe.feature)
            }
        }
    }

    /// Why it is done.
    pub(super) fn why(&self) -> &'static str {
        match self {
            Self::AptUpdate => "to know which packages there are",
            Self::Apt(packages) if packages.iter().any(|package| package == DEBIANS_RUST[0]) => {
                "a Rust that has its standard library's sources, from which `core` is built for BPF"
            }
            Self::Apt(_) => "bpf-linker is built against this LLVM",
            Self::AddSource { .. } => "`core` is built for BPF from these sources",
            Self::AddToolchain { .. } => "no LLVM is to be had for bpf-linker; it can borrow this compiler's",
            Self::BuildLinker { .. } => "it makes the eBPF object from the compiler's bitcode",
        }
    }
}

/// The oldest compiler that aya-ebpf builds with.
const OLDEST: Release = Release(1, 87, 0);
/// Linkers that are built against a distribution's LLVM.
const WITH_LLVM: [Recipe; 3] = [
    Recipe {
        release: "0.13.0",
        llvm: LinkerLlvm::Own(21),
        feature: "llvm-21",
    },
    Recipe {
        release: "0.13.0",
        llvm: LinkerLlvm::Own(22),
        feature: "llvm-22",
    },
    Recipe {
        release: "0.13.0",
        llvm: LinkerLlvm::Own(23),
        feature: "llvm-23",
    },
];
/// Linkers that borrow the compiler's LLVM. Later releases of bpf-linker cannot.
const WITHOUT_LLVM: [Recipe; 2] = [
    Recipe {
        release: "0.9.15",
        llvm: LinkerLlvm::Borrowed(21),
        feature: "rust-llvm-21",
    },
    Recipe {
        release: "0.9.15",
        llvm: LinkerLlvm::Borrowed(20),
        feature: "rust-llvm-20",
    },
];
/// The last Rust whose LLVM such a linker can borrow: what rustup installs where nothing else is to be had.
const BORROWABLE: &str = "1.94.0";
/// Debian's newest Rust, there to build its browsers, and the sources of its standard library.
const DEBIANS_RUST: [&str; 2] = ["rustc-web", "rust-web-src"];

#[cfg(test)]
mod tests;
