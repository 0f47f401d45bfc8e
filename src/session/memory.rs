//! What a session holds of its core's memory, and the lines in which tasks wait for what is short.

use super::Session;
use super::command::Received;
use super::error::Event;
use super::home::{Home, Waiter};
use super::task::{Need, State};
use crate::buffer::{Buffer, CHUNK, LARGEST};
use crate::scsi::Step;

impl Session {
    /// The data is not needed where it is; the promise it may have been taken on is the task's affair.
    pub(super) fn forget_data(&mut self, data: Received<'_>) {
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

    pub(super) fn wait_for_memory(&mut self, home: &mut Home, slot: u16, need: Need) {
        let waiter = self.waiter(slot, need);
        if home.retrying {
            home.memory_line.push_front(waiter);
        } else {
            home.counters.add(Event::MemoryWait, 1);
            home.memory_line.push_back(waiter);
        }
    }

    /// Goes on in another turn.
    pub(super) fn wait_for_turn(&mut self, home: &mut Home, slot: u16, need: Need) {
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
