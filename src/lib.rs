//! **ringtgt**: a userspace, poll-mode iSCSI target.
//!
//! ```text
//!      control plane (may lock, allocate, block)             data plane (per core; none of these)
//! cli ──► control ── messages, snapshots ──► reactor ─┬─ bytes ──► session ──► scsi ──► backend ─┐
//!               ▲                                     │             │ ▲          (pure)          │
//!  counters ◄───┴────────── reads ── stats ◄──────────┤            pdu│                         │
//!                                                     └─ bytes ◄── session ◄──── completion ◄───┘
//! ```
//!
//! Bytes come in through [`reactor`], [`session`] cuts them into PDUs and commands, [`scsi`] decides,
//! [`backend`] acts, and the answer goes back the same way. One thread does all of it for one connection.
//! A module may import only what stands after it; `tests/tidy.rs` holds the rule.

pub mod backend;
pub mod buffer;
pub mod cli;
pub mod control;
pub mod initiator;
pub mod pdu;
pub mod reactor;
pub mod scsi;
pub mod session;
pub mod stats;
pub mod sys;
pub mod units;
