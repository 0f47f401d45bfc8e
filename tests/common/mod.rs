//! What the scenario tests stand on: an initiator and a target in one process, without a kernel between
//! them, and a clock, a network and a medium that do what the test says.

#![allow(
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    reason = "shared by several test programs, each of which uses a part of it"
)]

pub mod cdb;
pub mod disk;
pub mod moving;
pub mod pair;
pub mod random;
pub mod raw;
pub mod say;
pub mod turn;
pub mod wire;
