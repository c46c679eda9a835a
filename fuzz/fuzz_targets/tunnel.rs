//! What the balancer wraps, the decapsulator unwraps to the same bytes.
#![no_main]

use edgelb_fuzz::wire;
use lb_common::decap::{Remark, decide};
use lb_common::encap::{LONGEST_IN_IPV4, LONGEST_IN_IPV6, ipip_v4, ipip_v6, ipv4_header, ipv6_header};
use lb_common::map::{FAMILY_V4, FAMILY_V6};
use lb_common::parse::{Flow, parse};
use libfuzzer_sys::fuzz_target;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

// 32 bytes for the outer addresses, 8 for the flow's hash, then the frame.
fuzz_target!(|input: &[u8]| {
    let Some((outer, rest)) = input.split_first_chunk::<32>() else {
        return;
    };
    let Some((hash, frame)) = rest.split_first_chunk::<8>() else {
        return;
    };
    let Ok(flow) = parse(frame).and_then(|candidate| candidate.complete(frame)) else {
        return;
    };
    if flow.length <= LONGEST_IN_IPV4 {
        let wrapped = in_ipv4(outer, &flow, frame);
        assert_eq!(wire::checksum(&wrapped[14..34]), 0);
        assert_eq!(usize::from(wire::number(&wrapped, 16)), flow.length as usize + 20);
        unwraps(&wrapped, 20, frame);
    }
    if flow.length <= LONGEST_IN_IPV6 {
        let wrapped = in_ipv6(outer, &flow, u64::from_ne_bytes(*hash), frame);
        assert_eq!(usize::from(wire::number(&wrapped, 18)), flow.length as usize);
        unwraps(&wrapped, 40, frame);
    }
});

fn inner(flow: &Flow) -> u8 {
    if flow.v6 { FAMILY_V6 } else { FAMILY_V4 }
}

fn in_ipv4(outer: &[u8; 32], flow: &Flow, frame: &[u8]) -> Vec<u8> {
    let [a, b, c, d, e, f, g, h, ..] = *outer;
    let rewrite = ipip_v4(MAC, MAC, [a, b, c, d], [e, f, g, h], inner(flow));
    let (words, tail) = ipv4_header(&rewrite, flow.length, flow.traffic_class);
    let head = words
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .chain(tail.to_ne_bytes());
    head.chain(frame[14..].iter().copied()).collect()
}

fn in_ipv6(outer: &[u8; 32], flow: &Flow, hash: u64, frame: &[u8]) -> Vec<u8> {
    let (source, destination) = outer.split_at(16);
    let address = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).expect("half of 32");
    let rewrite = ipip_v6(MAC, MAC, address(source), address(destination), inner(flow));
    let (words, middle, tail) = ipv6_header(&rewrite, flow.length, flow.traffic_class, hash);
    let head = words
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .chain(middle.to_ne_bytes())
        .chain(tail.to_ne_bytes());
    head.chain(frame[14..].iter().copied()).collect()
}

fn unwraps(wrapped: &[u8], outer_len: usize, frame: &[u8]) {
    let unwrap = decide(wrapped, |_| true, |_| true, |_| true, |_| true).expect("our own tunnel");
    assert_eq!(unwrap.outer_len, outer_len);
    // The outer header has the inner one's marks.
    assert_eq!(unwrap.remark, Remark::None);
    assert_eq!(unwrap.ethertype.to_ne_bytes(), frame[12..14]);
    assert_eq!(wrapped[14 + outer_len..], frame[14..]);
}
