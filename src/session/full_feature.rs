//! The Full Feature Phase: from bytes to PDUs, and one match over their opcodes.

use zerocopy::IntoBytes;

use super::Phase;
use super::Session;
use super::command::Received;
use super::command_window::Arrival;
use super::data_out::Placement;
use super::error::{ConnectionError, Event};
use super::home::Home;
use super::receive::{DIRECT_FROM, Direct, Sink};
use super::transmit::{INLINE, Inline, Out, Payload};
use crate::buffer::{Buffer, CHUNK, LARGEST};
use crate::pdu::bhs::{BHS_LEN, LogoutRequestBhs, NO_TAG, NopOutBhs, ScsiCommandBhs};
use crate::pdu::code::{LogoutReason, LogoutResponse, Opcode, RejectReason};
use crate::pdu::digest::{DIGEST_LEN, RunningDigest};
use crate::pdu::frame::{Frame, PduLayout, header};
use crate::pdu::padding;
use crate::units::SerialNumber;

/// Immediate SCSI commands of one session that may be in progress.
const IMMEDIATE_TASKS: u32 = 16;

/// A command that came before its turn, or a number that is to be passed over.
#[derive(Debug)]
pub(super) struct Parked {
    cmd_sn: SerialNumber,
    /// `None`: nothing is to be done when its turn comes.
    command: Option<ParkedCommand>,
}

#[derive(Debug)]
struct ParkedCommand {
    header: [u8; BHS_LEN],
    data: Option<(Buffer, usize)>,
    spent: bool,
}

impl Session {
    /// Runs every whole PDU in the receive ring, within this turn's bound.
    pub(super) fn run_received(&mut self, home: &mut Home) -> Result<(), ConnectionError> {
        let Some(ring) = self.rx.ring.take() else {
            return Ok(());
        };
        let mut more = false;
        let mut budget = home.limits.pdus_per_turn;
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
                self.begin_direct(home, layout, bytes, so_far);
            }
            return Ok(false);
        };
        self.rx.start += pdu.len();
        let right = layout.data_is_right(pdu).unwrap_or(false);
        let data = layout.data(pdu).unwrap_or_default();
        self.run_pdu(home, &layout, pdu, Received::Bytes(data), !right);
        Ok(true)
    }

    /// Chooses where a large payload goes, before it comes.
    fn begin_direct(&mut self, home: &mut Home, layout: PduLayout, pdu: &[u8], so_far: &[u8]) {
        let Some(bhs) = pdu.first_chunk::<BHS_LEN>() else {
            return;
        };
        let len = u32::try_from(layout.data_len).expect("24 bits");
        let mut sink = match layout.opcode {
            Opcode::DATA_OUT => match self.place_data_out(header(bhs), len) {
                Placement::Place { slot, at } => Sink::Task { slot, at },
                _ => Sink::Drop,
            },
            Opcode::SCSI_COMMAND => self.command_sink(home, header(bhs), layout),
            _ => match self.take_memory(home, layout.data_len, layout.data_len, 0) {
                Some(buffer) => Sink::Own {
                    buffer,
                    spent: false,
                },
                None => Sink::Drop,
            },
        };
        match &mut sink {
            Sink::Own { buffer, .. } => {
                buffer.as_mut_slice()[..so_far.len()].copy_from_slice(so_far);
            }
            Sink::Task { slot, at } => {
                if let Some(data) = self.tasks.get_mut(*slot).data.as_mut() {
                    data.as_mut_slice()[*at..*at + so_far.len()].copy_from_slice(so_far);
                }
            }
            Sink::Drop => {}
        }
        self.rx.end = self.rx.start + layout.data_offset;
        // Padding and digest may be there in part already, when all of the data is.
        let data_end = layout.data_offset + so_far.len();
        self.rx.tail = (self.rx.start + data_end, pdu.len() - data_end);
        self.rx.direct = Some(Direct {
            layout,
            filled: so_far.len(),
            sink,
        });
    }

    /// Memory for the immediate data of a command: as much as the whole write wants, else what the window
    /// promised.
    fn command_sink(&mut self, home: &mut Home, bhs: &ScsiCommandBhs, layout: PduLayout) -> Sink {
        let wanted = (bhs.expected_data_transfer_length.get() as usize)
            .min(LARGEST)
            .max(layout.data_len);
        let in_window = layout.immediate
            || self.window.judge(SerialNumber(bhs.cmd_sn.get())) != Arrival::Outside;
        let allowed = layout.data_len <= self.params.first_burst_length as usize
            && self.params.immediate_data
            && in_window;
        if !allowed {
            return Sink::Drop;
        }
        let first_burst = self.params.first_burst_length as usize;
        let least = layout.data_len.max(wanted.min(first_burst));
        if let Some(buffer) = self.take_memory(home, wanted, least, 0) {
            return Sink::Own {
                buffer,
                spent: false,
            };
        }
        if !layout.immediate && self.promises > 0 && least <= CHUNK {
            self.promises -= 1;
            let buffer = home.pool.take_promised(least);
            self.memory += buffer.len();
            return Sink::Own {
                buffer,
                spent: true,
            };
        }
        Sink::Drop
    }

    /// Runs a PDU whose data went past the ring. `around`: header and what followed the data.
    fn run_direct(&mut self, home: &mut Home, direct: Direct, around: &[u8]) {
        let layout = direct.layout;
        let mut damaged = false;
        if layout.data_digest {
            let data: Option<&[u8]> = match &direct.sink {
                Sink::Own { buffer, .. } => buffer.as_slice().get(..layout.data_len),
                Sink::Task { slot, at } => {
                    let data = self.tasks.get(*slot).data.as_ref();
                    data.and_then(|d| d.as_slice().get(*at..*at + layout.data_len))
                }
                Sink::Drop => None,
            };
            if let Some(data) = data {
                let tail = &around[layout.data_offset..];
                let (pad, digest) = tail.split_at(padding(layout.data_len));
                let mut crc = RunningDigest::new();
                crc.update(data);
                crc.update(pad);
                let digest = digest.first_chunk::<DIGEST_LEN>();
                damaged = !digest.is_some_and(|d| crc.matches(*d));
            }
        }
        let len = layout.data_len;
        let received = match direct.sink {
            Sink::Own { buffer, spent } => Received::Own { buffer, len, spent },
            Sink::Task { .. } | Sink::Drop => Received::Gone { len },
        };
        self.run_pdu(home, &layout, around, received, damaged);
    }

    /// Runs one PDU. `pdu` starts with its header.
    fn run_pdu(
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
            Arrival::Early => self.park(home, cmd_sn, bhs, data),
            Arrival::Next => {
                self.window.admit();
                self.execute(home, whole_header, data, false);
                self.run_parked(home);
            }
        }
    }

    fn park(
        &mut self,
        home: &mut Home,
        cmd_sn: SerialNumber,
        bhs: &[u8; BHS_LEN],
        data: Received<'_>,
    ) {
        if self.parked.iter().any(|p| p.cmd_sn == cmd_sn)
            || self.parked.len() == self.parked.capacity()
        {
            home.count(Event::OutsideWindow);
            return self.forget_received(home, data);
        }
        let mut spent = matches!(data, Received::Own { spent: true, .. });
        let data = match data {
            Received::Own { buffer, len, .. } => Some((buffer, len)),
            Received::Bytes([]) => None,
            Received::Bytes(bytes) => {
                let mut buffer = self.take_memory(home, bytes.len(), bytes.len(), 0);
                if buffer.is_none() && self.promises > 0 && bytes.len() <= CHUNK {
                    self.promises -= 1;
                    spent = true;
                    let promised = home.pool.take_promised(bytes.len());
                    self.memory += promised.len();
                    buffer = Some(promised);
                }
                let Some(mut buffer) = buffer else {
                    return home.count(Event::OutsideWindow);
                };
                buffer.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
                Some((buffer, bytes.len()))
            }
            Received::Gone { .. } => return home.count(Event::OutsideWindow),
        };
        self.parked.push(Parked {
            cmd_sn,
            command: Some(ParkedCommand {
                header: *bhs,
                data,
                spent,
            }),
        });
    }

    /// Runs what waited for the CmdSN that has just been taken in.
    fn run_parked(&mut self, home: &mut Home) {
        loop {
            let next = self.window.exp_cmd_sn();
            let Some(at) = self.parked.iter().position(|p| p.cmd_sn == next) else {
                return;
            };
            let parked = self.parked.swap_remove(at);
            self.window.admit();
            match parked.command {
                Some(command) => {
                    let data = match command.data {
                        Some((buffer, len)) => Received::Own {
                            buffer,
                            len,
                            spent: command.spent,
                        },
                        None => Received::Bytes(&[]),
                    };
                    self.execute(home, &command.header, data, false);
                }
                None => self.disown(home, false),
            }
        }
    }

    /// Considers a CmdSN as received (section 11.6.1, rule b).
    pub(super) fn plug(&mut self, home: &mut Home, cmd_sn: SerialNumber) {
        if let Some(at) = self.parked.iter().position(|p| p.cmd_sn == cmd_sn) {
            let parked = self.parked.swap_remove(at);
            self.forget_parked(parked);
        }
        if self.parked.len() < self.parked.capacity() {
            self.parked.push(Parked {
                cmd_sn,
                command: None,
            });
        }
        self.run_parked(home);
    }

    /// Drops parked commands for a LUN that come before `cmd_sn`: a function aborts them.
    pub(super) fn drop_parked(&mut self, lun: u64, cmd_sn: SerialNumber) {
        for at in 0..self.parked.len() {
            let parked = &mut self.parked[at];
            let affected = parked.command.as_ref().is_some_and(|c| {
                let bhs: &ScsiCommandBhs = header(&c.header);
                bhs.opcode & 0x3f == Opcode::SCSI_COMMAND.0 && bhs.lun.get() == lun
            });
            if affected && parked.cmd_sn.is_before(cmd_sn) {
                let command = parked.command.take();
                self.forget_parked(Parked { cmd_sn, command });
            }
        }
    }

    pub(super) fn forget_parked(&mut self, parked: Parked) {
        if let Some((buffer, _)) = parked.command.and_then(|c| c.data) {
            self.memory -= buffer.len();
        }
    }

    /// The data of a PDU is not needed.
    fn forget_received(&mut self, home: &mut Home, data: Received<'_>) {
        if let Received::Own { buffer, spent, .. } = data {
            self.memory -= buffer.len();
            drop(buffer);
            if spent && home.pool.promise() {
                self.promises += 1;
            }
        }
    }

    /// Carries out a command whose turn it is.
    fn execute(
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
            Opcode::SCSI_COMMAND => {
                let ahs = &whole_header[BHS_LEN..];
                return self.handle_scsi_command(home, header(bhs), ahs, data, immediate);
            }
            Opcode::TASK_MANAGEMENT_REQUEST => {
                self.handle_task_management(home, header(bhs), immediate);
            }
            Opcode::NOP_OUT => self.handle_nop_out(home, header(bhs), &data, immediate),
            Opcode::TEXT_REQUEST => {
                let text = data.bytes().unwrap_or_default();
                self.handle_text(home, header(bhs), text, immediate);
            }
            _ => self.handle_logout(home, header(bhs), immediate),
        }
        self.forget_received(home, data);
    }

    fn handle_nop_out(
        &mut self,
        home: &mut Home,
        bhs: &NopOutBhs,
        data: &Received<'_>,
        immediate: bool,
    ) {
        let tag = bhs.initiator_task_tag.get();
        if tag == NO_TAG {
            // Section 11.18.1: no answer is wanted. (Answers to our own pings: with keepalive.)
            return self.disown(home, immediate);
        }
        if !immediate {
            self.spend_and_unpromise(home);
        }
        let limit = self.params.max_send_data_segment_length as usize;
        let bytes = data.bytes().unwrap_or_default();
        let bytes = &bytes[..bytes.len().min(limit)];
        let mut ping = Payload::Inline(Inline::of(bytes));
        if bytes.len() > INLINE
            && let Some(mut buffer) = self.take_memory(home, bytes.len(), bytes.len(), 0)
        {
            buffer.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
            ping = Payload::Own {
                buffer,
                len: bytes.len(),
            };
        }
        self.tx.say(Out::NopIn {
            initiator_task_tag: tag,
            lun: bhs.lun.get(),
            ping,
            numbered: !immediate,
        });
        self.make_ready(home);
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
