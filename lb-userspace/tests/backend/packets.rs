//! One packet at a time through the loaded program (`BPF_PROG_TEST_RUN`), compared byte by byte.

use std::net::IpAddr;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, PerCpuArray};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, maps::MapData};
use lb_common::decap::{AddressKey, DecapReason, SourceKey, name};
use lb_common::local_mac::LocalMac;
use lb_userspace::backend::from::Prefix;
use lb_userspace::backend::program::PROGRAM;

use crate::frames::{MACS, ethernet, ip, tunnel, udp};

const HOST_V4: &str = "10.0.0.2";
const HOST_V6: &str = "2001:db8::2";
const EDGE_V4: &str = "10.0.0.1";
const EDGE_V6: &str = "2001:db8::1";
const VIP_V4: &str = "192.0.2.10";
const VIP_V6: &str = "2001:db8:1::a";
const CLIENT_V4: &str = "198.51.100.7";
const CLIENT_V6: &str = "2001:db8:f::7";

/// Where frames of a test run come from.
const LOOPBACK: u32 = 1;
/// Where tunnels may begin.
const FROM: [&str; 3] = ["10.0.0.1", "10.8.0.0/15", "2001:db8::/127"];

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

struct Program {
    ebpf: Ebpf,
}

impl Program {
    /// With tunnels from [`FROM`] alone.
    fn load() -> Self {
        Self::load_with(1)
    }

    fn load_with(sources_limited: u32) -> Self {
        let mut ebpf = EbpfLoader::new()
            .override_global(name::SOURCES_LIMITED, &sources_limited, true)
            .load(&crate::object())
            .unwrap();
        for (map, addresses) in [(name::LOCALS, [HOST_V4, HOST_V6]), (name::VIPS, [VIP_V4, VIP_V6])] {
            let mut map: HashMap<&mut MapData, AddressKey, u8> = ebpf.map_mut(map).unwrap().try_into().unwrap();
            for address in addresses {
                let address: IpAddr = address.parse().unwrap();
                map.insert(AddressKey::from(address), 0, 0).unwrap();
            }
        }
        let mut own: HashMap<&mut MapData, LocalMac, u8> = ebpf.map_mut(name::LOCAL_MACS).unwrap().try_into().unwrap();
        own.insert(LocalMac::new(*MACS.first_chunk().unwrap(), LOOPBACK), 0, 0)
            .unwrap();
        let mut sources: LpmTrie<&mut MapData, SourceKey, u8> =
            ebpf.map_mut(name::SOURCES).unwrap().try_into().unwrap();
        for prefix in FROM {
            let (bits, key) = prefix.parse::<Prefix>().unwrap().key();
            sources.insert(&Key::new(bits, key), 0, 0).unwrap();
        }
        let program: &mut Xdp = ebpf.program_mut(PROGRAM).unwrap().try_into().unwrap();
        program.load().unwrap();
        Program { ebpf }
    }

    /// Verdict and frame as the program leaves them.
    fn run(&mut self, frame: &[u8]) -> (u32, Vec<u8>) {
        let program: &mut Xdp = self.ebpf.program_mut(PROGRAM).unwrap().try_into().unwrap();
        let mut out = vec![0; frame.len() + 64];
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut out),
                ..TestRunOptions::default()
            })
            .unwrap();
        out.truncate(result.data_size_out as usize);
        (result.return_value, out)
    }

    fn counts(&self) -> Vec<u64> {
        let map = self.ebpf.map(name::DECAP_REASONS).unwrap();
        let counters: PerCpuArray<&MapData, u64> = map.try_into().unwrap();
        let sum = |index| counters.get(&index, 0).unwrap().iter().sum();
        (0..DecapReason::COUNT as u32).map(sum).collect()
    }

    /// The frame leaves with this verdict, these bytes, and one more on this reason's counter alone.
    fn check(&mut self, what: &str, frame: &[u8], reason: DecapReason, verdict: u32, expected: &[u8]) {
        let mut counts = self.counts();
        let (found_verdict, found) = self.run(frame);
        counts[reason as usize] += 1;
        assert_eq!(self.counts(), counts, "{what}: counter of {}", reason.name());
        assert_eq!(found_verdict, verdict, "{what}: verdict");
        assert_eq!(hex(&found), hex(expected), "{what}: bytes");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x} ")).collect()
}

/// Outer and inner family: (outer source, outer destination, inner source, inner destination).
const PAIRS: [(&str, &str, &str, &str); 4] = [
    (EDGE_V4, HOST_V4, CLIENT_V4, VIP_V4),
    (EDGE_V4, HOST_V4, CLIENT_V6, VIP_V6),
    (EDGE_V6, HOST_V6, CLIENT_V4, VIP_V4),
    (EDGE_V6, HOST_V6, CLIENT_V6, VIP_V6),
];

#[test]
fn unwraps_all_pairs_of_any_length() {
    let mut program = Program::load();
    for (edge, host, client, vip) in PAIRS {
        // Odd and even, none, a usual full packet, and ones that the driver hands over in fragments.
        for length in [0, 1, 2, 17, 1000, 1452, 4000, 8001] {
            let data: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let inner = udp(client, vip, (1234, 53), 0xBA, &data);
            let frame = ethernet(MACS, &tunnel(edge, host, 0, &inner));
            let what = format!("{length} bytes to {vip} by {host}");
            program.check(&what, &frame, DecapReason::Unwrapped, XDP_PASS, &ethernet(MACS, &inner));
            // Padding of the Ethernet frame stays behind the packet, where nobody reads it.
            let padding = [0xEE; 11];
            let padded = [&frame[..], &padding].concat();
            let expected = [&ethernet(MACS, &inner)[..], &padding].concat();
            program.check(&what, &padded, DecapReason::Unwrapped, XDP_PASS, &expected);
        }
    }
}

#[test]
fn a_strangers_packets_for_a_vip_are_dropped() {
    let mut program = Program::load();
    for (host, client, vip, edges, strangers) in [
        (
            HOST_V4,
            CLIENT_V4,
            VIP_V4,
            ["10.0.0.1", "10.8.0.0", "10.9.255.255"],
            ["198.51.100.66", "10.0.0.0", "10.10.0.0"],
        ),
        (
            HOST_V6,
            CLIENT_V6,
            VIP_V6,
            ["2001:db8::", "2001:db8::1", "2001:db8::1"],
            ["2001:db8::2", "a00:1::", "::ffff:10.0.0.1"],
        ),
    ] {
        let inner = udp(client, vip, (1, 2), 0, b"x");
        for edge in edges {
            let frame = ethernet(MACS, &tunnel(edge, host, 0, &inner));
            program.check(edge, &frame, DecapReason::Unwrapped, XDP_PASS, &ethernet(MACS, &inner));
        }
        let other = udp(
            client,
            if vip == VIP_V4 { "192.0.2.11" } else { "2001:db8:1::b" },
            (1, 2),
            0,
            b"x",
        );
        for stranger in strangers {
            let frame = ethernet(MACS, &tunnel(stranger, host, 0, &inner));
            program.check(stranger, &frame, DecapReason::SourceNotAllowed, XDP_DROP, &frame);
            // Another tunnel's on this host.
            let frame = ethernet(MACS, &tunnel(stranger, host, 0, &other));
            program.check(stranger, &frame, DecapReason::NotAVip, XDP_PASS, &frame);
        }
    }
}

#[test]
fn where_no_edges_are_named_nothing_is_asked_about_the_source() {
    let verified = |program: &Program| {
        let program: &Xdp = program.ebpf.program(PROGRAM).unwrap().try_into().unwrap();
        let info = program.info().unwrap();
        (
            info.verified_instruction_count().unwrap(),
            info.size_translated().unwrap(),
        )
    };
    let (mut open, limited) = (Program::load_with(0), Program::load());
    let inner = udp(CLIENT_V4, VIP_V4, (1, 2), 0, b"x");
    let frame = ethernet(MACS, &tunnel("198.51.100.66", HOST_V4, 0, &inner));
    open.check(
        "a stranger",
        &frame,
        DecapReason::Unwrapped,
        XDP_PASS,
        &ethernet(MACS, &inner),
    );
    let (open, limited) = (verified(&open), verified(&limited));
    println!("instructions verified and bytes left: {open:?} open, {limited:?} limited");
    // The look-up is not in the program any more.
    assert!(open.0 < limited.0 && open.1 < limited.1, "{open:?}, {limited:?}");
}

#[test]
fn unwraps_a_frame_written_by_hand() {
    let macs = "02 00 00 00 00 02 02 00 00 00 00 01";
    let outer = "45 00 00 31 00 00 40 00 40 04 26 c7 0a 00 00 01 0a 00 00 02";
    let inner = "45 02 00 1d 12 34 40 00 3f 11 3d 55 c6 33 64 07 c0 00 02 0a 04 d2 00 35 00 09 00 00 78";
    let bytes = |text: String| -> Vec<u8> {
        text.split_whitespace()
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect()
    };
    let mut program = Program::load();
    let frame = bytes(format!("{macs} 08 00 {outer} {inner}"));
    let expected = bytes(format!("{macs} 08 00 {inner}"));
    program.check("by hand", &frame, DecapReason::Unwrapped, XDP_PASS, &expected);
}

#[test]
fn steps_over_the_encapsulation_limit() {
    let mut program = Program::load();
    for (inner, protocol) in [
        (udp(CLIENT_V4, VIP_V4, (1, 2), 0, b"x"), 4),
        (udp(CLIENT_V6, VIP_V6, (1, 2), 0, b"x"), 41),
    ] {
        let options = [&[protocol, 0, 4, 1, 4, 1, 1, 0], &inner[..]].concat();
        let frame = ethernet(MACS, &ip(EDGE_V6, HOST_V6, 60, 0, &options));
        program.check(
            "limit",
            &frame,
            DecapReason::Unwrapped,
            XDP_PASS,
            &ethernet(MACS, &inner),
        );
    }
}

#[test]
fn carries_congestion_marks_over() {
    let mut program = Program::load();
    for (edge, host, client, vip) in PAIRS {
        for (inner, outer, after) in [(2, 3, 3), (1, 3, 3), (2, 1, 1)] {
            let dscp = 46 << 2;
            let packet = |ecn: u8| udp(client, vip, (1234, 53), dscp | ecn, b"odd");
            let frame = ethernet(MACS, &tunnel(edge, host, outer, &packet(inner)));
            let what = format!("inner {inner}, outer {outer}");
            let expected = ethernet(MACS, &packet(after));
            program.check(&what, &frame, DecapReason::UnwrappedMarked, XDP_PASS, &expected);
        }
        for (inner, outer) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (3, 0), (3, 1), (3, 3)] {
            let packet = udp(client, vip, (1234, 53), inner, b"odd");
            let frame = ethernet(MACS, &tunnel(edge, host, outer, &packet));
            let what = format!("inner {inner}, outer {outer}");
            program.check(
                &what,
                &frame,
                DecapReason::Unwrapped,
                XDP_PASS,
                &ethernet(MACS, &packet),
            );
        }
        let frame = ethernet(MACS, &tunnel(edge, host, 3, &udp(client, vip, (1234, 53), 0, b"odd")));
        program.check("not ECN-capable", &frame, DecapReason::CongestionLost, XDP_DROP, &frame);
    }
}

#[test]
fn leaves_everything_else_as_it_is() {
    let mut program = Program::load();
    let mut passes = |what: &str, frame: &[u8], reason| program.check(what, frame, reason, XDP_PASS, frame);
    for (edge, host, client, vip) in PAIRS {
        let inner = udp(client, vip, (1, 2), 0, b"x");
        let other = if host == HOST_V4 { "10.0.0.3" } else { "2001:db8::3" };
        passes(
            "not local",
            &ethernet(MACS, &tunnel(edge, other, 0, &inner)),
            DecapReason::NotLocal,
        );
        let other = if vip == VIP_V4 { "192.0.2.11" } else { "2001:db8:1::b" };
        let not_vip = udp(client, other, (1, 2), 0, b"x");
        passes(
            "not a VIP",
            &ethernet(MACS, &tunnel(edge, host, 0, &not_vip)),
            DecapReason::NotAVip,
        );
        // A VIP is not a place where tunnels end, and this host's address is not a VIP.
        passes("plain", &ethernet(MACS, &inner), DecapReason::NotATunnel);
        for mac in [
            [0xFF; 6],
            [0x01, 0, 0x5E, 0, 0, 1],
            [0x33, 0x33, 0, 0, 0, 1],
            [2, 0, 0, 0, 0, 3],
        ] {
            let mut macs = MACS;
            macs[..6].copy_from_slice(&mac);
            let frame = ethernet(macs, &tunnel(edge, host, 0, &inner));
            passes(&format!("for {mac:02x?}"), &frame, DecapReason::OtherHost);
        }
    }
    let inner = udp(CLIENT_V4, VIP_V4, (1, 2), 0, b"x");
    let v4 = ethernet(MACS, &tunnel(EDGE_V4, HOST_V4, 0, &inner));
    let v6 = ethernet(MACS, &tunnel(EDGE_V6, HOST_V6, 0, &inner));
    for (frame, header_len) in [(&v4, 20), (&v6, 40)] {
        // The kernel refuses test frames shorter than an Ethernet header.
        for length in 14..frame.len() {
            passes(
                &format!("first {length} bytes"),
                &frame[..length],
                DecapReason::Truncated,
            );
        }
        // An outer header that says how short it is: the inner header ends in it.
        for carried in 0..20 {
            let mut frame = frame[..14 + header_len + carried].to_vec();
            if header_len == 20 {
                frame[17] = (20 + carried) as u8;
            } else {
                frame[19] = carried as u8;
            }
            passes(&format!("carries {carried} bytes"), &frame, DecapReason::InnerTruncated);
        }
    }
    let changed = |at: usize, byte: u8| {
        let mut frame = v4.clone();
        frame[at] = byte;
        frame
    };
    passes("ARP", &changed(13, 6), DecapReason::NotIp);
    passes("VLAN", &changed(12, 0x81), DecapReason::Vlan);
    passes("outer version", &changed(14, 0x65), DecapReason::BadOuterHeader);
    passes("outer options", &changed(14, 0x46), DecapReason::OuterOptions);
    passes("fragment", &changed(20, 0x20), DecapReason::OuterFragment);
    passes("inner version", &changed(34, 0x65), DecapReason::BadInnerHeader);
    let too_long = changed(37, 0xFF);
    program.check(
        "inner length",
        &too_long,
        DecapReason::InnerTooLong,
        XDP_DROP,
        &too_long,
    );
    let padded = [&too_long[..], &[0; 300]].concat();
    program.check(
        "inner length into padding",
        &padded,
        DecapReason::InnerTooLong,
        XDP_DROP,
        &padded,
    );
}
