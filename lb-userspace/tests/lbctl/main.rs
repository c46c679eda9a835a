//! `lbctl` and the API that it speaks: what is printed, what goes over the socket, and how it ends.
//!
//! The daemon's loop is played by canned answers here. Its own answers are tested with the daemon.

mod goldens;
mod plans;
mod programs;
mod samples;
mod socket;
