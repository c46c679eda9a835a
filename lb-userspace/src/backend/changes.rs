//! Making the host's changes, and undoing them: every step stands on record before it is made and until it is undone.

use std::io;
use std::net::IpAddr;

use super::host::Host;
use super::output::{caution, say};
use super::record::{Claim, Record};
use super::sysctl::{self, Advice, Change, Sysctl};
use super::{BackendError, Options};

/// Silences the interfaces, then puts the VIPs on `lo`. What a killed instance has left and is still wanted is taken over, the
/// rest of it undone.
pub(super) async fn apply(
    claim: &Claim,
    record: &mut Record,
    host: &Host,
    options: &Options,
) -> Result<(), BackendError> {
    let v4 = options.vips.iter().any(IpAddr::is_ipv4);
    if *record != Record::default() {
        say!("found what a killed instance has left: {record}");
        undo(claim, record, host, &still_wanted(record, options, v4)).await?;
    }
    if v4 {
        for interface in &options.interfaces {
            silence(claim, record, interface)?;
        }
    }
    for &vip in &options.vips {
        add_vip(claim, record, host, vip).await?;
    }
    Ok(())
}

/// Undoes everything on record but what is to be kept, last change first.
pub(super) async fn undo(claim: &Claim, record: &mut Record, host: &Host, keep: &Record) -> Result<(), BackendError> {
    let mut failed = Record::default();
    while let Some(position) = record.vips.iter().rposition(|vip| !keep.vips.contains(vip)) {
        let vip = record.vips[position];
        match host.remove_vip(vip).await {
            Ok(true) => say!("{vip}: taken off lo"),
            Ok(false) => caution!("{vip} is not on lo as it was put there: left alone"),
            Err(error) => {
                caution!("{error}");
                failed.vips.push(vip);
            }
        }
        record.vips.remove(position);
        claim.save(&together(record, &failed))?;
    }
    while let Some(position) = record.sysctls.iter().rposition(|change| !keep.sysctls.contains(change)) {
        let change = record.sysctls.remove(position);
        if let Err(error) = restore(&change) {
            caution!("{}: {error}", change.sysctl);
            failed.sysctls.push(change);
        }
        claim.save(&together(record, &failed))?;
    }
    *record = together(record, &failed);
    if failed == Record::default() {
        Ok(())
    } else {
        Err(BackendError::NotUndone(failed))
    }
}

/// What of the record a new instance would do again; it keeps the values from before.
fn still_wanted(record: &Record, options: &Options, v4: bool) -> Record {
    let wanted = |change: &&Change| v4 && options.interfaces.contains(&change.sysctl.interface);
    Record {
        vips: record
            .vips
            .iter()
            .filter(|vip| options.vips.contains(vip))
            .copied()
            .collect(),
        sysctls: record.sysctls.iter().filter(wanted).cloned().collect(),
    }
}

fn together(record: &Record, failed: &Record) -> Record {
    Record {
        vips: [&record.vips[..], &failed.vips].concat(),
        sysctls: [&record.sysctls[..], &failed.sysctls].concat(),
    }
}

/// No ARP for the VIPs by this interface: neither answers to requests nor requests in their name.
pub(super) fn silence(claim: &Claim, record: &mut Record, interface: &str) -> Result<(), BackendError> {
    for (name, advise) in [
        ("arp_ignore", sysctl::arp_ignore as fn(u32, u32) -> Advice),
        ("arp_announce", sysctl::arp_announce),
    ] {
        let sysctl = Sysctl::new(interface, name);
        let failed = |source| BackendError::File {
            path: sysctl.path(),
            source,
        };
        let (all, own) = sysctl::read_pair(name, interface).map_err(failed)?;
        match advise(all, own) {
            Advice::Keep => {}
            Advice::Set(value) => {
                // On record already: a killed instance wrote it down, and somebody has changed it since. What was before
                // that instance is what is restored in the end.
                if !record.sysctls.iter().any(|change| change.sysctl == sysctl) {
                    record.sysctls.push(Change {
                        sysctl: sysctl.clone(),
                        before: own,
                        set: value,
                    });
                    claim.save(record)?;
                }
                sysctl.write(value).map_err(failed)?;
                say!("{interface}: {name} {own} -> {value}");
            }
            Advice::Overruled { all } => caution!(
                "net.ipv4.conf.all.{name} is {all}, so this host answers ARP for the VIPs whatever is set for {interface}: \
                 give it one of 0, 1, 2, 8"
            ),
        }
    }
    Ok(())
}

pub(super) async fn add_vip(claim: &Claim, record: &mut Record, host: &Host, vip: IpAddr) -> Result<(), BackendError> {
    let addresses = host.addresses().await?;
    let found: Vec<_> = addresses.iter().filter(|found| found.address == vip).collect();
    if found
        .iter()
        .any(|found| found.is_on_lo() && found.ours && record.vips.contains(&vip))
    {
        say!("{vip}: on lo, taken over");
    } else if found.iter().any(|found| found.is_on_lo()) {
        say!("{vip}: already on lo, left as it is, also at the end");
        record.vips.retain(|recorded| *recorded != vip);
        claim.save(record)?;
    } else if !found.is_empty() {
        caution!("{vip} is already on another interface than lo: left there, and this host answers ARP or ND for it");
    } else {
        if !record.vips.contains(&vip) {
            record.vips.push(vip);
            claim.save(record)?;
        }
        host.add_vip(vip).await?;
        say!("{vip}: put on lo");
    }
    Ok(())
}

/// Gives a setting its value of before, unless somebody else has changed it since, or its interface is gone.
fn restore(change: &Change) -> io::Result<()> {
    let Change { sysctl, before, set } = change;
    match sysctl.read() {
        Ok(value) if value == *set => {
            sysctl.write(*before)?;
            say!("{}: {} {set} -> {before}", sysctl.interface, sysctl.name);
        }
        Ok(value) if value == *before => {}
        Ok(value) => caution!("{sysctl} is {value} and no longer {set}: somebody changed it, it is left alone"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            say!("{sysctl}: the interface is gone");
        }
        Err(error) => return Err(error),
    }
    Ok(())
}
