//! From the queue to the wire: one PDU for each thing to say that is not a task.

use super::home::Home;
use super::transmit::{Inline, Out, Payload};
use super::{Phase, Session};
use crate::pdu::bhs::{
    CONTINUE, FINAL, LogoutResponseBhs, NO_TAG, NopInBhs, RejectBhs, TaskManagementResponseBhs,
    TextResponseBhs, length_to_24,
};
use crate::pdu::code::{LogoutResponse, Opcode, RejectReason, TaskManagementResponse};

/// StatSN, ExpCmdSN and MaxCmdSN of a PDU.
struct Numbers {
    stat_sn: u32,
    exp_cmd_sn: u32,
    max_cmd_sn: u32,
}

impl Session {
    /// Encodes as much of the queue as the wire has room for.
    pub(super) fn fill_wire(&mut self, home: &mut Home) {
        if self.params.data_digest {
            self.keep_queued(home);
        }
        while self.tx.has_wire() {
            let Some(out) = self.tx.poll_queue() else {
                return;
            };
            if let Out::Task(slot) = out {
                if self.encode_task(home, slot) {
                    let task = self.tasks.get_mut(slot);
                    task.queued = false;
                    self.release_if_over(home, slot);
                } else {
                    self.tx.queue.push_front(out);
                    return;
                }
            } else {
                self.tx.misc -= 1;
                self.encode_misc(home, out);
            }
        }
    }

    fn numbers(&mut self, advance: bool) -> Numbers {
        let stat_sn = self.tx.stat_sn;
        if advance {
            self.tx.stat_sn = stat_sn.next();
        }
        self.tx.told_max_cmd_sn = self.window.max_cmd_sn();
        Numbers {
            stat_sn: stat_sn.0,
            exp_cmd_sn: self.window.exp_cmd_sn().0,
            max_cmd_sn: self.window.max_cmd_sn().0,
        }
    }

    fn encode_misc(&mut self, home: &mut Home, out: Out) {
        let numbered = match &out {
            Out::NopIn { numbered, .. }
            | Out::TaskManagement { numbered, .. }
            | Out::Logout { numbered, .. }
            | Out::Text { numbered, .. } => *numbered,
            Out::Task(_) | Out::Window | Out::Reject { .. } => false,
        };
        if numbered {
            self.window.retire();
            self.open_window(home);
        }
        match out {
            Out::Task(_) => {}
            Out::Window => self.encode_nop_in((NO_TAG, 0), Payload::None, false),
            Out::NopIn {
                initiator_task_tag,
                lun,
                ping,
                ..
            } => self.encode_nop_in((initiator_task_tag, lun), ping, true),
            Out::Reject { reason, header } => self.encode_reject(reason, header),
            Out::TaskManagement {
                initiator_task_tag,
                response,
                last,
                ..
            } => {
                self.encode_task_management(initiator_task_tag, response);
                if last {
                    self.tx.mark_last();
                }
            }
            Out::Logout {
                initiator_task_tag,
                response,
                last,
                ..
            } => {
                self.encode_logout(initiator_task_tag, response);
                if last {
                    self.tx.mark_last();
                }
            }
            text @ Out::Text { .. } => self.encode_text(text),
        }
    }

    fn encode_nop_in(&mut self, (tag, lun): (u32, u64), ping: Payload, answers: bool) {
        let len = u32::try_from(ping.len()).expect("24 bits");
        if let Payload::Own { buffer, .. } = &ping {
            // It is freed when it has left; the session's share of memory counts it no more.
            self.memory -= buffer.len();
        }
        let n = self.numbers(answers);
        let bhs = NopInBhs {
            opcode: Opcode::NOP_IN.0,
            flags: FINAL,
            reserved_2: [0; 2],
            total_ahs_length: 0,
            data_segment_length: length_to_24(len),
            lun: lun.into(),
            initiator_task_tag: tag.into(),
            target_transfer_tag: NO_TAG.into(),
            stat_sn: n.stat_sn.into(),
            exp_cmd_sn: n.exp_cmd_sn.into(),
            max_cmd_sn: n.max_cmd_sn.into(),
            reserved_36: [0; 12],
        };
        self.tx.encode(&bhs, ping, None, &self.tasks);
    }

    fn encode_reject(&mut self, reason: RejectReason, header: Inline) {
        let n = self.numbers(true);
        let len = u32::try_from(header.as_slice().len()).expect("short");
        let bhs = RejectBhs {
            opcode: Opcode::REJECT.0,
            flags: FINAL,
            reason: reason.0,
            reserved_3: 0,
            total_ahs_length: 0,
            data_segment_length: length_to_24(len),
            reserved_8: [0; 8],
            all_ones: NO_TAG.into(),
            reserved_20: [0; 4],
            stat_sn: n.stat_sn.into(),
            exp_cmd_sn: n.exp_cmd_sn.into(),
            max_cmd_sn: n.max_cmd_sn.into(),
            data_sn: 0.into(),
            reserved_40: [0; 8],
        };
        self.tx
            .encode(&bhs, Payload::Inline(header), None, &self.tasks);
    }

    fn encode_task_management(&mut self, tag: u32, response: TaskManagementResponse) {
        let n = self.numbers(true);
        let bhs = TaskManagementResponseBhs {
            opcode: Opcode::TASK_MANAGEMENT_RESPONSE.0,
            flags: FINAL,
            response: response.0,
            reserved_3: 0,
            total_ahs_length: 0,
            data_segment_length: [0; 3],
            reserved_8: [0; 8],
            initiator_task_tag: tag.into(),
            reserved_20: [0; 4],
            stat_sn: n.stat_sn.into(),
            exp_cmd_sn: n.exp_cmd_sn.into(),
            max_cmd_sn: n.max_cmd_sn.into(),
            reserved_36: [0; 12],
        };
        self.tx.encode(&bhs, Payload::None, None, &self.tasks);
    }

    fn encode_logout(&mut self, tag: u32, response: LogoutResponse) {
        let n = self.numbers(true);
        let bhs = LogoutResponseBhs {
            opcode: Opcode::LOGOUT_RESPONSE.0,
            flags: FINAL,
            response: response.0,
            reserved_3: 0,
            total_ahs_length: 0,
            data_segment_length: [0; 3],
            reserved_8: [0; 8],
            initiator_task_tag: tag.into(),
            reserved_20: [0; 4],
            stat_sn: n.stat_sn.into(),
            exp_cmd_sn: n.exp_cmd_sn.into(),
            max_cmd_sn: n.max_cmd_sn.into(),
            reserved_36: [0; 4],
            // Section 11.15.3: with an answer of 0, what was negotiated is told again.
            time2wait: self.params.default_time2wait.into(),
            time2retain: 0.into(),
            reserved_44: [0; 4],
        };
        self.tx.encode(&bhs, Payload::None, None, &self.tasks);
    }

    fn encode_text(&mut self, out: Out) {
        let Out::Text {
            initiator_task_tag,
            lun,
            target_transfer_tag,
            last,
            more,
            text,
            ..
        } = out
        else {
            return;
        };
        let n = self.numbers(true);
        let len = u32::try_from(text.len()).expect("cut to the initiator's limit");
        let bhs = TextResponseBhs {
            opcode: Opcode::TEXT_RESPONSE.0,
            flags: if last { FINAL } else { 0 } | if more { CONTINUE } else { 0 },
            reserved_2: [0; 2],
            total_ahs_length: 0,
            data_segment_length: length_to_24(len),
            lun: lun.into(),
            initiator_task_tag: initiator_task_tag.into(),
            target_transfer_tag: target_transfer_tag.into(),
            stat_sn: n.stat_sn.into(),
            exp_cmd_sn: n.exp_cmd_sn.into(),
            max_cmd_sn: n.max_cmd_sn.into(),
            reserved_36: [0; 12],
        };
        self.tx.encode(&bhs, Payload::Heap(text), None, &self.tasks);
    }

    /// `len` bytes were handed to the socket.
    pub(super) fn note_transmitted(&mut self, home: &mut Home, len: usize) {
        self.this_turn(home).sent += len;
        self.tx.note(len);
        while let Some(pdu) = self.tx.poll_left() {
            home.count(super::error::Event::PduSent);
            if pdu.last {
                self.phase = Phase::Ending;
                self.request_close(home);
            }
            if let Some(slot) = pdu.task {
                self.task_pdu_left(home, slot);
            } else if let Some(buffer) = pdu.reserve {
                self.return_reserve(home, buffer);
            }
        }
        if self.lent > 0
            && let Some((slot, left)) = self.tx.cut_task()
        {
            // Who knows when the rest of the block will leave; it belongs to what has.
            self.keep_lent(home, slot, left);
        }
        if !self.tx.queue.is_empty() {
            // More than the wire had room for.
            self.make_ready(home);
        }
        if self.paused && self.tx.has_room() {
            self.paused = false;
            // PDUs may have been left in the ring because too much was unanswered, or another ping was.
            self.add_backlog(home);
        }
    }
}
