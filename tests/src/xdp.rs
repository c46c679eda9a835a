//! The XDP mode of a whole run of the tests: `cargo xtask test --xdp generic`.
//!
//! Generic XDP is what a driver without native XDP gets. It runs in the network stack instead of the driver, and what comes after it
//! sees other packets, so everything that edgelb promises is tried in that mode as well.

use std::borrow::Cow;

use anyhow::{Result, bail};

/// The variable that names the mode; absent: as the configurations of the tests have it.
pub const VARIABLE: &str = "EDGELB_TEST_XDP";

/// How XDP programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// What a configuration says, natively if it says nothing.
    AsConfigured,
    /// By the network stack, unless a configuration names a mode.
    Generic,
}

impl Mode {
    /// The mode of this run, by [`VARIABLE`].
    pub fn of_run() -> Result<Self> {
        let Some(value) = std::env::var_os(VARIABLE) else {
            return Ok(Self::AsConfigured);
        };
        match value.to_str() {
            Some("generic") => Ok(Self::Generic),
            _ => bail!("{VARIABLE} is {value:?}: \"generic\" is wanted, or no such variable"),
        }
    }

    /// A configuration in this mode, a line longer. One that names a mode stays as it is.
    pub fn configure(self, text: &str) -> Cow<'_, str> {
        match self {
            Self::Generic if !text.contains("xdp_mode") => text.replacen("[node]\n", &generic_node(), 1).into(),
            _ => text.into(),
        }
    }

    /// What `lbd backend` is told.
    pub(crate) fn backend_arguments(self) -> &'static [&'static str] {
        match self {
            Self::AsConfigured => &[],
            Self::Generic => &["--xdp-mode", "generic"],
        }
    }
}

/// The beginning of a configuration in generic mode.
pub fn generic_node() -> String {
    "[node]\nxdp_mode = \"generic\"\n".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_names_a_mode_keeps_it() {
        let plain = "[node]\ninterfaces = [\"eth0\"]\n[[service]]\n";
        let named = "[node]\nxdp_mode = \"native\"\n";
        assert_eq!(
            Mode::Generic.configure(plain),
            "[node]\nxdp_mode = \"generic\"\ninterfaces = [\"eth0\"]\n[[service]]\n"
        );
        for (mode, text) in [(Mode::Generic, named), (Mode::AsConfigured, plain)] {
            assert_eq!(mode.configure(text), text);
        }
    }
}
