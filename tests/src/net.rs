//! Hosts on one machine: namespaces, wires, processes.
//!
//! A [`Host`] has its own network, `/sys`, `/sys/fs/bpf` and `/run`. It has no name in the system: open file descriptors alone keep
//! its namespaces alive, and every process on it dies with us. So nothing has to be cleaned up, whatever ends this process, SIGKILL
//! included, and any number of topologies can stand beside each other. Nothing reaches the machine's own interfaces.
//!
//! For a look inside: `nsenter --net=/proc/PID/fd/N`, as [`Host::net_path`] says.

mod bpf;
mod host;
mod process;
mod scratch;
mod spawner;
mod topology;

pub use bpf::{AttachMode, Program, XdpLink, detach_pinned};
pub use host::Host;
pub use process::{Process, wait_until};
pub use scratch::Scratch;
pub use topology::{Arms, Backend, Family, Topology};
