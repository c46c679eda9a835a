//! What must hold before anything is changed, and what an operator should know about the surroundings.

use std::fs;
use std::net::IpAddr;

use super::host::{Host, Interface};
use super::output::caution;
use super::sysctl::{self, Advice};
use super::{BackendError, Options};
use lb_common::decap::SourceKey;

/// The options with doubles taken out.
pub(super) fn options(mut options: Options) -> Result<Options, BackendError> {
    keep_first(&mut options.interfaces);
    keep_first(&mut options.vips);
    keep_first(&mut options.from);
    if options.from.len() > SourceKey::MAX_PREFIXES {
        return Err(BackendError::TooManyPrefixes(options.from.len()));
    }
    if options.interfaces.is_empty() {
        return Err(BackendError::NoInterface);
    }
    if options.vips.is_empty() {
        return Err(BackendError::NoVip);
    }
    for &vip in &options.vips {
        if let Some(what) = unfit(vip) {
            return Err(BackendError::BadVip { vip, what });
        }
    }
    Ok(options)
}

/// Network administration, and BPF (or system administration, which contains it).
pub(super) fn capabilities() -> Result<(), BackendError> {
    let path = "/proc/self/status";
    let status = fs::read_to_string(path).map_err(|source| BackendError::File {
        path: path.into(),
        source,
    })?;
    match missing_capability(&status) {
        Some(name) => Err(BackendError::NotPrivileged(name)),
        None => Ok(()),
    }
}

/// The interfaces that were named: they exist, can carry tunnelled packets, and have no other XDP program. `lo` is up.
pub(super) async fn interfaces(host: &Host, options: &Options) -> Result<Vec<Interface>, BackendError> {
    let all = host.interfaces().await?;
    if !all.iter().any(|interface| interface.loopback && interface.up) {
        return Err(BackendError::LoDown);
    }
    let named = options.interfaces.iter().map(|name| {
        let found = all
            .iter()
            .find(|interface| interface.name == *name)
            .ok_or_else(|| BackendError::UnknownInterface(name.clone()))?;
        if found.loopback {
            return Err(BackendError::Loopback(name.clone()));
        }
        if !found.ethernet {
            return Err(BackendError::NotEthernet(name.clone()));
        }
        match found.program {
            Some(id) => Err(BackendError::ForeignProgram {
                interface: name.clone(),
                id,
            }),
            None => Ok(found.clone()),
        }
    });
    named.collect()
}

/// Warns of what this program does not change, but would keep clients from being served.
pub(super) async fn surroundings(host: &Host, options: &Options) {
    let Ok(all) = host.interfaces().await else { return };
    let v4 = options.vips.iter().any(IpAddr::is_ipv4);
    let v6 = options.vips.iter().any(IpAddr::is_ipv6);
    let way = if v4 { host.way_to_clients().await } else { None };
    let way_name = all
        .iter()
        .find(|interface| Some(interface.index) == way)
        .map(|found| &found.name);
    for interface in all.iter().filter(|interface| !interface.loopback) {
        let name = &interface.name;
        let named = options.interfaces.contains(name);
        if named && !interface.up {
            caution!("{name} is down: nothing arrives there");
        }
        if v4 && named && way != Some(interface.index) && is_strict(name) {
            let way = way_name.map_or("there is no route to them".to_owned(), |way| {
                format!("the route to them is by {way}")
            });
            caution!(
                "{name}: rp_filter is strict, but {way}: the kernel will drop what clients send; `sysctl -w \
                 net.ipv4.conf.{name}.rp_filter=2` (and 0 or 2 for \"all\") lets it in"
            );
        }
        if v4 && !named && interface.up && interface.arp && answers_arp(name) {
            caution!(
                "{name} was not named, and still answers ARP for the VIPs: name it with --interface, or `sysctl -w \
                 net.ipv4.conf.{name}.arp_ignore=1`"
            );
        }
        if v6 && named && is_without_ipv6(name) {
            caution!(
                "{name}: IPv6 is disabled (net.ipv6.conf.{name}.disable_ipv6): the kernel will drop unwrapped IPv6"
            );
        }
    }
}

fn is_strict(interface: &str) -> bool {
    sysctl::read_pair("rp_filter", interface).is_ok_and(|(all, own)| sysctl::rp_filter_is_strict(all, own))
}

fn answers_arp(interface: &str) -> bool {
    sysctl::read_pair("arp_ignore", interface).is_ok_and(|(all, own)| sysctl::arp_ignore(all, own) != Advice::Keep)
}

fn is_without_ipv6(interface: &str) -> bool {
    fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"))
        .map_or(true, |text| text.trim() == "1")
}

fn keep_first<T: PartialEq + Clone>(list: &mut Vec<T>) {
    let mut seen = Vec::with_capacity(list.len());
    list.retain(|item| {
        let new = !seen.contains(item);
        if new {
            seen.push(item.clone());
        }
        new
    });
}

/// Why an address cannot be a VIP.
fn unfit(vip: IpAddr) -> Option<&'static str> {
    if vip.is_unspecified() {
        return Some("unspecified");
    }
    if vip.is_loopback() {
        return Some("a loopback address");
    }
    if vip.is_multicast() {
        return Some("a multicast address");
    }
    match vip {
        IpAddr::V4(vip) if vip.is_broadcast() => Some("the broadcast address"),
        IpAddr::V6(vip) if vip.to_ipv4_mapped().is_some() => Some("an IPv4 address written as IPv6"),
        IpAddr::V6(vip) if vip.is_unicast_link_local() => Some("a link-local address"),
        _ => None,
    }
}

/// The name of a capability that is needed and not among the effective ones of `/proc/self/status`.
fn missing_capability(status: &str) -> Option<&'static str> {
    const NET_ADMIN: u64 = 1 << 12;
    const SYS_ADMIN: u64 = 1 << 21;
    const BPF: u64 = 1 << 39;
    const PERFMON: u64 = 1 << 38;
    let effective = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .unwrap_or(0);
    if effective & NET_ADMIN == 0 {
        Some("CAP_NET_ADMIN")
    } else if effective & SYS_ADMIN == 0 && effective & BPF == 0 {
        Some("CAP_BPF")
    } else if effective & SYS_ADMIN == 0 && effective & PERFMON == 0 {
        Some("CAP_PERFMON")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::XdpMode;

    #[test]
    fn options_are_checked() {
        let make = |interfaces: &[&str], vips: &[&str]| {
            options(Options {
                interfaces: interfaces.iter().map(ToString::to_string).collect(),
                vips: vips.iter().map(|vip| vip.parse().unwrap()).collect(),
                from: Vec::new(),
                mode: XdpMode::Auto,
            })
        };
        let good = make(&["b", "a", "b"], &["192.0.2.1", "2001:db8::1", "192.0.2.1"]).unwrap();
        assert_eq!(good.interfaces, ["b", "a"]);
        assert_eq!(good.vips.len(), 2);
        let fails = |interfaces: &[&str], vips: &[&str], text: &str| {
            let error = make(interfaces, vips).unwrap_err().to_string();
            assert!(error.contains(text), "{error:?} has no {text:?}");
        };
        fails(&[], &["192.0.2.1"], "--interface");
        fails(&["a"], &[], "--vip");
        fails(
            &["a"],
            &["192.0.2.1", "0.0.0.0"],
            "0.0.0.0 cannot be a VIP: it is unspecified",
        );
        fails(&["a"], &["127.0.0.1"], "loopback");
        fails(&["a"], &["::1"], "loopback");
        fails(&["a"], &["224.0.0.1"], "multicast");
        fails(&["a"], &["ff02::1"], "multicast");
        fails(&["a"], &["255.255.255.255"], "broadcast");
        fails(&["a"], &["::ffff:192.0.2.1"], "IPv4");
        fails(&["a"], &["fe80::1"], "link-local");
    }

    #[test]
    fn capabilities_are_read_from_the_status() {
        let check =
            |bits: &str, expected| assert_eq!(missing_capability(&format!("Name:\tx\nCapEff:\t{bits}\n")), expected);
        check("000001ffffffffff", None);
        check("0000000000201000", None);
        check("000000c000001000", None);
        check("0000008000001000", Some("CAP_PERFMON"));
        check("0000000000001000", Some("CAP_BPF"));
        check("0000000000000000", Some("CAP_NET_ADMIN"));
        check("nonsense", Some("CAP_NET_ADMIN"));
    }
}
