//! How `lbctl` and other programs speak with the daemon: HTTP/1.1 with JSON, on a unix socket.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`types`] | what the daemon shows of itself: status, services, counters |
//! | [`names`] | the words from closed lists in them: protocols, modes, states |
//! | [`standing`] | where a backend stands by its service's policy |
//! | [`report`] | what would change, what has changed, what is wrong with a file |
//! | [`events`] | what has happened |
//! | [`error`] | every failure, as the daemon says it and as a client reads it |
//! | [`socket`] | the socket in the file system: who may open it, and whose it is |
//! | [`call`] | what the server asks of the daemon's loop |
//! | [`server`] | HTTP on one side, the daemon's single loop on the other |
//! | `response` | answers and errors as HTTP responses |
//! | [`connections`] | how many clients, for how long, and who makes room |
//! | [`room`] | memory for what clients send and have not read |
//! | [`client`] | one request, one answer, and errors that say what to do |
//!
//! The JSON is stable: fields may be added, none is renamed, removed or given another meaning within `/v1`.
//! `docs/api.md` shows every answer.

pub mod call;
pub mod client;
pub mod connections;
pub mod error;
pub mod events;
pub mod names;
pub mod report;
mod response;
pub mod room;
pub mod server;
pub mod socket;
pub mod standing;
pub mod types;

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/lbd/lbd.sock";

/// The longest request body in bytes: a configuration file of some 100,000 backends fits.
pub const MAX_REQUEST: usize = 32 << 20;
