//! Every program of every object is accepted by the running kernel's verifier: from Linux 6.1 on.
//!
//! Prints `verified NAME INSTRUCTIONS` for each, which `cargo xtask kernels` puts into its table.

use aya::EbpfLoader;
use aya::programs::{Program, Xdp};
use lb_common::hash::HashKeys;
use lb_common::map::name;
use lb_userspace::object;

#[test]
fn the_verifier_accepts_every_program() {
    for object in [object::BALANCE, object::DECAP] {
        // As for the default capacity: with a mask of 0 the verifier would see one place for all services.
        let mask = (1_u32 << 15) - 1;
        let HashKeys(keys) = HashKeys::from_seed(0x5eed);
        let mut ebpf = EbpfLoader::new()
            .override_global(name::SERVICE_MASK, &mask, false)
            .override_global(name::HASH_KEYS, keys.as_slice(), false)
            .load(object)
            .expect("the kernel accepts the maps");
        let mut loaded = 0;
        for (name, program) in ebpf.programs_mut() {
            let program: &mut Xdp = match program {
                Program::Xdp(program) => program,
                other => panic!("{name} is a {:?}: this test must learn to load it", other.prog_type()),
            };
            // The verifier's last lines say why.
            program.load().unwrap_or_else(|error| panic!("{name}: {error}"));
            let count = program.info().ok().and_then(|info| info.verified_instruction_count());
            // Linux 5.16.
            println!("verified {name} {}", count.expect("the kernel counts instructions"));
            loaded += 1;
        }
        assert!(loaded > 0, "an object without programs");
    }
}
