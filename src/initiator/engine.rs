//! The state of a connection, and what it sends.

use std::collections::VecDeque;

use zerocopy::IntoBytes;

use super::config::{Config, Negotiated};
use super::event::Event;
use super::login::Login;
use super::task::{Command, Kind, Payload, Task, Tasks};
use crate::pdu::bhs::{
    FINAL, IMMEDIATE, LogoutRequestBhs, NO_TAG, NopOutBhs, READ, ScsiCommandBhs,
    TaskManagementRequestBhs, TextRequestBhs, WRITE, length_to_24,
};
use crate::pdu::code::{LogoutReason, Opcode, TaskManagementFunction};
use crate::pdu::frame::{EncodedHeader, EncodedTrailer, Framing};
use crate::units::SerialNumber;

/// Sent bytes that are kept at least before the send buffer is moved together; also not before they are half of it, so
/// that no byte is moved more than once.
const MOST_SENT: usize = 1 << 20;

/// Everything of a connection but its receive buffer.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) config: Config,
    pub(super) phase: Phase,
    pub(super) tasks: Tasks,
    pub(super) events: VecDeque<Event>,
    pub(super) cmd_sn: SerialNumber,
    pub(super) exp_cmd_sn: SerialNumber,
    pub(super) max_cmd_sn: SerialNumber,
    pub(super) exp_stat_sn: SerialNumber,
    /// StatSN is known: at least one answer came.
    pub(super) heard: bool,
    out: Vec<u8>,
    sent: usize,
}

/// Where the connection stands.
#[derive(Debug)]
pub(super) enum Phase {
    Login(Box<Login>),
    FullFeature(Negotiated),
}

impl Engine {
    pub(super) fn new(config: Config) -> Self {
        let mut engine = Self {
            phase: Phase::Login(Box::new(Login::new(&config))),
            tasks: Tasks::new(config.max_outstanding),
            events: VecDeque::new(),
            cmd_sn: config.first_cmd_sn,
            exp_cmd_sn: config.first_cmd_sn,
            max_cmd_sn: config.first_cmd_sn.previous(),
            exp_stat_sn: SerialNumber(0),
            heard: false,
            out: Vec::new(),
            sent: 0,
            config,
        };
        engine.send_login();
        engine
    }

    pub(super) const fn negotiated(&self) -> Option<&Negotiated> {
        match &self.phase {
            Phase::Login(_) => None,
            Phase::FullFeature(negotiated) => Some(negotiated),
        }
    }

    pub(super) fn framing(&self) -> Framing {
        match &self.phase {
            Phase::Login(_) => Framing::LOGIN,
            Phase::FullFeature(negotiated) => Framing {
                header_digest: negotiated.header_digest,
                data_digest: negotiated.data_digest,
                max_data_segment_length: negotiated.max_recv_data_segment_length,
                max_ahs_length: 0,
            },
        }
    }

    pub(super) fn unsent(&self) -> &[u8] {
        &self.out[self.sent..]
    }

    pub(super) fn transmitted(&mut self, len: usize) {
        self.sent = (self.sent + len).min(self.out.len());
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        } else if self.sent > MOST_SENT && self.sent > self.out.len() / 2 {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
    }

    pub(super) fn room(&self) -> u32 {
        if matches!(self.phase, Phase::Login(_)) {
            return 0;
        }
        let window = self.max_cmd_sn.next().distance_from(self.cmd_sn);
        // Beyond 2^31 the next CmdSN is already past MaxCmdSN (serial arithmetic).
        let window = if window >= 1 << 31 { 0 } else { window };
        window.min(u32::try_from(self.tasks.free()).unwrap_or(u32::MAX))
    }

    pub(super) fn send_raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub(super) fn send_pdu(&mut self, mut bhs: [u8; 48], data: &[u8]) {
        bhs[5..8].copy_from_slice(&length_to_24(u32::try_from(data.len()).unwrap_or(u32::MAX)));
        self.append(&bhs, data);
    }

    /// Puts a PDU into the send buffer, with the digests in force.
    fn append(&mut self, bhs: &[u8; 48], data: &[u8]) {
        let (header_digest, data_digest) = match &self.phase {
            Phase::Login(_) => (false, false),
            Phase::FullFeature(negotiated) => (negotiated.header_digest, negotiated.data_digest),
        };
        append(&mut self.out, bhs, data, header_digest, data_digest);
    }

    pub(super) fn send_login(&mut self) {
        let Phase::Login(login) = &mut self.phase else {
            return;
        };
        let (mut bhs, text) = login.request(&self.config);
        bhs.exp_stat_sn = self.exp_stat_sn.0.into();
        append(
            &mut self.out,
            zerocopy::transmute_ref!(&bhs),
            &text,
            false,
            false,
        );
    }

    pub(super) fn submit(&mut self, command: Command) -> Result<u32, Command> {
        let room = if command.immediate {
            self.tasks.free() > 0 && matches!(self.phase, Phase::FullFeature(_))
        } else {
            self.room() > 0
        };
        if !room {
            return Err(command);
        }
        let cmd_sn = self.cmd_sn;
        if !command.immediate {
            self.cmd_sn = cmd_sn.next();
        }
        let expected = command.payload.expected_len();
        let direction = match command.payload {
            Payload::None => 0,
            Payload::Read(_) | Payload::Discard(_) => READ,
            Payload::Write(_) => WRITE,
        };
        let task = Task {
            kind: Kind::Command,
            cookie: command.cookie,
            payload: command.payload,
            cmd_sn: cmd_sn.0,
            next_sn: 0,
            received: 0,
        };
        let tag = self
            .tasks
            .insert(task)
            .expect("a tag is free: it was just checked");
        let bhs = ScsiCommandBhs {
            opcode: Opcode::SCSI_COMMAND.0 | if command.immediate { IMMEDIATE } else { 0 },
            flags: direction | command.attribute & 7,
            reserved: [0; 2],
            total_ahs_length: 0,
            data_segment_length: [0; 3],
            lun: command.lun.into(),
            initiator_task_tag: tag.into(),
            expected_data_transfer_length: expected.into(),
            cmd_sn: cmd_sn.0.into(),
            exp_stat_sn: self.exp_stat_sn.0.into(),
            cdb: command.cdb,
        };
        self.send_command(bhs, tag);
        Ok(tag)
    }

    /// Sends the command, and as much of its data as need not be asked for.
    fn send_command(&mut self, mut bhs: ScsiCommandBhs, tag: u32) {
        let (Phase::FullFeature(negotiated), Some(task)) = (&self.phase, self.tasks.get(tag))
        else {
            return;
        };
        let data: &[u8] = match &task.payload {
            Payload::Write(data) => data,
            _ => &[],
        };
        let (immediate, first_burst) = super::data::unsolicited(negotiated, data.len());
        if immediate == first_burst {
            bhs.flags |= FINAL;
        }
        bhs.data_segment_length = length_to_24(u32::try_from(immediate).unwrap_or(0));
        let (header_digest, data_digest) = (negotiated.header_digest, negotiated.data_digest);
        let header = zerocopy::transmute_ref!(&bhs);
        append(
            &mut self.out,
            header,
            &data[..immediate],
            header_digest,
            data_digest,
        );
        let r2t = super::event::R2t {
            initiator_task_tag: tag,
            target_transfer_tag: NO_TAG,
            lun: bhs.lun.get(),
            offset: u32::try_from(immediate).unwrap_or(0),
            len: u32::try_from(first_burst - immediate).unwrap_or(0),
        };
        super::data::send(&mut self.out, negotiated, self.exp_stat_sn, &r2t, data);
    }

    pub(super) fn answer_r2t(&mut self, r2t: &super::event::R2t) {
        let (Phase::FullFeature(negotiated), Some(task)) =
            (&self.phase, self.tasks.get(r2t.initiator_task_tag))
        else {
            return;
        };
        if let Payload::Write(data) = &task.payload {
            super::data::send(&mut self.out, negotiated, self.exp_stat_sn, r2t, data);
        }
    }

    fn request(&mut self, kind: Kind, cookie: u64) -> Option<u32> {
        let task = Task {
            kind,
            cookie,
            payload: Payload::None,
            cmd_sn: self.cmd_sn.0,
            next_sn: 0,
            received: 0,
        };
        self.tasks.insert(task).ok()
    }

    pub(super) fn nop(&mut self, cookie: u64, data: &[u8]) -> Option<u32> {
        let tag = self.request(Kind::Nop, cookie)?;
        self.send_nop(0, tag, NO_TAG, data);
        Some(tag)
    }

    pub(super) fn send_nop(&mut self, lun: u64, tag: u32, target_transfer_tag: u32, data: &[u8]) {
        let bhs = NopOutBhs {
            opcode: Opcode::NOP_OUT.0 | IMMEDIATE,
            flags: FINAL,
            reserved_2: [0; 2],
            total_ahs_length: 0,
            data_segment_length: [0; 3],
            lun: lun.into(),
            initiator_task_tag: tag.into(),
            target_transfer_tag: target_transfer_tag.into(),
            cmd_sn: self.cmd_sn.0.into(),
            exp_stat_sn: self.exp_stat_sn.0.into(),
            reserved_32: [0; 16],
        };
        self.send_pdu(zerocopy::transmute!(bhs), data);
    }

    pub(super) fn task_management(
        &mut self,
        cookie: u64,
        function: TaskManagementFunction,
        lun: u64,
        referenced: Option<u32>,
    ) -> Option<u32> {
        let ref_cmd_sn = referenced
            .and_then(|tag| self.tasks.get(tag))
            .map_or(self.cmd_sn.0, |task| task.cmd_sn);
        let tag = self.request(Kind::TaskManagement, cookie)?;
        let bhs = TaskManagementRequestBhs {
            opcode: Opcode::TASK_MANAGEMENT_REQUEST.0 | IMMEDIATE,
            function: FINAL | function.0,
            reserved_2: [0; 2],
            total_ahs_length: 0,
            data_segment_length: [0; 3],
            lun: lun.into(),
            initiator_task_tag: tag.into(),
            referenced_task_tag: referenced.unwrap_or(NO_TAG).into(),
            cmd_sn: self.cmd_sn.0.into(),
            exp_stat_sn: self.exp_stat_sn.0.into(),
            ref_cmd_sn: referenced.map_or(0, |_| ref_cmd_sn).into(),
            exp_data_sn: 0.into(),
            reserved_40: [0; 8],
        };
        self.send_pdu(zerocopy::transmute!(bhs), &[]);
        Some(tag)
    }

    pub(super) fn text(&mut self, cookie: u64, text: &[u8]) -> Option<u32> {
        let tag = self.request(Kind::Text, cookie)?;
        self.tasks.get(tag)?.payload = Payload::Read(Vec::new());
        self.send_text(tag, 0, NO_TAG, text);
        Some(tag)
    }

    pub(super) fn send_text(&mut self, tag: u32, lun: u64, target_transfer_tag: u32, text: &[u8]) {
        let bhs = TextRequestBhs {
            opcode: Opcode::TEXT_REQUEST.0 | IMMEDIATE,
            flags: FINAL,
            reserved_2: [0; 2],
            total_ahs_length: 0,
            data_segment_length: [0; 3],
            lun: lun.into(),
            initiator_task_tag: tag.into(),
            target_transfer_tag: target_transfer_tag.into(),
            cmd_sn: self.cmd_sn.0.into(),
            exp_stat_sn: self.exp_stat_sn.0.into(),
            reserved_32: [0; 16],
        };
        self.send_pdu(zerocopy::transmute!(bhs), text);
    }

    pub(super) fn logout(&mut self, reason: LogoutReason) -> Option<u32> {
        let tag = self.request(Kind::Logout, 0)?;
        let bhs = LogoutRequestBhs {
            opcode: Opcode::LOGOUT_REQUEST.0 | IMMEDIATE,
            reason: FINAL | reason.0 & 0x7f,
            reserved_2: [0; 2],
            total_ahs_length: 0,
            data_segment_length: [0; 3],
            reserved_8: [0; 8],
            initiator_task_tag: tag.into(),
            cid: self.config.cid.into(),
            reserved_22: [0; 2],
            cmd_sn: self.cmd_sn.0.into(),
            exp_stat_sn: self.exp_stat_sn.0.into(),
            reserved_32: [0; 16],
        };
        self.send_pdu(zerocopy::transmute!(bhs), &[]);
        Some(tag)
    }
}

/// Appends header, data and trailer to `out`.
pub(super) fn append(
    out: &mut Vec<u8>,
    bhs: &[u8; 48],
    data: &[u8],
    header_digest: bool,
    data_digest: bool,
) {
    if header_digest {
        out.extend_from_slice(EncodedHeader::new(bhs, true).as_slice());
    } else {
        out.extend_from_slice(bhs.as_bytes());
    }
    if !data.is_empty() {
        out.extend_from_slice(data);
        out.extend_from_slice(EncodedTrailer::new(data, data_digest).as_slice());
    }
}
