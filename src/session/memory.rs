//! What a session holds of its core's memory, and the lines in which tasks wait for what is short.

use super::command::Received;
use super::error::Event;
use super::home::{Home, Waiter};
use super::task::{Need, State};
use super::transmit::Out;
use super::{Phase, Session};
use crate::buffer::{Buffer, CHUNK, LARGEST};
use crate::scsi::Step;

/// What the memory of received data was taken on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The session's share of the pool.
    Share,
    /// The promise of a place in the command window.
    Window,
    /// The chunk that every session keeps for one ping (RFC 7143, section 4.2.2.1: one immediate command that
    /// is no task management must be possible at any time).
    Reserve,
}

impl Session {
    /// Lets more commands in, as far as each has a task and a place for its unsolicited data.
    pub(super) fn open_window(&mut self, home: &mut Home) {
        while self.phase == Phase::Open && self.window.may_advance() {
            if self.promise_each {
                if !(home.is_generous() || self.window.open() == 0) || !home.pool.promise() {
                    break;
                }
                self.promises += 1;
            }
            self.window.advance();
        }
        if self.window.open() == 0 && self.window.may_advance() && self.phase == Phase::Open {
            // No memory for a single command: the shard asks again.
            if !std::mem::replace(&mut self.in_starved, true) {
                home.starved.push_back(self.key);
            }
        }
        let told = self.tx.told_max_cmd_sn;
        let was_closed = told == self.window.exp_cmd_sn().previous();
        if was_closed && self.window.open() > 0 && self.tx.queue.is_empty() {
            // Section 11.4.11: nothing else would say that it may go on.
            self.tx.told_max_cmd_sn = self.window.max_cmd_sn();
            self.tx.say(Out::Window);
            self.make_ready(home);
        }
    }

    /// The promise of the command just taken in is its own from now on. False: there is none.
    pub(super) fn spend_promise(&mut self, spent: bool) -> bool {
        if spent || self.promises == 0 {
            return false;
        }
        self.promises -= 1;
        true
    }

    /// Memory on the promise of a command that is yet to be taken in: all of the chunk, so that the promise
    /// can always be made again when the memory is not needed.
    pub(super) fn take_promised(&mut self, home: &mut Home) -> Option<Buffer> {
        self.promises = self.promises.checked_sub(1)?;
        let buffer = home.pool.take_promised(CHUNK);
        self.memory += buffer.len();
        Some(buffer)
    }

    /// The chunk kept for one ping, if no other has it.
    pub(super) fn take_reserve(&mut self, home: &mut Home) -> Option<Buffer> {
        if !std::mem::take(&mut self.reserved) {
            return None;
        }
        let buffer = home.pool.take_promised(CHUNK);
        self.memory += buffer.len();
        Some(buffer)
    }

    /// The chunk kept for one ping is there for the next.
    pub(super) fn return_reserve(&mut self, home: &mut Home, buffer: Buffer) {
        home.pool.promise_again(buffer);
        self.reserved = true;
    }

    /// The command just taken in needs no data memory.
    pub(super) fn spend_and_unpromise(&mut self, home: &mut Home) {
        if self.spend_promise(false) {
            home.pool.unpromise();
        }
    }

    /// The data is not needed where it is; the promise it may have been taken on is the task's affair.
    pub(super) fn forget_data(&mut self, data: Received<'_>) {
        if let Received::Own { buffer, .. } = data {
            self.memory -= buffer.len();
        }
    }

    /// A data buffer for a write: `wanted` bytes, else the promised chunk, else at least `least`. `apart`: as
    /// in [`Self::take_memory`].
    pub(super) fn land(
        &mut self,
        home: &mut Home,
        slot: u16,
        (wanted, least): (usize, usize),
        apart: usize,
    ) -> bool {
        let promised = self.tasks.get(slot).promised;
        let mut buffer = None;
        if wanted > CHUNK || !promised {
            let least = if promised { wanted } else { least };
            buffer = self.take_memory(home, wanted, least, apart);
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

    pub(super) fn waiter(&mut self, slot: u16, need: Need) -> Waiter {
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

    /// What tasks hold that wait for older ones: it comes back only when those have ended, so it must not
    /// keep memory from them.
    pub(super) fn dormant_memory(&self) -> usize {
        let dormant = self.dormant.iter();
        dormant.map(|&slot| self.tasks.get(slot).memory()).sum()
    }

    /// Pool memory, within what this session may hold and behind those who wait already. `apart`: bytes it
    /// holds that do not count, because they are replaced or will not come back before.
    pub(super) fn take_memory(
        &mut self,
        home: &mut Home,
        wanted: usize,
        least: usize,
        apart: usize,
    ) -> Option<Buffer> {
        if least > LARGEST {
            return None;
        }
        let others = self.memory - apart;
        let room = self.room(home, others);
        if least > room {
            return None;
        }
        // Who has nothing else does not stand behind those who have much.
        if others > 0 && !home.retrying && !home.memory_line.is_empty() {
            return None;
        }
        // What is taken is a power of two: the next larger one must not go beyond the room.
        let floor_power = if room.is_power_of_two() {
            room
        } else {
            room.next_power_of_two() / 2
        };
        let wanted = wanted.min(floor_power).max(least);
        let buffer = home.pool.take(wanted, least)?;
        self.memory += buffer.len();
        home.free_when_tried = home.free_when_tried.min(home.unpromised());
        Some(buffer)
    }

    /// Bytes that it may take now, when it holds `others` besides what it replaces.
    ///
    /// A session that holds nothing else may take what there is; but the last eighth of the pool is for
    /// such sessions alone, and given out by the chunk. So however much those take who do not read their
    /// answers, a session that does is served.
    fn room(&self, home: &Home, others: usize) -> usize {
        let above = home.above_floor();
        if others == 0 {
            return above.max(home.unpromised().min(CHUNK));
        }
        above.min(home.limits.session_memory.saturating_sub(others))
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
