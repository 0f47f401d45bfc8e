//! The Login Phase (RFC 7143, section 6.3), without its socket: bytes in, Login Responses out.
//!
//! ```text
//!  first request ── names checked ──► Place ── directory ──► placed ── answers ──► ... ──► Complete ──► finish
//! ```
//!
//! - `handle_*` takes what happened: bytes arrived, time passed, the directory answered.
//! - `poll_*` returns what to do next.
//!
//! Nothing is negotiated, and nothing answered, before the directory placed the login: only then is it
//! known whether the session exists. A [`Login`] is `Send` and moves to the reactor of its session
//! together with its socket.

mod introduction;
pub mod keys;
mod machine;
pub mod negotiate;
mod refusal;
mod respond;
mod stage;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::params::{Offer, OperationalParams};
use super::target::{Target, TargetSet};
use crate::units::SerialNumber;

pub use crate::pdu::code::LoginStatus;
pub use machine::Login;
pub use negotiate::{TextFacts, full_feature_text};
pub use refusal::{LoginError, Refusal};

/// Bounds of one login, and what the target offers in it.
#[derive(Clone, Copy, Debug)]
pub struct LoginLimits {
    /// From the connection's arrival to the full feature phase.
    pub deadline: Duration,
    /// Most text in one sequence of continued requests, in bytes (section 6.1: at least 8192).
    pub text: usize,
    /// Most Login Requests (section 6.2: at least 6 exchanges).
    pub requests: u32,
    /// Most keys that are not in the table. An answer to all of them fits in one PDU.
    pub foreign_keys: usize,
    /// Our side of the negotiation.
    pub offer: Offer,
}

impl Default for LoginLimits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(15),
            text: 16 * 1024,
            requests: 128,
            foreign_keys: 64,
            offer: Offer::DEFAULT,
        }
    }
}

/// Who logs in to what, for the directory: which reactor the session is on, or shall be on.
#[derive(Clone, Debug)]
pub struct PlaceRequest {
    /// In its normal form.
    pub initiator_name: String,
    /// Initiator part of the session's name.
    pub isid: [u8; 6],
    /// 0 for a new session.
    pub tsih: u16,
    /// Connection within the session.
    pub cid: u16,
    /// `None` in a discovery session.
    pub target: Option<Arc<Target>>,
    /// Of the portal that the login came in on (0 when no target is there).
    pub portal_group_tag: u16,
    /// SessionType=Discovery.
    pub discovery: bool,
}

/// What the login's owner must do.
#[derive(Clone, Debug)]
pub enum LoginEvent {
    /// Ask the directory, then call [`Login::placed`].
    Place(PlaceRequest),
    /// Drain the session to be reinstated, then call [`Login::finish`].
    Complete,
}

/// A login that succeeded: what the session starts from.
#[derive(Debug)]
pub struct Established {
    /// In its normal form.
    pub initiator_name: String,
    /// Initiator part of the session's name.
    pub isid: [u8; 6],
    /// The session's handle.
    pub tsih: u16,
    /// Connection within the session.
    pub cid: u16,
    /// SessionType=Discovery.
    pub discovery: bool,
    /// `None` in a discovery session.
    pub target: Option<Arc<Target>>,
    /// The snapshot that the login saw.
    pub targets: Arc<TargetSet>,
    /// Our address of the connection.
    pub portal: SocketAddr,
    /// Of the portal group that the session is with.
    pub portal_group_tag: u16,
    /// What was agreed on.
    pub params: OperationalParams,
    /// CmdSN of the next command (section 11.12.8).
    pub cmd_sn: SerialNumber,
    /// StatSN of the next response.
    pub stat_sn: SerialNumber,
    /// Bytes to be sent before anything else; the last Login Response ends them.
    pub response: Vec<u8>,
    /// Bytes that came after the last Login Request.
    pub received: Vec<u8>,
}

#[cfg(test)]
mod tests;
