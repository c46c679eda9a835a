//! The decapsulator's decision against a slow reading of the same bytes, and what it leaves of the packet.
#![no_main]

use std::net::IpAddr;

use edgelb_fuzz::{Partly, wire};
use lb_common::decap::{AddressKey, DecapReason, Remark, Unwrap, decide};
use libfuzzer_sys::fuzz_target;

// The first byte's four lowest bits: whether the outer address is ours, the inner one a VIP, the Ethernet address ours, the outer source an edge;
// the others: how much of the frame
// can be read directly, all if they are set.
fuzz_target!(|input: &[u8]| {
    let Some((first, frame)) = input.split_first() else {
        return;
    };
    let (local, vip, own, edge) = (first & 1 != 0, first & 2 != 0, first & 4 != 0, first & 8 != 0);
    let (mut outer, mut inner, mut source) = (None, None, None);
    let whole = decide(
        frame,
        |head| {
            assert_eq!(head.to_le_bytes(), frame[..8]);
            own
        },
        |address| {
            outer = Some(*address);
            local
        },
        |address| {
            inner = Some(*address);
            vip
        },
        |address| {
            source = Some(*address);
            edge
        },
    );
    match whole {
        Ok(unwrap) => {
            assert!(local && own && vip && edge);
            from(frame, source);
            unwrapped(frame, &unwrap, outer, inner);
        }
        Err(DecapReason::NotLocal) => assert!(!local),
        Err(DecapReason::OtherHost) => assert!(local && !own),
        Err(DecapReason::NotAVip) => assert!(local && own && !vip),
        Err(DecapReason::SourceNotAllowed) => {
            assert!(local && own && vip && !edge);
            from(frame, source);
        }
        Err(DecapReason::InnerTooLong | DecapReason::CongestionLost) => assert!(local && own && vip && edge),
        Err(DecapReason::InnerTruncated | DecapReason::BadInnerHeader) => assert!(local && own),
        Err(DecapReason::Unwrapped | DecapReason::UnwrappedMarked | DecapReason::HeadRefused) => {
            panic!("{whole:?} is not for the decision to say")
        }
        Err(_) => assert!(outer.is_none(), "asked for the address of a frame that is no tunnel's"),
    }
    let readable = frame.len() * usize::from(first >> 3) / 31;
    let partly = decide(&Partly { frame, readable }, |_| own, |_| local, |_| vip, |_| edge);
    let short = matches!(partly, Err(DecapReason::Truncated | DecapReason::InnerTruncated));
    assert!(
        partly == whole || short,
        "{readable} bytes: {partly:?}, whole: {whole:?}"
    );
});

/// The source that was asked about is the outer header's.
fn from(frame: &[u8], source: Option<AddressKey>) {
    let outer: IpAddr = if wire::number(frame, 12) == 0x0800 {
        wire::v4(frame, 26).into()
    } else {
        wire::v6(frame, 22).into()
    };
    assert_eq!(source, Some(outer.into()));
}

/// Does what the program would, and looks at it.
fn unwrapped(frame: &[u8], unwrap: &Unwrap, outer: Option<AddressKey>, inner: Option<AddressKey>) {
    let at = 14 + unwrap.outer_len;
    let outer_v4 = wire::number(frame, 12) == 0x0800;
    assert!(unwrap.outer_len == 20 && outer_v4 || matches!(unwrap.outer_len, 40 | 48) && !outer_v4);
    let v4 = unwrap.ethertype.to_ne_bytes() == [0x08, 0x00];
    let outer_address: IpAddr = if outer_v4 {
        wire::v4(frame, 30).into()
    } else {
        wire::v6(frame, 38).into()
    };
    let inner_address: IpAddr = if v4 {
        wire::v4(frame, at + 16).into()
    } else {
        wire::v6(frame, at + 24).into()
    };
    assert_eq!((outer, inner), (Some(outer_address.into()), Some(inner_address.into())));

    let before = &frame[at..];
    let mut after = before.to_vec();
    match unwrap.remark {
        Remark::None => {}
        Remark::V4 { start, checksum } => {
            assert!(v4);
            after[..2].copy_from_slice(&start.to_ne_bytes());
            after[10..12].copy_from_slice(&checksum.to_ne_bytes());
        }
        Remark::V6 { start } => {
            assert!(!v4);
            after[..2].copy_from_slice(&start.to_ne_bytes());
        }
    }
    // Nothing but the marks has changed, and they as RFC 6040 wants it.
    let class = |packet: &[u8], v4: bool| if v4 { packet[1] } else { packet[0] << 4 | packet[1] >> 4 };
    let (was, is) = (class(before, v4), class(&after, v4));
    assert_eq!(
        (is & !3, Some(is & 3)),
        (was & !3, wire::after_tunnel(was, class(&frame[14..], outer_v4)))
    );
    assert_eq!(after[0] >> 4, if v4 { 4 } else { 6 });
    let length = if v4 {
        let header = usize::from(before[0] & 15) * 4;
        // An IPv4 checksum of 0 and one of 0xFFFF say the same; a right one stays right, a wrong one wrong.
        if before.len() >= header {
            let right = |packet: &[u8]| matches!(wire::checksum(&packet[..header]), 0 | 0xFFFF);
            assert_eq!(right(before), right(&after));
        }
        usize::from(wire::number(before, 2))
    } else {
        usize::from(wire::number(before, 4)) + 40
    };
    assert!(length <= before.len(), "the inner packet is not whole");
}
