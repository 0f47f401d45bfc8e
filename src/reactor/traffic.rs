//! Bytes in and out: one receive and one gathered send per connection and turn.

use std::io::IoSliceMut;

use super::Reactor;
use super::arrival::{Phase, Wait};
use super::message::{Message, Reason};
use super::socket::{Received, Sent};
use crate::buffer::Piece;

/// Pieces in one gathered send. A response is one or two (header, data), so this is a whole turn's answers.
const PIECES: usize = 128;

/// What became of one connection's receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Bytes came.
    Worked,
    /// Nothing came, but it is tried again.
    Waits,
    /// It is left alone until the kernel says it is readable.
    Cold,
}

impl Reactor {
    /// Receives once from every connection that may have something.
    pub(super) fn receive(&mut self) -> usize {
        let speculate = self.speculates();
        let mut work = 0;
        // The list is walked while connections come and go: entries of those that went are dropped.
        let mut list = std::mem::take(&mut self.active);
        list.retain(|&slot| match self.receive_on(slot, speculate) {
            Outcome::Worked => {
                work += 1;
                true
            }
            Outcome::Waits => true,
            Outcome::Cold => {
                if let Some(connection) = self.connections.at(slot) {
                    connection.is_active = false;
                }
                false
            }
        });
        list.append(&mut self.active);
        self.active = list;
        work
    }

    fn receive_on(&mut self, slot: usize, speculate: bool) -> Outcome {
        let stopping = self.is_stopping();
        let Some(connection) = self
            .connections
            .at(slot)
            .filter(|connection| connection.is_active)
        else {
            return Outcome::Cold;
        };
        if !connection.socket.is_worth_trying(speculate) {
            return Outcome::Cold;
        }
        let received = match &mut connection.phase {
            Phase::Login(entering) if entering.wait == Wait::Initiator => {
                let room = IoSliceMut::new(entering.login.receive_into());
                connection
                    .socket
                    .receive(&mut [room, IoSliceMut::new(&mut [])])
            }
            Phase::Session(key) if !stopping => {
                let mut room = self.shard.receive_into(*key);
                if room.iter().all(|piece| piece.is_empty()) {
                    return Outcome::Waits;
                }
                connection.socket.receive(&mut room)
            }
            Phase::Login(_) | Phase::Session(_) | Phase::Over => return Outcome::Waits,
        };
        match received {
            Received::Bytes(bytes) => {
                self.around.counters.receives.add(1);
                self.around.counters.received_bytes.add(bytes as u64);
                self.take_bytes(slot, bytes);
                Outcome::Worked
            }
            Received::Nothing => {
                self.around.counters.empty_receives.add(1);
                Outcome::Waits
            }
            Received::End => self.ended(slot, Reason::PeerClosed),
            Received::Failed(kind) => self.ended(slot, Reason::Socket(kind)),
        }
    }

    fn ended(&mut self, slot: usize, reason: Reason) -> Outcome {
        self.close(slot, reason);
        Outcome::Cold
    }

    fn take_bytes(&mut self, slot: usize, bytes: usize) {
        let key = match self
            .connections
            .at(slot)
            .map(|connection| &connection.phase)
        {
            Some(Phase::Session(key)) => *key,
            _ => return self.handle_login_bytes(slot, bytes),
        };
        if let Err(error) = self.shard.handle_received(self.now, key, bytes) {
            self.close(slot, Reason::Protocol(error));
        }
    }

    /// Sends once on every connection that has something, and does what else the shard asks for.
    pub(super) fn send(&mut self) -> usize {
        let mut work = 0;
        std::mem::swap(&mut self.unsent, &mut self.sending);
        while let Some(slot) = self.sending.pop() {
            self.send_login(slot);
            work += self.send_on(slot);
        }
        work += self.send_ready();
        while let Some(key) = self.shard.poll_close_request() {
            work += 1;
            match self.sessions.get(&key).and_then(|seated| seated.slot) {
                Some(slot) => {
                    let fault = self.shard.fault(key);
                    self.close(slot, fault.map_or(Reason::LoggedOut, Reason::Protocol));
                }
                None => self.shard.connection_lost(key),
            }
        }
        while let Some(key) = self.shard.poll_closed() {
            work += 1;
            self.session_gone(key);
        }
        while let Some((to, message)) = self.shard.poll_message() {
            work += 1;
            // A peer that is gone has stopped, as this one is about to.
            let _ = self.around.peers[usize::from(to.0)].send(Message::Shard(message));
        }
        work + self.advance_stop()
    }

    /// Sends once on every connection whose session has got something to send.
    fn send_ready(&mut self) -> usize {
        let mut work = 0;
        for _ in 0..=self.sessions.len() {
            let Some(key) = self.shard.poll_ready() else {
                break;
            };
            if let Some(slot) = self.sessions.get(&key).and_then(|seated| seated.slot) {
                work += self.send_on(slot);
            }
        }
        work
    }

    /// One gathered send of what the session has; returns whether anything left.
    fn send_on(&mut self, slot: usize) -> usize {
        let Some(connection) = self.connections.at(slot) else {
            return 0;
        };
        let Phase::Session(key) = connection.phase else {
            return 0;
        };
        if !connection.socket.is_writable() {
            // The kernel's edge puts it into `unsent`.
            return 0;
        }
        let mut pieces = [Piece::EMPTY; PIECES];
        let count = self.shard.gather_pieces(key, &mut pieces);
        let Some(pieces) = pieces.get(..count).filter(|pieces| !pieces.is_empty()) else {
            return 0;
        };
        self.around.counters.sends.add(1);
        match connection.socket.send(pieces) {
            Sent::Bytes(bytes) => {
                self.around.counters.sent_bytes.add(bytes as u64);
                self.shard.transmitted(key, bytes);
                if self.shard.has_more(key) {
                    // What the kernel did not take is tried again, as only "would block" promises an edge; and there
                    // may be more than was gathered, or than one turn may send. Of all else the shard tells.
                    self.unsent.push(slot);
                }
                1
            }
            Sent::Nothing => {
                self.is_blocked = true;
                0
            }
            Sent::Failed(kind) => {
                self.close(slot, Reason::Socket(kind));
                1
            }
        }
    }
}
