//! The Full Feature Phase: from bytes to PDUs, and one match over their opcodes.

use zerocopy::IntoBytes;

use super::Phase;
use super::Session;
use super::command::Received;
use super::command_window::Arrival;
use super::error::{ConnectionError, Event};
use super::home::Home;
use super::memory::Source;
use super::receive::DIRECT_FROM;
use super::transmit::{Inline, Out};
use crate::buffer::Buffer;
use crate::pdu::bhs::{BHS_LEN, LogoutRequestBhs, NO_TAG, NopOutBhs};
use crate::pdu::code::{LogoutReason, LogoutResponse, Opcode, RejectReason};
use crate::pdu::digest::DIGEST_LEN;
use crate::pdu::frame::{Frame, PduLayout, header};
use crate::pdu::padding;
use crate::units::SerialNumber;

/// Immediate SCSI commands of one session that may be in progress.
const IMMEDIATE_TASKS: u32 = 16;

impl Session {
    /// Runs every whole PDU in the receive ring, within this turn's bound.
    pub(super) fn run_received(&mut self, home: &mut Home) -> Result<(), ConnectionError> {
        let Some(ring) = self.rx.ring.take() else {
            return Ok(());
        };
        let mut more = false;
        let most = home.limits.pdus_per_turn;
        let mut budget = most.saturating_sub(self.this_turn(home).run);
        let at_first = budget;
        let result = loop {
            if !matches!(self.phase, Phase::Open) {
                self.rx.start = self.rx.end;
                self.rx.direct = None;
                break Ok(());
            }
            if budget == 0 || !self.tx.has_room() {
                more = budget == 0;
                self.paused = !more;
                break Ok(());
            }
            budget -= 1;
            match self.run_next(home, &ring) {
                Ok(true) => home.count(Event::PduReceived),
                Ok(false) => break Ok(()),
                Err(error) => {
                    home.count(error.event());
                    break Err(error);
                }
            }
        };
        self.this_turn(home).run += at_first - budget;
        self.rx.ring = Some(ring);
        self.rx.keep_tail();
        self.rx.compact();
        self.rx.drain_dropped();
        if more {
            self.add_backlog(home);
        }
        result
    }

    /// Runs the next PDU; false when it is not whole.
    fn run_next(&mut self, home: &mut Home, ring: &Buffer) -> Result<bool, ConnectionError> {
        let bytes = &ring.as_slice()[self.rx.start..self.rx.end];
        if let Some(direct) = self.rx.direct.as_ref() {
            let tail = padding(direct.layout.data_len)
                + if direct.layout.data_digest {
                    DIGEST_LEN
                } else {
                    0
                };
            let after = direct.layout.data_offset + tail;
            if direct.missing() > 0 || bytes.len() < after {
                return Ok(false);
            }
            let direct = self.rx.direct.take().expect("looked at above");
            self.rx.start += after;
            self.run_direct(home, direct, &bytes[..after]);
            return Ok(true);
        }
        let layout = match self.rx.framing.decode(bytes)? {
            Frame::NeedMore { .. } => return Ok(false),
            Frame::Header(layout) => layout,
        };
        let Some(pdu) = bytes.get(..layout.total_len()) else {
            let so_far = layout.data_so_far(bytes);
            // What does not fit in the ring never becomes whole there, however little of it is missing.
            let fits = layout.total_len() <= ring.len();
            if layout.data_len - so_far.len() >= DIRECT_FROM || !fits {
                if self.must_wait_for_a_ping(home, &layout, bytes, layout.data_len) {
                    self.paused = true;
                    return Ok(false);
                }
                self.begin_direct(home, layout, bytes, so_far);
            }
            return Ok(false);
        };
        let wanted = layout
            .data_len
            .min(self.params.max_send_data_segment_length as usize);
        if self.must_wait_for_a_ping(home, &layout, pdu, wanted) {
            self.paused = true;
            return Ok(false);
        }
        self.rx.start += pdu.len();
        let right = layout.data_is_right(pdu).unwrap_or(false);
        let data = layout.data(pdu).unwrap_or_default();
        self.run_pdu(home, &layout, pdu, Received::Bytes(data), !right);
        Ok(true)
    }

    /// Runs one PDU. `pdu` starts with its header.
    pub(super) fn run_pdu(
        &mut self,
        home: &mut Home,
        layout: &PduLayout,
        pdu: &[u8],
        data: Received<'_>,
        damaged: bool,
    ) {
        let whole_header = pdu.get(..layout.header_len).unwrap_or_default();
        let Some(bhs) = whole_header.first_chunk::<BHS_LEN>() else {
            return;
        };
        if damaged {
            // Section 7.8: Reject, and discard; a write that lost data ends.
            home.count(Event::DataDigestError);
            self.reject(home, RejectReason::DATA_DIGEST_ERROR, whole_header);
        }
        match layout.opcode {
            Opcode::DATA_OUT => {
                let len = u32::try_from(layout.data_len).expect("24 bits");
                self.handle_data_out(home, header(bhs), len, data.bytes(), damaged);
                self.forget_received(home, data);
            }
            _ if damaged => self.forget_received(home, data),
            Opcode::SCSI_COMMAND
            | Opcode::NOP_OUT
            | Opcode::TASK_MANAGEMENT_REQUEST
            | Opcode::TEXT_REQUEST
            | Opcode::LOGOUT_REQUEST => self.handle_numbered(home, layout, whole_header, data),
            opcode => {
                let reason = match opcode {
                    Opcode::SNACK_REQUEST => RejectReason::SNACK_REJECT,
                    Opcode::LOGIN_REQUEST => RejectReason::PROTOCOL_ERROR,
                    _ => RejectReason::COMMAND_NOT_SUPPORTED,
                };
                self.reject(home, reason, whole_header);
                self.forget_received(home, data);
            }
        }
    }

    /// A PDU with a CmdSN: now, later, or never (section 4.2.2.1).
    fn handle_numbered(
        &mut self,
        home: &mut Home,
        layout: &PduLayout,
        whole_header: &[u8],
        data: Received<'_>,
    ) {
        let Some(bhs) = whole_header.first_chunk::<BHS_LEN>() else {
            return;
        };
        if layout.immediate {
            return self.execute(home, whole_header, data, true);
        }
        // CmdSN is at the same place in all of them.
        let cmd_sn = SerialNumber(header::<NopOutBhs>(bhs).cmd_sn.get());
        match self.window.judge(cmd_sn) {
            Arrival::Outside => {
                home.count(Event::OutsideWindow);
                self.forget_received(home, data);
            }
            Arrival::Early => self.park(home, cmd_sn, whole_header, data),
            Arrival::Next => {
                self.window.admit();
                self.execute(home, whole_header, data, false);
                self.run_parked(home);
            }
        }
    }

    /// The data of a PDU is not needed.
    pub(super) fn forget_received(&mut self, home: &mut Home, data: Received<'_>) {
        if let Received::Own { buffer, from, .. } = data {
            self.memory -= buffer.len();
            match from {
                Source::Share => {}
                Source::Window => {
                    home.pool.promise_again(buffer);
                    self.promises += 1;
                }
                Source::Reserve => self.return_reserve(home, buffer),
            }
        }
    }

    /// Carries out a command whose turn it is.
    pub(super) fn execute(
        &mut self,
        home: &mut Home,
        whole_header: &[u8],
        data: Received<'_>,
        immediate: bool,
    ) {
        let Some(bhs) = whole_header.first_chunk::<BHS_LEN>() else {
            return;
        };
        let generic: &crate::pdu::bhs::GenericBhs = header(bhs);
        let opcode = Opcode(generic.opcode & 0x3f);
        let tag = generic.initiator_task_tag.get();
        let refusal = if tag == NO_TAG && opcode != Opcode::NOP_OUT {
            Some(RejectReason::INVALID_PDU_FIELD)
        } else if tag != NO_TAG && self.tasks.find(tag).is_some() {
            Some(RejectReason::TASK_IN_PROGRESS)
        } else if opcode == Opcode::SCSI_COMMAND
            && (self.facts.target.is_none()
                || (immediate && self.immediate_tasks >= IMMEDIATE_TASKS))
        {
            Some(if immediate {
                RejectReason::IMMEDIATE_COMMAND_REJECT
            } else {
                RejectReason::COMMAND_NOT_SUPPORTED
            })
        } else {
            None
        };
        if let Some(reason) = refusal {
            self.disown(home, immediate);
            self.forget_received(home, data);
            return self.reject(home, reason, whole_header);
        }
        match opcode {
            Opcode::SCSI_COMMAND if !immediate && self.is_forsaken(header(bhs)) => {
                home.count(Event::TaskAborted);
                self.disown(home, immediate);
            }
            Opcode::SCSI_COMMAND => {
                let ahs = &whole_header[BHS_LEN..];
                return self.handle_scsi_command(home, header(bhs), ahs, data, immediate);
            }
            Opcode::TASK_MANAGEMENT_REQUEST => {
                self.handle_task_management(home, header(bhs), immediate);
            }
            Opcode::NOP_OUT => {
                return self.handle_nop_out(home, header(bhs), data, immediate);
            }
            Opcode::TEXT_REQUEST => self.handle_text(home, header(bhs), &data, immediate),
            _ => self.handle_logout(home, header(bhs), immediate),
        }
        self.forget_received(home, data);
    }

    fn handle_logout(&mut self, home: &mut Home, bhs: &LogoutRequestBhs, immediate: bool) {
        let tag = bhs.initiator_task_tag.get();
        let response = match LogoutReason(bhs.reason & 0x7f) {
            LogoutReason::CLOSE_SESSION => LogoutResponse::CLOSED,
            LogoutReason::CLOSE_CONNECTION if bhs.cid.get() == self.facts.cid => {
                LogoutResponse::CLOSED
            }
            LogoutReason::CLOSE_CONNECTION => LogoutResponse::CID_NOT_FOUND,
            LogoutReason::REMOVE_FOR_RECOVERY => LogoutResponse::RECOVERY_NOT_SUPPORTED,
            _ => {
                self.disown(home, immediate);
                let reason = RejectReason::INVALID_PDU_FIELD;
                return self.reject(home, reason, bhs.as_bytes());
            }
        };
        if !immediate {
            self.spend_and_unpromise(home);
        }
        if response == LogoutResponse::CLOSED {
            self.phase = Phase::LoggingOut {
                initiator_task_tag: tag,
            };
            self.abort_all(home);
            return self.settle(home);
        }
        self.tx.say(Out::Logout {
            initiator_task_tag: tag,
            response,
            last: false,
            numbered: !immediate,
        });
        self.make_ready(home);
    }

    /// Queues a Reject with the header of what is rejected.
    pub(super) fn reject(&mut self, home: &mut Home, reason: RejectReason, whole_header: &[u8]) {
        home.count(Event::Rejected);
        self.tx.say(Out::Reject {
            reason,
            header: Inline::of(whole_header),
        });
        self.make_ready(home);
    }
}
