//! Captures: frames to and from pcap files (Ethernet, microseconds, as tcpdump and Wireshark write them).

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pcap_file::DataLink;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};

/// Writes frames, a millisecond apart.
pub fn write<F: AsRef<[u8]>>(path: &Path, frames: impl IntoIterator<Item = F>) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let header = PcapHeader {
        datalink: DataLink::ETHERNET,
        ..PcapHeader::default()
    };
    let mut writer = PcapWriter::with_header(BufWriter::new(file), header)?;
    for (number, frame) in frames.into_iter().enumerate() {
        let frame = frame.as_ref();
        let length = u32::try_from(frame.len())?;
        writer.write_packet(&PcapPacket::new(Duration::from_millis(number as u64), length, frame))?;
    }
    writer
        .into_writer()
        .flush()
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Reads all frames. A frame of which the capture holds only a part is an error: it is not what was on the wire.
pub fn read(path: &Path) -> Result<Vec<Vec<u8>>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut reader =
        PcapReader::new(BufReader::new(file)).with_context(|| format!("not a pcap: {}", path.display()))?;
    let datalink = reader.header().datalink;
    ensure!(
        datalink == DataLink::ETHERNET,
        "{}: link type {datalink:?}, expected Ethernet",
        path.display()
    );
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.with_context(|| format!("{}: frame {}", path.display(), frames.len()))?;
        ensure!(
            packet.data.len() == packet.orig_len as usize,
            "{}: frame {} has {} bytes of {}",
            path.display(),
            frames.len(),
            packet.data.len(),
            packet.orig_len
        );
        frames.push(packet.data.into_owned());
    }
    Ok(frames)
}
