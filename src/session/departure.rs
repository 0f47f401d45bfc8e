//! Sessions that move to another core: both sides of it, without messages and sockets.
//!
//! ```text
//!  from                                                   to
//!   begin_departure: nothing is received any more
//!   ... operations end, answers leave ...
//!   pack: a copy travels, the session is *away*  ──────►  adopt: all of it, or nothing
//!   departed: forget it                          ◄──────  adopted
//!   stay: it goes on here, nothing is lost       ◄──────  refused
//! ```
//!
//! **A change of a logical unit misses no session** (architecture, 4.3). Both cores get every barrier, each at its own
//! time, and the session must go through each exactly once:
//!
//! - A parcel says which barriers (and ends of targets) the core it left had heard of. The other core adopts only when it
//!   has heard of exactly the same ones. So a barrier either had reached both before the move, and the session went
//!   through it where it was; or it reaches the destination after the adoption, which then holds for the session like
//!   for any other there.
//! - A barrier that reaches the old core while the session is away is *owed*: the old core does not say that it holds
//!   before it knows what became of the session. Adopted: the destination has not heard of this barrier yet (else it
//!   would have refused), and will not say that it holds before the session went through it. Refused: the session
//!   goes through it here, and then it holds.
//!
//! So no reset is answered while a command of a travelling session that it covers is unaccounted for. The
//! owner waits for the old core, the old core for an answer that the new one gives at once: nothing waits in a circle.
//! A session with a function of its own in progress, or with a command that the medium or an owner has, does not travel.

use super::home::{Home, Waiter};
use super::owner::Change;
use super::shard::session_mut;
use super::target::Target;
use super::task::{Need, State};
use super::travel::Parcel;
use super::{Phase, Session, SessionKey, Shard, UnitId};

/// A session that another core is asked to take.
#[derive(Debug)]
pub(super) struct Away {
    session: Box<Session>,
    /// Its tasks that stood in waiting lines, in order.
    waiting: Vec<u16>,
    /// Barriers that it has not gone through, at most one of each unit.
    owed: Vec<(UnitId, Change)>,
    /// Its target was ended.
    is_ended: bool,
}

/// How much a session has done so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// A number that grows by 1 with each command, and wraps.
    pub commands: u32,
    /// Bytes received and sent.
    pub bytes: u64,
}

impl Shard {
    /// The session is to move: nothing is received on it any more. False: it cannot.
    pub fn begin_departure(&mut self, key: SessionKey) -> bool {
        let Some(session) = session_mut(&mut self.sessions, key) else {
            return false;
        };
        if !session.may_depart() || session.has_leftovers(&self.home) || session.rx.aside.is_some()
        {
            return false;
        }
        session.rx.aside = session.rx.ring.take();
        session.rx.aside.is_some()
    }

    /// It does not move after all.
    pub fn cancel_departure(&mut self, key: SessionKey) {
        if let Some(session) = session_mut(&mut self.sessions, key)
            && let Some(ring) = session.rx.aside.take()
        {
            session.rx.ring = Some(ring);
            session.add_backlog(&mut self.home);
        }
    }

    /// The session as it is, to travel, once nothing of it is under way here; then it is away until
    /// [`Self::departed`] or [`Self::stay`]. `None`: not yet.
    pub fn pack(&mut self, key: SessionKey) -> Option<Parcel> {
        let session = session_mut(&mut self.sessions, key)?;
        if session.rx.aside.is_none() || !session.is_at_rest() {
            return None;
        }
        let entry = self.sessions.get_mut(key.index as usize)?;
        let mut session = entry.session.take()?;
        session.keep_all_lent(&mut self.home);
        let waiting = self.home.leave_lines(key);
        let parcel = session.pack(&self.home, waiting.clone());
        self.away.push(Away {
            session,
            waiting,
            owed: Vec::new(),
            is_ended: false,
        });
        Some(parcel)
    }

    /// Takes a session in; it goes on at once. `None`: there is no room for it, or what has happened to its
    /// logical units is not known alike on both cores. Then it stays where it was.
    pub fn adopt(&mut self, parcel: Parcel) -> Option<SessionKey> {
        let home = &self.home;
        let may = self.has_place()
            && home.memory_line.is_empty()
            && parcel.fits(home)
            && parcel.agrees_with(&home.heard);
        if !may {
            return None;
        }
        let mut parcel = parcel;
        let waiting = std::mem::take(&mut parcel.waiting);
        let mut session = Box::new(Session::unpack(parcel, home)?);
        let key = self.new_key();
        session.key = key;
        self.home.reserve(session.tasks.len());
        session.resume_here(&mut self.home, &waiting);
        session.open_window(&mut self.home);
        self.sessions[key.index as usize].session = Some(session);
        Some(key)
    }

    /// The other core has adopted the session: here it is forgotten.
    pub fn departed(&mut self, key: SessionKey) {
        let Some(away) = self.take_away(key) else {
            return;
        };
        let promises = away.session.promises_held();
        self.home.release(away.session.tasks.len());
        drop(away.session);
        for _ in 0..promises {
            self.home.pool.unpromise();
        }
        self.vacant.push(key.index);
        for (unit, _) in away.owed {
            self.home.fence_passed(unit);
        }
        self.deliver();
    }

    /// The other core has refused the session: it goes on here.
    pub fn stay(&mut self, key: SessionKey) {
        let Some(away) = self.take_away(key) else {
            return;
        };
        let mut session = away.session;
        session.rx.ring = session.rx.aside.take();
        session.resume_here(&mut self.home, &away.waiting);
        for (unit, change) in away.owed {
            let remaining = session.pass_barrier(&mut self.home, unit, change);
            debug_assert_eq!(remaining, 0, "nothing of it was in flight");
            self.home.fence_passed(unit);
        }
        if away.is_ended {
            session.request_close(&mut self.home);
        }
        session.open_window(&mut self.home);
        self.sessions[key.index as usize].session = Some(session);
        self.deliver();
    }

    fn take_away(&mut self, key: SessionKey) -> Option<Away> {
        let at = self.away.iter().position(|a| a.session.key == key)?;
        Some(self.away.swap_remove(at))
    }

    /// A barrier came: it cannot hold here before it is known what becomes of those who are away. How many
    /// there are.
    pub(super) fn owe_barrier(&mut self, unit: UnitId, change: Change) -> u32 {
        let mut count = 0;
        for away in &mut self.away {
            if away.session.luns.of_unit(unit).is_some() {
                away.owed.push((unit, change));
                count += 1;
            }
        }
        count
    }

    /// The same for the end of a target: the destination adopts no session that missed it.
    pub(super) fn end_away(&mut self, target: &Target) {
        for away in &mut self.away {
            let its = away.session.facts.target.as_ref();
            away.is_ended |= its.is_some_and(|t| t.name == target.name);
        }
    }

    /// How much a session has done; `None`: there is no such session.
    #[must_use]
    pub fn weigh(&mut self, key: SessionKey) -> Option<Weight> {
        let session = session_mut(&mut self.sessions, key)?;
        Some(Weight {
            commands: session.window.exp_cmd_sn().0,
            bytes: session.traffic,
        })
    }
}

impl Session {
    /// Whether it is one that may move at all. (Discovery sessions are short.)
    fn may_depart(&self) -> bool {
        self.phase == Phase::Open
            && !self.close_requested
            && self.fault.is_none()
            && self.facts.target.is_some()
    }

    /// Whether nothing of it is with the medium, an owner or the wire, and what is kept for a ping is there.
    fn is_at_rest(&self) -> bool {
        let rests = |slot| {
            matches!(
                self.tasks.get(slot).state,
                State::Free
                    | State::Dormant
                    | State::Waiting(_)
                    | State::AwaitData
                    | State::Absorbing(_)
            )
        };
        self.may_depart()
            && self.reserved
            && self.tx.is_idle()
            && !self.functions.iter().any(|f| f.is_active())
            && (self.tasks.used() == 0 || self.tasks.slots().all(rests))
    }

    /// Stands in line again, and looks at what was received before it went.
    fn resume_here(&mut self, home: &mut Home, waiting: &[u16]) {
        // Whatever line a task stood in: none that waits is left without one.
        let others = self.tasks.slots().filter(|slot| !waiting.contains(slot));
        for slot in waiting.iter().copied().chain(others) {
            let task = self.tasks.get(slot);
            let State::Waiting(need) = task.state else {
                continue;
            };
            let waiter = Waiter {
                session: self.key,
                slot,
                generation: task.generation,
            };
            if matches!(need, Need::Turn(_) | Need::Submit { .. }) {
                home.turn_line.push_back(waiter);
            } else {
                home.memory_line.push_back(waiter);
                // It is worth a try: this is other memory than it waited for.
                home.free_when_tried = 0;
            }
        }
        self.paused = false;
        self.in_ready = false;
        self.in_backlog = false;
        self.in_starved = false;
        self.add_backlog(home);
    }
}

impl Home {
    /// Takes a session's tasks out of the waiting lines; gives them in order.
    fn leave_lines(&mut self, key: SessionKey) -> Vec<u16> {
        let mut left = Vec::new();
        for line in [&mut self.turn_line, &mut self.memory_line] {
            line.retain(|waiter| {
                if waiter.session == key {
                    left.push(waiter.slot);
                }
                waiter.session != key
            });
        }
        let units = &mut self.units;
        self.queue_line.retain(|(unit, waiter)| {
            if waiter.session == key {
                left.push(waiter.slot);
                units.note_left(*unit);
            }
            waiter.session != key
        });
        left
    }
}
