//! What the tests of `lbctl simulate` share: services, flows to them, and calls of the program.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};
use lb_tests::capture;
use lb_tests::edge::Programs;
use lb_tests::net::Scratch;
use lb_tests::packet::Packet;
use serde_json::Value;

pub(crate) const CLIENT_V4: &str = "198.51.100.7";
pub(crate) const CLIENT_V6: &str = "2001:db8:c::7";
pub(crate) const NODE: &str = "[node]\ninterfaces = [\"eth0\"]\nhash_seed = \"0x5eed\"\n";
/// Next hop and own address of a simulation.
pub(crate) const MACS: &str = "02:00:00:00:00:01 02:00:00:00:00:02";

/// A service of three backends.
pub(crate) struct Service {
    pub(crate) name: &'static str,
    pub(crate) vip: &'static str,
    pub(crate) protocol: &'static str,
    pub(crate) port: u16,
    pub(crate) forward: &'static str,
    /// A backend's address without its last part.
    pub(crate) network: &'static str,
}

pub(crate) const fn service(
    name: &'static str,
    vip: &'static str,
    protocol: &'static str,
    forward: &'static str,
    network: &'static str,
) -> Service {
    let port = if protocol.len() == 3 && protocol.as_bytes()[0] == b't' {
        80
    } else {
        53
    };
    Service {
        name,
        vip,
        protocol,
        port,
        forward,
        network,
    }
}

pub(crate) const SERVICES: [Service; 8] = [
    service("l2-v4", "192.0.2.10", "tcp", "l2", "10.0.0."),
    service("l2-v6", "2001:db8::10", "udp", "l2", "2001:db8:b::"),
    service("4in4", "192.0.2.20", "udp", "ipip", "10.0.0."),
    service("6in4", "2001:db8::20", "tcp", "ipip", "10.0.0."),
    service("4in6", "192.0.2.30", "tcp", "ipip", "2001:db8:b::"),
    service("6in6", "2001:db8::30", "udp", "ipip", "2001:db8:b::"),
    service("4in4-tcp", "192.0.2.20", "tcp", "ipip", "10.0.0."),
    service("6in6-tcp", "2001:db8::30", "tcp", "ipip", "2001:db8:b::"),
];
pub(crate) const BACKENDS: [&str; 3] = ["one", "three", "two"];

impl Service {
    pub(crate) fn v6(&self) -> bool {
        self.vip.contains(':')
    }

    pub(crate) fn address(&self, backend: &str) -> String {
        let last = BACKENDS.iter().position(|name| *name == backend).unwrap_or(9) + 1;
        format!("{}{last}", self.network)
    }

    pub(crate) fn toml(&self, backends: &[&str]) -> String {
        let mut text = format!(
            "\n[[service]]\nname = \"{}\"\nvip = \"{}\"\nprotocol = \"{}\"\nport = {}\nforward = \"{}\"\nring_size = 4099\n",
            self.name, self.vip, self.protocol, self.port, self.forward
        );
        for backend in backends {
            // Writing to a string cannot fail.
            _ = write!(
                text,
                "\n[[service.backend]]\nname = \"{backend}\"\naddress = \"{}\"\n",
                self.address(backend)
            );
        }
        text
    }

    /// A packet to it.
    pub(crate) fn packet(&self, client_port: u16) -> Packet {
        let packet = Packet::ip(if self.v6() { CLIENT_V6 } else { CLIENT_V4 }, self.vip);
        match self.protocol {
            "tcp" => packet.tcp(client_port, self.port),
            _ => packet.udp(client_port, self.port),
        }
    }
}

pub(crate) fn configuration() -> String {
    SERVICES
        .iter()
        .fold(NODE.to_owned(), |text, service| text + &service.toml(&BACKENDS))
}

/// Where files go, and the program.
pub(crate) struct Desk {
    pub(crate) scratch: Scratch,
    pub(crate) programs: Programs,
}

impl Desk {
    pub(crate) fn new() -> Result<Self> {
        let desk = Self {
            scratch: Scratch::new()?,
            programs: Programs::find()?,
        };
        desk.scratch.write("edge.toml", &configuration())?;
        Ok(desk)
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Result<Output> {
        Command::new(&self.programs.lbctl)
            .current_dir(self.scratch.path())
            .args(["-o", "json", "simulate"])
            .args(arguments)
            .output()
            .context("lbctl")
    }

    /// Simulates frames with one of the files here: what is printed, and the frames that leave.
    pub(crate) fn simulate(
        &self,
        config: &str,
        frames: &[Vec<u8>],
        down: &[&str],
    ) -> Result<(Vec<Value>, Vec<Vec<u8>>)> {
        let path = |name: &str| self.scratch.path().join(name);
        capture::write(&path("in.pcap"), frames)?;
        let mut arguments = vec!["--config", config, "--in", "in.pcap", "--out", "out.pcap"];
        for name in down {
            arguments.extend(["--down", name]);
        }
        let packets = printed(&self.run(&arguments)?)?;
        ensure!(
            packets.len() == frames.len(),
            "{} of {} packets",
            packets.len(),
            frames.len()
        );
        Ok((packets, capture::read(&path("out.pcap"))?))
    }

    /// What it says on standard error of packets that it does simulate.
    pub(crate) fn errors(&self, config: &str, frames: &[Vec<u8>], more: &[&str]) -> Result<String> {
        capture::write(&self.scratch.path().join("in.pcap"), frames)?;
        let output = self.run(&[&["--config", config, "--in", "in.pcap"], more].concat())?;
        ensure!(output.status.success(), "{output:?}");
        Ok(String::from_utf8(output.stderr)?)
    }

    /// It fails with this in its message, and prints and writes nothing.
    #[track_caller]
    pub(crate) fn refuses(&self, arguments: &[&str], message: &str) {
        let output = self
            .run(&[arguments, &["--out", "never.pcap"]].concat())
            .expect("lbctl");
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {out}{err}");
        assert!(
            err.contains(message) || out.contains(message),
            "{arguments:?}: {message:?} is not in: {out}{err}"
        );
        assert!(!self.scratch.path().join("never.pcap").exists(), "{arguments:?}");
    }
}

pub(crate) fn printed(output: &Output) -> Result<Vec<Value>> {
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(output.status.success(), "{}: {out}{err}", output.status);
    match serde_json::from_slice(&output.stdout)? {
        Value::Array(packets) => Ok(packets),
        other => bail!("not an array: {other}"),
    }
}

/// Exactly the fields that are documented.
pub(crate) fn assert_shape(packet: &Value) {
    let fields: Vec<&str> = packet
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    let mut sorted = fields.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ["backend", "len_in", "len_out", "reason", "service", "verdict"]);
    assert!(
        ["tx", "redirect", "pass", "drop"].contains(&text(packet, "verdict")),
        "{packet}"
    );
    for name in ["service", "backend"] {
        assert!(packet[name].is_string() || packet[name].is_null(), "{packet}");
    }
    assert!(packet["len_in"].is_u64() && packet["len_out"].is_u64(), "{packet}");
}

pub(crate) fn text<'a>(packet: &'a Value, field: &str) -> &'a str {
    packet[field].as_str().unwrap_or("none")
}

/// The backend of each packet, with its service.
pub(crate) fn backends(packets: &[Value]) -> Vec<(String, String)> {
    let pair = |packet| (text(packet, "service").to_owned(), text(packet, "backend").to_owned());
    packets.iter().map(pair).collect()
}

/// Flows of all services, from so many ports.
pub(crate) fn flows(ports: std::ops::Range<u16>) -> Vec<Vec<u8>> {
    let of = |port| SERVICES.iter().map(move |service| service.packet(port).build());
    ports.flat_map(of).collect()
}

/// A capture as other programs write it; of each frame at most `keep` bytes.
pub(crate) fn write_raw(
    path: &Path,
    big_endian: bool,
    nanoseconds: bool,
    snap: u32,
    frames: &[Vec<u8>],
    keep: usize,
) -> Result<()> {
    let word = |value: u32| {
        if big_endian {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    };
    let half = |value: u16| {
        if big_endian {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    };
    let mut bytes = word(if nanoseconds { 0xA1B2_3C4D } else { 0xA1B2_C3D4 }).to_vec();
    bytes.extend([half(2), half(4)].concat());
    bytes.extend([word(0), word(0), word(snap), word(1)].concat());
    for (frame, number) in frames.iter().zip(0..) {
        let kept = frame.len().min(keep);
        bytes.extend(
            [
                word(1_700_000_000),
                word(number),
                word(kept as u32),
                word(frame.len() as u32),
            ]
            .concat(),
        );
        bytes.extend(&frame[..kept]);
    }
    std::fs::write(path, bytes).with_context(|| path.display().to_string())
}
