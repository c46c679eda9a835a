//! How many instructions the verifier processes for each program of an object; the benchmark uses it too.

use anyhow::{Context as _, Result};
use aya::EbpfLoader;
use aya::programs::Xdp;
use lb_common::hash::HashKeys;
use lb_common::map::name;

/// Loads every program of the object, set up as for the default capacity, and gives its name and count in order of names.
///
/// # Errors
///
/// If the kernel refuses, or does not tell (before Linux 5.16).
pub(crate) fn counts(object: &[u8]) -> Result<Vec<(String, u32)>> {
    // The verifier knows these values: with a mask of 0 it would find one place for all services.
    let mask = (1_u32 << 15) - 1;
    let HashKeys(keys) = HashKeys::from_seed(0x5eed);
    let mut ebpf = EbpfLoader::new()
        .override_global(name::SERVICE_MASK, &mask, false)
        .override_global(name::HASH_KEYS, keys.as_slice(), false)
        .load(object)
        .context("the kernel refuses the maps; root is needed")?;
    let mut counts = Vec::new();
    for (name, program) in ebpf.programs_mut() {
        let program: &mut Xdp = program.try_into()?;
        program.load().with_context(|| format!("the kernel refuses {name}"))?;
        let count = program.info()?.verified_instruction_count();
        counts.push((
            name.to_owned(),
            count.context("the kernel does not count; Linux 5.16 or newer is needed")?,
        ));
    }
    counts.sort();
    Ok(counts)
}
