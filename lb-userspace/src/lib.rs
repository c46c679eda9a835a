//! The daemon `lbd` and its client `lbctl`.
//!
//! A configuration change goes one way: file → [`config`] (as typed) → [`model`] (cannot be wrong) → [`plan`] (pure) →
//! [`plan::apply`] (makes no choice) → the maps.

pub mod alerts;
pub mod api;
mod aside;
pub mod backend;
pub mod bpf;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod ethtool;
pub mod fit;
pub mod frames;
mod group;
pub mod health;
pub mod journal;
pub mod load;
pub mod model;
pub mod netlink;
pub mod object;
mod oom_score;
pub mod path;
pub mod plan;
pub mod policy;
pub mod private;
pub mod ring;
pub mod run_as;
pub mod simulate;
mod systemd;
pub mod trust;
pub mod wish;
