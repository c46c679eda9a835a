//! The balancer's parser against a slow reading of the same bytes.
#![no_main]

use std::net::IpAddr;

use edgelb_fuzz::{Partly, wire};
use lb_common::map::ServiceKey;
use lb_common::parse::{Flow, Packet, is_syn, parse, transport};
use lb_common::reason::Reason;
use libfuzzer_sys::fuzz_target;

// The first byte says how much of the frame can be read directly: all for 255.
fuzz_target!(|input: &[u8]| {
    let Some((part, frame)) = input.split_first() else {
        return;
    };
    let whole = read(frame);
    match (wire::read(frame, |_, _, _| true), whole) {
        (Ok(expected), Ok((key, flow))) => {
            let (protocol, port) = (expected.protocol, expected.port.to_be_bytes());
            let (wanted, source) = match (expected.destination, expected.source) {
                (IpAddr::V4(vip), IpAddr::V4(client)) => (
                    ServiceKey::v4(vip.octets(), protocol, port),
                    ServiceKey::v4(client.octets(), 0, port),
                ),
                (IpAddr::V6(vip), IpAddr::V6(client)) => (
                    ServiceKey::v6(vip.octets(), protocol, port),
                    ServiceKey::v6(client.octets(), 0, port),
                ),
                _ => unreachable!("one family"),
            };
            assert_eq!(key, wanted);
            let wanted = Flow {
                source_high: source.address_high,
                source_low: source.address_low,
                source_port: expected.source_port.to_be(),
                length: expected.length as u32,
                traffic_class: expected.class,
                v6: expected.destination.is_ipv6(),
            };
            assert_eq!(flow, wanted);
            let found = transport(frame).expect("a frame with ports has a transport header");
            assert_eq!((found.offset, found.tcp), (expected.transport, protocol == 6));
            assert_eq!(found.tcp && is_syn(frame, found.offset), expected.syn);
            // What follows the packet, Ethernet's padding, changes nothing.
            assert_eq!(read(&frame[..14 + expected.length]), whole);
        }
        (expected, found) => assert_eq!(found.err(), expected.err()),
    }
    // A frame that cannot be read to its end is read rightly or not at all.
    let readable = frame.len() * usize::from(*part) / 255;
    let partly = read(&Partly { frame, readable });
    assert!(
        partly == whole || partly == Err(Reason::Truncated),
        "{readable} bytes: {partly:?}, whole: {whole:?}"
    );
});

fn read<P: Packet + ?Sized>(packet: &P) -> Result<(ServiceKey, Flow), Reason> {
    let candidate = parse(packet)?;
    Ok((candidate.key, candidate.complete(packet)?))
}
