//! Scratch.
use lb_common::{encap, hash, map::*};
use lb_userspace::bpf::{program::*, tables::*};
fn main() {
    let object = std::fs::read("target/ebpf/bpfel-unknown-none/release/balance").unwrap();
    let lengths = Lengths::for_capacity(10000, 200000, 1 << 20, 1 << 20);
    let mut b = match Balancer::load(
        &object,
        Settings {
            lengths,
            hash_seed: 0x5eed,
        },
    ) {
        Ok(b) => b,
        Err(e) => {
            eprintln!("{e}");
            let mut s: Option<&dyn std::error::Error> = Some(&e);
            while let Some(x) = s {
                eprintln!("{x}");
                s = x.source();
            }
            std::process::exit(1)
        }
    };
    for v6 in [false, true] {
        let key = if v6 {
            let mut a = [0u8; 16];
            a[0] = 0x20;
            a[1] = 1;
            a[15] = 0x10;
            ServiceKey::v6(a, 6, [0, 80])
        } else {
            ServiceKey::v4([192, 0, 2, 10], 6, [0, 80])
        };
        let (place, _) = hash::service_places(key, b.tables.service_mask());
        let ring = if v6 { 65600 } else { 0 };
        let base = if v6 { 100 } else { 0 };
        for i in 0..10 {
            let r = if v6 {
                let mut s = [0u8; 16];
                s[15] = i;
                encap::ipip_v6([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], [1; 16], s, 6)
            } else {
                encap::ipip_v4(
                    [2, 0, 0, 0, 0, 1],
                    [2, 0, 0, 0, 0, 2],
                    [10, 0, 0, 5],
                    [10, 0, 0, 10 + i],
                    4,
                )
            };
            b.tables.fill_row(base + i as u32, 1, r);
        }
        for s in 0..65537u32 {
            b.tables.set_slot(ring + s, Slot::stable((s % 10) as u16));
        }
        b.tables.insert_service(
            place,
            ServiceEntry {
                address_high: key.address_high,
                address_low: key.address_low,
                word: key.word,
                ring_size: 65537,
                bases: ServiceEntry::pack_bases(ring, base),
                salt: hash::service_salt(key),
                flags: 3,
                ..Default::default()
            },
        );
    }
    println!("{}", b.program_id().unwrap());
    std::thread::sleep(std::time::Duration::from_secs(
        std::env::args().nth(1).map_or(5, |s| s.parse().unwrap()),
    ));
}
