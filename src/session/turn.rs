//! What one session may do in one turn of its shard, so that the others have theirs; and what a turn tries
//! again: PDUs left over, answers left over, and tasks that wait.
//!
//! A turn goes from one [`Shard::poll_backends`] to the next. Each bound is large enough that a single session
//! loses nothing by it (a large block in one receive, one copy and one send), and small enough that a
//! neighbour's command waits for microseconds.

use super::home::Home;
use super::receive::DIRECT_FROM;
use super::shard::session_mut;
use super::{Phase, Session, Shard};
use crate::buffer::LARGEST;

/// Bytes of one portion of a command on a medium that is done with it on the spot, so that no step holds up
/// the others for longer. (What a medium works on while others have their turn comes in [`LARGEST`] portions.)
pub const PORTION: usize = 256 * 1024;
/// Bytes that one receive brings: a portion, and the little that is received behind it.
pub const RECEIVED_PER_TURN: usize = PORTION + DIRECT_FROM;
/// Bytes that media move on the spot before the others have their turn; the last step may go beyond, by a
/// [`PORTION`] at most.
pub const MOVED_PER_TURN: usize = 256 * 1024;
/// Bytes sent. As much (and the PDU that goes beyond) is encoded, which is when digests are computed.
pub const SENT_PER_TURN: usize = 256 * 1024;

const _: () = assert!(PORTION <= LARGEST);

/// What a session has done in the shard's turn `number`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turn {
    number: u64,
    /// PDUs run.
    pub(super) run: usize,
    /// Bytes that media moved on the spot.
    pub(super) moved: usize,
    /// Bytes sent.
    pub(super) sent: usize,
}

impl Session {
    /// What it has done in this turn so far.
    pub(super) fn this_turn(&mut self, home: &Home) -> &mut Turn {
        if self.turn.number != home.turn {
            self.turn = Turn {
                number: home.turn,
                ..Turn::default()
            };
        }
        &mut self.turn
    }

    /// The most that is moved at once for a command on this LUN.
    pub(super) fn portion(&self, home: &Home, unit: Option<u16>) -> usize {
        let unit = unit.and_then(|u| self.luns.unit(u));
        match unit.and_then(|id| home.units.get(id)) {
            Some(attached) if !attached.at_once => LARGEST,
            _ => PORTION,
        }
    }

    /// Bytes that it may still send in this turn.
    pub(super) fn room_to_send(&mut self, home: &mut Home) -> usize {
        let room = SENT_PER_TURN.saturating_sub(self.this_turn(home).sent);
        if room == 0 && !self.tx.is_idle() {
            self.add_backlog(home);
        }
        room
    }
}

impl Shard {
    pub(super) fn run_backlog(&mut self) -> usize {
        let count = self.home.backlog.len();
        for _ in 0..count {
            let Some(key) = self.home.backlog.pop_front() else {
                break;
            };
            if let Some(session) = session_mut(&mut self.sessions, key) {
                session.in_backlog = false;
                if !session.tx.is_idle() {
                    session.make_ready(&mut self.home);
                }
                if let Err(error) = session.run_received(&mut self.home) {
                    session.phase = Phase::Ending;
                    session.fault = Some(error);
                    session.request_close(&mut self.home);
                }
            }
        }
        count
    }

    pub(super) fn retry_waiting(&mut self) -> usize {
        let mut work = 0;
        for _ in 0..self.home.turn_line.len() {
            let Some(waiter) = self.home.turn_line.pop_front() else {
                break;
            };
            let before = self.home.turn_line.len();
            let done = self.home.done_at_once;
            if let Some(session) = session_mut(&mut self.sessions, waiter.session) {
                session.retry(&mut self.home, waiter);
                // Who stands in line again and has done nothing found the queue as full as before.
                let waits = self.home.turn_line.len() > before;
                work += usize::from(!waits || self.home.done_at_once != done);
            }
        }
        work += self.retry_queued();
        self.retry_memory();
        for _ in 0..self.home.starved.len() {
            let Some(key) = self.home.starved.pop_front() else {
                break;
            };
            if let Some(session) = session_mut(&mut self.sessions, key) {
                session.in_starved = false;
                session.open_window(&mut self.home);
            }
        }
        work
    }

    /// The line for memory, in order. Who is held up by its own session's share does not hold up others.
    fn retry_memory(&mut self) {
        let waiting = self.home.memory_line.len();
        self.home.retrying = true;
        for _ in 0..waiting {
            let Some(waiter) = self.home.memory_line.pop_front() else {
                break;
            };
            let before = self.home.memory_line.len();
            let Some(session) = session_mut(&mut self.sessions, waiter.session) else {
                continue;
            };
            session.retry(&mut self.home, waiter);
            if self.home.memory_line.len() == before {
                continue;
            }
            // It (or what came of it) waits again.
            if session.memory == 0 {
                // Nobody behind it has more right to what there is not.
                break;
            }
            if let Some(same) = self.home.memory_line.pop_front() {
                self.home.memory_line.push_back(same);
            }
        }
        self.home.retrying = false;
        self.home.free_when_tried = self.home.unpromised();
    }
}
