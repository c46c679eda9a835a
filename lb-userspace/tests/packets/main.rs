//! The balancer's packet path in the real kernel: one frame at a time through the loaded program (`BPF_PROG_TEST_RUN`), compared
//! with bytes written out by hand, and with a model of the program on the host.
//!
//! Needs root. `reference` depends on `lb-common` and the tables alone, so that others can use it too.

mod addressee;
mod bad_frames;
mod by_hand;
mod differential;
mod edge;
mod kernel_answers;
mod mutations;
mod reference;
mod sweep;
mod tracking;
mod two_nodes;
