//! What a shard does about messages, from itself and from other cores.

use std::sync::Arc;

use super::home::changed;
use super::owner::{Asker, Change, Message, NexusId};
use super::shard::session_mut;
use super::target::Target;
use super::unit::Passing;
use super::{ReactorId, Shard, UnitId};
use crate::scsi::LogicalUnit;

impl Shard {
    /// Reads the mail to ourselves until there is none.
    pub(super) fn deliver(&mut self) {
        while let Some(message) = self.home.mail.local.pop_front() {
            self.handle_mail(message);
        }
    }

    fn handle_mail(&mut self, message: Message) {
        match message {
            Message::Ask {
                from,
                ticket,
                unit,
                change,
            } => self
                .home
                .own(|owner, carrier| owner.ask(from, ticket, unit, change, carrier)),
            Message::Reached { unit, barrier } => self
                .home
                .own(|owner, carrier| owner.reached(unit, barrier, carrier)),
            Message::Post {
                owner,
                unit,
                barrier,
                change,
                snapshot,
            } => self.pass_barrier((owner, barrier), unit, change, snapshot),
            Message::Answer { ticket } => {
                if let Some(session) = session_mut(&mut self.sessions, ticket.session) {
                    match ticket.asker {
                        Asker::Task { slot, generation } => {
                            session.owner_answered(&mut self.home, slot, generation);
                            self.review_leftovers(ticket.session);
                        }
                        Asker::TaskManagement { index, generation } => {
                            session.function_answered(&mut self.home, index, generation);
                        }
                    }
                }
            }
            Message::EndTarget { target, except } => self.end_target(&target, except),
        }
    }

    /// Closes every session of a target, but for one.
    fn end_target(&mut self, target: &Target, except: NexusId) {
        self.home.heard.note_end(except.reactor);
        self.end_away(target);
        for entry in &mut self.sessions {
            if let Some(session) = entry.session.as_deref_mut()
                && session.nexus_id(&self.home) != except
                && (session.facts.target.as_ref()).is_some_and(|t| t.name == target.name)
            {
                session.request_close(&mut self.home);
            }
        }
    }

    /// Takes up a change; tells the owner as soon as it holds here.
    fn pass_barrier(
        &mut self,
        (owner, barrier): (ReactorId, u64),
        id: UnitId,
        change: Change,
        snapshot: Option<Arc<LogicalUnit>>,
    ) {
        self.home.heard.note_barrier(id, barrier);
        let mut remaining = self.owe_barrier(id, change);
        for entry in &mut self.sessions {
            if let Some(session) = entry.session.as_deref_mut() {
                remaining += session.pass_barrier(&mut self.home, id, change);
            }
        }
        if let Some(unit) = self.home.units.get_mut(id) {
            match (snapshot, change) {
                (Some(snapshot), _) => unit.unit = snapshot,
                (None, Change::SetStopped(stopped)) => {
                    unit.unit = Arc::new(changed(&unit.unit, stopped));
                }
                _ => {}
            }
        }
        if remaining > 0 {
            self.home.passing.push(Passing {
                unit: id,
                owner,
                barrier,
                remaining,
            });
            return;
        }
        let reached = Message::Reached { unit: id, barrier };
        self.home.mail.send(owner, reached);
    }
}
