//! Cutting one read into Data-In PDUs; status and residual counts (RFC 7143, sections 11.4 and 11.7).

use super::Session;
use super::error::Event;
use super::home::Home;
use super::task::{State, Task};
use super::transmit::{Inline, Payload};
use super::turn::PORTION;
use crate::pdu::bhs::{
    DataInBhs, FINAL, NO_TAG, OVERFLOW, R2tBhs, STATUS, ScsiResponseBhs, UNDERFLOW, length_to_24,
};
use crate::pdu::code::Opcode;
use crate::scsi::{Outcome, Status};

/// Most data in one Data-In PDU, whatever the initiator takes: it is encoded in one go.
#[allow(clippy::cast_possible_truncation, reason = "a small constant")]
const LONGEST: u32 = PORTION as u32;

/// How far the data-in of a task has come. In bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DataIn {
    /// DataSN of the next Data-In, which is also how many there were.
    pub(super) data_sn: u32,
    /// Place of the next byte in the command's data.
    offset: u32,
    /// Place of the next byte in the data buffer.
    at: u32,
    /// Bytes of the buffer still to be encoded.
    pub(super) left: u32,
    /// Bytes of the sequence so far.
    burst: u32,
}

impl DataIn {
    /// The next `len` bytes are at the start of the data buffer.
    pub(super) fn load(&mut self, len: u32) {
        self.at = 0;
        self.left = len;
    }
}

/// o, u, O, U and both counts of an answer (RFC 7143, section 11.4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Residual {
    pub(super) flags: u8,
    pub(super) count: u32,
    pub(super) bidirectional_count: u32,
}

/// Compares what the CDB asks to move with what the initiator expects.
pub(super) fn residual(task: &Task) -> Residual {
    let (data_in, data_out) = match task.command.as_ref() {
        Some(command) => (command.data_in(), command.data_out()),
        None => (0, 0),
    };
    let one = |presented: u64, expected: u32| {
        let expected = u64::from(expected);
        if presented > expected {
            (OVERFLOW, presented - expected)
        } else if presented < expected {
            (UNDERFLOW, expected - presented)
        } else {
            (0, 0)
        }
    };
    let clip = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let presented = match (task.reads, task.writes) {
        (true, false) => data_in,
        (_, true) => data_out,
        (false, false) => data_in.max(data_out),
    };
    let (flags, count) = one(presented, task.expected_len);
    let mut residual = Residual {
        flags,
        count: clip(count),
        bidirectional_count: 0,
    };
    if task.reads && task.writes {
        let (flags, count) = one(data_in, task.bidirectional_read_len);
        // o and u are where O and U are, two bits higher.
        residual.flags |= flags << 2;
        residual.bidirectional_count = clip(count);
    }
    residual
}

/// The byte of the status field.
pub(super) const fn status_byte(status: Status) -> u8 {
    match status {
        Status::Good => 0x00,
        Status::CheckCondition(_) => 0x02,
        Status::ConditionMet => 0x04,
        Status::Busy => 0x08,
        Status::ReservationConflict => 0x18,
        Status::TaskSetFull => 0x28,
        Status::TaskAborted => 0x40,
    }
}

impl Session {
    /// Encodes what the task in `slot` has to send, as far as the wire has room. True: nothing is left.
    pub(super) fn encode_task(&mut self, home: &mut Home, slot: u16) -> bool {
        while self.tasks.get(slot).out.has_r2t() {
            if !self.tx.has_wire() {
                return false;
            }
            self.encode_r2t(slot);
        }
        while self.tasks.get(slot).data_in.left > 0 {
            if !self.tx.has_wire() {
                return false;
            }
            self.encode_data_in(home, slot);
        }
        let State::Answering(status) = self.tasks.get(slot).state else {
            return true;
        };
        if !self.tx.has_wire() {
            return false;
        }
        self.encode_response(home, slot, status);
        true
    }

    fn encode_r2t(&mut self, slot: u16) {
        let task = self.tasks.get_mut(slot);
        let Some((tag, offset, len, r2t_sn)) = task.out.poll_r2t() else {
            return;
        };
        let bhs = R2tBhs {
            opcode: Opcode::R2T.0,
            flags: FINAL,
            reserved_2: [0; 2],
            total_ahs_length: 0,
            data_segment_length: [0; 3],
            lun: task.lun.into(),
            initiator_task_tag: task.initiator_task_tag.into(),
            target_transfer_tag: tag.into(),
            stat_sn: self.tx.stat_sn.0.into(),
            exp_cmd_sn: self.window.exp_cmd_sn().0.into(),
            max_cmd_sn: self.window.max_cmd_sn().0.into(),
            r2t_sn: r2t_sn.into(),
            buffer_offset: offset.into(),
            desired_data_transfer_length: len.into(),
        };
        self.tx.told_max_cmd_sn = self.window.max_cmd_sn();
        self.tx.encode(&bhs, Payload::None, None, &self.tasks);
    }

    fn encode_data_in(&mut self, home: &mut Home, slot: u16) {
        if self.params.data_digest {
            self.keep_lent(home, slot, 0);
        }
        let max_burst = self.params.max_burst_length;
        let max_segment = self.params.max_send_data_segment_length;
        let task = self.tasks.get_mut(slot);
        let progress = &mut task.data_in;
        let len = progress
            .left
            .min(max_segment)
            .min(LONGEST)
            .min(max_burst.saturating_sub(progress.burst).max(1));
        let (at, offset, data_sn) = (progress.at, progress.offset, progress.data_sn);
        progress.at += len;
        progress.offset += len;
        progress.left -= len;
        progress.burst += len;
        progress.data_sn += 1;
        let all = progress.left == 0;
        let end_of_sequence = all || progress.burst >= max_burst;
        if end_of_sequence {
            progress.burst = 0;
        }
        let mut bhs = DataInBhs {
            opcode: Opcode::DATA_IN.0,
            flags: if end_of_sequence { FINAL } else { 0 },
            reserved_2: 0,
            status: 0,
            total_ahs_length: 0,
            data_segment_length: length_to_24(len),
            lun: 0.into(),
            initiator_task_tag: task.initiator_task_tag.into(),
            target_transfer_tag: NO_TAG.into(),
            stat_sn: 0.into(),
            exp_cmd_sn: 0.into(),
            max_cmd_sn: 0.into(),
            data_sn: data_sn.into(),
            buffer_offset: offset.into(),
            residual_count: 0.into(),
        };
        // Section 11.7.3: status travels with the last data when there is no sense and one direction.
        if all
            && !task.writes
            && let State::Answering(status @ (Status::Good | Status::ConditionMet)) = task.state
        {
            let residual = residual(task);
            bhs.flags |= STATUS | residual.flags;
            bhs.status = status_byte(status);
            bhs.residual_count = residual.count.into();
            bhs.stat_sn = self.tx.stat_sn.0.into();
            self.tx.stat_sn = self.tx.stat_sn.next();
            task.state = State::Answered;
            self.retire(home, slot);
        }
        bhs.exp_cmd_sn = self.window.exp_cmd_sn().0.into();
        bhs.max_cmd_sn = self.window.max_cmd_sn().0.into();
        self.tx.told_max_cmd_sn = self.window.max_cmd_sn();
        home.counters.add(Event::BytesRead, u64::from(len));
        self.tasks.get_mut(slot).wire += 1;
        let payload = Payload::Task { slot, at, len };
        self.tx.encode(&bhs, payload, Some(slot), &self.tasks);
    }

    fn encode_response(&mut self, home: &mut Home, slot: u16, status: Status) {
        let task = self.tasks.get_mut(slot);
        let residual = residual(task);
        let mut sense = [0_u8; 96];
        let mut payload = Payload::None;
        let mut len = 0;
        if let Status::CheckCondition(check) = status {
            // Section 11.4.7: a two-byte length, then the sense data.
            let written = check.write(false, &mut sense[2..]);
            let count = u16::try_from(written).expect("the slice is short");
            sense[..2].copy_from_slice(&count.to_be_bytes());
            len = u32::from(count) + 2;
            payload = Payload::Inline(Inline::of(&sense[..written + 2]));
        }
        task.state = State::Answered;
        task.wire += 1;
        let initiator_task_tag = task.initiator_task_tag;
        let exp_data_sn = task.data_in.data_sn;
        self.retire(home, slot);
        let bhs = ScsiResponseBhs {
            opcode: Opcode::SCSI_RESPONSE.0,
            flags: FINAL | residual.flags,
            response: 0,
            status: status_byte(status),
            total_ahs_length: 0,
            data_segment_length: length_to_24(len),
            reserved: [0; 8],
            initiator_task_tag: initiator_task_tag.into(),
            snack_tag: 0.into(),
            stat_sn: self.tx.stat_sn.0.into(),
            exp_cmd_sn: self.window.exp_cmd_sn().0.into(),
            max_cmd_sn: self.window.max_cmd_sn().0.into(),
            exp_data_sn: exp_data_sn.into(),
            bidirectional_read_residual_count: residual.bidirectional_count.into(),
            residual_count: residual.count.into(),
        };
        self.tx.stat_sn = self.tx.stat_sn.next();
        self.tx.told_max_cmd_sn = self.window.max_cmd_sn();
        self.tx.encode(&bhs, payload, Some(slot), &self.tasks);
    }

    /// A PDU of the task in `slot` has left the wire.
    pub(super) fn task_pdu_left(&mut self, home: &mut Home, slot: u16) {
        let task = self.tasks.get_mut(slot);
        task.wire -= 1;
        if task.wire > 0 || task.queued {
            return;
        }
        if task.state == State::Sending && task.data_in.left == 0 {
            task.state = State::Running;
            self.drive(home, slot, Outcome::Sent);
        } else {
            self.release_if_over(home, slot);
        }
    }
}
