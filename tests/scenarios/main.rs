//! Scenarios by the sections of RFC 7143: an initiator and a target in one process, without a kernel.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are tests, though clippy does not see it"
)]

#[path = "../common/mod.rs"]
mod common;

mod digests;
mod fairness;
mod hostile;
mod login;
mod logout_and_ping;
mod ordering;
mod reads;
mod reinstatement;
mod rejects;
mod simulation;
mod stability;
mod task_management;
mod text;
mod writes;
