//! The ceiling of `bench`: answers what a load generator sends in the cheapest way there is.
//!
//! It negotiates a real login, says how large its logical unit is, and then answers every READ with the same
//! bytes and every WRITE after its data came (R2T included), without a device server, a medium, checks or copies.
//! What it reaches on a machine is the limit that the sockets set there: a target is held against it in the same
//! run, over the same socket, with the same negotiated parameters.
//!
//! ```text
//!  socket ──► one buffer for all connections ──► Answerer ──► Answers ──► one gathered send per turn
//! ```
//!
//! [`Way::OnePerPdu`] is the opposite, and as real: blocking sockets, a receive per header, one per data segment,
//! one send per PDU. A ceiling that is not several times as quick does not deserve its name.

mod answer;
mod answers;
mod commands;
mod login;
mod serve;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::AtomicBool;

use super::Offers;
#[cfg(test)]
pub(super) use answer::Answerer;

/// Name of the only target.
pub const TARGET: &str = "iqn.2026-11.io.ringtgt:ceiling";

/// How sockets are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Never sleeps; per turn and connection one receive, all PDUs in it, one gathered send.
    Best,
    /// Blocking sockets, a thread each; one send per PDU.
    OnePerPdu,
}

/// What the ceiling pretends to be.
#[derive(Clone, Debug)]
pub struct CeilingPlan {
    /// Where to listen; port 0 picks one.
    pub address: SocketAddr,
    /// What it agrees to at login; digests always, when the initiator asks for them.
    pub offers: Offers,
    /// Logical blocks.
    pub blocks: u64,
    /// Bytes in one.
    pub logical_block_size: u32,
    /// How sockets are served.
    pub way: Way,
    /// Core to stay on.
    pub core: Option<u32>,
    /// Bytes received at a time, at most.
    pub receive_buffer: usize,
}

/// A ceiling that listens.
#[derive(Debug)]
pub struct Ceiling {
    plan: CeilingPlan,
    listener: TcpListener,
    address: SocketAddr,
}

impl Ceiling {
    /// Listens; nobody is answered yet.
    ///
    /// # Errors
    /// As `bind` and `listen`.
    pub fn bind(plan: CeilingPlan) -> io::Result<Self> {
        let listener = crate::sys::socket::listen(plan.address)?;
        let address = listener.local_addr()?;
        Ok(Self {
            plan,
            listener,
            address,
        })
    }

    /// Where its logical unit is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("iscsi://{}/{TARGET}/0", self.address)
    }

    /// Answers until `stop`. A connection that breaks the protocol is closed.
    ///
    /// # Errors
    /// When the core cannot be had, or the listening socket fails.
    pub fn serve(self, stop: &AtomicBool) -> io::Result<()> {
        if let Some(core) = self.plan.core {
            crate::sys::cpu::pin_current_thread(core)?;
        }
        match self.plan.way {
            Way::Best => serve::best(&self.plan, self.address, &self.listener, stop),
            Way::OnePerPdu => serve::one_per_pdu(&self.plan, self.address, &self.listener, stop),
        }
    }
}

#[cfg(test)]
mod tests;
