//! A task, from the arrival of a command to its answer, and the table that finds it again.

use super::bursts::DataOut;
use super::data_in::DataIn;
use crate::backend::{BlockIo, InPlace};
use crate::buffer::Buffer;
use crate::scsi::{Bounds, Cdb, Command, Outcome, Status, Step, Which};
use crate::units::SerialNumber;

/// Task attribute (RFC 7143, section 11.3.1; SAM-5, section 8.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Attribute {
    /// Simple, and untagged.
    #[default]
    Simple,
    /// Starts when every older task of its nexus and logical unit has ended; younger ones wait for it.
    Ordered,
    /// Starts at once.
    HeadOfQueue,
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    /// The slot is free.
    #[default]
    Free,
    /// Waits for older tasks (ordered tasks).
    Dormant,
    /// Is being run this very moment.
    Running,
    /// In a waiting line: do `what` again.
    Waiting(Need),
    /// Data-out is on its way.
    AwaitData,
    /// The backend has it.
    InFlight(Which),
    /// Data-In is queued or on the wire; more steps follow when it has left.
    Sending,
    /// The owner core has it.
    AwaitOwner,
    /// The status is known, but data-out is still coming (RFC 7143, section 11.17.1).
    Absorbing(Status),
    /// Data-In and status, or status alone, are queued.
    Answering(Status),
    /// The answer is encoded; waits until it has left.
    Answered,
    /// Aborted, no answer; waits for the backend or the wire to let go of its memory.
    Aborted {
        /// The backend still has an operation of it.
        in_flight: bool,
    },
    /// Aborted, no answer; but the owner core may still make the change it asked for.
    AbortedAtOwner,
}

/// What a waiting task needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// A data buffer for data-in or the command's own use.
    Buffer { wanted: u32, least: u32 },
    /// The second buffer.
    Scratch { wanted: u32, least: u32 },
    /// Room for the next portion of data-out.
    DataOut { remaining: u32, granularity: u32 },
    /// A place in the backend's queue.
    Submit { io: BlockIo, buffer: Option<Which> },
    /// Only another turn.
    Turn(Outcome),
}

impl Need {
    /// What a step needs that takes memory.
    pub(super) const fn of_memory(step: &Step) -> Option<Self> {
        match *step {
            Step::NeedBuffer { wanted, least } => Some(Self::Buffer { wanted, least }),
            Step::NeedDataOut {
                remaining,
                granularity,
            } => Some(Self::DataOut {
                remaining,
                granularity,
            }),
            _ => None,
        }
    }
}

/// One command.
#[derive(Debug, Default)]
pub(super) struct Task {
    /// Counts the uses of the slot.
    pub(super) generation: u32,
    pub(super) state: State,
    pub(super) initiator_task_tag: u32,
    /// As in the header: goes back in R2Ts.
    pub(super) lun: u64,
    /// Index in the session's LUNs; `None`: no such LUN.
    pub(super) unit: Option<u16>,
    pub(super) cmd_sn: SerialNumber,
    pub(super) immediate: bool,
    pub(super) attribute: Attribute,
    pub(super) expected_len: u32,
    /// Of a bidirectional command.
    pub(super) bidirectional_read_len: u32,
    pub(super) reads: bool,
    pub(super) writes: bool,
    /// The window was told that it is over.
    pub(super) retired: bool,
    /// It counts among the tasks that run on its LUN.
    pub(super) active: bool,
    /// It holds a promise of one chunk.
    pub(super) promised: bool,
    /// Is in the queue of the transmitter.
    pub(super) queued: bool,
    /// PDUs on the wire that still refer to it.
    pub(super) wire: u16,
    /// A barrier waits for its operation.
    pub(super) fenced: bool,
    /// Task management functions (by index) that wait for its operation.
    pub(super) waiters: u8,
    pub(super) cdb: Cdb,
    pub(super) command: Option<Command>,
    pub(super) data: Option<Buffer>,
    /// Data-in is sent from here, and not from the start of `data`, which is there to save it to.
    pub(super) lent: Option<InPlace>,
    pub(super) scratch: Option<Buffer>,
    pub(super) out: DataOut,
    pub(super) data_in: DataIn,
}

impl Task {
    /// Makes it a new one. Field by field, because it is large and most of it is not written for most commands.
    fn begin(&mut self, tag: u32) {
        let Self {
            generation,
            state,
            initiator_task_tag,
            lun,
            unit,
            cmd_sn,
            immediate,
            attribute,
            expected_len,
            bidirectional_read_len,
            reads,
            writes,
            retired,
            active,
            promised,
            queued,
            wire,
            fenced,
            waiters,
            cdb,
            command,
            data,
            lent,
            scratch,
            out,
            data_in,
        } = self;
        *generation = generation.wrapping_add(1);
        *state = State::Dormant;
        *initiator_task_tag = tag;
        (*lun, *unit, *cmd_sn) = (0, None, SerialNumber::default());
        (*immediate, *attribute) = (false, Attribute::default());
        (*expected_len, *bidirectional_read_len) = (0, 0);
        (*reads, *writes, *retired) = (false, false, false);
        (*active, *promised, *queued, *fenced) = (false, false, false, false);
        (*wire, *waiters) = (0, 0);
        *cdb = Cdb::default();
        *command = None;
        (*data, *lent, *scratch) = (None, None, None);
        out.begin();
        *data_in = DataIn::default();
    }

    /// What the header allows to move.
    pub(super) const fn bounds(&self) -> Bounds {
        Bounds {
            data_in: if self.reads && self.writes {
                self.bidirectional_read_len
            } else if self.reads {
                self.expected_len
            } else {
                0
            },
            data_out: if self.writes { self.expected_len } else { 0 },
        }
    }

    /// Bytes of pool memory it holds.
    pub(super) fn memory(&self) -> usize {
        self.data.as_ref().map_or(0, Buffer::len) + self.scratch.as_ref().map_or(0, Buffer::len)
    }

    /// Whether an answer is still owed and nothing of it has been decided.
    pub(super) const fn is_running(&self) -> bool {
        !matches!(
            self.state,
            State::Free
                | State::Answering(_)
                | State::Answered
                | State::Aborted { .. }
                | State::AbortedAtOwner
        )
    }

    /// Whether something of it may still take effect after it was aborted.
    pub(super) const fn is_held(&self) -> bool {
        self.is_in_flight() || matches!(self.state, State::AwaitOwner | State::AbortedAtOwner)
    }

    /// Whether the backend has an operation of it.
    pub(super) const fn is_in_flight(&self) -> bool {
        matches!(
            self.state,
            State::InFlight(_) | State::Aborted { in_flight: true }
        )
    }
}

/// No slot.
const EMPTY: u16 = u16::MAX;

/// Tasks of one session: slots, and a fixed open-addressing table from Initiator Task Tag to slot.
#[derive(Debug)]
pub(super) struct TaskTable {
    slots: Vec<Task>,
    free: Vec<u16>,
    index: Vec<u16>,
    mask: usize,
}

impl TaskTable {
    /// A table of `len` slots, at most 16 384.
    pub(super) fn new(len: usize) -> Self {
        assert!(len <= 1 << 14, "slots are named by 14 bits");
        let buckets = (len * 2).next_power_of_two().max(4);
        let mut slots = Vec::with_capacity(len);
        slots.resize_with(len, Task::default);
        Self {
            slots,
            free: (0..u16::try_from(len).expect("checked")).rev().collect(),
            index: vec![EMPTY; buckets],
            mask: buckets - 1,
        }
    }

    /// Slots there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Slots in use.
    pub(super) fn used(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The task in `slot`.
    pub(super) fn get(&self, slot: u16) -> &Task {
        &self.slots[usize::from(slot)]
    }

    /// The task in `slot`.
    pub(super) fn get_mut(&mut self, slot: u16) -> &mut Task {
        &mut self.slots[usize::from(slot)]
    }

    /// The task in `slot`, if there is such a slot and it is still the `generation`th use of it.
    pub(super) fn lookup(&self, slot: u16, generation: u32) -> Option<&Task> {
        self.slots
            .get(usize::from(slot))
            .filter(|t| t.generation == generation && t.state != State::Free)
    }

    fn bucket(&self, tag: u32) -> usize {
        // Fibonacci hashing: tags are often small and consecutive.
        (tag.wrapping_mul(0x9e37_79b1) >> 8) as usize & self.mask
    }

    /// The slot of the task with this tag.
    pub(super) fn find(&self, tag: u32) -> Option<u16> {
        let mut at = self.bucket(tag);
        loop {
            match self.index[at] {
                EMPTY => return None,
                slot if self.get(slot).initiator_task_tag == tag => return Some(slot),
                _ => at = (at + 1) & self.mask,
            }
        }
    }

    /// A slot for a new task with a tag that is not in use; `None` when all are taken.
    pub(super) fn insert(&mut self, tag: u32) -> Option<u16> {
        let slot = self.free.pop()?;
        let mut at = self.bucket(tag);
        while self.index[at] != EMPTY {
            at = (at + 1) & self.mask;
        }
        self.index[at] = slot;
        self.get_mut(slot).begin(tag);
        Some(slot)
    }

    /// Frees a slot.
    pub(super) fn remove(&mut self, slot: u16) {
        let tag = self.get(slot).initiator_task_tag;
        let mut hole = self.bucket(tag);
        while self.index[hole] != slot {
            hole = (hole + 1) & self.mask;
        }
        self.index[hole] = EMPTY;
        // Close the gap: what was pushed past it moves back (no tombstones).
        let mut at = (hole + 1) & self.mask;
        while self.index[at] != EMPTY {
            let home = self.bucket(self.get(self.index[at]).initiator_task_tag);
            if (at.wrapping_sub(home) & self.mask) >= (at.wrapping_sub(hole) & self.mask) {
                self.index[hole] = self.index[at];
                self.index[at] = EMPTY;
                hole = at;
            }
            at = (at + 1) & self.mask;
        }
        self.get_mut(slot).state = State::Free;
        self.free.push(slot);
    }

    /// Which slots are free, and the table of tags: with the tasks, all that a table is.
    pub(super) fn order(&self) -> (&[u16], &[u16]) {
        (&self.free, &self.index)
    }

    /// A table of these tasks, in the order of another table.
    pub(super) fn in_order(slots: Vec<Task>, free: Vec<u16>, index: Vec<u16>) -> Self {
        let mask = index.len() - 1;
        Self {
            slots,
            free,
            index,
            mask,
        }
    }

    /// The slots that there are, in use or not.
    pub(super) fn slots(&self) -> std::ops::Range<u16> {
        0..u16::try_from(self.slots.len()).expect("checked in new")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn tags_are_found_exactly_while_they_are_in_the_table(ops in proptest::collection::vec((any::<bool>(), 0..40_u32), 0..300)) {
            let mut table = TaskTable::new(16);
            let mut model: HashMap<u32, u16> = HashMap::new();
            for (insert, tag) in ops {
                let tag = tag.wrapping_mul(0x0101_0001);
                match (insert, model.get(&tag).copied()) {
                    (true, None) => match table.insert(tag) {
                        Some(slot) => { model.insert(tag, slot); }
                        None => prop_assert_eq!(model.len(), 16),
                    },
                    (false, Some(slot)) => { table.remove(slot); model.remove(&tag); }
                    _ => {}
                }
                prop_assert_eq!(table.used(), model.len());
                for (&tag, &slot) in &model {
                    prop_assert_eq!(table.find(tag), Some(slot));
                }
                prop_assert_eq!(table.find(1), None);
            }
        }
    }

    #[test]
    fn a_slot_used_again_has_another_generation() {
        let mut table = TaskTable::new(1);
        let slot = table.insert(7).expect("free");
        let generation = table.get(slot).generation;
        table.remove(slot);
        assert!(table.lookup(slot, generation).is_none());
        assert_eq!(table.insert(8), Some(slot));
        assert!(table.lookup(slot, generation).is_none());
        assert!(table.insert(9).is_none());
    }
}
