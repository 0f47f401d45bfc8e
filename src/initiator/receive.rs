//! What the target sends, opcode by opcode.

use super::engine::{Engine, Phase};
use super::event::{CommandDone, Error, Event, R2t, Residual};
use super::login::Next;
use super::task::{Kind, Payload};
use crate::pdu::BHS_LEN;
use crate::pdu::bhs::{
    AsyncMessageBhs, CONTINUE, DataInBhs, FINAL, GenericBhs, LoginResponseBhs, LogoutResponseBhs,
    NO_TAG, NopInBhs, OVERFLOW, R2tBhs, RejectBhs, STATUS, ScsiResponseBhs,
    TaskManagementResponseBhs, TextResponseBhs, UNDERFLOW,
};
use crate::pdu::code::{LogoutResponse, Opcode, RejectReason, TaskManagementResponse};
use crate::pdu::frame::{PduLayout, header, header_of};
use crate::units::SerialNumber;

/// Most text one answer may have, in bytes.
const MOST_TEXT: usize = 16 << 20;

const fn wrong(opcode: Opcode, what: &'static str) -> Error {
    Error::Protocol { opcode, what }
}

impl Engine {
    /// Deals with one whole PDU whose digests are right.
    pub(super) fn handle_pdu(&mut self, layout: &PduLayout, pdu: &[u8]) -> Result<(), Error> {
        let (Some(bhs), Some(data)) = (pdu.first_chunk(), layout.data(pdu)) else {
            return Err(wrong(layout.opcode, "not whole"));
        };
        if matches!(self.phase, Phase::Login(_)) {
            return match layout.opcode {
                Opcode::LOGIN_RESPONSE => self.handle_login(header(bhs), data),
                opcode => Err(wrong(opcode, "not during login")),
            };
        }
        match layout.opcode {
            Opcode::DATA_IN => self.handle_data_in(bhs, data),
            Opcode::SCSI_RESPONSE => self.handle_scsi_response(bhs, data),
            Opcode::R2T => self.handle_r2t(bhs),
            Opcode::NOP_IN => self.handle_nop(bhs, data),
            Opcode::TASK_MANAGEMENT_RESPONSE => self.handle_task_management(bhs),
            Opcode::TEXT_RESPONSE => self.handle_text(bhs, data),
            Opcode::LOGOUT_RESPONSE => self.handle_logout(bhs),
            Opcode::ASYNC_MESSAGE => self.handle_async(bhs, data),
            Opcode::REJECT => self.handle_reject(bhs, data),
            opcode => Err(wrong(opcode, "not an answer of the full feature phase")),
        }
    }

    /// A StatSN that counts (RFC 7143, section 4.2.2.2), ExpCmdSN and MaxCmdSN.
    fn numbers(&mut self, opcode: Opcode, stat: u32, exp: u32, max: u32) -> Result<(), Error> {
        let stat = SerialNumber(stat);
        if self.config.strict && self.heard && stat != self.exp_stat_sn {
            return Err(wrong(opcode, "StatSN is not the next one"));
        }
        self.heard = true;
        self.exp_stat_sn = stat.next();
        self.window(opcode, exp, max)
    }

    fn window(&mut self, opcode: Opcode, exp: u32, max: u32) -> Result<(), Error> {
        let (exp, max) = (SerialNumber(exp), SerialNumber(max));
        if max.is_before(exp.previous()) {
            // Both are to be ignored (section 4.2.2.1); a target has no reason to send it.
            return self.breach(opcode, "MaxCmdSN is below ExpCmdSN - 1");
        }
        if max.is_before(self.max_cmd_sn) || exp.is_before(self.exp_cmd_sn) {
            return self.breach(opcode, "MaxCmdSN or ExpCmdSN went back");
        }
        if self.cmd_sn.is_before(exp) {
            // Not so with other connections in the session: their commands count too.
            self.breach(opcode, "ExpCmdSN is beyond what was sent")?;
        }
        (self.exp_cmd_sn, self.max_cmd_sn) = (exp, max);
        Ok(())
    }

    const fn breach(&self, opcode: Opcode, what: &'static str) -> Result<(), Error> {
        if self.config.strict {
            Err(wrong(opcode, what))
        } else {
            Ok(())
        }
    }

    fn handle_login(&mut self, bhs: &LoginResponseBhs, data: &[u8]) -> Result<(), Error> {
        let Phase::Login(login) = &mut self.phase else {
            return Ok(());
        };
        // Not of a refusal: some targets leave everything else out of it.
        let names = (bhs.isid, bhs.initiator_task_tag.get());
        if self.config.strict && bhs.status.get() == 0 && names != (self.config.isid, 0) {
            return Err(wrong(
                Opcode::LOGIN_RESPONSE,
                "ISID or tag is not that of the request",
            ));
        }
        let next = login.handle(&self.config, bhs, data)?;
        let (exp, max) = (bhs.exp_cmd_sn.get(), bhs.max_cmd_sn.get());
        if !self.heard {
            (self.exp_cmd_sn, self.max_cmd_sn) = (SerialNumber(exp), SerialNumber(max));
        }
        self.numbers(Opcode::LOGIN_RESPONSE, bhs.stat_sn.get(), exp, max)?;
        match next {
            Next::Request => self.send_login(),
            Next::Complete(negotiated) => {
                self.phase = Phase::FullFeature(negotiated);
                self.events.push_back(Event::LoggedIn);
            }
        }
        Ok(())
    }

    fn handle_data_in(&mut self, pdu: &[u8; BHS_LEN], data: &[u8]) -> Result<(), Error> {
        const OPCODE: Opcode = Opcode::DATA_IN;
        let bhs: &DataInBhs = header(pdu);
        let ends = bhs.flags & STATUS != 0;
        if ends {
            let (exp, max) = (bhs.exp_cmd_sn.get(), bhs.max_cmd_sn.get());
            self.numbers(OPCODE, bhs.stat_sn.get(), exp, max)?;
            if bhs.flags & FINAL == 0 {
                self.breach(OPCODE, "S without F")?;
            }
        } else {
            self.window(OPCODE, bhs.exp_cmd_sn.get(), bhs.max_cmd_sn.get())?;
        }
        let tag = bhs.initiator_task_tag.get();
        let strict = self.config.strict;
        let Some(task) = self
            .tasks
            .get(tag)
            .filter(|task| task.kind == Kind::Command)
        else {
            return self.unexplained(pdu, data);
        };
        if strict && bhs.data_sn.get() != task.next_sn {
            return Err(wrong(OPCODE, "DataSN is not the next one"));
        }
        task.next_sn = task.next_sn.wrapping_add(1);
        let offset = bhs.buffer_offset.get();
        // DataPDUInOrder and DataSequenceInOrder are Yes.
        if strict && offset != task.received {
            return Err(wrong(OPCODE, "buffer offset does not follow the last data"));
        }
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let end = offset
            .checked_add(len)
            .filter(|&end| end <= task.payload.expected_len());
        let Some(end) = end else {
            return Err(wrong(
                OPCODE,
                "data beyond the expected data transfer length",
            ));
        };
        match &mut task.payload {
            Payload::Read(buffer) => buffer[offset as usize..end as usize].copy_from_slice(data),
            Payload::Discard(_) => {}
            Payload::None | Payload::Write(_) => {
                return Err(wrong(OPCODE, "data of a command that does not read"));
            }
        }
        task.received = task.received.saturating_add(len);
        if ends {
            self.complete(
                tag,
                (0, bhs.status),
                bhs.flags,
                bhs.residual_count.get(),
                Vec::new(),
            );
        }
        Ok(())
    }

    fn handle_scsi_response(&mut self, pdu: &[u8; BHS_LEN], data: &[u8]) -> Result<(), Error> {
        const OPCODE: Opcode = Opcode::SCSI_RESPONSE;
        let bhs: &ScsiResponseBhs = header(pdu);
        let (exp, max) = (bhs.exp_cmd_sn.get(), bhs.max_cmd_sn.get());
        self.numbers(OPCODE, bhs.stat_sn.get(), exp, max)?;
        let tag = bhs.initiator_task_tag.get();
        let strict = self.config.strict;
        let Some(task) = self
            .tasks
            .get(tag)
            .filter(|task| task.kind == Kind::Command)
        else {
            return self.unexplained(pdu, data);
        };
        // Data-In PDUs only (section 11.4.8); RFC 3720 counted R2Ts too, and some targets still do.
        let counted = match task.payload {
            Payload::Write(_) if bhs.exp_data_sn.get() == 0 => 0,
            _ => task.next_sn,
        };
        if strict && (bhs.response, bhs.status) == (0, 0) && bhs.exp_data_sn.get() != counted {
            return Err(wrong(OPCODE, "ExpDataSN is not the number of Data-In PDUs"));
        }
        let sense = match data {
            [] => Vec::new(),
            [a, b, rest @ ..] => {
                let len = usize::from(u16::from_be_bytes([*a, *b]));
                let Some(sense) = rest.get(..len) else {
                    return Err(wrong(OPCODE, "SenseLength is longer than the data segment"));
                };
                sense.to_vec()
            }
            [_] => return Err(wrong(OPCODE, "one byte is no SenseLength")),
        };
        self.complete(
            tag,
            (bhs.response, bhs.status),
            bhs.flags,
            bhs.residual_count.get(),
            sense,
        );
        Ok(())
    }

    fn complete(
        &mut self,
        tag: u32,
        (response, status): (u8, u8),
        flags: u8,
        residual: u32,
        sense: Vec<u8>,
    ) {
        let Some(task) = self.tasks.remove(tag) else {
            return;
        };
        let residual = if flags & UNDERFLOW != 0 {
            Residual::Underflow(residual)
        } else if flags & OVERFLOW != 0 {
            Residual::Overflow(residual)
        } else {
            Residual::None
        };
        self.events.push_back(Event::Command(CommandDone {
            cookie: task.cookie,
            initiator_task_tag: tag,
            response,
            status,
            residual,
            received: task.received,
            sense,
            payload: task.payload,
        }));
    }

    fn handle_r2t(&mut self, pdu: &[u8; BHS_LEN]) -> Result<(), Error> {
        const OPCODE: Opcode = Opcode::R2T;
        let bhs: &R2tBhs = header(pdu);
        self.window(OPCODE, bhs.exp_cmd_sn.get(), bhs.max_cmd_sn.get())?;
        if self.config.strict && bhs.stat_sn.get() != self.exp_stat_sn.0 {
            return Err(wrong(OPCODE, "StatSN is not the next one"));
        }
        let (tag, strict) = (bhs.initiator_task_tag.get(), self.config.strict);
        let max_burst = self.negotiated().map_or(0, |n| n.max_burst_length);
        let r2t = R2t {
            initiator_task_tag: tag,
            target_transfer_tag: bhs.target_transfer_tag.get(),
            lun: bhs.lun.get(),
            offset: bhs.buffer_offset.get(),
            len: bhs.desired_data_transfer_length.get(),
        };
        let Some(task) = self
            .tasks
            .get(tag)
            .filter(|task| task.kind == Kind::Command)
        else {
            return self.unexplained(pdu, &[]);
        };
        let Payload::Write(data) = &task.payload else {
            return Err(wrong(OPCODE, "wants data of a command that does not write"));
        };
        if r2t.target_transfer_tag == NO_TAG {
            return Err(wrong(OPCODE, "the target transfer tag is reserved"));
        }
        let end = u64::from(r2t.offset) + u64::from(r2t.len);
        if r2t.len == 0 || end > data.len() as u64 {
            return Err(wrong(OPCODE, "wants data that there is not"));
        }
        if strict && r2t.len > max_burst {
            return Err(wrong(OPCODE, "wants more than MaxBurstLength"));
        }
        if strict && bhs.r2t_sn.get() != task.next_sn {
            return Err(wrong(OPCODE, "R2TSN is not the next one"));
        }
        task.next_sn = task.next_sn.wrapping_add(1);
        if self.config.answer_r2t {
            self.answer_r2t(&r2t);
        } else {
            self.events.push_back(Event::R2t(r2t));
        }
        Ok(())
    }

    fn handle_nop(&mut self, pdu: &[u8; BHS_LEN], data: &[u8]) -> Result<(), Error> {
        const OPCODE: Opcode = Opcode::NOP_IN;
        let bhs: &NopInBhs = header(pdu);
        let (exp, max) = (bhs.exp_cmd_sn.get(), bhs.max_cmd_sn.get());
        let tag = bhs.initiator_task_tag.get();
        if tag == NO_TAG {
            self.window(OPCODE, exp, max)?;
            let (lun, ttt) = (bhs.lun.get(), bhs.target_transfer_tag.get());
            if ttt != NO_TAG && self.config.answer_nop {
                self.send_nop(lun, NO_TAG, ttt, &[]);
            }
            self.events.push_back(Event::Pinged {
                lun,
                target_transfer_tag: ttt,
            });
            return Ok(());
        }
        self.numbers(OPCODE, bhs.stat_sn.get(), exp, max)?;
        let Some(task) = self.tasks.remove_kind(tag, Kind::Nop) else {
            return self.unexplained(pdu, data);
        };
        self.events.push_back(Event::Nop {
            cookie: task.cookie,
            data: data.to_vec(),
        });
        Ok(())
    }

    fn handle_task_management(&mut self, pdu: &[u8; BHS_LEN]) -> Result<(), Error> {
        let bhs: &TaskManagementResponseBhs = header(pdu);
        let (exp, max) = (bhs.exp_cmd_sn.get(), bhs.max_cmd_sn.get());
        self.numbers(
            Opcode::TASK_MANAGEMENT_RESPONSE,
            bhs.stat_sn.get(),
            exp,
            max,
        )?;
        let tag = bhs.initiator_task_tag.get();
        let Some(task) = self.tasks.remove_kind(tag, Kind::TaskManagement) else {
            return self.unexplained(pdu, &[]);
        };
        self.events.push_back(Event::TaskManagement {
            cookie: task.cookie,
            response: TaskManagementResponse(bhs.response),
        });
        Ok(())
    }

    fn handle_text(&mut self, pdu: &[u8; BHS_LEN], data: &[u8]) -> Result<(), Error> {
        const OPCODE: Opcode = Opcode::TEXT_RESPONSE;
        let bhs: &TextResponseBhs = header(pdu);
        let (exp, max) = (bhs.exp_cmd_sn.get(), bhs.max_cmd_sn.get());
        self.numbers(OPCODE, bhs.stat_sn.get(), exp, max)?;
        let (tag, ttt, lun) = (
            bhs.initiator_task_tag.get(),
            bhs.target_transfer_tag.get(),
            bhs.lun.get(),
        );
        let more = bhs.flags & FINAL == 0 || bhs.flags & CONTINUE != 0;
        let Some(task) = self.tasks.get(tag).filter(|task| task.kind == Kind::Text) else {
            return self.unexplained(pdu, data);
        };
        if let Payload::Read(text) = &mut task.payload {
            text.extend_from_slice(data);
            if text.len() > MOST_TEXT {
                return Err(wrong(OPCODE, "more than 16 MiB of text"));
            }
        }
        if more {
            if ttt == NO_TAG {
                return Err(wrong(
                    OPCODE,
                    "more is to come, but without a target transfer tag",
                ));
            }
            self.send_text(tag, lun, ttt, &[]);
            return Ok(());
        }
        if ttt != NO_TAG {
            self.breach(OPCODE, "F with a target transfer tag")?;
        }
        if let Some(task) = self.tasks.remove(tag) {
            let text = match task.payload {
                Payload::Read(text) => text,
                _ => Vec::new(),
            };
            let cookie = task.cookie;
            self.events.push_back(Event::Text { cookie, text });
        }
        Ok(())
    }

    fn handle_logout(&mut self, pdu: &[u8; BHS_LEN]) -> Result<(), Error> {
        let bhs: &LogoutResponseBhs = header(pdu);
        let (exp, max) = (bhs.exp_cmd_sn.get(), bhs.max_cmd_sn.get());
        self.numbers(Opcode::LOGOUT_RESPONSE, bhs.stat_sn.get(), exp, max)?;
        let tag = bhs.initiator_task_tag.get();
        if self.tasks.remove_kind(tag, Kind::Logout).is_none() {
            return self.unexplained(pdu, &[]);
        }
        self.events.push_back(Event::LoggedOut {
            response: LogoutResponse(bhs.response),
            time2wait: bhs.time2wait.get(),
            time2retain: bhs.time2retain.get(),
        });
        Ok(())
    }

    fn handle_async(&mut self, pdu: &[u8; BHS_LEN], data: &[u8]) -> Result<(), Error> {
        let bhs: &AsyncMessageBhs = header(pdu);
        let (exp, max) = (bhs.exp_cmd_sn.get(), bhs.max_cmd_sn.get());
        self.numbers(Opcode::ASYNC_MESSAGE, bhs.stat_sn.get(), exp, max)?;
        self.events.push_back(Event::Asynchronous {
            code: bhs.async_event,
            vendor_code: bhs.async_vcode,
            parameters: [
                bhs.parameter_1.get(),
                bhs.parameter_2.get(),
                bhs.parameter_3.get(),
            ],
            data: data.to_vec(),
        });
        Ok(())
    }

    fn handle_reject(&mut self, pdu: &[u8; BHS_LEN], data: &[u8]) -> Result<(), Error> {
        let bhs: &RejectBhs = header(pdu);
        let (exp, max) = (bhs.exp_cmd_sn.get(), bhs.max_cmd_sn.get());
        self.numbers(Opcode::REJECT, bhs.stat_sn.get(), exp, max)?;
        // A rejected ping, text or task management request gets no other answer. A SCSI command may.
        if let Some(rejected) = header_of::<GenericBhs>(data) {
            let tag = rejected.initiator_task_tag.get();
            if self
                .tasks
                .get(tag)
                .is_some_and(|task| task.kind != Kind::Command)
            {
                self.tasks.remove(tag);
            }
        }
        self.events.push_back(Event::Rejected {
            reason: RejectReason(bhs.reason),
            header: data.to_vec(),
        });
        Ok(())
    }

    fn unexplained(&mut self, bhs: &[u8; BHS_LEN], data: &[u8]) -> Result<(), Error> {
        self.events.push_back(Event::Other {
            bhs: *bhs,
            data: data.to_vec(),
        });
        Ok(())
    }
}
