//! What the sessions of one core share: memory, logical units, waiting lines, mail.

use std::collections::VecDeque;
use std::sync::Arc;

use super::error::{Counters, Event};
use super::leftover::Leftover;
use super::owner::{Carrier, Change, Message, Owner, Ticket, owner_of};
use super::unit::{Passing, Units};
use super::{ReactorId, SessionKey, SessionLimits, UnitId};
use crate::buffer::{CHUNK, Pool};
use crate::scsi::LogicalUnit;

/// This part of the pool (one in so many) is only for sessions that hold nothing.
const KEPT_FOR_THE_POOR: usize = 8;
/// One of several units may have this part of the pool (one in so many) with its medium, which may keep it.
const SHARE_OF_A_UNIT: usize = 4;

/// A task in a waiting line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) session: SessionKey,
    pub(super) slot: u16,
    pub(super) generation: u32,
}

/// Messages on their way.
#[derive(Debug)]
pub(super) struct Mail {
    me: ReactorId,
    pub(super) out: VecDeque<(ReactorId, Message)>,
    pub(super) local: VecDeque<Message>,
}

#[derive(Debug)]
pub(super) struct Home {
    pub(super) reactor: ReactorId,
    pub(super) reactors: u16,
    pub(super) pool: Pool,
    pub(super) limits: SessionLimits,
    pub(super) units: Units,
    pub(super) counters: Counters,
    pub(super) owner: Owner,
    /// Barriers that wait for operations in flight here; at most one of each unit.
    pub(super) passing: Vec<Passing>,
    pub(super) mail: Mail,
    /// Sessions that got something to send.
    pub(super) ready: VecDeque<SessionKey>,
    /// Sessions with whole PDUs left in their ring, or with a closed window.
    pub(super) backlog: VecDeque<SessionKey>,
    /// Sessions whose window is closed for want of memory.
    pub(super) starved: VecDeque<SessionKey>,
    /// Sessions whose socket should be closed.
    pub(super) close_requests: VecDeque<SessionKey>,
    /// Tasks waiting for memory, first come first served.
    pub(super) memory_line: VecDeque<Waiter>,
    /// Tasks waiting for another turn.
    pub(super) turn_line: VecDeque<Waiter>,
    /// Tasks waiting for a place in a unit's queue.
    pub(super) queue_line: VecDeque<(UnitId, Waiter)>,
    /// Counts the turns of the shard: each lets every session do as much again.
    pub(super) turn: u64,
    /// Operations that ended where they were submitted.
    pub(super) done_at_once: u64,
    /// The memory line's front is being tried again: who fails goes back to the front.
    pub(super) retrying: bool,
    /// The least of what was unpromised since the lines for memory were last tried: with more, it is worth
    /// another try.
    pub(super) free_when_tried: usize,
    /// Tasks that there may be, in all sessions.
    tasks: usize,
    /// Who is being tried again has been given a place in its unit's queue.
    pub(super) has_place_in_queue: bool,
    /// The changes that this core has heard of: what two cores must agree on before a session moves.
    pub(super) heard: Heard,
    /// Where something is left of sessions that others took the place of.
    pub(super) leftovers: Vec<Leftover>,
}

/// Which changes this core has heard of, as numbers that only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// The last barrier of each logical unit, by its number; 0: none yet.
    barriers: Vec<u64>,
    /// Ends of targets, by the reactor that told of them.
    ends: Vec<u64>,
}

impl Heard {
    /// A barrier was taken up.
    pub(super) fn note_barrier(&mut self, unit: UnitId, barrier: u64) {
        *place(&mut self.barriers, unit.0 as usize) = barrier;
    }

    /// The last barrier of a unit.
    pub(super) fn barrier(&self, unit: UnitId) -> u64 {
        self.barriers.get(unit.0 as usize).copied().unwrap_or(0)
    }

    /// The end of a target was taken up.
    pub(super) fn note_end(&mut self, from: ReactorId) {
        *place(&mut self.ends, usize::from(from.0)) += 1;
    }

    /// Whether both have heard of the same ends of targets.
    pub(super) fn has_same_ends(&self, other: &Self) -> bool {
        let count = |heard: &Self, at| heard.ends.get(at).copied().unwrap_or(0);
        (0..self.ends.len().max(other.ends.len())).all(|at| count(self, at) == count(other, at))
    }
}

fn place(list: &mut Vec<u64>, at: usize) -> &mut u64 {
    if list.len() <= at {
        list.resize(at + 1, 0);
    }
    &mut list[at]
}

impl Home {
    pub(super) fn new(
        reactor: ReactorId,
        reactors: u16,
        pool: Pool,
        limits: SessionLimits,
    ) -> Self {
        let units = Units::new(pool.total_bytes() / SHARE_OF_A_UNIT);
        Self {
            reactor,
            reactors,
            pool,
            limits,
            units,
            counters: Counters::default(),
            owner: Owner::new(reactor, reactors),
            passing: Vec::with_capacity(16),
            mail: Mail {
                me: reactor,
                out: VecDeque::with_capacity(64),
                local: VecDeque::with_capacity(64),
            },
            ready: VecDeque::with_capacity(64),
            backlog: VecDeque::with_capacity(64),
            starved: VecDeque::with_capacity(64),
            close_requests: VecDeque::with_capacity(64),
            memory_line: VecDeque::with_capacity(256),
            turn_line: VecDeque::with_capacity(256),
            queue_line: VecDeque::with_capacity(256),
            turn: 0,
            done_at_once: 0,
            retrying: false,
            free_when_tried: 0,
            tasks: 0,
            has_place_in_queue: false,
            heard: Heard::default(),
            leftovers: Vec::new(),
        }
    }

    /// Makes room in the waiting lines for a session's tasks, so that they never grow later.
    pub(super) fn reserve(&mut self, tasks: usize) {
        self.tasks += tasks;
        let tasks = self.tasks;
        for line in [&mut self.memory_line, &mut self.turn_line] {
            line.reserve(tasks.saturating_sub(line.len()));
        }
        let queued = self.queue_line.len();
        self.queue_line.reserve(tasks.saturating_sub(queued));
        for keys in [&mut self.ready, &mut self.backlog, &mut self.starved] {
            keys.reserve(16);
        }
    }

    /// A session with so many tasks is gone.
    pub(super) fn release(&mut self, tasks: usize) {
        self.tasks -= tasks;
    }

    /// Bytes that are neither in a buffer nor promised.
    pub(super) fn unpromised(&self) -> usize {
        let pool = &self.pool;
        pool.free_bytes().saturating_sub(pool.promised() * CHUNK)
    }

    /// What of that is above the part kept for sessions that hold nothing.
    pub(super) fn above_floor(&self) -> usize {
        let kept = self.pool.total_bytes() / KEPT_FOR_THE_POOR;
        self.unpromised().saturating_sub(kept)
    }

    /// Whether windows may open beyond the one command that is always let in: half of the pool stays for
    /// what is asked for.
    pub(super) fn is_generous(&self) -> bool {
        self.pool.promised() * CHUNK * 2 < self.pool.total_bytes() && self.above_floor() >= CHUNK
    }

    pub(super) fn count(&mut self, event: Event) {
        self.counters.add(event, 1);
    }

    /// Sends a request to the owner of `unit`.
    pub(super) fn ask_owner(&mut self, unit: UnitId, ticket: Ticket, change: Change) {
        let to = owner_of(unit, self.reactors);
        let from = self.reactor;
        self.mail.send(
            to,
            Message::Ask {
                from,
                ticket,
                unit,
                change,
            },
        );
    }

    /// One less operation that a barrier of `unit` waits for.
    pub(super) fn fence_passed(&mut self, id: UnitId) {
        let Some(at) = self.passing.iter().position(|p| p.unit == id) else {
            debug_assert!(false, "an operation was fenced by no barrier");
            return;
        };
        let passing = &mut self.passing[at];
        passing.remaining -= 1;
        if passing.remaining == 0 {
            let Passing { owner, barrier, .. } = self.passing.swap_remove(at);
            self.mail
                .send(owner, Message::Reached { unit: id, barrier });
        }
    }

    /// Runs the owner's part of a message.
    pub(super) fn own(&mut self, act: impl FnOnce(&mut Owner, &mut dyn Carrier)) {
        let mut carrier = OwnCarrier {
            mail: &mut self.mail,
            units: &self.units,
        };
        act(&mut self.owner, &mut carrier);
    }
}

impl Mail {
    pub(super) fn send(&mut self, to: ReactorId, message: Message) {
        if to == self.me {
            self.local.push_back(message);
        } else {
            self.out.push_back((to, message));
        }
    }
}

struct OwnCarrier<'a> {
    mail: &'a mut Mail,
    units: &'a Units,
}

impl Carrier for OwnCarrier<'_> {
    fn send(&mut self, to: ReactorId, message: Message) {
        self.mail.send(to, message);
    }

    fn snapshot(&self, unit: UnitId, change: Change) -> Option<Arc<LogicalUnit>> {
        match change {
            Change::SetStopped(stopped) => {
                let current = &self.units.get(unit)?.unit;
                Some(Arc::new(changed(current, stopped)))
            }
            Change::ClearTaskSet { .. } | Change::Reset { .. } => None,
        }
    }
}

/// The snapshot that follows `current` when it is stopped or started.
pub(super) fn changed(current: &LogicalUnit, stopped: bool) -> LogicalUnit {
    LogicalUnit {
        stopped,
        generation: current.generation + 1,
        ..current.clone()
    }
}
