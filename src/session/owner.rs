//! What must be ordered across cores: the barrier of a logical unit's owner core.
//!
//! ```text
//!  asker                 owner (unit % reactors)              every reactor
//!   Ask{change} ───────►  one change per unit at a time
//!                         Post{change, snapshot} ──────────►  take the snapshot, abort what it forbids;
//!                                                             when nothing of it is in flight any more:
//!                         ◄──────────────────── Reached
//!   ◄──────── Answer      all have reached it: next change
//! ```
//!
//! It waits for operations, not for whole commands: an initiator that owes data, or reads no answer, would
//! hold it up for ever. So each operation asks the snapshot of now before it goes to the medium
//! ([`Command::permit`](crate::scsi::Command::permit)), and later portions see the change.
//!
//! [`Owner`] is pure: messages in, messages out. What a change means is the shard's matter.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{ReactorId, SessionKey, UnitId};
use crate::scsi::LogicalUnit;
use crate::session::target::Target;

/// A message between the shards of a process; opaque to who carries it.
#[derive(Clone, Debug)]
pub struct ShardMessage(pub(super) Message);

#[derive(Clone, Debug)]
pub(super) enum Message {
    /// To the owner: make this change hold everywhere.
    Ask {
        from: ReactorId,
        ticket: Ticket,
        unit: UnitId,
        change: Change,
    },
    /// From the owner: take this change up, and say when it holds.
    Post {
        owner: ReactorId,
        unit: UnitId,
        barrier: u64,
        change: Change,
        snapshot: Option<Arc<LogicalUnit>>,
    },
    /// To the owner: it holds here.
    Reached { unit: UnitId, barrier: u64 },
    /// To the asker: it holds everywhere.
    Answer { ticket: Ticket },
    /// TARGET COLD RESET: close every session of this target (RFC 7143, section 11.5.1).
    EndTarget {
        target: Arc<Target>,
        /// Who asked: its connection ends when the answer has left.
        except: NexusId,
    },
}

/// Who asked; handed back in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) session: SessionKey,
    pub(super) asker: Asker,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// A command that waits for the owner.
    Task { slot: u16, generation: u32 },
    /// A task management function.
    TaskManagement { index: u8, generation: u32 },
}

/// A session, seen from any core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NexusId {
    pub(super) reactor: ReactorId,
    pub(super) session: SessionKey,
}

/// What is to hold on every core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// START STOP UNIT.
    SetStopped(bool),
    /// CLEAR TASK SET, by this nexus.
    ClearTaskSet { by: NexusId },
    /// LOGICAL UNIT RESET, or TARGET RESET as far as it concerns one unit, by this nexus.
    Reset { by: NexusId },
}

/// The unit's owner among `reactors`.
pub(super) fn owner_of(unit: UnitId, reactors: u16) -> ReactorId {
    let index = unit.0 % u32::from(reactors.max(1));
    ReactorId(u16::try_from(index).expect("below a u16"))
}

#[derive(Debug)]
struct Request {
    from: ReactorId,
    ticket: Ticket,
    change: Change,
}

#[derive(Debug)]
struct Active {
    barrier: u64,
    waiting: u16,
    request: Request,
}

#[derive(Debug)]
struct Owned {
    unit: UnitId,
    active: Option<Active>,
    queue: VecDeque<Request>,
}

/// The barriers of the units that one core owns.
#[derive(Debug)]
pub(super) struct Owner {
    me: ReactorId,
    reactors: u16,
    next: u64,
    units: Vec<Owned>,
}

/// Where messages go; and the snapshot a change makes, if it makes one.
pub(super) trait Carrier {
    fn send(&mut self, to: ReactorId, message: Message);
    fn snapshot(&self, unit: UnitId, change: Change) -> Option<Arc<LogicalUnit>>;
}

impl Owner {
    pub(super) fn new(me: ReactorId, reactors: u16) -> Self {
        Self {
            me,
            reactors: reactors.max(1),
            next: 1,
            units: Vec::new(),
        }
    }

    /// Somebody asks for a change. Starts it, or queues it behind those of the same unit.
    pub(super) fn ask(
        &mut self,
        from: ReactorId,
        ticket: Ticket,
        unit: UnitId,
        change: Change,
        carrier: &mut dyn Carrier,
    ) {
        let request = Request {
            from,
            ticket,
            change,
        };
        let index = match self.units.iter().position(|u| u.unit == unit) {
            Some(index) => index,
            None => {
                self.units.push(Owned {
                    unit,
                    active: None,
                    queue: VecDeque::new(),
                });
                self.units.len() - 1
            }
        };
        self.units[index].queue.push_back(request);
        self.start_next(index, carrier);
    }

    /// A reactor says that a barrier holds there.
    pub(super) fn reached(&mut self, unit: UnitId, barrier: u64, carrier: &mut dyn Carrier) {
        let Some(index) = self.units.iter().position(|u| u.unit == unit) else {
            return;
        };
        let owned = &mut self.units[index];
        let Some(active) = owned.active.as_mut().filter(|a| a.barrier == barrier) else {
            return;
        };
        active.waiting -= 1;
        if active.waiting > 0 {
            return;
        }
        if let Some(Active { request, .. }) = owned.active.take() {
            let ticket = request.ticket;
            carrier.send(request.from, Message::Answer { ticket });
        }
        self.start_next(index, carrier);
    }

    fn start_next(&mut self, index: usize, carrier: &mut dyn Carrier) {
        let owned = &mut self.units[index];
        if owned.active.is_some() {
            return;
        }
        let Some(request) = owned.queue.pop_front() else {
            return;
        };
        let barrier = self.next;
        self.next += 1;
        let (unit, change) = (owned.unit, request.change);
        owned.active = Some(Active {
            barrier,
            waiting: self.reactors,
            request,
        });
        let snapshot = carrier.snapshot(unit, change);
        for reactor in 0..self.reactors {
            let message = Message::Post {
                owner: self.me,
                unit,
                barrier,
                change,
                snapshot: snapshot.clone(),
            };
            carrier.send(ReactorId(reactor), message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Post(Vec<(ReactorId, Message)>);

    impl Carrier for Post {
        fn send(&mut self, to: ReactorId, message: Message) {
            self.0.push((to, message));
        }
        fn snapshot(&self, _: UnitId, _: Change) -> Option<Arc<LogicalUnit>> {
            None
        }
    }

    fn ticket(index: u8) -> Ticket {
        Ticket {
            session: SessionKey {
                index: 0,
                generation: 1,
            },
            asker: Asker::TaskManagement {
                index,
                generation: 0,
            },
        }
    }

    fn reset(reactor: u16) -> Change {
        Change::Reset {
            by: NexusId {
                reactor: ReactorId(reactor),
                session: ticket(0).session,
            },
        }
    }

    #[test]
    fn a_change_is_answered_when_every_reactor_reached_it_and_the_next_waits() {
        let mut owner = Owner::new(ReactorId(1), 2);
        let mut post = Post::default();
        let unit = UnitId(3);
        owner.ask(ReactorId(0), ticket(0), unit, reset(0), &mut post);
        owner.ask(ReactorId(1), ticket(1), unit, reset(1), &mut post);
        assert_eq!(
            post.0.len(),
            2,
            "only the first is posted, to both reactors"
        );
        owner.reached(unit, 1, &mut post);
        owner.reached(unit, 7, &mut post);
        assert_eq!(post.0.len(), 2);
        owner.reached(unit, 1, &mut post);
        assert!(
            matches!(post.0[2], (ReactorId(0), Message::Answer { ticket: t }) if t == ticket(0))
        );
        assert!(matches!(post.0[3], (_, Message::Post { barrier: 2, .. })));
    }

    #[test]
    fn units_are_spread_over_the_reactors() {
        assert_eq!(owner_of(UnitId(5), 2), ReactorId(1));
        assert_eq!(owner_of(UnitId(4), 1), ReactorId(0));
    }
}
