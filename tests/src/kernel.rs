//! What the running kernel has, for tests that need more than every kernel brings.

use anyhow::{Context, Result, ensure};

/// Whether a test that needs this can go on, by what came of trying it.
///
/// A kernel may be built without the thing, or come without its module; then the test says so and does nothing. It must not do so where
/// `EDGELB_MATRIX` is set (`cargo xtask kernels`): there everything is there that a kernel of version `since` or later can have.
pub fn has(what: &str, since: (u32, u32), tried: Result<impl Sized>) -> Result<bool> {
    let Err(why) = tried else {
        return Ok(true);
    };
    let (major, minor) = version()?;
    let (since_major, since_minor) = since;
    let excusable = std::env::var_os("EDGELB_MATRIX").is_none() || (major, minor) < since;
    ensure!(
        excusable,
        "no {what}, which Linux {since_major}.{since_minor} has, and this is {major}.{minor}: {why:#}"
    );
    println!("skipped: {what} came with Linux {since_major}.{since_minor}: {why:#}");
    Ok(false)
}

/// How many random packets a test sends: all that it has time for, or a fifth of them where `EDGELB_MATRIX` is `short` (`cargo xtask kernels
/// --ci`): an emulated processor takes some twenty times as long for each.
pub fn random_packets(all: u32) -> u32 {
    if std::env::var_os("EDGELB_MATRIX").is_some_and(|value| value == "short") {
        all / 5
    } else {
        all
    }
}

/// The running kernel's version: `(6, 1)`.
pub fn version() -> Result<(u32, u32)> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let parse = || {
        let mut numbers = release.split(['.', '-']);
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    };
    parse().with_context(|| format!("a kernel release without a version: {release}"))
}
