//! Immediate, unsolicited and R2T data of one write (RFC 7143, sections 4.2.5.2, 11.7 and 11.8).
//!
//! A write's data comes in portions, each as long as its buffer. Immediate and unsolicited data are the
//! start of the first; R2Ts ask for the rest. Nothing is ever placed outside of what was asked for.

use super::Session;
use super::bursts::{R2tState, open_r2t};
use super::error::Event;
use super::home::Home;
use super::task::{Need, State, Task};
use crate::pdu::bhs::{DataOutBhs, FINAL, NO_TAG};
use crate::pdu::code::RejectReason;
use crate::scsi::{Outcome, Sense, Status};

/// Least that is worth a buffer of its own, in bytes.
const LEAST: u32 = 4096;

/// What to do with a Data-Out PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placement {
    /// Its data belongs at `at` of the task's data buffer.
    Place { slot: u16, at: usize },
    /// Its data belongs nowhere, but its task waits for the F bit.
    Absorb { slot: u16 },
    /// It ends its task, after the last data of it.
    Fail { slot: u16, sense: Sense },
    /// It belongs to no task (any more).
    Stale,
    /// It cannot be.
    Reject(RejectReason),
}

impl Session {
    /// Where the data of a Data-Out PDU belongs. Pure: asked once for the payload, and once for the PDU.
    pub(super) fn place_data_out(&self, bhs: &DataOutBhs, len: u32) -> Placement {
        let Some(slot) = self.tasks.find(bhs.initiator_task_tag.get()) else {
            return Placement::Stale;
        };
        let task = self.tasks.get(slot);
        if !task.is_running() {
            return Placement::Stale;
        }
        if bhs.target_transfer_tag.get() == NO_TAG {
            self.place_unsolicited(slot, task, bhs, len)
        } else {
            place_solicited(slot, task, bhs, len)
        }
    }

    fn place_unsolicited(&self, slot: u16, task: &Task, bhs: &DataOutBhs, len: u32) -> Placement {
        let out = &task.out;
        if !out.unsolicited_open {
            return match task.state {
                State::AwaitData => Placement::Fail {
                    slot,
                    sense: Sense::UNEXPECTED_UNSOLICITED_DATA,
                },
                _ => Placement::Stale,
            };
        }
        // A command that has begun without waiting for its data-out does not want it, and uses the buffer.
        let busy = matches!(
            task.state,
            State::Absorbing(_) | State::InFlight(_) | State::Sending | State::AwaitOwner
        );
        if out.failed.is_some() || busy {
            return Placement::Absorb { slot };
        }
        if bhs.data_sn.get() != out.unsolicited_sn {
            let sense = Sense::CRC_ERROR;
            return Placement::Fail { slot, sense };
        }
        let limit = self.params.first_burst_length.min(task.expected_len);
        let room = task.data.as_ref().map_or(0, |d| d.len());
        let end = u64::from(out.unsolicited) + u64::from(len);
        if end > u64::from(limit) || end > room as u64 {
            let sense = Sense::UNEXPECTED_UNSOLICITED_DATA;
            return Placement::Fail { slot, sense };
        }
        if bhs.buffer_offset.get() != out.unsolicited {
            let sense = Sense::NOT_ENOUGH_UNSOLICITED_DATA;
            return Placement::Fail { slot, sense };
        }
        let at = out.unsolicited as usize;
        Placement::Place { slot, at }
    }

    /// Takes in a whole Data-Out PDU. `data`: its payload, unless that is in place already; `damaged`: its
    /// digest was wrong.
    pub(super) fn handle_data_out(
        &mut self,
        home: &mut Home,
        bhs: &DataOutBhs,
        len: u32,
        data: Option<&[u8]>,
        damaged: bool,
    ) {
        let mut placement = self.place_data_out(bhs, len);
        if damaged && let Placement::Place { slot, .. } = placement {
            let sense = Sense::CRC_ERROR;
            placement = Placement::Fail { slot, sense };
        }
        let last = bhs.flags & FINAL != 0;
        let tag = bhs.target_transfer_tag.get();
        match placement {
            Placement::Place { slot, at } => {
                if let (Some(data), Some(buffer)) = (data, self.tasks.get_mut(slot).data.as_mut()) {
                    buffer.as_mut_slice()[at..at + data.len()].copy_from_slice(data);
                }
                home.counters.add(Event::BytesWritten, u64::from(len));
                self.data_arrived(home, slot, (tag, len, last));
            }
            Placement::Absorb { slot } => self.sequence_ended(home, slot, tag, last),
            Placement::Fail { slot, sense } => {
                home.count(Event::BadDataOut);
                self.fail_data_out(slot, sense);
                self.sequence_ended(home, slot, tag, last);
            }
            Placement::Stale => home.count(Event::StaleData),
            Placement::Reject(reason) => {
                self.reject(home, reason, zerocopy::IntoBytes::as_bytes(bhs))
            }
        }
    }

    fn data_arrived(&mut self, home: &mut Home, slot: u16, (tag, len, last): (u32, u32, bool)) {
        let first_burst = self.params.first_burst_length;
        let task = self.tasks.get_mut(slot);
        let out = &mut task.out;
        let mut wrong_amount = false;
        if tag == NO_TAG {
            out.unsolicited += len;
            out.unsolicited_sn += 1;
            // Section 11.4.7.2: with unsolicited Data-Out, all that FirstBurstLength allows must come.
            wrong_amount =
                last && task.expected_len > first_burst && out.unsolicited != first_burst;
        } else if let Some(r2t) = open_r2t(&mut out.r2ts, tag) {
            r2t.received += len;
            r2t.data_sn += 1;
            wrong_amount = last && r2t.received != r2t.len;
            out.filled += len;
        }
        if wrong_amount {
            home.count(Event::BadDataOut);
            self.fail_data_out(slot, Sense::NOT_ENOUGH_UNSOLICITED_DATA);
        }
        self.sequence_ended(home, slot, tag, last);
    }

    /// The task cannot succeed any more: it is answered when the last data of it has come.
    pub(super) fn fail_data_out(&mut self, slot: u16, sense: Sense) {
        let task = self.tasks.get_mut(slot);
        if task.out.failed.is_none() {
            task.out.failed = Some(sense);
        }
        task.out.forget_pending();
        if task.state == State::AwaitData {
            task.state = State::Absorbing(Status::CheckCondition(sense));
        }
    }

    /// Goes on after a Data-Out PDU; with the F bit its sequence is over.
    fn sequence_ended(&mut self, home: &mut Home, slot: u16, tag: u32, last: bool) {
        let task = self.tasks.get_mut(slot);
        if last {
            if tag == NO_TAG {
                task.out.unsolicited_open = false;
            } else if let Some(r2t) = open_r2t(&mut task.out.r2ts, tag) {
                r2t.state = R2tState::Free;
            }
        }
        match task.state {
            State::Absorbing(status) => self.answer(home, slot, status),
            State::AwaitData if last => {
                if let Some(outcome) = self.continue_data_out(home, slot) {
                    self.drive(home, slot, outcome);
                }
            }
            _ => {}
        }
    }

    /// [`Step::NeedDataOut`](crate::scsi::Step): what follows, when the next portion is here already.
    pub(super) fn need_data_out(
        &mut self,
        home: &mut Home,
        slot: u16,
        (remaining, granularity): (u32, u32),
    ) -> Option<Outcome> {
        if let Some(sense) = self.tasks.get(slot).out.failed {
            self.answer(home, slot, Status::CheckCondition(sense));
            return None;
        }
        if !self.make_room(home, slot, remaining, granularity) {
            let need = Need::DataOut {
                remaining,
                granularity,
            };
            self.wait_for_memory(home, slot, need);
            return None;
        }
        let task = self.tasks.get_mut(slot);
        let room = task.data.as_ref().map_or(0, |d| d.len());
        let mut len = remaining.min(u32::try_from(room).unwrap_or(u32::MAX));
        if len < remaining {
            len -= len % granularity.max(1);
        }
        task.out.portion_len = len;
        task.out.filled = 0;
        task.out.requested = 0;
        task.state = State::AwaitData;
        self.continue_data_out(home, slot)
    }

    /// Asks for what is missing, or hands the portion over.
    fn continue_data_out(&mut self, home: &mut Home, slot: u16) -> Option<Outcome> {
        let (max_r2t, max_burst) = (
            self.params.max_outstanding_r2t,
            self.params.max_burst_length,
        );
        let task = self.tasks.get_mut(slot);
        let out = &mut task.out;
        if out.unsolicited_open {
            return None;
        }
        if out.consumed == 0 && out.requested == 0 {
            out.filled = out.unsolicited.min(out.portion_len);
            out.requested = out.filled;
        }
        if !out.is_complete() {
            out.request(slot, max_r2t, max_burst);
            if out.has_r2t() {
                self.queue(home, slot);
            }
            return None;
        }
        let len = out.portion_len;
        out.consumed += len;
        task.state = State::Running;
        Some(Outcome::DataOut { len })
    }

    /// Makes sure that there is a buffer for the next portion; a larger one where that helps.
    fn make_room(&mut self, home: &mut Home, slot: u16, remaining: u32, granularity: u32) -> bool {
        let wanted = self.portion_for(home, slot, remaining);
        let task = self.tasks.get(slot);
        let held = task.data.as_ref().map_or(0, |d| d.len());
        let landed =
            task.out.consumed == 0 && (task.out.unsolicited > 0 || task.out.unsolicited_open);
        if held >= wanted || (held > 0 && landed) {
            return true;
        }
        if held > 0 {
            // The next portion may be longer than the last.
            if let Some(buffer) = self.take_memory(home, wanted, wanted, held) {
                self.put_data(slot, buffer);
            }
            return true;
        }
        let least = (remaining.min(granularity.max(LEAST)) as usize).min(wanted);
        let apart = self.dormant_memory();
        self.land(home, slot, (wanted, least), apart)
    }
}

fn place_solicited(slot: u16, task: &Task, bhs: &DataOutBhs, len: u32) -> Placement {
    let tag = bhs.target_transfer_tag.get();
    let mut r2ts = task.out.r2ts.iter();
    let Some(r2t) = r2ts.find(|r| r.state == R2tState::Open && r.tag == tag) else {
        return Placement::Reject(RejectReason::INVALID_PDU_FIELD);
    };
    if bhs.lun.get() != task.lun {
        return Placement::Reject(RejectReason::INVALID_PDU_FIELD);
    }
    if task.out.failed.is_some() || task.state != State::AwaitData {
        return Placement::Absorb { slot };
    }
    if bhs.data_sn.get() != r2t.data_sn {
        // Section 7.9: a number is missing, as if its PDU had been damaged.
        let sense = Sense::CRC_ERROR;
        return Placement::Fail { slot, sense };
    }
    let (offset, expected) = (bhs.buffer_offset.get(), r2t.offset + r2t.received);
    if offset != expected || u64::from(r2t.received) + u64::from(len) > u64::from(r2t.len) {
        let sense = Sense::NOT_ENOUGH_UNSOLICITED_DATA;
        return Placement::Fail { slot, sense };
    }
    let at = (offset - task.out.consumed) as usize;
    Placement::Place { slot, at }
}
