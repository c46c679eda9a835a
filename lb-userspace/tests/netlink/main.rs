//! Next hops in real network namespaces: found, and followed within a second. Needs root.
//!
//! Each test has namespaces of its own, which end with its threads, and prints how long a change took to arrive.

mod following;
mod hosts;
mod links;
mod resolving;
mod scale;
mod silent;
