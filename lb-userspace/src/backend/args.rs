//! The command line of `lbd backend`.

use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

use clap::{Args, ValueEnum};

use super::from::Prefix;
use super::{BackendError, Options, Removal, remove, run};
use crate::model::XdpMode;

/// Unwraps tunnelled packets for VIPs, and has the VIPs as addresses of its own, silent to ARP.
#[derive(Args, Clone, Debug)]
pub struct BackendArgs {
    /// Interface where tunnelled packets arrive; may be given more than once
    #[arg(
        long = "interface",
        short = 'i',
        value_name = "DEV",
        required_unless_present = "remove"
    )]
    interfaces: Vec<List<String>>,
    /// VIP whose packets are unwrapped, IPv4 or IPv6; may be given more than once
    #[arg(
        long = "vip",
        value_name = "ADDR",
        num_args = 1..,
        required_unless_present = "remove"
    )]
    vips: Vec<List<IpAddr>>,
    /// Where tunnels may begin: addresses or prefixes of the edges; without any, from everywhere
    #[arg(long = "from", value_name = "PREFIX", num_args = 0..)]
    from: Vec<List<Prefix>>,
    /// How the decapsulator is attached
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    xdp_mode: Mode,
    /// Stop an instance that runs here and undo all that it or a killed one has left; other options do not matter
    #[arg(long)]
    remove: bool,
    /// With --remove: undo only what a killed instance has left; one that runs here runs on, and nothing is undone
    #[arg(long, requires = "remove")]
    left_over: bool,
}

/// What stands between commas. Empty parts are left out, so that spaces beside the commas do not matter.
#[derive(Clone, Debug)]
struct List<T>(Vec<T>);

impl<T: FromStr<Err: Display>> FromStr for List<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let parse = |part: &str| part.parse().map_err(|error: T::Err| bad_part(part, &error));
        parts.map(parse).collect::<Result<_, _>>().map(Self)
    }
}

/// The standard library's errors do not say what is wrong.
fn bad_part(part: &str, error: &dyn Display) -> String {
    let error = error.to_string();
    match error.contains(part) {
        true => error,
        false => format!("{part:?}: {error}"),
    }
}

fn flat<T>(lists: Vec<List<T>>) -> Vec<T> {
    lists.into_iter().flat_map(|list| list.0).collect()
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
            let scope = match self.left_over {
                true => Removal::LeftOver,
                false => Removal::All,
            };
            return remove(scope).await;
        }
        run(self.options(), object).await
    }

    fn options(self) -> Options {
        Options {
            interfaces: flat(self.interfaces),
            vips: flat(self.vips),
            from: flat(self.from),
            mode: match self.xdp_mode {
                Mode::Auto => XdpMode::Auto,
                Mode::Native => XdpMode::Native,
                Mode::Generic => XdpMode::Generic,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: BackendArgs,
    }

    fn parse(line: &str) -> Result<Options, clap::Error> {
        let words = std::iter::once("backend").chain(line.split_whitespace());
        Ok(Line::try_parse_from(words)?.args.options())
    }

    #[test]
    fn lists_are_separated_by_spaces_or_commas_or_both() {
        for (vips, from) in [
            ("192.0.2.1 2001:db8::1", "10.0.0.1 10.1.0.0/16"),
            ("192.0.2.1,2001:db8::1", "10.0.0.1,10.1.0.0/16"),
            ("192.0.2.1, 2001:db8::1", "10.0.0.1, 10.1.0.0/16"),
            ("192.0.2.1 , 2001:db8::1,", ", 10.0.0.1 ,,10.1.0.0/16"),
        ] {
            let line = format!("--interface eth0,eth1, --vip {vips} --from {from}");
            let options = parse(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert_eq!(options.interfaces, ["eth0", "eth1"], "{line}");
            let vips: [IpAddr; 2] = ["192.0.2.1", "2001:db8::1"].map(|vip| vip.parse().unwrap());
            assert_eq!(options.vips, vips, "{line}");
            let from: [Prefix; 2] = ["10.0.0.1", "10.1.0.0/16"].map(|prefix| prefix.parse().unwrap());
            assert_eq!(options.from, from, "{line}");
        }
    }

    #[test]
    fn what_is_no_address_is_named_and_an_empty_list_is_none() {
        let error = parse("--interface eth0 --vip 192.0.2.1,edge-1").expect_err("no address");
        assert!(
            error.to_string().contains("'192.0.2.1,edge-1'") && error.to_string().contains("\"edge-1\""),
            "{error}"
        );
        let error = parse("--interface eth0 --vip 192.0.2.1 --from 10.0.0.5/24,").expect_err("host bits");
        assert!(error.to_string().contains("10.0.0.0/24 is the prefix"), "{error}");
        // As an empty FROM of the unit comes.
        assert_eq!(
            parse("--interface eth0 --vip 192.0.2.1 --from").expect("right").from,
            []
        );
        assert_eq!(
            parse("--interface eth0 --vip ,").expect("refused later").vips,
            [] as [IpAddr; 0]
        );
        assert!(parse("--interface eth0 --vip").is_err());
    }
}
