//! Any loaded XDP program under any packet.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use aya::programs::loaded_programs;
use pcap_file::DataLink;
use pcap_file::pcap::PcapReader;

use crate::harness::{Effort, Floor, Harness, Target, Traffic};
use crate::report::Line;

/// Measures the program with one flow and with many.
pub(crate) fn measure(id: u32, path: &Path, verdict: u32, growth: i32, effort: Effort) -> Result<Vec<Line>> {
    let packet = read(path)?;
    let info = loaded_programs()
        .filter_map(Result::ok)
        .find(|info| info.id() == id)
        .with_context(|| format!("no program {id} is loaded; see `bpftool prog show`"))?;
    let target = Target {
        program: info.fd()?,
        verdict,
        growth,
    };
    let mut harness = Harness::load(true, effort)?;
    if !harness.takes(&target.program) {
        harness = Harness::load(false, effort)?;
        if !harness.takes(&target.program) {
            bail!(
                "the kernel does not let an XDP program call program {id}: it is of another type, or bound to a device"
            );
        }
    }
    let mut lines = Vec::new();
    for (name, flows) in [
        ("1-flow", 1),
        ("1k-flows", 1 << 10),
        ("64k-flows", 1 << 16),
        ("1m-flows", 1 << 20),
    ] {
        let traffic = Traffic {
            packet: packet.clone(),
            flows,
            destinations: 1,
        };
        if flows > 1 && !has_ports(&packet) {
            break;
        }
        let floor = match (has_ports(&packet), growth, traffic.v6()) {
            (false, ..) => Floor::Parse,
            (true, 30.., _) | (true, ..=0, true) => Floor::OverV6,
            _ => Floor::OverV4,
        };
        let measured = harness.measure(&traffic, floor, &[&target])?;
        lines.push(Line::new(format!("program-{id}/{name}"), &measured));
    }
    Ok(lines)
}

/// Whether the wrapper can give the packet other flows: TCP or UDP right behind an IP header without options.
fn has_ports(packet: &[u8]) -> bool {
    let protocol = match packet {
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x08, 0x00, 0x45, ..] if packet.len() >= 42 => packet[23],
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x86, 0xDD, ..] if packet.len() >= 62 => packet[20],
        _ => return false,
    };
    matches!(protocol, 6 | 17)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let packet = match hex(&bytes) {
        Some(packet) => packet,
        None => first_of_capture(&bytes).with_context(|| path.display().to_string())?,
    };
    match packet.len() {
        16..=3000 => Ok(packet),
        other => bail!(
            "{}: a packet of {other} bytes; 16 to 3000 can be measured",
            path.display()
        ),
    }
}

fn first_of_capture(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut reader = PcapReader::new(Cursor::new(bytes)).context("neither hex digits nor a pcap file")?;
    if reader.header().datalink != DataLink::ETHERNET {
        bail!(
            "its packets are {:?}, and Ethernet frames are needed",
            reader.header().datalink
        );
    }
    let packet = reader.next_packet().context("a capture without a packet")??;
    Ok(packet.data.into_owned())
}

/// Pairs of hex digits, white space anywhere; nothing if anything else is in it.
fn hex(text: &[u8]) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .iter()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| Some(char::from(*byte).to_digit(16)? as u8))
        .collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}
