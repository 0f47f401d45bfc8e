//! Scenarios by the sections of RFC 7143: an initiator and a target in one process, without a kernel.

#[path = "../common/mod.rs"]
mod common;

mod digests;
mod hostile;
mod login;
mod logout_and_ping;
mod ordering;
mod reads;
mod reinstatement;
mod rejects;
mod simulation;
mod task_management;
mod text;
mod writes;
