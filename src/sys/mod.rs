//! The only `unsafe` of the crate.
#![allow(
    unsafe_code,
    reason = "this module is where unsafe lives; each block states its invariant"
)]

#[cfg(test)]
pub(crate) mod allocations;
pub mod copy;
pub mod cpu;
pub mod errno;
pub mod file;
pub mod filesystem;
pub mod hugepage;
pub mod interface;
pub mod machine;
pub mod memory;
pub mod numa;
pub mod pieces;
pub mod ring;
pub mod socket;
pub mod ticks;
pub mod topology;
