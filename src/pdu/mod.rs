//! RFC 7143 bytes to values and back. Pure; knows no session, never panics on bytes from a peer.
//!
//! ```text
//! +-----------------+-----------------+---------------+------------------+---------+-------------+
//! | BHS, 48 bytes   | AHS, 4 n bytes  | header digest | data segment     | padding | data digest |
//! |                 | (rarely)        | 4, if agreed  | 0 to 2^24-1      | to 4    | 4, if agreed|
//! +-----------------+-----------------+---------------+------------------+---------+-------------+
//! ```
//!
//! Section 11.1: the data segment is padded to four bytes; the padding is sent as zeros, is covered by
//! the data digest and is not counted by DataSegmentLength.

pub mod bhs;
pub mod code;
pub mod digest;
pub mod frame;
pub mod text;

pub use bhs::BHS_LEN;

/// Bytes that follow `len` bytes of data so that the next thing starts at a multiple of four.
#[must_use]
pub const fn padding(len: usize) -> usize {
    len.wrapping_neg() & 3
}
