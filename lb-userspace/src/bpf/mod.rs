//! The kernel's side of the balancer: object, maps, pins, links, grace periods.

mod counters;
pub mod error;
pub mod flows;
pub mod grace;
pub mod instance;
pub mod link;
pub mod link_fd;
pub mod links;
pub mod local_macs;
pub mod lock;
pub mod mapping;
pub mod owner;
pub mod program;
pub mod rival;
pub mod shape;
pub mod tables;
pub mod vanished;
