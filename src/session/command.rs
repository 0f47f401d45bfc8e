//! The life of a SCSI command: arrival, steps of the device server, answer.

use super::Session;
use super::error::Event;
use super::home::{Home, Waiter};
use super::owner::{Asker, Change, Ticket};
use super::task::{Attribute, Need, State};
use super::transmit::Out;
use crate::backend::{BlockError, BlockIo, Completion, IoTag, Submit};
use crate::buffer::{Buffer, CHUNK, LARGEST};
use crate::pdu::bhs::{FINAL, READ, ScsiCommandBhs, WRITE};
use crate::pdu::code::RejectReason;
use crate::pdu::frame::{Ahs, AhsSegments};
use crate::scsi::sense::key;
use crate::scsi::{self, Context, Memory, Outcome, OwnerRequest, Port, Sense, Status, Step, Which};

/// Steps of one command in one turn: after that the others have theirs.
const STEPS_PER_TURN: usize = 64;

/// A task attribute that is not supported: INVALID MESSAGE ERROR (SPC-5, annex F).
const INVALID_MESSAGE: Sense = Sense::new(key::ABORTED_COMMAND, 0x49, 0x00);
/// No memory for data that came unasked: INSUFFICIENT RESOURCES.
const INSUFFICIENT_RESOURCES: Sense = Sense::new(key::ABORTED_COMMAND, 0x55, 0x03);

/// The data that came with a PDU.
#[derive(Debug)]
pub(super) enum Received<'a> {
    /// In the receive ring.
    Bytes(&'a [u8]),
    /// In a buffer of its own; `spent`: taken on the window's promise.
    Own {
        buffer: Buffer,
        len: usize,
        spent: bool,
    },
    /// Already in its task's buffer, or dropped.
    Gone { len: usize },
}

impl Received<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Own { len, .. } | Self::Gone { len } => *len,
        }
    }

    /// The bytes, where they are with the PDU.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Own { buffer, len, .. } => Some(&buffer.as_slice()[..*len]),
            Self::Gone { .. } => None,
        }
    }
}

impl Session {
    /// A SCSI Command that is to be executed now (its CmdSN has been taken in).
    pub(super) fn handle_scsi_command(
        &mut self,
        home: &mut Home,
        bhs: &ScsiCommandBhs,
        ahs: &[u8],
        data: Received<'_>,
        immediate: bool,
    ) {
        let tag = bhs.initiator_task_tag.get();
        let Some(slot) = self.tasks.insert(tag) else {
            self.disown(home, immediate);
            self.forget_data(data);
            let reason = RejectReason::IMMEDIATE_COMMAND_REJECT;
            return self.reject(home, reason, zerocopy::IntoBytes::as_bytes(bhs));
        };
        home.count(Event::CommandStarted);
        // The promise that came with the place in the window now belongs to the task.
        let spent = matches!(data, Received::Own { spent: true, .. });
        let promised = !immediate && self.spend_promise(spent);
        if immediate {
            self.immediate_tasks += 1;
        }
        let lun = bhs.lun.get();
        let unit = self.luns.find(lun);
        let task = self.tasks.get_mut(slot);
        task.lun = lun;
        task.unit = unit;
        task.cmd_sn = crate::units::SerialNumber(bhs.cmd_sn.get());
        task.immediate = immediate;
        task.promised = promised;
        task.expected_len = bhs.expected_data_transfer_length.get();
        task.reads = bhs.flags & READ != 0;
        task.writes = bhs.flags & WRITE != 0;
        task.cdb = bhs.cdb;
        task.attribute = match bhs.flags & 7 {
            2 => Attribute::Ordered,
            3 => Attribute::HeadOfQueue,
            _ => Attribute::Simple,
        };
        for segment in AhsSegments::new(ahs) {
            if let Ok(Ahs::BidirectionalReadLength(len)) = segment {
                task.bidirectional_read_len = len;
            }
        }
        let refused = self.land_immediate(home, slot, bhs.flags & FINAL != 0, data);
        if bhs.flags & 7 > 3 {
            // ACA and reserved attributes: NACA is not supported, so there is never an ACA to be in.
            self.fail_data_out(slot, INVALID_MESSAGE);
        } else if let Some(sense) = refused {
            home.count(Event::BadDataOut);
            self.fail_data_out(slot, sense);
        }
        self.start_or_wait(home, slot);
    }

    /// Puts immediate data where it belongs, and makes room for the unsolicited data that follows.
    fn land_immediate(
        &mut self,
        home: &mut Home,
        slot: u16,
        is_final: bool,
        data: Received<'_>,
    ) -> Option<Sense> {
        let len = u32::try_from(data.len()).expect("bounded by the framing");
        let params = self.params;
        let task = self.tasks.get_mut(slot);
        task.out.unsolicited_open = task.writes && !is_final;
        if len == 0 && !task.out.unsolicited_open {
            self.release_promise(home, slot);
            self.forget_data(data);
            return None;
        }
        let limit = params.first_burst_length.min(task.expected_len);
        let allowed = task.writes
            && (len == 0 || params.immediate_data)
            && (is_final || !params.initial_r2t)
            && len <= limit;
        if !allowed {
            self.forget_data(data);
            return Some(Sense::UNEXPECTED_UNSOLICITED_DATA);
        }
        let wanted = (task.expected_len as usize).min(LARGEST);
        match data {
            Received::Own { buffer, .. } if buffer.len() >= limit as usize || is_final => {
                self.put_data(slot, buffer);
            }
            Received::Gone { .. } => return Some(INSUFFICIENT_RESOURCES),
            Received::Bytes(_) | Received::Own { .. } => {
                let landed = self.land(home, slot, wanted, limit as usize);
                let bytes = data.bytes().unwrap_or_default();
                if let Some(buffer) = self.tasks.get_mut(slot).data.as_mut()
                    && landed
                {
                    buffer.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
                }
                self.forget_data(data);
                if !landed {
                    return Some(INSUFFICIENT_RESOURCES);
                }
            }
        }
        let task = self.tasks.get_mut(slot);
        task.out.unsolicited = len;
        home.counters.add(Event::BytesWritten, u64::from(len));
        None
    }

    /// The data is not needed where it is; the promise it may have been taken on is the task's affair.
    fn forget_data(&mut self, data: Received<'_>) {
        if let Received::Own { buffer, .. } = data {
            self.memory -= buffer.len();
        }
    }

    /// A data buffer for a write: `wanted` bytes, else the promised chunk, else at least `least`.
    pub(super) fn land(&mut self, home: &mut Home, slot: u16, wanted: usize, least: usize) -> bool {
        let promised = self.tasks.get(slot).promised;
        let mut buffer = None;
        if wanted > CHUNK || !promised {
            let least = if promised { wanted } else { least };
            buffer = self.take_memory(home, wanted, least, 0);
        }
        if buffer.is_none() && promised {
            self.tasks.get_mut(slot).promised = false;
            let promised = home.pool.take_promised(wanted.min(CHUNK));
            self.memory += promised.len();
            buffer = Some(promised);
        }
        self.release_promise(home, slot);
        let Some(buffer) = buffer else {
            return false;
        };
        self.put_data(slot, buffer);
        true
    }

    /// Starts the task, unless older tasks must end first (SAM-5, section 8.6).
    fn start_or_wait(&mut self, home: &mut Home, slot: u16) {
        let task = self.tasks.get(slot);
        let attribute = task.attribute;
        let lun = self.luns.at(task.unit);
        let must_wait = match attribute {
            Attribute::HeadOfQueue => false,
            Attribute::Simple => lun.dormant > 0 || lun.ordered,
            Attribute::Ordered => lun.dormant > 0 || lun.active > 0,
        };
        if must_wait {
            lun.dormant += 1;
            self.dormant.push_back(slot);
            self.tasks.get_mut(slot).state = State::Dormant;
            return;
        }
        self.enter(slot);
        self.drive(home, slot, Outcome::Begin);
    }

    fn enter(&mut self, slot: u16) {
        let task = self.tasks.get_mut(slot);
        task.active = true;
        task.state = State::Running;
        let ordered = task.attribute == Attribute::Ordered;
        let lun = self.luns.at(task.unit);
        lun.active += 1;
        lun.ordered |= ordered;
    }

    /// The task no longer runs: tasks that waited for it may start, in the next turn of the line.
    pub(super) fn leave(&mut self, home: &mut Home, slot: u16) {
        let task = self.tasks.get_mut(slot);
        if !std::mem::take(&mut task.active) {
            return;
        }
        let (unit, ordered) = (task.unit, task.attribute == Attribute::Ordered);
        let lun = self.luns.at(unit);
        lun.active -= 1;
        lun.ordered &= !ordered;
        if lun.dormant > 0 {
            self.wake_dormant(home, unit);
        }
    }

    /// Starts what may start now of the dormant tasks of a LUN.
    pub(super) fn wake_dormant(&mut self, home: &mut Home, unit: Option<u16>) {
        let mut at = 0;
        while at < self.dormant.len() {
            let slot = self.dormant[at];
            let task = self.tasks.get(slot);
            if task.unit != unit {
                at += 1;
                continue;
            }
            let attribute = task.attribute;
            let lun = self.luns.at(unit);
            if lun.ordered || (attribute == Attribute::Ordered && lun.active > 0) {
                return;
            }
            lun.dormant -= 1;
            self.dormant.remove(at);
            self.enter(slot);
            self.wait_for_turn(home, slot, Need::Turn(Outcome::Begin));
        }
    }

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

    fn step(&mut self, home: &mut Home, slot: u16, outcome: Outcome) -> Step {
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

    fn perform(&mut self, home: &mut Home, slot: u16, step: Step) -> Option<Outcome> {
        match step {
            Step::NeedBuffer { wanted, least } => self.need_buffer(home, slot, wanted, least),
            Step::NeedScratch { wanted, least } => self.need_scratch(home, slot, wanted, least),
            Step::NeedDataOut {
                remaining,
                granularity,
            } => self.need_data_out(home, slot, (remaining, granularity)),
            Step::Io { io, buffer } => self.submit(home, slot, io, buffer),
            Step::Send { len, status } => {
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

    fn need_buffer(
        &mut self,
        home: &mut Home,
        slot: u16,
        wanted: u32,
        least: u32,
    ) -> Option<Outcome> {
        let want = (wanted as usize).min(LARGEST);
        let least_bytes = (least as usize).min(want);
        let held = self.tasks.get(slot).data.as_ref().map_or(0, Buffer::len);
        if held < least_bytes.max(1) {
            let Some(buffer) = self.take_memory(home, want, least_bytes, held) else {
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
        let want = (wanted as usize).min(LARGEST);
        let mut held = self.tasks.get(slot).scratch.as_ref().map_or(0, Buffer::len);
        if held < (least as usize).max(1) {
            let least_bytes = (least as usize).min(want);
            // The pool keeps a chunk for this, so that who compares always gets on.
            let buffer = home
                .pool
                .take(want, want)
                .or_else(|| home.pool.take_scratch(least_bytes));
            let Some(buffer) = buffer else {
                self.wait_for_memory(home, slot, Need::Scratch { wanted, least });
                return None;
            };
            held = buffer.len();
            self.memory += held;
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
        let index = self.key.index;
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
                self.give_back(slot, which, completion.buffer);
                Some(Outcome::Io(completion.result))
            }
            Some(Submit::Full(buffer)) => {
                self.give_back(slot, which, buffer);
                home.count(Event::QueueWait);
                self.wait_for_turn(home, slot, Need::Submit { io, buffer: which });
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
                let task = self.tasks.get_mut(slot);
                task.state = State::Aborted { in_flight: false };
                let waiters = std::mem::take(&mut task.waiters);
                self.leave(home, slot);
                self.release_if_over(home, slot);
                self.task_management_progress(waiters, home);
            }
            _ => debug_assert!(false, "a completion for a task that has none"),
        }
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
        let task = self.tasks.lookup(slot, generation);
        if task.is_some_and(|t| t.state == State::AwaitOwner) {
            self.tasks.get_mut(slot).state = State::Running;
            self.drive(home, slot, Outcome::OwnerDone);
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

    pub(super) fn wait_for_memory(&mut self, home: &mut Home, slot: u16, need: Need) {
        let waiter = self.waiter(slot, need);
        if home.retrying {
            home.memory_line.push_front(waiter);
        } else {
            home.counters.add(Event::MemoryWait, 1);
            home.memory_line.push_back(waiter);
        }
    }

    fn wait_for_turn(&mut self, home: &mut Home, slot: u16, need: Need) {
        let waiter = self.waiter(slot, need);
        home.turn_line.push_back(waiter);
    }

    fn waiter(&mut self, slot: u16, need: Need) -> Waiter {
        let task = self.tasks.get_mut(slot);
        task.state = State::Waiting(need);
        Waiter {
            session: self.key,
            slot,
            generation: task.generation,
        }
    }

    /// Tries again what a waiting task needs.
    pub(super) fn retry(&mut self, home: &mut Home, waiter: Waiter) {
        let slot = waiter.slot;
        let Some(task) = self.tasks.lookup(slot, waiter.generation) else {
            return;
        };
        let State::Waiting(need) = task.state else {
            return;
        };
        self.tasks.get_mut(slot).state = State::Running;
        let step = match need {
            Need::Turn(outcome) => return self.drive(home, slot, outcome),
            Need::Buffer { wanted, least } => Step::NeedBuffer { wanted, least },
            Need::Scratch { wanted, least } => Step::NeedScratch { wanted, least },
            Need::DataOut {
                remaining,
                granularity,
            } => Step::NeedDataOut {
                remaining,
                granularity,
            },
            Need::Submit { io, buffer } => Step::Io { io, buffer },
        };
        if let Some(outcome) = self.perform(home, slot, step) {
            self.drive(home, slot, outcome);
        }
    }

    /// Pool memory, within what this session may hold and behind those who wait already.
    pub(super) fn take_memory(
        &mut self,
        home: &mut Home,
        wanted: usize,
        least: usize,
        held: usize,
    ) -> Option<Buffer> {
        if least > LARGEST {
            return None;
        }
        let cap = home.limits.session_memory;
        let others = self.memory - held;
        if others > 0 && others + least > cap {
            return None;
        }
        if !home.retrying && !home.memory_line.is_empty() {
            return None;
        }
        let wanted = if others == 0 {
            wanted
        } else {
            wanted.min((cap - others).max(least))
        };
        let buffer = home.pool.take(wanted, least)?;
        self.memory += buffer.len();
        Some(buffer)
    }

    /// Makes `buffer` (which is counted already) the task's data buffer.
    pub(super) fn put_data(&mut self, slot: u16, buffer: Buffer) {
        if let Some(old) = self.tasks.get_mut(slot).data.replace(buffer) {
            self.memory -= old.len();
        }
    }

    /// Gives up the promise of a task that needs it no more.
    pub(super) fn release_promise(&mut self, home: &mut Home, slot: u16) {
        if std::mem::take(&mut self.tasks.get_mut(slot).promised) {
            home.pool.unpromise();
        }
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
