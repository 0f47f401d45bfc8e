//! One connection of the ceiling, without its socket: bytes in, answers out.

use zerocopy::{FromZeros, Immutable, IntoBytes};

use super::answers::Answers;
use super::commands;
use super::login::LoginAnswers;
use crate::initiator::config::{Negotiated, Offers};
use crate::pdu::bhs::{
    CONTINUE, DataInBhs, DataOutBhs, FINAL, GenericBhs, IMMEDIATE, LogoutResponseBhs, NO_TAG,
    NopInBhs, R2tBhs, READ, STATUS, ScsiCommandBhs, ScsiResponseBhs, TaskManagementResponseBhs,
    TextResponseBhs, UNDERFLOW, WRITE, length_from_24, length_to_24,
};
use crate::pdu::code::Opcode;
use crate::pdu::digest::DIGEST_LEN;
use crate::pdu::frame::{EncodedHeader, EncodedTrailer, header};
use crate::pdu::{BHS_LEN, padding};

/// Commands that may be on their way: MaxCmdSN is so far ahead.
const WINDOW: u32 = 4096;
/// Longest data segment of a PDU that is looked into as a whole (text, pings), in bytes.
pub(super) const LONGEST_WHOLE: usize = 64 * 1024;

/// The logical unit: how large it says it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unit {
    pub(super) blocks: u64,
    pub(super) logical_block_size: u32,
}

/// A write whose data has not all come.
#[derive(Clone, Copy, Debug)]
struct Write {
    tag: u32,
    lun: u64,
    expected: u32,
    received: u32,
    /// Bytes that came unasked or were asked for.
    asked: u32,
    r2t_sn: u32,
    /// R2Ts whose data has not all come.
    open: u16,
}

/// Lengths of a PDU, in bytes.
pub(super) struct Layout {
    /// Where its data starts.
    start: usize,
    data_len: usize,
    /// All of it.
    pub(super) len: usize,
}

/// One connection.
#[derive(Debug)]
pub(in crate::initiator) struct Answerer {
    unit: Unit,
    portal: String,
    tsih: u16,
    /// `None` once it is complete.
    login: Option<LoginAnswers>,
    agreed: Negotiated,
    stat_sn: u32,
    exp_cmd_sn: u32,
    /// Bytes of the current PDU that are passed over.
    skip: usize,
    /// The header they belong to, which is answered after them.
    current: [u8; BHS_LEN],
    writes: Vec<Option<Write>>,
    free: Vec<u32>,
    /// The session is over: close when all is sent.
    pub(super) over: bool,
    pub(in crate::initiator) answers: Answers,
}

impl Answerer {
    /// A connection that waits for its login; `portal` is its own address.
    pub(in crate::initiator) fn new(
        blocks: u64,
        logical_block_size: u32,
        offers: Offers,
        portal: String,
        tsih: u16,
    ) -> Self {
        Self {
            unit: Unit {
                blocks,
                logical_block_size,
            },
            portal,
            tsih,
            login: Some(LoginAnswers::new(offers)),
            agreed: Negotiated::defaults(),
            stat_sn: 1,
            exp_cmd_sn: 1,
            skip: 0,
            current: [0; BHS_LEN],
            writes: Vec::new(),
            free: Vec::new(),
            over: false,
            answers: Answers::default(),
        }
    }

    /// Answers all of `stream` that is whole, and says how much of it that was. What is left is the start of the
    /// next call's.
    pub(in crate::initiator) fn take(&mut self, stream: &[u8]) -> Result<usize, &'static str> {
        let mut at = 0;
        loop {
            if self.skip > 0 {
                let now = self.skip.min(stream.len() - at);
                (at, self.skip) = (at + now, self.skip - now);
                if self.skip > 0 {
                    return Ok(at);
                }
                let current = self.current;
                self.answer(&current)?;
            }
            let rest = &stream[at..];
            let Some(bhs) = rest.first_chunk::<BHS_LEN>() else {
                return Ok(at);
            };
            let Layout {
                start,
                data_len,
                len,
            } = self.layout(bhs);
            if needs_data(bhs[0]) {
                if data_len > LONGEST_WHOLE {
                    return Err("more than 64 KiB of text or ping data");
                }
                let Some(pdu) = rest.get(..len) else {
                    return Ok(at);
                };
                self.answer_whole(bhs, &pdu[start..start + data_len])?;
                at += len;
            } else if let Some(left) = len.checked_sub(rest.len()).filter(|&left| left > 0) {
                (self.current, self.skip) = (*bhs, left);
                return Ok(stream.len());
            } else {
                self.answer(bhs)?;
                at += len;
            }
        }
    }

    /// Where the parts of a PDU with this header lie.
    pub(super) fn layout(&self, bhs: &[u8; BHS_LEN]) -> Layout {
        let generic: &GenericBhs = header(bhs);
        let data_len = length_from_24(generic.data_segment_length) as usize;
        let digest_if = |agreed| if agreed { DIGEST_LEN } else { 0 };
        let start = BHS_LEN
            + usize::from(generic.total_ahs_length) * 4
            + digest_if(self.agreed.header_digest);
        let digest = digest_if(self.agreed.data_digest && data_len > 0);
        Layout {
            start,
            data_len,
            len: start + data_len + padding(data_len) + digest,
        }
    }

    /// The numbers that every answer has: StatSN counted if `counts`, ExpCmdSN, MaxCmdSN.
    const fn numbers(&mut self, counts: bool) -> (u32, u32, u32) {
        let stat_sn = self.stat_sn;
        if counts {
            self.stat_sn = stat_sn.wrapping_add(1);
        }
        let exp = self.exp_cmd_sn;
        (stat_sn, exp, exp.wrapping_add(WINDOW - 1))
    }

    fn push<T: IntoBytes + Immutable>(&mut self, bhs: &T) {
        if self.agreed.header_digest {
            self.answers.push(EncodedHeader::new(bhs, true).as_slice());
        } else {
            self.answers.push(bhs.as_bytes());
        }
    }

    fn push_data(&mut self, data: &[u8]) {
        if !data.is_empty() {
            self.answers.push(data);
            let trailer = EncodedTrailer::new(data, self.agreed.data_digest);
            self.answers.push(trailer.as_slice());
        }
    }

    /// A PDU whose data, if it has any, came and does not matter.
    fn answer(&mut self, bhs: &[u8; BHS_LEN]) -> Result<(), &'static str> {
        if self.login.is_some() {
            return Err("not a Login Request during login");
        }
        match Opcode(bhs[0] & 0x3f) {
            Opcode::SCSI_COMMAND => self.answer_command(header(bhs)),
            Opcode::DATA_OUT => self.answer_data_out(header(bhs))?,
            Opcode::TASK_MANAGEMENT_REQUEST => {
                let mut out = TaskManagementResponseBhs::new_zeroed();
                let generic: &GenericBhs = header(bhs);
                out.initiator_task_tag = generic.initiator_task_tag;
                (out.opcode, out.flags) = (Opcode::TASK_MANAGEMENT_RESPONSE.0, FINAL);
                let (stat, exp, max) = self.numbers(true);
                (out.stat_sn, out.exp_cmd_sn, out.max_cmd_sn) =
                    (stat.into(), exp.into(), max.into());
                self.push(&out);
            }
            Opcode::LOGOUT_REQUEST => {
                let mut out = LogoutResponseBhs::new_zeroed();
                let generic: &GenericBhs = header(bhs);
                out.initiator_task_tag = generic.initiator_task_tag;
                (out.opcode, out.flags) = (Opcode::LOGOUT_RESPONSE.0, FINAL);
                let (stat, exp, max) = self.numbers(true);
                (out.stat_sn, out.exp_cmd_sn, out.max_cmd_sn) =
                    (stat.into(), exp.into(), max.into());
                self.push(&out);
                self.over = true;
            }
            _ => return Err("a PDU that the ceiling does not know"),
        }
        Ok(())
    }

    fn answer_command(&mut self, bhs: &ScsiCommandBhs) {
        if bhs.opcode & IMMEDIATE == 0 {
            self.exp_cmd_sn = bhs.cmd_sn.get().wrapping_add(1);
        }
        let tag = bhs.initiator_task_tag.get();
        let expected = bhs.expected_data_transfer_length.get();
        match bhs.cdb[0] {
            0x08 | 0x28 | 0xa8 | 0x88 if bhs.flags & READ != 0 => self.read(tag, expected),
            0x0a | 0x2a | 0xaa | 0x8a if bhs.flags & WRITE != 0 => {
                let received = length_from_24(bhs.data_segment_length);
                if received >= expected {
                    self.respond(tag, 0, &[], 0);
                    return;
                }
                let first_burst = self.agreed.first_burst_length.min(expected);
                let unasked = bhs.flags & FINAL == 0;
                let write = Write {
                    tag,
                    lun: bhs.lun.get(),
                    expected,
                    received,
                    asked: if unasked { first_burst } else { received },
                    r2t_sn: 0,
                    open: 0,
                };
                let index = self.free.pop().unwrap_or_else(|| {
                    self.writes.push(None);
                    u32::try_from(self.writes.len() - 1).unwrap_or(0)
                });
                self.writes[index as usize] = Some(write);
                if !unasked {
                    self.ask(index);
                }
            }
            _ => match commands::answer(&bhs.cdb, self.unit) {
                Ok(data) => self.parameter_data(tag, &data, expected),
                Err(sense) => self.respond(tag, 0x02, &sense, expected),
            },
        }
    }

    /// The data of a read in as few PDUs as were agreed on, the status in the last.
    fn read(&mut self, tag: u32, expected: u32) {
        let digest = self.agreed.data_digest;
        let (mut offset, mut data_sn) = (0, 0u32);
        let burst = self.agreed.max_burst_length;
        loop {
            let left = expected - offset;
            // A sequence ends at MaxBurstLength (section 13.13).
            let in_burst = burst - offset % burst;
            let len = left
                .min(self.agreed.max_send_data_segment_length)
                .min(in_burst);
            let mut out = DataInBhs::new_zeroed();
            out.opcode = Opcode::DATA_IN.0;
            out.data_segment_length = length_to_24(len);
            out.initiator_task_tag = tag.into();
            out.target_transfer_tag = NO_TAG.into();
            out.data_sn = data_sn.into();
            out.buffer_offset = offset.into();
            let last = len == left;
            let (stat, exp, max) = self.numbers(last);
            (out.exp_cmd_sn, out.max_cmd_sn) = (exp.into(), max.into());
            if last {
                out.flags = FINAL | STATUS;
                out.stat_sn = stat.into();
            } else if len == in_burst {
                out.flags = FINAL;
            }
            self.push(&out);
            self.answers.push_fill(len as usize, digest);
            if last {
                return;
            }
            offset += len;
            data_sn = data_sn.wrapping_add(1);
        }
    }

    fn respond(&mut self, tag: u32, status: u8, sense: &[u8], unmoved: u32) {
        let mut out = ScsiResponseBhs::new_zeroed();
        out.opcode = Opcode::SCSI_RESPONSE.0;
        out.flags = FINAL;
        out.status = status;
        out.initiator_task_tag = tag.into();
        if unmoved > 0 {
            out.flags |= UNDERFLOW;
            out.residual_count = unmoved.into();
        }
        out.data_segment_length = length_to_24(u32::try_from(sense.len()).unwrap_or(0));
        let (stat, exp, max) = self.numbers(true);
        (out.stat_sn, out.exp_cmd_sn, out.max_cmd_sn) = (stat.into(), exp.into(), max.into());
        self.push(&out);
        self.push_data(sense);
    }

    fn parameter_data(&mut self, tag: u32, data: &[u8], expected: u32) {
        let data = &data[..data.len().min(expected as usize)];
        let len = u32::try_from(data.len()).unwrap_or(0);
        if len == 0 {
            self.respond(tag, 0, &[], expected);
            return;
        }
        let mut out = DataInBhs::new_zeroed();
        out.opcode = Opcode::DATA_IN.0;
        out.flags = FINAL | STATUS;
        if len < expected {
            out.flags |= UNDERFLOW;
            out.residual_count = (expected - len).into();
        }
        out.data_segment_length = length_to_24(len);
        out.initiator_task_tag = tag.into();
        out.target_transfer_tag = NO_TAG.into();
        let (stat, exp, max) = self.numbers(true);
        (out.stat_sn, out.exp_cmd_sn, out.max_cmd_sn) = (stat.into(), exp.into(), max.into());
        self.push(&out);
        self.push_data(data);
    }

    fn answer_data_out(&mut self, bhs: &DataOutBhs) -> Result<(), &'static str> {
        const UNKNOWN: &str = "Data-Out of no outstanding write";
        let tag = bhs.initiator_task_tag.get();
        let index = match bhs.target_transfer_tag.get() {
            NO_TAG => self
                .writes
                .iter()
                .position(|write| write.is_some_and(|write| write.tag == tag))
                .and_then(|index| u32::try_from(index).ok())
                .ok_or(UNKNOWN)?,
            index => index,
        };
        let write = self.writes.get_mut(index as usize).and_then(Option::as_mut);
        let write = write.filter(|write| write.tag == tag).ok_or(UNKNOWN)?;
        write.received = write
            .received
            .saturating_add(length_from_24(bhs.data_segment_length));
        if bhs.flags & FINAL == 0 {
            return Ok(());
        }
        if bhs.target_transfer_tag.get() != NO_TAG {
            write.open = write.open.saturating_sub(1);
        }
        if write.received >= write.expected {
            self.writes[index as usize] = None;
            self.free.push(index);
            self.respond(tag, 0, &[], 0);
        } else {
            self.ask(index);
        }
        Ok(())
    }

    /// Sends as many R2Ts as may be open, each for as much as one sequence may have (section 11.8).
    fn ask(&mut self, index: u32) {
        let Some(mut write) = self.writes.get(index as usize).copied().flatten() else {
            return;
        };
        while write.asked < write.expected && write.open < self.agreed.max_outstanding_r2t.max(1) {
            let len = (write.expected - write.asked).min(self.agreed.max_burst_length);
            let (stat, exp, max) = self.numbers(false);
            self.push(&R2tBhs {
                opcode: Opcode::R2T.0,
                flags: FINAL,
                reserved_2: [0; 2],
                total_ahs_length: 0,
                data_segment_length: [0; 3],
                lun: write.lun.into(),
                initiator_task_tag: write.tag.into(),
                target_transfer_tag: index.into(),
                stat_sn: stat.into(),
                exp_cmd_sn: exp.into(),
                max_cmd_sn: max.into(),
                r2t_sn: write.r2t_sn.into(),
                buffer_offset: write.asked.into(),
                desired_data_transfer_length: len.into(),
            });
            write.asked += len;
            write.r2t_sn += 1;
            write.open += 1;
        }
        self.writes[index as usize] = Some(write);
    }

    /// A PDU whose data matters: Login, Text, NOP-Out.
    fn answer_whole(&mut self, bhs: &[u8; BHS_LEN], data: &[u8]) -> Result<(), &'static str> {
        match (Opcode(bhs[0] & 0x3f), &mut self.login) {
            (Opcode::LOGIN_REQUEST, Some(login)) => {
                let request = header(bhs);
                let mut answer = login.handle(request, data, self.tsih)?;
                self.exp_cmd_sn = answer.bhs.exp_cmd_sn.get();
                let (stat, exp, max) = self.numbers(true);
                let out = &mut answer.bhs;
                (out.stat_sn, out.exp_cmd_sn, out.max_cmd_sn) =
                    (stat.into(), exp.into(), max.into());
                self.push(&answer.bhs);
                self.push_data(&answer.text);
                if let Some(agreed) = answer.complete {
                    (self.agreed, self.login) = (agreed, None);
                }
                Ok(())
            }
            (Opcode::TEXT_REQUEST, None) => {
                let generic: &GenericBhs = header(bhs);
                self.answer_text(generic.initiator_task_tag.get(), bhs[1] & CONTINUE != 0)
            }
            (Opcode::NOP_OUT, None) => {
                let generic: &GenericBhs = header(bhs);
                let tag = generic.initiator_task_tag.get();
                if tag != NO_TAG {
                    self.answer_nop(tag, data);
                }
                Ok(())
            }
            _ => Err("a PDU that has no place here"),
        }
    }

    fn answer_nop(&mut self, tag: u32, data: &[u8]) {
        let mut out = NopInBhs::new_zeroed();
        (out.opcode, out.flags) = (Opcode::NOP_IN.0, FINAL);
        out.data_segment_length = length_to_24(u32::try_from(data.len()).unwrap_or(0));
        out.initiator_task_tag = tag.into();
        out.target_transfer_tag = NO_TAG.into();
        let (stat, exp, max) = self.numbers(true);
        (out.stat_sn, out.exp_cmd_sn, out.max_cmd_sn) = (stat.into(), exp.into(), max.into());
        self.push(&out);
        self.push_data(data);
    }

    /// SendTargets, whatever was asked: there is one target.
    fn answer_text(&mut self, tag: u32, continued: bool) -> Result<(), &'static str> {
        if continued {
            return Err("a Text Request in several pieces");
        }
        let text = format!(
            "TargetName={}\0TargetAddress={},1\0",
            super::TARGET,
            self.portal
        );
        let mut out = TextResponseBhs::new_zeroed();
        (out.opcode, out.flags) = (Opcode::TEXT_RESPONSE.0, FINAL);
        out.data_segment_length = length_to_24(u32::try_from(text.len()).unwrap_or(0));
        out.initiator_task_tag = tag.into();
        out.target_transfer_tag = NO_TAG.into();
        let (stat, exp, max) = self.numbers(true);
        (out.stat_sn, out.exp_cmd_sn, out.max_cmd_sn) = (stat.into(), exp.into(), max.into());
        self.push(&out);
        self.push_data(text.as_bytes());
        Ok(())
    }
}

/// Whether a PDU is looked into beyond its header.
fn needs_data(opcode: u8) -> bool {
    matches!(
        Opcode(opcode & 0x3f),
        Opcode::LOGIN_REQUEST | Opcode::TEXT_REQUEST | Opcode::NOP_OUT
    )
}
