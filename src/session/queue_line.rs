//! Tasks that wait for a place in a unit's queue.
//!
//! A medium that hangs fills its queue and leaves it full. Those who wait for it must not cost the others
//! anything: they are tried again only when the unit has finished something, and until then take no memory (see
//! [`Session::perform`](super::Session)) and no turn.

use super::home::{Home, Waiter};
use super::shard::session_mut;
use super::task::{Need, State};
use super::{Session, SessionKey, Shard, UnitId};

impl Session {
    /// Waits until `unit`, whose queue is full, has finished something.
    pub(super) fn wait_for_queue(&mut self, home: &mut Home, slot: u16, unit: UnitId, need: Need) {
        let waiter = self.waiter(slot, need);
        home.units.note_waiting(unit);
        home.queue_line.push_back((unit, waiter));
    }

    /// The unit of a step that must wait for it before it takes memory: others wait for its queue already, and
    /// the task holds nothing yet.
    pub(super) fn must_queue(&self, home: &Home, slot: u16) -> Option<UnitId> {
        if home.has_place_in_queue {
            return None;
        }
        let task = self.tasks.get(slot);
        let unit = task.unit.and_then(|unit| self.luns.unit(unit))?;
        (home.units.is_waited_for(unit) && task.memory() == 0).then_some(unit)
    }

    /// An aborted task waits no more.
    pub(super) fn leave_queue(&self, home: &mut Home, slot: u16) {
        let generation = self.tasks.get(slot).generation;
        home.leave_queue(self.key, slot, generation);
    }
}

impl Home {
    fn leave_queue(&mut self, session: SessionKey, slot: u16, generation: u32) {
        let own = |w: &Waiter| w.session == session && w.slot == slot && w.generation == generation;
        if let Some(at) = self.queue_line.iter().position(|(_, w)| own(w))
            && let Some((unit, _)) = self.queue_line.remove(at)
        {
            self.units.note_left(unit);
        }
    }
}

impl Shard {
    /// Tries those again whose unit has finished something: as many as it finished.
    pub(super) fn retry_queued(&mut self) -> usize {
        if !self.home.units.take_room_made() {
            return 0;
        }
        let mut work = 0;
        for _ in 0..self.home.queue_line.len() {
            let Some((unit, waiter)) = self.home.queue_line.pop_front() else {
                break;
            };
            if !self.home.units.take_room(unit) {
                self.home.queue_line.push_back((unit, waiter));
                continue;
            }
            work += 1;
            if let Some(session) = session_mut(&mut self.sessions, waiter.session) {
                // It has a place now: those behind it are no reason to stand in line again.
                self.home.has_place_in_queue = true;
                session.retry(&mut self.home, waiter);
                self.home.has_place_in_queue = false;
            }
        }
        work
    }
}

impl State {
    /// Whether it stands in a line of this file.
    pub(super) const fn may_be_queued(self) -> bool {
        matches!(self, Self::Waiting(_))
    }
}
