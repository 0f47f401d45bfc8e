//! Task management functions (RFC 7143, sections 4.2.3, 11.5 and 11.6): what they abort is really over
//! before they are answered, on every core.
//!
//! Data-out of an aborted task may still be on its way. It is not waited for (open-iscsi, with FastAbort,
//! never sends it): it names its task by a transfer tag that nobody has any more, and is dropped. Section 4.2.3.3 wants it
//! waited for; what the wait protects (no data of an aborted task reaches the medium, no buffer is written
//! late) holds without it.

use super::Session;
use super::error::Event;
use super::home::Home;
use super::owner::{Asker, Change, Message, NexusId, Ticket};
use super::task::{State, Task};
use super::transmit::Out;
use super::{Phase, ReactorId, UnitId};
use crate::pdu::bhs::TaskManagementRequestBhs;
use crate::pdu::code::{
    RejectReason, TaskManagementFunction as Function, TaskManagementResponse as Response,
};
use crate::scsi::UnitAttention;
use crate::session::steps::io_tag;
use crate::units::SerialNumber;

/// Functions of one session that may be in progress.
pub(super) const FUNCTIONS: usize = 8;

/// A function that waits for what it affects.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct InProgress {
    generation: u32,
    active: bool,
    initiator_task_tag: u32,
    numbered: bool,
    /// Operations in flight and owners' answers that it waits for.
    waiting: u32,
    /// TARGET COLD RESET: the sessions of the target end after it.
    cold: bool,
}

impl InProgress {
    /// Whether it is to be answered yet.
    pub(super) const fn is_active(&self) -> bool {
        self.active
    }
}

impl Session {
    pub(super) fn handle_task_management(
        &mut self,
        home: &mut Home,
        bhs: &TaskManagementRequestBhs,
        immediate: bool,
    ) {
        home.count(Event::TaskManagement);
        let Some(index) = self.functions.iter().position(|f| !f.active) else {
            self.disown(home, immediate);
            let reason = RejectReason::IMMEDIATE_COMMAND_REJECT;
            return self.reject(home, reason, zerocopy::IntoBytes::as_bytes(bhs));
        };
        if !immediate {
            self.spend_and_unpromise(home);
        }
        let function = Function(bhs.function & 0x7f);
        let entry = &mut self.functions[index];
        *entry = InProgress {
            generation: entry.generation.wrapping_add(1),
            active: true,
            initiator_task_tag: bhs.initiator_task_tag.get(),
            numbered: !immediate,
            waiting: 1,
            cold: function == Function::TARGET_COLD_RESET,
        };
        let index = u8::try_from(index).expect("there are eight");
        match self.begin_function(home, index, function, bhs) {
            Response::FUNCTION_COMPLETE => self.task_management_progress(1 << index, home),
            response => {
                self.functions[usize::from(index)].active = false;
                self.say_function(home, bhs.initiator_task_tag.get(), response, !immediate);
            }
        }
    }

    fn begin_function(
        &mut self,
        home: &mut Home,
        index: u8,
        function: Function,
        bhs: &TaskManagementRequestBhs,
    ) -> Response {
        let lun = self.luns.find(bhs.lun.get());
        match function {
            Function::ABORT_TASK => self.abort_task(home, index, bhs),
            Function::ABORT_TASK_SET | Function::CLEAR_TASK_SET | Function::LOGICAL_UNIT_RESET => {
                let Some(lun) = lun else {
                    return Response::LUN_DOES_NOT_EXIST;
                };
                if !self.forsake(home, Some(lun), SerialNumber(bhs.cmd_sn.get())) {
                    return Response::FUNCTION_REJECTED;
                }
                self.abort_lun(home, index, lun);
                let by = self.nexus_id(home);
                match function {
                    Function::CLEAR_TASK_SET => {
                        self.ask(home, index, lun, Change::ClearTaskSet { by });
                    }
                    Function::LOGICAL_UNIT_RESET => {
                        self.ask(home, index, lun, Change::Reset { by })
                    }
                    _ => {}
                }
                Response::FUNCTION_COMPLETE
            }
            Function::TARGET_WARM_RESET | Function::TARGET_COLD_RESET => {
                if !self.forsake(home, None, SerialNumber(bhs.cmd_sn.get())) {
                    return Response::FUNCTION_REJECTED;
                }
                let by = self.nexus_id(home);
                for lun in self.luns.indices() {
                    self.abort_lun(home, index, lun);
                    self.ask(home, index, lun, Change::Reset { by });
                }
                Response::FUNCTION_COMPLETE
            }
            Function::TASK_REASSIGN => Response::TASK_REASSIGN_NOT_SUPPORTED,
            _ => Response::FUNCTION_NOT_SUPPORTED,
        }
    }

    /// What this session is on any core.
    pub(super) fn nexus_id(&self, home: &Home) -> NexusId {
        NexusId {
            reactor: home.reactor,
            session: self.key,
        }
    }

    fn ask(&mut self, home: &mut Home, index: u8, lun: u16, change: Change) {
        let Some(unit) = self.luns.unit(lun) else {
            return;
        };
        let function = &mut self.functions[usize::from(index)];
        function.waiting += 1;
        let ticket = Ticket {
            session: self.key,
            asker: Asker::TaskManagement {
                index,
                generation: function.generation,
            },
        };
        home.ask_owner(unit, ticket, change);
    }

    /// ABORT TASK (section 11.6.1, rules a to c).
    fn abort_task(
        &mut self,
        home: &mut Home,
        index: u8,
        bhs: &TaskManagementRequestBhs,
    ) -> Response {
        let tag = bhs.referenced_task_tag.get();
        if let Some(slot) = self.tasks.find(tag) {
            let task = self.tasks.get(slot);
            // A task whose answer is on its way is over: it will be answered, so it cannot be aborted.
            let over = matches!(task.state, State::Answering(_) | State::Answered);
            if over || task.lun != bhs.lun.get() {
                return Response::TASK_DOES_NOT_EXIST;
            }
            self.abort_for(home, index, slot);
            return Response::FUNCTION_COMPLETE;
        }
        let named = |f: &InProgress| f.active && f.initiator_task_tag == tag;
        let own = usize::from(index);
        let functions = self.functions.iter().enumerate();
        if functions.filter(|(i, _)| *i != own).any(|(_, f)| named(f)) {
            return Response::FUNCTION_REJECTED;
        }
        let (referenced, mine) = (
            SerialNumber(bhs.ref_cmd_sn.get()),
            SerialNumber(bhs.cmd_sn.get()),
        );
        let first = self.window.exp_cmd_sn();
        let in_window = referenced.distance_from(first) < self.window.open();
        if in_window && referenced.is_before(mine) && self.plug(home, referenced, tag) {
            return Response::FUNCTION_COMPLETE;
        }
        Response::TASK_DOES_NOT_EXIST
    }

    /// Aborts the tasks of this session on a LUN.
    fn abort_lun(&mut self, home: &mut Home, index: u8, lun: u16) {
        for slot in self.tasks.slots() {
            let task = self.tasks.get(slot);
            if task.state != State::Free && task.unit == Some(lun) {
                self.abort_for(home, index, slot);
            }
        }
    }

    fn abort_for(&mut self, home: &mut Home, index: u8, slot: u16) {
        if self.abort(home, slot) {
            self.tasks.get_mut(slot).waiters |= 1 << index;
            self.functions[usize::from(index)].waiting += 1;
        }
    }

    /// Ends a task without an answer, unless its answer is on its way already. True: something of it may
    /// still take effect, because the backend or the unit's owner has it.
    pub(super) fn abort(&mut self, home: &mut Home, slot: u16) -> bool {
        let key = self.key;
        let task = self.tasks.get_mut(slot);
        if !task.is_running() {
            return task.is_held();
        }
        home.count(Event::TaskAborted);
        let in_flight = task.is_in_flight();
        let may_be_queued = task.state.may_be_queued();
        let was_dormant = task.state == State::Dormant;
        // Nobody is told when nobody is there any more.
        let at_owner = task.state == State::AwaitOwner && self.phase != Phase::Draining;
        task.state = State::Aborted { in_flight };
        task.out.forget();
        task.data_in.left = 0;
        let (unit, generation) = (task.unit, task.generation);
        if in_flight {
            if let Some(id) = unit.and_then(|u| self.luns.unit(u)) {
                home.units.cancel(id, io_tag(key.index, slot, generation));
            }
            return true;
        }
        if at_owner {
            self.tasks.get_mut(slot).state = State::AbortedAtOwner;
            return true;
        }
        if may_be_queued {
            self.leave_queue(home, slot);
        }
        if was_dormant {
            self.dormant.retain(|s| *s != slot);
            self.luns.at(unit).dormant -= 1;
            self.wake_dormant(home, unit);
        }
        self.leave(home, slot);
        self.release_if_over(home, slot);
        false
    }

    /// Does here what a barrier of `unit` asks for; how many operations it must wait for.
    pub(super) fn pass_barrier(&mut self, home: &mut Home, id: UnitId, change: Change) -> u32 {
        let Some(lun) = self.luns.of_unit(id) else {
            return 0;
        };
        // Its own tasks were aborted when it asked, and it waits for them itself; younger ones are not
        // affected: it would not know.
        let mine = matches!(change, Change::ClearTaskSet { by } | Change::Reset { by }
            if by == self.nexus_id(home));
        // What was read before the change is not to show what is written after it.
        self.keep_all_lent(home);
        let mut remaining = 0;
        let mut aborted = false;
        let slots = if mine { 0..0 } else { self.tasks.slots() };
        for slot in slots {
            let task = self.tasks.get(slot);
            if task.state == State::Free || task.unit != Some(lun) {
                continue;
            }
            if !matches!(change, Change::SetStopped(_)) {
                aborted |= task.is_running();
                self.abort(home, slot);
            }
            let task = self.tasks.get_mut(slot);
            if task.is_in_flight() {
                task.fenced = true;
                remaining += 1;
            }
        }
        let nexus = &mut self.luns.at(Some(lun)).nexus;
        match change {
            // SAM-2 has TARGET RESET tell the same: BUS DEVICE RESET FUNCTION OCCURRED.
            Change::Reset { .. } => {
                nexus.prevent_removal(false);
                nexus.raise(UnitAttention::LunReset);
            }
            Change::ClearTaskSet { .. } if aborted => {
                nexus.raise(UnitAttention::CommandsClearedByAnotherInitiator);
            }
            Change::ClearTaskSet { .. } | Change::SetStopped(_) => {}
        }
        remaining
    }

    /// An owner has answered a function.
    pub(super) fn function_answered(&mut self, home: &mut Home, index: u8, generation: u32) {
        let function = self.functions[usize::from(index)];
        if function.active && function.generation == generation {
            self.task_management_progress(1 << index, home);
        }
    }

    /// One thing less to wait for, for each function in `mask`.
    pub(super) fn task_management_progress(&mut self, mask: u8, home: &mut Home) {
        for index in 0..FUNCTIONS {
            if mask & (1 << index) == 0 {
                continue;
            }
            let function = &mut self.functions[index];
            if !function.active {
                continue;
            }
            function.waiting -= 1;
            if function.waiting > 0 {
                continue;
            }
            function.active = false;
            let done = *function;
            if self.phase != Phase::Draining {
                let response = Response::FUNCTION_COMPLETE;
                self.say_function(home, done.initiator_task_tag, response, done.numbered);
            }
            if done.cold {
                self.end_target(home);
            }
        }
    }

    /// After TARGET COLD RESET: every session of the target ends (section 11.5.1), this one when the answer
    /// has left. New ones find what a power-on leaves: POWER ON, RESET, OR BUS DEVICE RESET OCCURRED.
    fn end_target(&mut self, home: &mut Home) {
        let Some(target) = &self.facts.target else {
            return;
        };
        let except = self.nexus_id(home);
        for reactor in 0..home.reactors.max(1) {
            let target = target.clone();
            home.mail
                .send(ReactorId(reactor), Message::EndTarget { target, except });
        }
        if self.phase == Phase::Open
            && let Some(Out::TaskManagement { last, .. }) = self.tx.queue.back_mut()
        {
            *last = true;
            self.phase = Phase::Ending;
        }
    }

    fn say_function(&mut self, home: &mut Home, tag: u32, response: Response, numbered: bool) {
        self.tx.say(Out::TaskManagement {
            initiator_task_tag: tag,
            response,
            last: false,
            numbered,
        });
        self.make_ready(home);
    }

    /// Frees the slot of a task that is over, once nobody uses its memory.
    pub(super) fn release_if_over(&mut self, home: &mut Home, slot: u16) {
        let task = self.tasks.get(slot);
        let over = matches!(
            task.state,
            State::Answered | State::Aborted { in_flight: false }
        );
        if !over || task.wire > 0 || task.queued {
            return;
        }
        self.rx.forget_task(slot);
        self.memory -= self.tasks.get(slot).memory();
        self.forget_lent(slot);
        self.release_promise(home, slot);
        let task: &mut Task = self.tasks.get_mut(slot);
        task.data = None;
        task.scratch = None;
        task.command = None;
        self.retire(home, slot);
        self.tasks.remove(slot);
        self.settle(home);
    }
}
