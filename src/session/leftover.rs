//! What sessions that are gone left with the media, and the sessions that took their place.
//!
//! The tasks of a reinstated session are ended (RFC 7143, section 6.3.5), but not what a medium has of them already. A
//! write that was never acknowledged may still reach the blocks; its initiator, back again, may meanwhile have written
//! them anew, and must not find the old bytes on top. So the new session's commands get BUSY where they would go to
//! the medium of such a logical unit, until nothing of its predecessors is left there. All else is served.

use super::home::Home;
use super::shard::session_mut;
use super::{Session, SessionKey, Shard, UnitId};

/// A session that drains has something with this unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leftover {
    session: SessionKey,
    unit: UnitId,
}

impl Leftover {
    /// Whether it is this session's.
    pub(super) fn is_of(&self, session: SessionKey) -> bool {
        self.session == session
    }
}

impl Shard {
    /// The new session takes the place of the old one, of which something is left.
    pub fn follow(&mut self, new: SessionKey, old: SessionKey) {
        let Some(session) = session_mut(&mut self.sessions, old) else {
            return;
        };
        for slot in session.tasks.slots() {
            let task = session.tasks.get(slot);
            let unit = task.unit.and_then(|unit| session.luns.unit(unit));
            if let Some(unit) = unit.filter(|_| task.is_held()) {
                let left = Leftover { session: old, unit };
                if !self.home.leftovers.contains(&left) {
                    self.home.leftovers.push(left);
                }
            }
        }
        if let Some(session) = session_mut(&mut self.sessions, new) {
            session.predecessors.push(old);
        }
    }

    /// Something of this session has ended: is there still something of it where there was?
    pub(super) fn review_leftovers(&mut self, key: SessionKey) {
        if self.home.leftovers.iter().all(|left| left.session != key) {
            return;
        }
        let session = session_mut(&mut self.sessions, key).map(|session| &*session);
        let remains = |unit: UnitId| {
            session.is_some_and(|session| {
                session.tasks.slots().any(|slot| {
                    let task = session.tasks.get(slot);
                    let at = task.unit.and_then(|index| session.luns.unit(index));
                    task.is_held() && at == Some(unit)
                })
            })
        };
        (self.home.leftovers).retain(|left| left.session != key || remains(left.unit));
    }
}

impl Session {
    /// Whether something of a session that this one took the place of is still with the unit.
    pub(super) fn is_held_back(&self, home: &Home, unit: Option<u16>) -> bool {
        if home.leftovers.is_empty() || self.predecessors.is_empty() {
            return false;
        }
        let unit = unit.and_then(|unit| self.luns.unit(unit));
        let mut leftovers = home.leftovers.iter();
        leftovers.any(|left| Some(left.unit) == unit && self.predecessors.contains(&left.session))
    }

    /// Whether there is such a unit at all.
    pub(super) fn has_leftovers(&self, home: &Home) -> bool {
        let mut leftovers = home.leftovers.iter();
        leftovers.any(|left| self.predecessors.contains(&left.session))
    }
}
