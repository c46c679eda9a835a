//! The programs' object files, embedded by the build script and aligned as an ELF reader wants them.

use aya::include_bytes_aligned;

/// The balancer.
pub static BALANCE: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/balance"));

/// The backends' decapsulator.
pub static DECAP: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/decap"));

/// The probes' way.
pub static PROBE: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/probe"));

/// The packet benchmark's wrapper and floors; no program that is shipped loads it.
pub static BENCH: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench"));

/// The version of the compiler that built them: `1.95.0`.
pub const COMPILER: &str = env!("EBPF_RUSTC");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_objects_are_aligned_bpf_with_types() {
        for object in [BALANCE, DECAP, PROBE, BENCH] {
            assert_eq!(object.as_ptr() as usize % 8, 0);
            assert_eq!(&object[..4], b"\x7fELF");
            // e_machine: EM_BPF.
            assert_eq!(&object[18..20], &247u16.to_le_bytes());
            assert!(object.windows(5).any(|name| name == b".BTF\0"));
        }
        assert_ne!(BALANCE, DECAP);
    }
}
