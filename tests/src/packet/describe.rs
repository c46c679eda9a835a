//! Takes a frame apart into named fields, checks its lengths and checksums, and shows how two frames differ.

use std::fmt;
use std::net::IpAddr;

use super::{hex, sum};

/// One field of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Layer and name, such as `ipv4.ttl`; the layers inside a tunnel have `inner.` in front.
    pub name: String,
    /// As people write it. A checksum is `ok`, or both values.
    pub value: String,
}

/// A frame as named fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// In the order of the wire.
    pub fields: Vec<Field>,
    /// What is wrong with the frame: checksums, lengths, headers that are not whole.
    pub faults: Vec<String>,
}

/// Describes a frame; whatever its bytes, it does not panic.
pub fn describe(frame: &[u8]) -> Description {
    let mut reader = Reader {
        prefix: String::new(),
        out: Description {
            fields: Vec::new(),
            faults: Vec::new(),
        },
    };
    reader.ethernet(frame);
    reader.out
}

/// Passes if both frames are the same bytes; else fails with what differs.
///
/// # Panics
///
/// If they differ.
#[track_caller]
pub fn assert_same(got: &[u8], expected: &[u8], what: &str) {
    if let Some(text) = difference(got, expected) {
        panic!("{what}: the frame is not the expected one\n{text}");
    }
}

/// How two frames differ, field by field and byte by byte; nothing if they do not.
pub fn difference(got: &[u8], expected: &[u8]) -> Option<String> {
    if got == expected {
        return None;
    }
    let (left, right) = (describe(got), describe(expected));
    let mut text = String::new();
    let names = right
        .fields
        .iter()
        .chain(left.fields.iter().filter(|field| right.value(&field.name).is_none()));
    for field in names {
        let (is, should) = (left.value(&field.name), right.value(&field.name));
        if is != should {
            let (is, should) = (is.unwrap_or("absent"), should.unwrap_or("absent"));
            text += &format!("  {:<24} is {is}, expected {should}\n", field.name);
        }
    }
    for fault in &left.faults {
        text += &format!("  fault: {fault}\n");
    }
    text += &format!(" got, {} bytes\n{}", got.len(), hex::dump(got, Some(expected)));
    text += &format!(
        " expected, {} bytes\n{}",
        expected.len(),
        hex::dump(expected, Some(got))
    );
    Some(text)
}

impl Description {
    /// The value of the first field of this name.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|field| field.name == name)
            .map(|field| field.value.as_str())
    }

    /// Whether all checksums and lengths are right.
    pub fn sound(&self) -> bool {
        self.faults.is_empty()
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for field in &self.fields {
            writeln!(f, "  {:<24} {}", field.name, field.value)?;
        }
        for fault in &self.faults {
            writeln!(f, "  fault: {fault}")?;
        }
        Ok(())
    }
}

struct Reader {
    prefix: String,
    out: Description,
}

impl Reader {
    fn field(&mut self, name: &str, value: impl fmt::Display) {
        self.out.fields.push(Field {
            name: format!("{}{name}", self.prefix),
            value: value.to_string(),
        });
    }

    fn fault(&mut self, text: impl fmt::Display) {
        self.out.faults.push(format!("{}{text}", self.prefix));
    }

    /// The first `length` bytes, or the fault that the header is not whole.
    fn header<'a>(&mut self, bytes: &'a [u8], length: usize, what: &str) -> Option<&'a [u8]> {
        let header = bytes.get(..length);
        if header.is_none() {
            self.fault(format_args!("{what} header cut: {} of {length} bytes", bytes.len()));
            self.rest("cut", bytes);
        }
        header
    }

    fn rest(&mut self, name: &str, bytes: &[u8]) {
        if !bytes.is_empty() {
            let digits: String = bytes.iter().take(24).map(|byte| format!("{byte:02x}")).collect();
            let more = if bytes.len() > 24 { "…" } else { "" };
            self.field(name, format_args!("{} bytes {digits}{more}", bytes.len()));
        }
    }

    fn ethernet(&mut self, frame: &[u8]) {
        let Some(header) = self.header(frame, 14, "Ethernet") else {
            return;
        };
        self.field("eth.destination", mac(&header[..6]));
        self.field("eth.source", mac(&header[6..12]));
        let mut at = 14;
        let mut ethertype = be16(header, 12);
        while ethertype == 0x8100 || ethertype == 0x88A8 {
            let Some(tag) = self.header(&frame[at..], 4, "VLAN") else {
                return;
            };
            self.field("vlan", format_args!("{ethertype:#06x} {}", be16(tag, 0)));
            ethertype = be16(tag, 2);
            at += 4;
        }
        self.field("eth.type", format_args!("{ethertype:#06x}"));
        let used = match ethertype {
            0x0800 => self.ipv4(&frame[at..]),
            0x86DD => self.ipv6(&frame[at..]),
            _ => 0,
        };
        self.rest("padding", &frame[at + used..]);
    }

    /// Returns how many bytes the packet has.
    fn ipv4(&mut self, bytes: &[u8]) -> usize {
        let Some(header) = self.header(bytes, 20, "IPv4") else {
            return bytes.len();
        };
        let header_len = usize::from(header[0] & 0x0F) * 4;
        let total = usize::from(be16(header, 2));
        let source = IpAddr::from(fixed::<4>(header, 12));
        let destination = IpAddr::from(fixed::<4>(header, 16));
        self.field("ipv4.version", header[0] >> 4);
        self.field("ipv4.header_length", header_len);
        self.field("ipv4.tos", format_args!("{:#04x}", header[1]));
        self.field("ipv4.length", total);
        self.field("ipv4.identification", be16(header, 4));
        self.field("ipv4.flags", format_args!("{:#05b}", header[6] >> 5));
        self.field("ipv4.fragment_offset", be16(header, 6) & 0x1FFF);
        self.field("ipv4.ttl", header[8]);
        self.field("ipv4.protocol", header[9]);
        self.field("ipv4.source", source);
        self.field("ipv4.destination", destination);
        if header[0] >> 4 != 4 || header_len < 20 || total < header_len {
            self.fault(format_args!("IPv4 first byte {:#04x}, total length {total}", header[0]));
            return 20;
        }
        if bytes.len() < total {
            self.fault(format_args!(
                "IPv4 total length {total}, but {} bytes are there",
                bytes.len()
            ));
        }
        let Some(whole) = self.header(bytes, header_len, "IPv4 options") else {
            return bytes.len();
        };
        self.rest("ipv4.options", &whole[20..]);
        self.checksum(
            "ipv4.checksum",
            be16(header, 10),
            sum::checksum(&[&whole[..10], &[0, 0], &whole[12..]]),
        );
        let end = total.min(bytes.len());
        let fragment = be16(header, 6) & 0x3FFF != 0;
        self.body(header[9], source, destination, &bytes[header_len..end], fragment);
        end
    }

    fn ipv6(&mut self, bytes: &[u8]) -> usize {
        let Some(header) = self.header(bytes, 40, "IPv6") else {
            return bytes.len();
        };
        let length = usize::from(be16(header, 4));
        let source = IpAddr::from(fixed::<16>(header, 8));
        let destination = IpAddr::from(fixed::<16>(header, 24));
        self.field("ipv6.version", header[0] >> 4);
        self.field(
            "ipv6.traffic_class",
            format_args!("{:#04x}", be16(header, 0) >> 4 & 0xFF),
        );
        self.field(
            "ipv6.flow_label",
            format_args!("{:#07x}", u32::from_be_bytes(fixed(header, 0)) & 0xF_FFFF),
        );
        self.field("ipv6.length", length);
        self.field("ipv6.next_header", header[6]);
        self.field("ipv6.hop_limit", header[7]);
        self.field("ipv6.source", source);
        self.field("ipv6.destination", destination);
        if header[0] >> 4 != 6 {
            self.fault(format_args!("IPv6 version {}", header[0] >> 4));
            return 40;
        }
        if bytes.len() < 40 + length {
            self.fault(format_args!(
                "IPv6 payload length {length}, but {} bytes are there",
                bytes.len() - 40
            ));
        }
        let end = bytes.len().min(40 + length);
        let (mut next, mut at, mut fragment) = (header[6], 40, false);
        while matches!(next, 0 | 43 | 44 | 60) {
            let Some(start) = self.header(&bytes[at..end], 8, "IPv6 extension") else {
                return end;
            };
            let size = if next == 44 { 8 } else { 8 + usize::from(start[1]) * 8 };
            let Some(extension) = self.header(&bytes[at..end], size, "IPv6 extension") else {
                return end;
            };
            self.rest(&format!("ipv6.extension_{next}"), extension);
            fragment |= next == 44 && be16(extension, 2) & 0xFFF9 != 0;
            (next, at) = (extension[0], at + size);
        }
        self.body(next, source, destination, &bytes[at..end], fragment);
        end
    }

    /// What an IP header carries. The checksum of a fragment's transport header covers more than is there.
    fn body(&mut self, protocol: u8, source: IpAddr, destination: IpAddr, bytes: &[u8], fragment: bool) {
        let verify = |reader: &mut Self, name: &str, at: usize| {
            if !fragment {
                let pseudo = sum::pseudo_header(source, destination, protocol, bytes.len());
                let covered: &[u8] = if protocol == 1 { &[] } else { &pseudo };
                let right = sum::checksum(&[covered, &bytes[..at], &[0, 0], &bytes[at + 2..]]);
                reader.checksum(name, be16(bytes, at), right);
            }
        };
        match protocol {
            6 => {
                let Some(header) = self.header(bytes, 20, "TCP") else {
                    return;
                };
                self.ports("tcp", header);
                self.field("tcp.sequence", u32::from_be_bytes(fixed(header, 4)));
                self.field("tcp.acknowledgement", u32::from_be_bytes(fixed(header, 8)));
                self.field("tcp.flags", format_args!("{:#04x}", header[13]));
                self.field("tcp.window", be16(header, 14));
                verify(self, "tcp.checksum", 16);
                let header_len = usize::from(header[12] >> 4) * 4;
                let Some(whole) = self.header(bytes, header_len.max(20), "TCP options") else {
                    return;
                };
                self.rest("tcp.options", &whole[20..]);
                self.rest("payload", &bytes[whole.len()..]);
            }
            17 => {
                let Some(header) = self.header(bytes, 8, "UDP") else {
                    return;
                };
                self.ports("udp", header);
                let length = usize::from(be16(header, 4));
                self.field("udp.length", length);
                if length != bytes.len() && !fragment {
                    self.fault(format_args!(
                        "UDP length {length}, but the IP header leaves {}",
                        bytes.len()
                    ));
                }
                if be16(header, 6) == 0 {
                    self.field("udp.checksum", "none");
                } else {
                    verify(self, "udp.checksum", 6);
                }
                self.rest("payload", &bytes[8..]);
            }
            1 | 58 => {
                let Some(header) = self.header(bytes, 8, "ICMP") else {
                    return;
                };
                self.field("icmp.type", header[0]);
                self.field("icmp.code", header[1]);
                verify(self, "icmp.checksum", 2);
                self.rest("icmp.rest", &bytes[4..]);
            }
            4 | 41 if !fragment => {
                self.prefix += "inner.";
                let used = if protocol == 4 {
                    self.ipv4(bytes)
                } else {
                    self.ipv6(bytes)
                };
                if used < bytes.len() {
                    self.fault(format_args!(
                        "{} bytes after the packet in the tunnel",
                        bytes.len() - used
                    ));
                    self.rest("excess", &bytes[used..]);
                }
                self.prefix.truncate(self.prefix.len() - "inner.".len());
            }
            _ => self.rest("payload", bytes),
        }
    }

    fn ports(&mut self, layer: &str, header: &[u8]) {
        self.field(&format!("{layer}.source"), be16(header, 0));
        self.field(&format!("{layer}.destination"), be16(header, 2));
    }

    /// 0 and 0xFFFF are the same number in one's complement.
    fn checksum(&mut self, name: &str, is: u16, right: u16) {
        if is % 0xFFFF == right % 0xFFFF {
            self.field(name, format_args!("{is:#06x} ok"));
        } else {
            self.field(name, format_args!("{is:#06x} wrong"));
            self.fault(format_args!("{name} is {is:#06x}, right would be {right:#06x}"));
        }
    }
}

fn mac(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(":")
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(fixed(bytes, at))
}

/// `N` bytes of a header that is already known to be whole.
fn fixed<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}
