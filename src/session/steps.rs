//! The steps of a SCSI command: what the device server asks for, and what came of it.

use super::Session;
use super::error::Event;
use super::home::Home;
use super::owner::{Asker, Change, Ticket};
use super::task::{Need, State};
use super::transmit::Out;
use super::turn::{MOVED_PER_TURN, PORTION};
use crate::backend::{BlockError, BlockIo, Completion, IoTag, Submit};
use crate::buffer::Buffer;
use crate::scsi::{self, Context, Memory, Outcome, OwnerRequest, Port, Status, Step, Which};

/// Steps of one command in one turn: after that the others have theirs.
const STEPS_PER_TURN: usize = 64;

impl Session {
    /// Gives the device server its outcome, and does what it asks for, until it has to wait.
    pub(super) fn drive(&mut self, home: &mut Home, slot: u16, outcome: Outcome) {
        let mut outcome = outcome;
        for _ in 0..STEPS_PER_TURN {
            if let Some(sense) = self.tasks.get(slot).out.failed {
                return self.answer(home, slot, Status::CheckCondition(sense));
            }
            let step = self.step(home, slot, outcome);
            match self.perform(home, slot, step) {
                Some(next) => outcome = next,
                None => return,
            }
        }
        self.wait_for_turn(home, slot, Need::Turn(outcome));
    }

    /// Whether media have moved as much for this session as they may in one turn.
    pub(super) fn has_had_its_turn(&mut self, home: &Home) -> bool {
        self.this_turn(home).moved >= MOVED_PER_TURN
    }

    pub(super) fn step(&mut self, home: &mut Home, slot: u16, outcome: Outcome) -> Step {
        let task = self.tasks.get_mut(slot);
        let unit = task.unit.and_then(|u| self.luns.unit(u));
        let attached = unit.and_then(|id| home.units.get(id));
        let target = self.facts.target.as_deref();
        let mut context = Context {
            unit: attached.map(|a| &*a.unit),
            nexus: &mut self.luns.at(task.unit).nexus,
            luns: &self.facts.visible,
            port: Port {
                target_name: target.map_or("", |t| t.name.as_str()),
                portal_group_tag: self.facts.portal_group_tag,
            },
        };
        if outcome == Outcome::Begin {
            let bounds = task.bounds();
            task.command = Some(scsi::start(&task.cdb, bounds, &mut context));
        }
        let memory = Memory {
            data: task.data.as_mut().map_or(&mut [], |b| b.as_mut_slice()),
            scratch: task.scratch.as_mut().map_or(&mut [], |b| b.as_mut_slice()),
        };
        match task.command.as_mut() {
            Some(command) => command.resume(outcome, memory, &mut context),
            None => Step::Done(Status::Busy),
        }
    }

    /// Does what a step asks for; the outcome, if there is one already.
    pub(super) fn perform(&mut self, home: &mut Home, slot: u16, step: Step) -> Option<Outcome> {
        if let Some(need) = Need::of_memory(&step)
            && let Some(unit) = self.must_queue(home, slot)
        {
            home.count(Event::QueueWait);
            self.wait_for_queue(home, slot, unit, need);
            return None;
        }
        match step {
            Step::NeedBuffer { wanted, least } => self.need_buffer(home, slot, wanted, least),
            Step::NeedScratch { wanted, least } => self.need_scratch(home, slot, wanted, least),
            Step::NeedDataOut {
                remaining,
                granularity,
            } => self.need_data_out(home, slot, (remaining, granularity)),
            Step::Io { io, buffer } => self.submit(home, slot, io, buffer),
            Step::Send { len, status } => {
                self.rx.forget_task(slot);
                self.tasks.get_mut(slot).data_in.load(len);
                match status {
                    Some(status) => self.answer(home, slot, status),
                    None if len == 0 => return Some(Outcome::Sent),
                    None => {
                        self.tasks.get_mut(slot).state = State::Sending;
                        self.queue(home, slot);
                    }
                }
                None
            }
            Step::AskOwner(request) => {
                self.ask_owner(home, slot, request);
                None
            }
            Step::Done(status) => {
                self.answer(home, slot, status);
                None
            }
        }
    }

    /// As much of `wanted` as the task in `slot` is to move at once.
    pub(super) fn portion_for(&self, home: &Home, slot: u16, wanted: u32) -> usize {
        let wanted = wanted as usize;
        if wanted <= PORTION {
            return wanted;
        }
        wanted.min(self.portion(home, self.tasks.get(slot).unit))
    }

    fn need_buffer(
        &mut self,
        home: &mut Home,
        slot: u16,
        wanted: u32,
        least: u32,
    ) -> Option<Outcome> {
        let least_bytes = (least as usize).min(wanted as usize);
        let want = self.portion_for(home, slot, wanted).max(least_bytes);
        let held = self.tasks.get(slot).data.as_ref().map_or(0, Buffer::len);
        if held < least_bytes.max(1) {
            let apart = held + self.dormant_memory();
            let Some(buffer) = self.take_memory(home, want, least_bytes, apart) else {
                self.wait_for_memory(home, slot, Need::Buffer { wanted, least });
                return None;
            };
            self.put_data(slot, buffer);
        }
        let held = self.tasks.get(slot).data.as_ref().map_or(0, Buffer::len);
        let len = wanted.min(u32::try_from(held).unwrap_or(u32::MAX));
        Some(Outcome::Buffer { len })
    }

    fn need_scratch(
        &mut self,
        home: &mut Home,
        slot: u16,
        wanted: u32,
        least: u32,
    ) -> Option<Outcome> {
        let least_bytes = (least as usize).min(wanted as usize);
        let want = self.portion_for(home, slot, wanted).max(least_bytes);
        let mut held = self.tasks.get(slot).scratch.as_ref().map_or(0, Buffer::len);
        if held < (least as usize).max(1) {
            let apart = held + self.dormant_memory();
            let mut buffer = self.take_memory(home, want, least_bytes, apart);
            if buffer.is_none() {
                // The pool keeps a chunk for this, so that who compares always gets on.
                buffer = home.pool.take_scratch(least_bytes);
                self.memory += buffer.as_ref().map_or(0, Buffer::len);
            }
            let Some(buffer) = buffer else {
                self.wait_for_memory(home, slot, Need::Scratch { wanted, least });
                return None;
            };
            held = buffer.len();
            if let Some(old) = self.tasks.get_mut(slot).scratch.replace(buffer) {
                self.memory -= old.len();
            }
        }
        let len = wanted.min(u32::try_from(held).unwrap_or(u32::MAX));
        Some(Outcome::Scratch { len })
    }

    fn submit(
        &mut self,
        home: &mut Home,
        slot: u16,
        io: BlockIo,
        which: Option<Which>,
    ) -> Option<Outcome> {
        if which.is_some() && self.has_had_its_turn(home) {
            self.wait_for_turn(home, slot, Need::Submit { io, buffer: which });
            return None;
        }
        let index = self.key.index;
        let task = self.tasks.get_mut(slot);
        // Each portion goes by the snapshot of now: a change that was published after the command began
        // must not wait for all of it (its data-out may never come), and must hold once it is answered.
        let attached = task.unit.and_then(|u| self.luns.unit(u));
        if let Some(attached) = attached.and_then(|id| home.units.get(id))
            && let Some(command) = task.command.as_mut()
            && let Err(sense) = command.permit(&attached.unit, io)
        {
            self.answer(home, slot, Status::CheckCondition(sense));
            return None;
        }
        if self.is_held_back(home, self.tasks.get(slot).unit) {
            self.answer(home, slot, Status::Busy);
            return None;
        }
        if which == Some(Which::Data) {
            // Data-out that a command did not wait for must not be received into what is not here.
            self.rx.forget_task(slot);
        }
        if let Some(outcome) = self.lend(home, slot, io, which) {
            return Some(outcome);
        }
        let task = self.tasks.get_mut(slot);
        let buffer = match which {
            Some(Which::Data) => task.data.take(),
            Some(Which::Scratch) => task.scratch.take(),
            None => None,
        };
        let tag = io_tag(index, slot, task.generation);
        task.state = State::InFlight(which.unwrap_or(Which::Data));
        let unit = task.unit.and_then(|u| self.luns.unit(u));
        let Some(unit) = unit.filter(|id| home.units.get(*id).is_some()) else {
            self.give_back(slot, which, buffer);
            return Some(Outcome::Io(Err(BlockError::Gone)));
        };
        match home.units.submit(unit, tag, io, buffer) {
            Some(Submit::Pending) => None,
            Some(Submit::Done(completion)) => {
                // The operation moves no more than the buffer holds.
                home.done_at_once = home.done_at_once.wrapping_add(1);
                self.this_turn(home).moved += completion.buffer.as_ref().map_or(0, Buffer::len);
                self.give_back(slot, which, completion.buffer);
                Some(Outcome::Io(completion.result))
            }
            Some(Submit::Full(buffer)) => {
                self.give_back(slot, which, buffer);
                home.count(Event::QueueWait);
                let need = Need::Submit { io, buffer: which };
                if home.units.will_make_room(unit) {
                    self.wait_for_queue(home, slot, unit, need);
                } else {
                    // Others have all there is of something that they share: nobody tells when they are done.
                    self.wait_for_turn(home, slot, need);
                }
                None
            }
            None => Some(Outcome::Io(Err(BlockError::Gone))),
        }
    }

    fn give_back(&mut self, slot: u16, which: Option<Which>, buffer: Option<Buffer>) {
        let task = self.tasks.get_mut(slot);
        task.state = State::Running;
        match which {
            Some(Which::Data) => task.data = buffer,
            Some(Which::Scratch) => task.scratch = buffer,
            None => {}
        }
    }

    /// An operation has ended.
    pub(super) fn complete(
        &mut self,
        home: &mut Home,
        slot: u16,
        generation: u32,
        completion: Completion,
    ) {
        let Some(task) = self.tasks.lookup(slot, generation) else {
            return;
        };
        let state = task.state;
        if self.tasks.get(slot).fenced {
            self.tasks.get_mut(slot).fenced = false;
            let unit = self.tasks.get(slot).unit.and_then(|u| self.luns.unit(u));
            if let Some(unit) = unit {
                home.fence_passed(unit);
            }
        }
        match state {
            State::InFlight(which) => {
                self.give_back(slot, Some(which), completion.buffer);
                self.drive(home, slot, Outcome::Io(completion.result));
            }
            State::Aborted { .. } => {
                self.memory -= completion.buffer.as_ref().map_or(0, Buffer::len);
                drop(completion);
                self.abort_ended(home, slot);
            }
            _ => debug_assert!(false, "a completion for a task that has none"),
        }
    }

    /// Nothing of an aborted task can take effect any more.
    fn abort_ended(&mut self, home: &mut Home, slot: u16) {
        let task = self.tasks.get_mut(slot);
        task.state = State::Aborted { in_flight: false };
        let waiters = std::mem::take(&mut task.waiters);
        self.leave(home, slot);
        self.release_if_over(home, slot);
        self.task_management_progress(waiters, home);
    }

    fn ask_owner(&mut self, home: &mut Home, slot: u16, request: OwnerRequest) {
        let task = self.tasks.get_mut(slot);
        task.state = State::AwaitOwner;
        let generation = task.generation;
        let asker = Asker::Task { slot, generation };
        let ticket = Ticket {
            session: self.key,
            asker,
        };
        let Some(unit) = task.unit.and_then(|u| self.luns.unit(u)) else {
            return self.answer(home, slot, Status::Busy);
        };
        match request {
            OwnerRequest::SetStopped(stopped) => {
                home.ask_owner(unit, ticket, Change::SetStopped(stopped));
            }
        }
    }

    /// The owner's change holds everywhere.
    pub(super) fn owner_answered(&mut self, home: &mut Home, slot: u16, generation: u32) {
        let Some(task) = self.tasks.lookup(slot, generation) else {
            return;
        };
        match task.state {
            State::AwaitOwner => {
                self.tasks.get_mut(slot).state = State::Running;
                self.drive(home, slot, Outcome::OwnerDone);
            }
            State::AbortedAtOwner => self.abort_ended(home, slot),
            _ => {}
        }
    }

    /// The command has ended: its answer is queued as soon as all its data-out has come.
    pub(super) fn answer(&mut self, home: &mut Home, slot: u16, status: Status) {
        let task = self.tasks.get_mut(slot);
        if task.out.expects_more() {
            task.state = State::Absorbing(status);
            return;
        }
        task.state = State::Answering(status);
        home.count(Event::CommandEnded);
        self.leave(home, slot);
        self.queue(home, slot);
    }

    /// Puts the task into the transmitter's queue.
    pub(super) fn queue(&mut self, home: &mut Home, slot: u16) {
        let task = self.tasks.get_mut(slot);
        if !std::mem::replace(&mut task.queued, true) {
            self.tx.queue.push_back(Out::Task(slot));
        }
        self.make_ready(home);
    }
}

/// The name of the operation of a task: session, slot and generation.
pub(super) fn io_tag(session: u32, slot: u16, generation: u32) -> IoTag {
    let session = u64::from(session & 0xffff);
    IoTag(session << 48 | u64::from(slot) << 32 | u64::from(generation))
}

/// The parts of [`io_tag`].
pub(super) fn io_tag_parts(tag: IoTag) -> (usize, u16, u32) {
    let [a, b, c, d, e, f, g, h] = tag.0.to_be_bytes();
    (
        usize::from(u16::from_be_bytes([a, b])),
        u16::from_be_bytes([c, d]),
        u32::from_be_bytes([e, f, g, h]),
    )
}
