//! Support for edgelb's tests and its demo.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`packet`] | frames built, taken apart, compared; hex written by hand |
//! | [`capture`] | pcap files |
//! | [`net`] | hosts in namespaces of their own, the wires between them, the topologies of the tests |
//! | [`serve`] | real servers on the hosts: nginx, and UDP and TCP responders |
//! | [`load`] | a client that opens a connection for every request and remembers what came of each |
//! | [`edge`] | `lbd` and `lbctl` as processes on the hosts |
//! | [`kernel`] | what a test may ask of the running kernel |
//! | [`turns`] | tests that must not all run at the same time |
//! | [`xdp`] | the XDP mode of a whole run |
//! | [`api`] | the daemon's API without `lbctl` |
//! | [`soak`] | what `cargo xtask soak` does |
//! | [`demo`] | what `cargo xtask demo` shows |
//!
//! Nothing here uses `lb-common`: what tests a computation must not share it.

pub mod api;
pub mod capture;
pub mod demo;
pub mod edge;
pub mod kernel;
pub mod load;
pub mod net;
pub mod packet;
pub mod serve;
pub mod soak;
pub mod turns;
pub mod xdp;
