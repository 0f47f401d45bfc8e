//! The login as the ceiling answers it (RFC 7143, section 6.3): no names, no secrets, real negotiation.

use crate::initiator::config::{Negotiated, Offers};
use crate::pdu::bhs::{CONTINUE, FINAL, LoginRequestBhs, LoginResponseBhs, length_to_24};
use crate::pdu::code::{LoginStage, Opcode};
use crate::pdu::text::{self, Pairs, write_boolean, write_pair};

/// Most text of one login, in bytes.
const MOST_TEXT: usize = 65_536;

/// A login that is not complete.
#[derive(Debug)]
pub(super) struct LoginAnswers {
    offers: Offers,
    agreed: Negotiated,
    text: Vec<u8>,
    discovery: bool,
    introduced: bool,
    declared: bool,
}

/// An answer: its header but for StatSN, its text, and what was agreed on when it is the last.
pub(super) struct LoginAnswer {
    pub(super) bhs: LoginResponseBhs,
    pub(super) text: Vec<u8>,
    pub(super) complete: Option<Negotiated>,
}

impl LoginAnswers {
    pub(super) fn new(offers: Offers) -> Self {
        Self {
            offers,
            agreed: Negotiated::defaults(),
            text: Vec::new(),
            discovery: false,
            introduced: false,
            declared: false,
        }
    }

    /// Answers one request; an error is said in words and ends the connection.
    pub(super) fn handle(
        &mut self,
        bhs: &LoginRequestBhs,
        data: &[u8],
        tsih: u16,
    ) -> Result<LoginAnswer, &'static str> {
        self.text.extend_from_slice(data);
        if self.text.len() > MOST_TEXT {
            return Err("more than 64 KiB of login text");
        }
        let more = bhs.flags & CONTINUE != 0;
        let mut answer = Vec::new();
        let mut complete = None;
        let transit = bhs.flags & FINAL != 0 && !more;
        if !more {
            self.answer_keys(&mut answer)?;
            if transit && bhs.flags & 3 == LoginStage::FULL_FEATURE_PHASE.0 {
                self.agreed.tsih = tsih;
                complete = Some(self.agreed.clone());
            }
        }
        let stages = if transit {
            FINAL | bhs.flags & 0x0f
        } else {
            bhs.flags & 0x0c
        };
        let bhs = LoginResponseBhs {
            opcode: Opcode::LOGIN_RESPONSE.0,
            flags: stages,
            version_max: 0,
            version_active: 0,
            total_ahs_length: 0,
            data_segment_length: length_to_24(u32::try_from(answer.len()).unwrap_or(0)),
            isid: bhs.isid,
            tsih: if complete.is_some() {
                tsih
            } else {
                bhs.tsih.get()
            }
            .into(),
            initiator_task_tag: bhs.initiator_task_tag,
            reserved_20: [0; 4],
            stat_sn: 0.into(),
            exp_cmd_sn: bhs.cmd_sn,
            max_cmd_sn: 0.into(),
            status: 0.into(),
            reserved_38: [0; 10],
        };
        Ok(LoginAnswer {
            bhs,
            text: answer,
            complete,
        })
    }

    fn answer_keys(&mut self, out: &mut Vec<u8>) -> Result<(), &'static str> {
        let text = std::mem::take(&mut self.text);
        for pair in Pairs::new(&text) {
            let pair = pair.map_err(|_| "login text that is not key=value pairs")?;
            self.answer_key(pair.key, pair.value, out)
                .ok_or("a key with a value it cannot have")?;
        }
        if !self.introduced && !self.discovery {
            write_pair(out, "TargetPortalGroupTag", 1);
        }
        self.introduced = true;
        Ok(())
    }

    fn answer_key(&mut self, key: &str, value: &str, out: &mut Vec<u8>) -> Option<()> {
        let (offers, agreed) = (self.offers, &mut self.agreed);
        let number = || text::number(value).and_then(|n| u32::try_from(n).ok());
        let mut least = |ours: u32| {
            let result = number()?.min(ours);
            write_pair(out, key, result);
            Some(result)
        };
        match key {
            "InitiatorName" | "InitiatorAlias" | "TargetName" | "TargetAddress" => {}
            "SessionType" => self.discovery = value == "Discovery",
            "AuthMethod" => {
                text::list(value).find(|method| *method == "None")?;
                write_pair(out, key, "None");
            }
            "HeaderDigest" => agreed.header_digest = digest(key, value, out)?,
            "DataDigest" => agreed.data_digest = digest(key, value, out)?,
            "InitialR2T" => {
                agreed.initial_r2t = text::boolean(value)? || offers.initial_r2t;
                write_boolean(out, key, agreed.initial_r2t);
            }
            "ImmediateData" => {
                agreed.immediate_data = text::boolean(value)? && offers.immediate_data;
                write_boolean(out, key, agreed.immediate_data);
            }
            "MaxRecvDataSegmentLength" => {
                agreed.max_send_data_segment_length = number().filter(|&n| n >= 512)?;
                if !self.declared {
                    write_pair(out, key, offers.max_recv_data_segment_length);
                }
                self.declared = true;
            }
            "MaxBurstLength" => agreed.max_burst_length = least(offers.max_burst_length)?,
            "FirstBurstLength" => {
                // Never more than MaxBurstLength (section 13.14), whose answer may come later.
                let ours = offers.first_burst_length.min(offers.max_burst_length);
                agreed.first_burst_length = least(ours)?;
            }
            "MaxOutstandingR2T" => {
                agreed.max_outstanding_r2t =
                    u16::try_from(least(offers.max_outstanding_r2t.into())?).ok()?;
            }
            "MaxConnections" => drop(least(1)?),
            "ErrorRecoveryLevel" => drop(least(0)?),
            "DefaultTime2Wait" => {
                write_pair(out, key, number()?.max(offers.default_time2wait.into()))
            }
            "DefaultTime2Retain" => drop(least(offers.default_time2retain.into())?),
            "DataPDUInOrder" | "DataSequenceInOrder" => write_boolean(out, key, true),
            _ => write_pair(out, key, "NotUnderstood"),
        }
        Some(())
    }
}

/// The first algorithm of the list that is known (section 6.2.2.1).
fn digest(key: &str, value: &str, out: &mut Vec<u8>) -> Option<bool> {
    let chosen = text::list(value).find(|name| matches!(*name, "CRC32C" | "None"))?;
    write_pair(out, key, chosen);
    Some(chosen == "CRC32C")
}
