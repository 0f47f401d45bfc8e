//! Data that is not copied: small writes go to the medium from the receive ring, reads leave from the
//! medium's own memory, where the medium is memory.
//!
//! What is lent may change until the kernel has taken it, as the blocks of a read may that has not ended when a
//! write of the same blocks begins. So nothing is lent where that would show:
//! - when a digest of it is taken, as bytes that change before they leave would be a digest error. With DataDigest
//!   it is kept (see below) just before it is encoded: the copies of a turn together, then the digests, as a
//!   digest right after the copy of what no cache has waits for the memory;
//! - to or across ordered tasks, and across barriers: what was read before is kept (copied to the buffer that
//!   the task has for this case, or was promised) before what comes after may write;
//! - a block of which a part has left: the rest may leave much later, and blocks are read as a whole. (What we cut
//!   ourselves, because a turn is over, is cut between blocks.)

use super::Session;
use super::command::INSUFFICIENT_RESOURCES;
use super::error::Event;
use super::home::Home;
use super::task::Attribute;
use super::transmit::Out;
use super::turn::SENT_PER_TURN;
use crate::backend::{BlockIo, InPlace};
use crate::buffer::{Buffer, CHUNK, LARGEST};
use crate::pdu::bhs::{FINAL, ScsiCommandBhs};
use crate::scsi::{Outcome, Status, Step, Which};

impl Session {
    /// Instead of reading into the task's data buffer: remembers where the data is. `None`: it must be read.
    pub(super) fn lend(
        &mut self,
        home: &mut Home,
        slot: u16,
        io: BlockIo,
        which: Option<Which>,
    ) -> Option<Outcome> {
        let (BlockIo::Read(extent), Some(Which::Data)) = (io, which) else {
            return None;
        };
        let task = self.tasks.get_mut(slot);
        let forwards = task.attribute == Attribute::Simple
            && self.params.cuts_between_blocks()
            && task.command.as_ref().is_some_and(|c| c.forwards_data());
        if !forwards {
            return None;
        }
        let unit = task.unit.and_then(|u| self.luns.unit(u))?;
        let lent = home.units.in_place(unit, extent)?;
        let bytes = lent.byte_len();
        // More than that is quicker copied first: the kernel sends what is in the cache.
        if bytes > CHUNK {
            return None;
        }
        let room = task.data.as_ref().map_or(CHUNK, Buffer::len);
        debug_assert!(bytes <= room, "there is a place to keep it");
        debug_assert!(task.data.is_some() || task.promised, "or memory for it");
        if task.lent.replace(lent).is_none() {
            self.lent += 1;
        }
        home.done_at_once = home.done_at_once.wrapping_add(1);
        self.this_turn(home).moved += bytes;
        Some(Outcome::Io(Ok(())))
    }

    /// What the task was lent stays as it is now, but for the first `from` bytes, which have left.
    pub(super) fn keep_lent(&mut self, home: &mut Home, slot: u16, from: usize) {
        let task = self.tasks.get_mut(slot);
        let Some(lent) = task.lent.take() else {
            return;
        };
        self.lent -= 1;
        let len = lent.byte_len();
        if task.data.is_none() && std::mem::take(&mut task.promised) {
            let buffer = home.pool.take_promised(len);
            self.memory += buffer.len();
            task.data = Some(buffer);
        }
        if let Some(data) = task.data.as_mut() {
            lent.piece(from, len - from)
                .copy_to(&mut data.as_mut_slice()[from..]);
        }
    }

    /// The same for every task of the session.
    pub(super) fn keep_all_lent(&mut self, home: &mut Home) {
        if self.lent > 0 {
            for slot in self.tasks.slots() {
                self.keep_lent(home, slot, 0);
            }
        }
    }

    /// The same for what a digest will be taken of in this turn.
    pub(super) fn keep_queued(&mut self, home: &mut Home) {
        let (mut at, mut bytes) = (0, 0);
        while self.lent > 0
            && bytes < SENT_PER_TURN
            && let Some(out) = self.tx.queue.get(at)
        {
            if let Out::Task(slot) = *out {
                let lent = self.tasks.get(slot).lent.as_ref();
                bytes += lent.map_or(0, InPlace::byte_len);
                self.keep_lent(home, slot, 0);
            }
            at += 1;
        }
    }

    /// What the task was lent is not needed any more.
    pub(super) fn forget_lent(&mut self, slot: u16) {
        if self.tasks.get_mut(slot).lent.take().is_some() {
            self.lent -= 1;
        }
    }

    /// Whether a command may start now and its data, if any, is all in `bytes`; and its medium is one that needs
    /// no buffer for it.
    pub(super) fn may_run_in_place(
        &mut self,
        home: &Home,
        slot: u16,
        bhs: &ScsiCommandBhs,
        bytes: &[u8],
    ) -> bool {
        let task = self.tasks.get(slot);
        let Some(index) = task.unit else {
            return false;
        };
        let whole = if task.writes {
            !task.reads
                && bytes.len() == task.expected_len as usize
                && task.expected_len <= self.params.first_burst_length
                && self.params.immediate_data
        } else {
            bytes.is_empty() && task.promised
        };
        let attribute = task.attribute;
        whole
            && bhs.flags & FINAL != 0
            && bhs.flags & 7 <= 3
            && attribute == Attribute::Simple
            && !self.luns.at(Some(index)).must_wait(attribute)
            && self
                .luns
                .unit(index)
                .is_some_and(|id| home.units.is_memory(id))
            && !self.has_had_its_turn(home)
            && !self.is_held_back(home, Some(index))
    }

    /// Runs a command without data-out, as far as that goes without a buffer.
    pub(super) fn read_in_place(&mut self, home: &mut Home, slot: u16) {
        self.enter(home, slot);
        let mut step = self.step(home, slot, Outcome::Begin);
        if let Step::NeedBuffer { wanted, .. } = step
            && wanted as usize <= CHUNK
            && self.forwards_data(slot)
        {
            step = self.step(home, slot, Outcome::Buffer { len: wanted });
            match self.read_promised(home, slot, step) {
                Some(outcome) => step = self.step(home, slot, outcome),
                None => {
                    // The promise is kept.
                    let wanted = wanted as usize;
                    self.land(home, slot, (wanted, wanted), 0);
                }
            }
        }
        if let Some(outcome) = self.perform(home, slot, step) {
            self.drive(home, slot, outcome);
        }
    }

    fn forwards_data(&self, slot: u16) -> bool {
        let command = self.tasks.get(slot).command.as_ref();
        command.is_some_and(|c| c.forwards_data())
    }

    /// Does a reading step without a buffer. `None`: it is another step, or must be done otherwise.
    fn read_promised(&mut self, home: &mut Home, slot: u16, step: Step) -> Option<Outcome> {
        let Step::Io { io, buffer } = step else {
            return None;
        };
        let task = self.tasks.get_mut(slot);
        let unit = task.unit.and_then(|u| self.luns.unit(u))?;
        // A refusal is `perform`'s to answer.
        let attached = home.units.get(unit)?;
        task.command.as_mut()?.permit(&attached.unit, io).ok()?;
        self.lend(home, slot, io, buffer)
    }

    /// Runs a command whose data is all in `bytes`, as far as that goes without copying it.
    pub(super) fn write_in_place(&mut self, home: &mut Home, slot: u16, bytes: &[u8]) {
        let len = self.tasks.get(slot).expected_len;
        self.tasks.get_mut(slot).out.unsolicited = len;
        home.counters.add(Event::BytesWritten, u64::from(len));
        self.enter(home, slot);
        let mut step = self.step(home, slot, Outcome::Begin);
        if let Step::NeedDataOut { remaining, .. } = step
            && remaining <= len
            && self.forwards_data(slot)
        {
            let out = &mut self.tasks.get_mut(slot).out;
            out.portion_len = remaining;
            out.filled = remaining;
            out.requested = remaining;
            out.consumed = remaining;
            step = self.step(home, slot, Outcome::DataOut { len: remaining });
            let data = bytes.get(..remaining as usize).unwrap_or_default();
            if let Some(outcome) = self.write_from(home, slot, step, data) {
                // The end, mostly.
                return self.drive(home, slot, outcome);
            }
        }
        if !matches!(step, Step::Done(_)) {
            let wanted = (len as usize).min(LARGEST);
            if !self.land_bytes(home, slot, (wanted, len as usize), bytes) {
                home.count(Event::BadDataOut);
                return self.answer(home, slot, Status::CheckCondition(INSUFFICIENT_RESOURCES));
            }
        }
        if let Some(outcome) = self.perform(home, slot, step) {
            self.drive(home, slot, outcome);
        }
    }

    /// Does a writing step from `data`. `None`: it is another step, or must be done otherwise.
    fn write_from(
        &mut self,
        home: &mut Home,
        slot: u16,
        step: Step,
        data: &[u8],
    ) -> Option<Outcome> {
        let Step::Io {
            io: io @ BlockIo::Write { extent, fua },
            buffer: Some(Which::Data),
        } = step
        else {
            return None;
        };
        let task = self.tasks.get_mut(slot);
        let unit = task.unit.and_then(|u| self.luns.unit(u))?;
        let attached = home.units.get(unit)?;
        // A refusal is `perform`'s to answer.
        task.command.as_mut()?.permit(&attached.unit, io).ok()?;
        let result = home.units.write_from(unit, extent, fua, data)?;
        home.done_at_once = home.done_at_once.wrapping_add(1);
        self.this_turn(home).moved += data.len();
        Some(Outcome::Io(result))
    }
}
