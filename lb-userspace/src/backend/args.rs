//! The command line of `lbd backend`.

use std::net::IpAddr;

use clap::{Args, ValueEnum};

use super::from::Prefix;
use super::{BackendError, Options, remove, run};
use crate::model::XdpMode;

/// Unwraps tunnelled packets for VIPs, and has the VIPs as addresses of its own, silent to ARP.
#[derive(Args, Clone, Debug)]
pub struct BackendArgs {
    /// Interface where tunnelled packets arrive; may be given more than once
    #[arg(
        long = "interface",
        short = 'i',
        value_name = "DEV",
        value_delimiter = ',',
        required_unless_present = "remove"
    )]
    interfaces: Vec<String>,
    /// VIP whose packets are unwrapped, IPv4 or IPv6; may be given more than once
    #[arg(
        long = "vip",
        value_name = "ADDR",
        value_delimiter = ',',
        num_args = 1..,
        required_unless_present = "remove"
    )]
    vips: Vec<IpAddr>,
    /// Where tunnels may begin: addresses or prefixes of the edges; without any, from everywhere
    #[arg(long = "from", value_name = "PREFIX", value_delimiter = ',', num_args = 0..)]
    from: Vec<Prefix>,
    /// How the decapsulator is attached
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    xdp_mode: Mode,
    /// Stop an instance that runs here and undo all that it or a killed one has left; other options do not matter
    #[arg(long)]
    remove: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// Native where the driver can, else generic
    Auto,
    /// Native, or not at all
    Native,
    /// By the network stack, with any driver
    Generic,
}

impl BackendArgs {
    /// Does what the command line says; `object` is the decapsulator's object file.
    ///
    /// # Errors
    ///
    /// As [`run`] and [`remove`].
    pub async fn execute(self, object: &[u8]) -> Result<(), BackendError> {
        if self.remove {
            return remove().await;
        }
        let options = Options {
            interfaces: self.interfaces,
            vips: self.vips,
            from: self.from,
            mode: match self.xdp_mode {
                Mode::Auto => XdpMode::Auto,
                Mode::Native => XdpMode::Native,
                Mode::Generic => XdpMode::Generic,
            },
        };
        run(options, object).await
    }
}
