//! The kernel's side of the balancer: object, maps, pins, links, grace periods.

mod counters;
pub mod detach;
pub mod error;
pub mod flows;
pub mod grace;
pub mod instance;
pub mod link;
pub mod links;
pub mod local_macs;
pub mod mapping;
pub mod program;
pub mod shape;
pub mod tables;
