//! Hostile peers over real sockets. Whatever they send, at worst their connection ends, for a reason that
//! is counted; nobody else's session and no block that they may not write is touched.
#![allow(missing_docs, reason = "a test")]
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    unreachable_pub,
    reason = "a test, of numbers that it made itself"
)]

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "tests' own numbers"
)]
#[path = "../common/mod.rs"]
mod common;

mod after_login;
mod before_login;
mod overload;
mod siege;
mod streams;
