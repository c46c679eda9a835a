//! What the kernel has a say in: redirection, headroom, and how much of a frame can be read directly.

use std::process::Command;

use lb_common::reason::Reason;
use lb_tests::packet::{Packet, assert_same};
use nix::sched::{CloneFlags, unshare};

use crate::edge::{CLIENT_V4, CLIENT_V6, Edge, address, vip};
use crate::reference::{DROP, PASS, REDIRECT, TX};

fn packet(v6: bool, number: u8) -> Packet {
    let client = if v6 { CLIENT_V6 } else { CLIENT_V4 };
    Packet::ip(client, &address(v6, number))
        .tcp(40_000, 80)
        .payload(b"GET / ")
}

/// Index of one end of a veth pair, in a network namespace that is this thread's own and goes with it.
pub(crate) fn interface() -> u32 {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: needs root");
    let made = Command::new("ip")
        .args(["link", "add", "lb0", "type", "veth", "peer", "name", "lb1"])
        .status();
    assert!(made.expect("ip").success());
    nix::net::if_::if_nametoindex("lb0").expect("lb0")
}

#[test]
fn redirected_to_another_interface() {
    let other = interface();
    let mut edge = Edge::with_interface(Some(other));
    for v6 in [false, true] {
        let outcome = edge.agrees("redirected", &packet(v6, vip::OTHER_INTERFACE).build());
        assert_eq!((outcome.verdict, outcome.reason), (REDIRECT, Reason::Forwarded));
        edge.refuses(
            "an interface that is gone",
            &packet(v6, vip::LOST_INTERFACE).build(),
            Reason::NoNextHop,
        );
        // Of its backends one is behind the other interface, and one behind the interface that packets come from.
        let mut seen = [0; 5];
        for port in 0..200 {
            let frame = packet(v6, vip::MIXED).tcp(port, 80).build();
            seen[edge.agrees("mixed", &frame).verdict as usize] += 1;
        }
        for verdict in [DROP, TX, REDIRECT] {
            assert!(seen[verdict as usize] > 10, "{seen:?}");
        }
    }
    edge.sum_is_right();
}

/// `struct xdp_md` with so many bytes of metadata in front of the packet, and so many that can be read directly, metadata included.
const fn context(metadata: usize, readable: usize) -> Option<[u32; 6]> {
    Some([metadata as u32, readable as u32, 0, 0, 0, 0])
}

/// Metadata that another program left in front of the packet moves along, as long as there is room.
#[test]
fn headroom_that_metadata_took() {
    let mut edge = Edge::new();
    // Old kernels admit 32 bytes of metadata (6.1 does), later ones fill the headroom, in steps of 4 (6.12 does).
    let most = if kernel_is(6, 12) { 212 } else { 32 };
    for v6 in [false, true] {
        for (number, grows) in [(vip::L2, 0), (vip::IPIP_V4, 20), (vip::IPIP_V6, 40)] {
            let frame = packet(v6, number).build();
            let mut full = 0;
            for metadata in [0, 4, 32, 100, 160, 180, 200, 212]
                .into_iter()
                .filter(|bytes| *bytes <= most)
            {
                let input = [&vec![0xAB; metadata][..], &frame].concat();
                let (verdict, reason, out) = edge.run_with(&input, context(metadata, input.len()));
                if reason == Reason::NoHeadroom {
                    full += 1;
                    assert_eq!(verdict, DROP);
                    assert!(
                        grows > 0 && metadata >= 160,
                        "{metadata} bytes of metadata, {grows} to grow"
                    );
                } else {
                    assert_eq!((verdict, reason), (TX, Reason::Forwarded));
                    let expected = [&vec![0xAB; metadata][..], &edge.expected(&frame).frame].concat();
                    assert_same(&out, &expected, "with metadata");
                }
            }
            assert_eq!(full > 0, grows > 0 && most > 32, "{number}");
        }
    }
    edge.sum_is_right();
}

/// A driver may leave as little as the headers in the first buffer. What the program must read and cannot is truncated to it.
#[test]
fn a_short_first_buffer() {
    let mut edge = Edge::new();
    if !kernel_is(6, 18) {
        eprintln!("skipped: test runs with a short first buffer came with Linux 6.18");
        return;
    }
    for v6 in [false, true] {
        for number in [vip::L2, vip::IPIP_V4, vip::IPIP_V6] {
            let frame = packet(v6, number).payload_len(300).build();
            let headers = if v6 { 14 + 40 + 4 } else { 14 + 20 + 4 };
            for readable in (14..100).chain([200, frame.len()]) {
                let (verdict, reason, out) = edge.run_with(&frame, context(0, readable));
                let what = format!("{readable} bytes readable");
                if readable < headers {
                    assert_eq!((verdict, reason), (PASS, Reason::Truncated), "{what}");
                    assert_same(&out, &frame, &what);
                } else {
                    assert_eq!((verdict, reason), (TX, Reason::Forwarded), "{what}");
                    assert_same(&out, &edge.expected(&frame).frame, &what);
                }
            }
        }
    }
    edge.sum_is_right();
}

fn kernel_is(major: u32, minor: u32) -> bool {
    let name = nix::sys::utsname::uname().expect("uname");
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    found >= (major, minor)
}
