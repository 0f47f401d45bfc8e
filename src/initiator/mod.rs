//! An iSCSI initiator without sockets, and the load generator made of it.
//!
//! ```text
//!  commands ──► submit ──► Initiator ──► poll_transmit ──► socket
//!  events   ◄── poll_event ◄──  │   ◄── receive_into, handle_received ◄── socket
//! ```
//!
//! [`Initiator`] is one connection of one session. `bench` drives it over sockets, the tests hand its bytes
//! to the target's session directly. It is also the tests' judge: with [`Config::strict`] every rule a target
//! can break on the wire (numbers, offsets, lengths, digests) is an [`Error`], not something to put up with.
//! And it can misbehave on purpose: [`Initiator::send_pdu`] and [`Initiator::send_raw`].

pub mod ceiling;
pub mod config;
mod data;
pub mod driver;
mod engine;
pub mod event;
pub mod latency;
mod load;
mod login;
mod pace;
pub mod pattern;
pub mod plan;
mod receive;
mod socket;
mod task;
pub mod url;
mod worker;

use crate::pdu::frame::{Frame, Framing};
use crate::units::SerialNumber;

pub use config::{Config, DigestOffer, Negotiated, Offers};
use engine::Engine;
pub use event::{CommandDone, Error, Event, Residual};
pub use task::{Command, Payload, wire_lun};

/// Bytes of the receive buffer, at least: enough for a batch of small answers, small enough for a cache.
const RECEIVE_BUFFER: usize = 256 * 1024;
/// Below this much free space the unfinished PDU is moved to the front of the buffer.
const LEAST_FREE: usize = 64 * 1024;

/// One iSCSI connection seen from the initiator, without its socket: bytes and commands in, bytes and
/// events out.
///
/// - [`Self::receive_into`] and [`Self::handle_received`] take bytes in.
/// - [`Self::poll_event`] says what happened; call it until it returns `None`.
/// - [`Self::poll_transmit`] gives the bytes to send, all commands since the last call in one piece.
///
/// Nothing is allocated per command once its buffers have grown.
#[derive(Debug)]
pub struct Initiator {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    engine: Engine,
}

impl Initiator {
    /// A connection that will log in as `config` says: the first Login Request is ready to be sent.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let longest = config.offers.max_recv_data_segment_length as usize + 2048;
        Self {
            buffer: vec![0; RECEIVE_BUFFER.max(longest + LEAST_FREE)],
            start: 0,
            end: 0,
            engine: Engine::new(config),
        }
    }

    /// Where to receive next. Never empty.
    pub fn receive_into(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.end < LEAST_FREE {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.buffer[self.end..]
    }

    /// `len` bytes were received into [`Self::receive_into`]; every whole PDU is dealt with.
    ///
    /// # Errors
    /// [`Error`]: the login was refused, or the target broke the protocol. The connection is then of no use.
    ///
    /// # Panics
    /// When `len` is more than there was room for.
    pub fn handle_received(&mut self, len: usize) -> Result<(), Error> {
        assert!(
            len <= self.buffer.len() - self.end,
            "received more than there was room for"
        );
        self.end += len;
        loop {
            let framing: Framing = self.engine.framing();
            let stream = &self.buffer[self.start..self.end];
            let Frame::Header(layout) = framing.decode(stream)? else {
                return Ok(());
            };
            let Some(pdu) = stream.get(..layout.total_len()) else {
                return Ok(());
            };
            if layout.data_is_right(pdu) != Some(true) {
                return Err(Error::DataDigest);
            }
            self.start += pdu.len();
            self.engine.handle_pdu(&layout, pdu)?;
        }
    }

    /// Takes `bytes` as received, however many: for tests, which have no socket to receive from.
    ///
    /// # Errors
    /// As [`Self::handle_received`].
    pub fn handle_bytes(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let room = self.receive_into();
            let len = room.len().min(bytes.len());
            let (now, later) = bytes.split_at(len);
            room[..len].copy_from_slice(now);
            self.handle_received(len)?;
            bytes = later;
        }
        Ok(())
    }

    /// What is to be sent; empty when there is nothing.
    #[must_use]
    pub fn poll_transmit(&self) -> &[u8] {
        self.engine.unsent()
    }

    /// The first `len` bytes of [`Self::poll_transmit`] were sent.
    pub fn transmitted(&mut self, len: usize) {
        self.engine.transmitted(len);
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.engine.events.pop_front()
    }

    /// What was agreed on; `None` before the login is complete.
    #[must_use]
    pub const fn negotiated(&self) -> Option<&Negotiated> {
        self.engine.negotiated()
    }

    /// Commands that [`Self::submit`] would take now: free tags, and room in the command window
    /// (RFC 7143, section 4.2.2.1). 0 before the login is complete.
    #[must_use]
    pub fn room(&self) -> u32 {
        self.engine.room()
    }

    /// Commands and other requests that are not answered yet.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.engine.tasks.outstanding()
    }

    /// Issues a SCSI command. `Ok` is its initiator task tag.
    ///
    /// # Errors
    /// Gives the command back when [`Self::room`] is 0 (for an immediate command: no tag is free).
    pub fn submit(&mut self, command: Command) -> Result<u32, Command> {
        self.engine.submit(command)
    }

    /// Pings the target: a NOP-Out that wants an answer (section 11.18). `None` when no tag is free.
    pub fn nop(&mut self, cookie: u64, data: &[u8]) -> Option<u32> {
        self.engine.nop(cookie, data)
    }

    /// Sends a task management function as an immediate request (section 11.5). `referenced` is the tag that
    /// ABORT TASK names. `None` when no tag is free.
    pub fn task_management(
        &mut self,
        cookie: u64,
        function: crate::pdu::code::TaskManagementFunction,
        lun: u64,
        referenced: Option<u32>,
    ) -> Option<u32> {
        self.engine
            .task_management(cookie, function, lun, referenced)
    }

    /// Sends text, `key=value<NUL>` pairs (section 11.10), such as `SendTargets=All<NUL>`. `None` when no tag
    /// is free.
    pub fn text(&mut self, cookie: u64, text: &[u8]) -> Option<u32> {
        self.engine.text(cookie, text)
    }

    /// Asks to close the session (section 11.14). `None` when no tag is free.
    pub fn logout(&mut self, reason: crate::pdu::code::LogoutReason) -> Option<u32> {
        self.engine.logout(reason)
    }

    /// Sends bytes as they are, right or wrong.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.engine.send_raw(bytes);
    }

    /// Sends a PDU with the digests in force: `bhs` as it is but for DataSegmentLength, which is set.
    pub fn send_pdu(&mut self, bhs: [u8; 48], data: &[u8]) {
        self.engine.send_pdu(bhs, data);
    }

    /// Sends the Data-Out PDUs that `r2t` wants, from the data of its command: only needed without
    /// [`Config::answer_r2t`]. Does nothing when the command is no longer outstanding.
    pub fn answer_r2t(&mut self, r2t: event::R2t) {
        self.engine.answer_r2t(&r2t);
    }

    /// Forgets an outstanding command without an answer (a task management function ended it).
    /// Its payload comes back.
    pub fn forget(&mut self, initiator_task_tag: u32) -> Option<Payload> {
        self.engine
            .tasks
            .remove(initiator_task_tag)
            .map(|task| task.payload)
    }

    /// CmdSN that the next non-immediate command will have.
    #[must_use]
    pub const fn cmd_sn(&self) -> SerialNumber {
        self.engine.cmd_sn
    }

    /// Changes the next CmdSN: to leave a hole, or to account for what [`Self::send_pdu`] sent.
    pub const fn set_cmd_sn(&mut self, cmd_sn: SerialNumber) {
        self.engine.cmd_sn = cmd_sn;
    }

    /// ExpStatSN that is sent next.
    #[must_use]
    pub const fn exp_stat_sn(&self) -> SerialNumber {
        self.engine.exp_stat_sn
    }

    /// ExpCmdSN and MaxCmdSN as last heard from the target.
    #[must_use]
    pub const fn window(&self) -> (SerialNumber, SerialNumber) {
        (self.engine.exp_cmd_sn, self.engine.max_cmd_sn)
    }
}

/// The targets in the answer to SendTargets (RFC 7143, appendix C): names, each with its addresses.
#[must_use]
pub fn discovered(text: &[u8]) -> Vec<(String, Vec<String>)> {
    let mut targets: Vec<(String, Vec<String>)> = Vec::new();
    for pair in crate::pdu::text::Pairs::new(text).flatten() {
        match (pair.key, targets.last_mut()) {
            ("TargetName", _) => targets.push((pair.value.to_owned(), Vec::new())),
            ("TargetAddress", Some((_, addresses))) => addresses.push(pair.value.to_owned()),
            _ => {}
        }
    }
    targets
}

#[cfg(test)]
mod tests;
