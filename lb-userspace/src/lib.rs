//! The daemon `lbd` and its client `lbctl`.
//!
//! A configuration change goes one way: file → [`config`] (as typed) → [`model`] (cannot be wrong) → plan (pure) → apply
//! (makes no choice) → the maps.

pub mod api;
pub mod cli;
pub mod model;
pub mod netlink;
