//! How many instructions the verifier processes for each program of the two objects; the benchmark uses it too.

use anyhow::{Context as _, Result};
use aya::EbpfLoader;
use aya::programs::{SchedClassifier, Xdp};
use lb_common::probe::name;
use lb_userspace::bpf::program::{Balancer, Settings};
use lb_userspace::bpf::tables::Lengths;
use lb_userspace::object;

/// Loads every program as it would be, and gives its name and count.
///
/// # Errors
///
/// If the kernel refuses, or does not tell (before Linux 5.16).
pub(crate) fn counts() -> Result<Vec<(String, u32)>> {
    // Why the verifier refuses a faster program is in the log.
    _ = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(std::io::stdout)
        .try_init();
    let mut counts = Vec::new();
    // A ring that is the longest of the tables, and kernels that take all of them as one value, all but it, and none.
    let lengths = Lengths {
        services: 1 << 10,
        slots: 1 << 20,
        rows: 1 << 10,
        flows: 1 << 10,
    };
    for longest_value in [None, Some(1 << 20), Some(0)] {
        let settings = Settings {
            lengths,
            hash_seed: 0x5eed,
            longest_value,
        };
        let mut balancer = Balancer::load(object::BALANCE, settings)?;
        counts.extend(balancer.verified_instructions()?);
    }
    let mut decap = EbpfLoader::new()
        .load(object::DECAP)
        .context("the kernel refuses the maps")?;
    let program: &mut Xdp = decap.program_mut("decap").context("no decap")?.try_into()?;
    program.load().context("the kernel refuses decap")?;
    counts.push(("decap", program.info()?.verified_instruction_count()));
    let mut probe = EbpfLoader::new()
        .load(object::PROBE)
        .context("the kernel refuses the maps")?;
    for name in [name::LABEL, name::SEND, name::ANSWER] {
        let program: &mut SchedClassifier = probe.program_mut(name).context(name)?.try_into()?;
        program.load().with_context(|| format!("the kernel refuses {name}"))?;
        counts.push((name, program.info()?.verified_instruction_count()));
    }
    counts
        .into_iter()
        .map(|(name, count)| {
            let count = count.context("the kernel does not count; Linux 5.16 or newer is needed")?;
            Ok((name.to_owned(), count))
        })
        .collect()
}
