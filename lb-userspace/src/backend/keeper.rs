//! While it runs: interfaces that were made again get the decapsulator and their silence back, VIPs that somebody took off `lo` are put back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::changes;
use super::host::{Host, Interface};
use super::output::{caution, say};
use super::program::Decapsulator;
use super::record::{Claim, Record};
use super::{BackendError, Options};

/// What is to be kept as it was made.
pub(super) struct Keeper<'a> {
    options: &'a Options,
    claim: &'a Claim,
    record: &'a mut Record,
    /// Interfaces without the decapsulator, and why; said once.
    lost: BTreeMap<String, String>,
    /// VIPs that this host did not have when it was looked last.
    missing: BTreeSet<IpAddr>,
}

impl<'a> Keeper<'a> {
    pub(super) fn new(options: &'a Options, claim: &'a Claim, record: &'a mut Record) -> Self {
        Self {
            options,
            claim,
            record,
            lost: BTreeMap::new(),
            missing: BTreeSet::new(),
        }
    }

    /// The interfaces that are to have the decapsulator.
    pub(super) fn interfaces_named(&self) -> &'a [String] {
        &self.options.interfaces
    }

    /// The VIPs that this host is to have.
    pub(super) fn vips_named(&self) -> &'a [IpAddr] {
        &self.options.vips
    }

    /// Attaches the decapsulator where it is not any more.
    pub(super) async fn interfaces(&mut self, host: &Host, decapsulator: &mut Decapsulator) {
        let Ok(now) = host.interfaces().await else { return };
        for name in &self.options.interfaces {
            let found = now.iter().find(|found| found.name == *name);
            if found.is_some_and(|found| found.program == Some(decapsulator.id())) {
                if self.lost.remove(name).is_some() {
                    say!("{name}: tunnelled packets are unwrapped again");
                }
                continue;
            }
            let again = match found {
                None => Err("there is no such interface; it is attached as soon as there is".to_owned()),
                Some(found) => match found.program {
                    Some(other) => Err(format!("another XDP program ({other}) is there")),
                    None => self.attach(found, decapsulator).map_err(|error| error.to_string()),
                },
            };
            let why = match &again {
                Ok(()) => "the interface was made again, or the program was taken off".to_owned(),
                Err(why) => why.clone(),
            };
            if self.lost.get(name) != Some(&why) && !(again.is_ok() && self.lost.contains_key(name)) {
                caution!(
                    "{name}: the decapsulator was no longer attached, tunnelled packets were not unwrapped: {why}"
                );
            }
            match again {
                Ok(()) => {
                    self.lost.remove(name);
                    say!("{name}: decapsulator attached again, program {}", decapsulator.id());
                }
                Err(why) => drop(self.lost.insert(name.clone(), why)),
            }
        }
    }

    fn attach(&mut self, interface: &Interface, decapsulator: &mut Decapsulator) -> Result<(), BackendError> {
        // An interface that was made again has the settings of a new one.
        if self.options.vips.iter().any(IpAddr::is_ipv4) {
            changes::silence(self.claim, self.record, &interface.name)?;
        }
        decapsulator.attach(interface, self.options.mode).map(drop)
    }

    /// Puts VIPs back that are missing for the second time: whoever takes one off to put an own one in its place has a moment for it.
    pub(super) async fn vips(&mut self, host: &Host) {
        let Ok(addresses) = host.addresses().await else { return };
        let has = |vip: &IpAddr| addresses.iter().any(|found| found.address == *vip);
        let missing: BTreeSet<IpAddr> = self.options.vips.iter().copied().filter(|vip| !has(vip)).collect();
        for vip in missing.intersection(&self.missing) {
            caution!("{vip}: somebody took it off this host: its packets were not answered");
            if let Err(error) = changes::add_vip(self.claim, self.record, host, *vip).await {
                caution!("{error}");
            }
        }
        self.missing = missing;
    }
}
