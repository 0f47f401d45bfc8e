//! What one core serves: its sessions, and the logical units attached to it.
//!
//! ```text
//!  receive_into -> handle_received      gather -> transmitted         poll_ready, poll_close_request, poll_closed
//!  poll_backends                        handle_message, poll_message  has_work
//! ```

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;
use std::time::Instant;

use super::departure::Away;
use super::error::{ConnectionError, Counters, Event};
use super::home::Home;
use super::login::{Established, LoginStatus};
pub use super::owner::ShardMessage;
use super::steps::io_tag_parts;
use super::turn::SENT_PER_TURN;
use super::{ReactorId, Session, SessionKey, SessionLimits, UnitId};
use crate::backend::{Backend, Completion};
use crate::buffer::{CHUNK, Piece, Pool};
use crate::scsi::LogicalUnit;

/// What a shard is made from.
#[derive(Debug)]
pub struct ShardConfig {
    /// This core.
    pub reactor: ReactorId,
    /// Cores there are; every one has a shard.
    pub reactors: u16,
    /// This core's memory.
    pub pool: Pool,
    /// Bounds of each session.
    pub limits: SessionLimits,
}

/// The sessions and logical units of one core.
///
/// - `handle_*` takes what happened; `poll_*` gives what is to be done: call each until it gives nothing.
/// - It never reads a clock, a socket or a lock, and allocates nothing per command.
#[derive(Debug)]
pub struct Shard {
    pub(super) home: Home,
    pub(super) sessions: Vec<Entry>,
    /// Sessions that another core is asked to take.
    pub(super) away: Vec<Away>,
    /// Entries of `sessions` that are free.
    pub(super) vacant: Vec<u32>,
    closed: VecDeque<SessionKey>,
    finished: Vec<Completion>,
}

#[derive(Debug)]
pub(super) struct Entry {
    generation: u32,
    pub(super) session: Option<Box<Session>>,
}

impl Shard {
    /// A shard without sessions and units.
    #[must_use]
    pub fn new(config: ShardConfig) -> Self {
        let mut limits = config.limits;
        limits.window = limits.window.clamp(1, 4096);
        limits.pdus_per_turn = limits.pdus_per_turn.max(1);
        limits.sessions = limits.sessions.clamp(1, 65_535);
        limits.receive_ring = limits
            .receive_ring
            .next_power_of_two()
            .clamp(64 * 1024, crate::buffer::LARGEST);
        if limits.session_memory == 0 {
            limits.session_memory = config.pool.total_bytes() / 4;
        }
        Self {
            home: Home::new(config.reactor, config.reactors, config.pool, limits),
            sessions: Vec::new(),
            away: Vec::new(),
            vacant: Vec::new(),
            closed: VecDeque::with_capacity(64),
            finished: Vec::with_capacity(1024),
        }
    }

    /// Makes a logical unit known here, or replaces its snapshot (unless the one here is of a later
    /// generation) and its backend. What the old backend has in flight ends there.
    pub fn attach_unit(&mut self, id: UnitId, unit: Arc<LogicalUnit>, backend: Box<dyn Backend>) {
        self.home.units.attach(id, unit, backend);
    }

    /// Takes a logical unit away; commands find none there from now on. The caller drains the sessions
    /// that use it first.
    pub fn detach_unit(&mut self, id: UnitId) -> Option<Box<dyn Backend>> {
        self.home.units.detach(id)
    }

    /// How many commands a session opened now may send at first; 0: there is no room for another session.
    ///
    /// What it says is what [`Self::open_session`] lets in if nothing comes between: MaxCmdSN never goes
    /// back (RFC 7143, section 4.2.2.1), from the last Login Response on.
    #[must_use]
    pub fn window_for_new_session(&self) -> u32 {
        let limits = &self.home.limits;
        let pool = &self.home.pool;
        if !self.has_place() {
            return 0;
        }
        let Some(_ring) = pool.take(limits.receive_ring, limits.receive_ring) else {
            return 0;
        };
        if !pool.promise() {
            return 0;
        }
        let mut window = 0;
        while window < limits.window && (window == 0 || self.home.is_generous()) && pool.promise() {
            window += 1;
        }
        for _ in 0..=window {
            pool.unpromise();
        }
        window
    }

    /// Whether another session is within the bounds.
    pub(super) fn has_place(&self) -> bool {
        self.session_count() < self.most_sessions()
    }

    /// How many sessions there is room for: receive rings, and what is kept for a ping of each session, leave half of
    /// the pool to data.
    #[must_use]
    pub fn most_sessions(&self) -> usize {
        let limits = &self.home.limits;
        let kept = self.home.pool.total_bytes() / 2 / (limits.receive_ring + CHUNK);
        limits.sessions.min(kept.max(1))
    }

    /// Opens a session; its first PDUs may be in `established` already.
    ///
    /// # Errors
    /// The status of a Login Response, when there is no room for another session.
    pub fn open_session(
        &mut self,
        established: Established,
        _now: Instant,
    ) -> Result<SessionKey, LoginStatus> {
        let ring_len = self.home.limits.receive_ring;
        if !self.has_place() {
            return Err(LoginStatus::OUT_OF_RESOURCES);
        }
        let mut ring = (self.home.pool)
            .take(ring_len, ring_len)
            .ok_or(LoginStatus::OUT_OF_RESOURCES)?;
        let early = established.received.len();
        if early > ring.len() || !self.home.pool.promise() {
            return Err(LoginStatus::OUT_OF_RESOURCES);
        }
        ring.as_mut_slice()[..early].copy_from_slice(&established.received);
        let key = self.new_key();
        let mut session = Session::new(key, &mut self.home, established, ring);
        session.rx.end = early;
        self.home.reserve(session.tasks.len());
        session.make_ready(&mut self.home);
        if early > 0 {
            session.add_backlog(&mut self.home);
        }
        self.home.count(Event::SessionOpened);
        self.sessions[key.index as usize].session = Some(Box::new(session));
        Ok(key)
    }

    /// The key of a session that comes to be now.
    pub(super) fn new_key(&mut self) -> SessionKey {
        let index = match self.vacant.pop() {
            Some(index) => index,
            None => {
                self.sessions.push(Entry {
                    generation: 0,
                    session: None,
                });
                u32::try_from(self.sessions.len() - 1).expect("bounded by the limit")
            }
        };
        let entry = &mut self.sessions[index as usize];
        entry.generation = entry.generation.wrapping_add(1);
        SessionKey {
            index,
            generation: entry.generation,
        }
    }

    /// Where to receive next: the rest of a large payload in its own memory, then the receive ring. When both
    /// are empty there is no room now: do not receive (0 bytes would look like the end of the stream), but
    /// call [`Self::poll_backends`] and [`Self::gather`], and ask again.
    pub fn receive_into(&mut self, key: SessionKey) -> [IoSliceMut<'_>; 2] {
        match session_mut(&mut self.sessions, key) {
            Some(session) => session.rx.places(&mut session.tasks),
            None => [IoSliceMut::new(&mut []), IoSliceMut::new(&mut [])],
        }
    }

    /// `len` bytes were received: runs every whole PDU (within the turn's bound) to completion.
    ///
    /// # Errors
    /// When the connection must be closed: then call [`Self::connection_lost`].
    pub fn handle_received(
        &mut self,
        _now: Instant,
        key: SessionKey,
        len: usize,
    ) -> Result<(), ConnectionError> {
        let session = session_mut(&mut self.sessions, key).ok_or(ConnectionError::NoSuchSession)?;
        if !session.rx.note(len) {
            self.home.count(Event::Misuse);
            return Err(ConnectionError::Overrun);
        }
        session.traffic = session.traffic.wrapping_add(len as u64);
        let result = session.run_received(&mut self.home);
        self.deliver();
        result
    }

    /// The bytes to send next; returns how many pieces there are. After sending, say so to
    /// [`Self::transmitted`], and ask again: until there is nothing, or the socket is full. Once a session has
    /// sent what it may in one turn there is nothing, and [`Self::poll_ready`] names it in the next turn.
    ///
    /// For who looks at the bytes: nothing of them changes meanwhile. Who only hands them to the kernel uses
    /// [`Self::gather_pieces`].
    pub fn gather<'a>(&'a mut self, key: SessionKey, slices: &mut [IoSlice<'a>]) -> usize {
        let Some(((session, home), room)) = self.encode(key) else {
            return 0;
        };
        session.keep_all_lent(home);
        session.tx.gather(&session.tasks, slices, room)
    }

    /// As [`Self::gather`], with data of reads as it lies in memory that others may write.
    pub fn gather_pieces<'a>(&'a mut self, key: SessionKey, pieces: &mut [Piece<'a>]) -> usize {
        let Some(((session, home), room)) = self.encode(key) else {
            return 0;
        };
        if room < SENT_PER_TURN && !session.tx.is_idle() {
            // What room is left in this turn may be too little for a whole block.
            session.add_backlog(home);
        }
        session.tx.gather(&session.tasks, pieces, room)
    }

    /// The session with PDUs on the wire, and how many bytes may leave; `None`: none.
    fn encode(&mut self, key: SessionKey) -> Option<((&mut Session, &mut Home), usize)> {
        let session = session_mut(&mut self.sessions, key)?;
        let room = session.room_to_send(&mut self.home);
        if room == 0 {
            return None;
        }
        session.fill_wire(&mut self.home);
        Some(((session, &mut self.home), room))
    }

    /// Whether a session has more to send than has left.
    #[must_use]
    pub fn has_more(&mut self, key: SessionKey) -> bool {
        session_mut(&mut self.sessions, key).is_some_and(|session| !session.tx.is_idle())
    }

    /// `len` bytes of what [`Self::gather`] gave were handed to the socket.
    pub fn transmitted(&mut self, key: SessionKey, len: usize) {
        if let Some(session) = session_mut(&mut self.sessions, key) {
            session.traffic = session.traffic.wrapping_add(len as u64);
            session.note_transmitted(&mut self.home, len);
        }
        self.deliver();
    }

    /// Takes in what backends have finished, goes on with what was left over in the last turn, and tries
    /// again what waits for memory. Returns how much there was to do.
    pub fn poll_backends(&mut self, _now: Instant) -> usize {
        self.home.turn = self.home.turn.wrapping_add(1);
        let mut finished = std::mem::take(&mut self.finished);
        self.home.units.poll(&mut finished);
        let mut work = finished.len();
        for completion in finished.drain(..) {
            let (index, slot, generation) = io_tag_parts(completion.tag);
            let entry = self.sessions.get_mut(index);
            if let Some(session) = entry.and_then(|e| e.session.as_deref_mut()) {
                let key = session.key;
                session.complete(&mut self.home, slot, generation, completion);
                self.review_leftovers(key);
                self.reap(index);
            }
        }
        self.finished = finished;
        work += self.run_backlog();
        work += self.retry_waiting();
        self.deliver();
        work
    }

    /// A session that got something to send since it was last told of.
    pub fn poll_ready(&mut self) -> Option<SessionKey> {
        while let Some(key) = self.home.ready.pop_front() {
            if let Some(session) = session_mut(&mut self.sessions, key) {
                session.in_ready = false;
                return Some(key);
            }
        }
        None
    }

    /// A session whose socket is to be closed, because it logged out (and the answer has left), its target
    /// was reset, or its stream cannot be followed; then call [`Self::connection_lost`].
    pub fn poll_close_request(&mut self) -> Option<SessionKey> {
        while let Some(key) = self.home.close_requests.pop_front() {
            if session_mut(&mut self.sessions, key).is_some() {
                return Some(key);
            }
        }
        None
    }

    /// What was wrong with the stream of a session that [`Self::poll_close_request`] named; `None`: nothing was.
    #[must_use]
    pub fn fault(&mut self, key: SessionKey) -> Option<ConnectionError> {
        session_mut(&mut self.sessions, key)?.fault
    }

    /// The connection is gone (and, with ErrorRecoveryLevel 0, the session with it): tasks are dropped,
    /// operations in flight drain, then [`Self::poll_closed`] tells.
    pub fn connection_lost(&mut self, key: SessionKey) {
        if let Some(session) = session_mut(&mut self.sessions, key) {
            session.drop_connection(&mut self.home);
            self.reap(key.index as usize);
        }
        self.deliver();
    }

    /// As [`Self::connection_lost`], on our own decision: reinstatement, or control's.
    pub fn close_session(&mut self, key: SessionKey) {
        self.connection_lost(key);
    }

    /// A session of which nothing is left.
    pub fn poll_closed(&mut self) -> Option<SessionKey> {
        self.closed.pop_front()
    }

    fn reap(&mut self, index: usize) {
        let Some(entry) = self.sessions.get_mut(index) else {
            return;
        };
        let Some(session) = entry.session.as_ref().filter(|s| s.is_drained()) else {
            return;
        };
        let key = session.key;
        self.home.release(session.tasks.len());
        entry.session = None;
        self.home.leftovers.retain(|left| !left.is_of(key));
        self.vacant.push(key.index);
        self.closed.push_back(key);
        self.home.count(Event::SessionClosed);
    }

    /// A message for another core.
    pub fn poll_message(&mut self) -> Option<(ReactorId, ShardMessage)> {
        let (to, message) = self.home.mail.out.pop_front()?;
        Some((to, ShardMessage(message)))
    }

    /// A message from another core.
    pub fn handle_message(&mut self, _now: Instant, message: ShardMessage) {
        self.home.mail.local.push_back(message.0);
        self.deliver();
    }

    /// When [`Self::handle_timeout`] wants to be called; `None`: never, as things are.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Time has passed. (Keepalive will live here.)
    pub fn handle_timeout(&mut self, _now: Instant) {}

    /// Whether [`Self::poll_backends`] has something to do that no event will announce.
    #[must_use]
    pub fn has_work(&self) -> bool {
        let home = &self.home;
        let waits = !(home.memory_line.is_empty() && home.starved.is_empty());
        !(home.backlog.is_empty() && home.turn_line.is_empty() && home.mail.local.is_empty())
            || (waits && home.unpromised() > home.free_when_tried)
    }

    /// Whether every command that does not wait for its initiator has been answered, and every answer sent.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let mut sessions = self.sessions.iter().filter_map(|e| e.session.as_deref());
        sessions.all(Session::is_quiet)
    }

    /// Whether operations are in flight.
    #[must_use]
    pub fn has_in_flight(&self) -> bool {
        self.home.units.is_busy()
    }

    /// How many sessions are open or draining.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.len() - self.vacant.len()
    }

    /// What has been counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.home.counters
    }
}

/// The session of this key, if it is there still.
pub(super) fn session_mut(sessions: &mut [Entry], key: SessionKey) -> Option<&mut Session> {
    let entry = sessions.get_mut(key.index as usize)?;
    let session = entry.session.as_deref_mut()?;
    (session.key == key).then_some(session)
}
