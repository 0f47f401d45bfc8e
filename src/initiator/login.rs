//! The login as a sequence of requests and answers (RFC 7143, section 6.3).

use super::config::{Config, DigestOffer, Negotiated};
use super::event::Error;
use crate::pdu::bhs::{
    CONTINUE, FINAL, IMMEDIATE, LoginRequestBhs, LoginResponseBhs, length_to_24,
};
use crate::pdu::code::{LoginStage, LoginStatus, Opcode};
use crate::pdu::text::{self, Pairs};

/// Requests after which a login that gets nowhere is given up.
const MOST_REQUESTS: u8 = 16;
/// Most text the target may answer with, in bytes.
const MOST_TEXT: usize = 65_536;

/// A login that is not complete.
#[derive(Debug)]
pub(super) struct Login {
    stage: LoginStage,
    /// The keys of this stage were sent.
    said: bool,
    requests: u8,
    /// Answers to keys that the target came up with.
    answers: Vec<u8>,
    /// Text of answers that have C set, so far.
    partial: Vec<u8>,
    continued: bool,
    negotiated: Negotiated,
}

/// What an answer leads to.
pub(super) enum Next {
    /// Another request.
    Request,
    /// The full feature phase.
    Complete(Negotiated),
}

impl Login {
    pub(super) fn new(config: &Config) -> Self {
        let mut negotiated = Negotiated::defaults();
        if !config
            .left_out
            .iter()
            .any(|key| key == "MaxRecvDataSegmentLength")
        {
            negotiated.max_recv_data_segment_length = config.offers.max_recv_data_segment_length;
        }
        Self {
            stage: if config.skip_security {
                LoginStage::OPERATIONAL_NEGOTIATION
            } else {
                LoginStage::SECURITY_NEGOTIATION
            },
            said: false,
            requests: 0,
            answers: Vec::new(),
            partial: Vec::new(),
            continued: false,
            negotiated,
        }
    }

    /// The next request: its header, but for ExpStatSN and the tag, and its text.
    pub(super) fn request(&mut self, config: &Config) -> (LoginRequestBhs, Vec<u8>) {
        let mut text = std::mem::take(&mut self.answers);
        if !self.said && !self.continued {
            self.write_keys(config, &mut text);
            self.said = true;
        }
        let next = if self.stage == LoginStage::SECURITY_NEGOTIATION {
            LoginStage::OPERATIONAL_NEGOTIATION
        } else {
            LoginStage::FULL_FEATURE_PHASE
        };
        let transit = if self.continued { 0 } else { FINAL | next.0 };
        self.requests += 1;
        let bhs = LoginRequestBhs {
            opcode: Opcode::LOGIN_REQUEST.0 | IMMEDIATE,
            flags: transit | self.stage.0 << 2,
            version_max: 0,
            version_min: 0,
            total_ahs_length: 0,
            data_segment_length: length_to_24(u32::try_from(text.len()).unwrap_or(u32::MAX)),
            isid: config.isid,
            tsih: config.tsih.into(),
            initiator_task_tag: 0.into(),
            cid: config.cid.into(),
            reserved_22: [0; 2],
            cmd_sn: config.first_cmd_sn.0.into(),
            exp_stat_sn: 0.into(),
            reserved_32: [0; 16],
        };
        (bhs, text)
    }

    fn write_keys(&self, config: &Config, text: &mut Vec<u8>) {
        let sent = |key: &str| !config.left_out.iter().any(|left_out| left_out == key);
        let mut pair = |key: &str, value: &str| {
            if sent(key) {
                text::write_pair(text, key, value);
            }
        };
        if self.requests == 0 {
            pair("InitiatorName", &config.initiator_name);
            if let Some(target) = &config.target_name {
                pair("TargetName", target);
                pair("SessionType", "Normal");
            } else {
                pair("SessionType", "Discovery");
            }
        }
        if self.stage == LoginStage::SECURITY_NEGOTIATION {
            pair("AuthMethod", "None");
            return;
        }
        for (key, value) in config.offers.pairs(config.target_name.is_none()) {
            pair(key, &value);
        }
        for (key, value) in &config.extra_keys {
            text::write_pair(text, key, value);
        }
    }

    /// Takes an answer in.
    pub(super) fn handle(
        &mut self,
        config: &Config,
        bhs: &LoginResponseBhs,
        data: &[u8],
    ) -> Result<Next, Error> {
        let wrong = |what| Error::Protocol {
            opcode: Opcode::LOGIN_RESPONSE,
            what,
        };
        self.partial.extend_from_slice(data);
        if self.partial.len() > MOST_TEXT {
            return Err(wrong("more than 64 KiB of text"));
        }
        let status = LoginStatus(bhs.status.get());
        if status != LoginStatus::SUCCESS {
            let target_address = Pairs::new(&self.partial)
                .flatten()
                .find(|pair| pair.key == "TargetAddress")
                .map(|pair| pair.value.to_owned());
            return Err(Error::Refused {
                status,
                target_address,
            });
        }
        let stage = LoginStage(bhs.flags >> 2 & 3);
        if config.strict && stage != self.stage {
            return Err(wrong("CSG is not the stage of the request"));
        }
        if self.requests > MOST_REQUESTS {
            return Err(wrong("the login does not come to an end"));
        }
        self.continued = bhs.flags & CONTINUE != 0;
        if self.continued {
            return Ok(Next::Request);
        }
        let text = std::mem::take(&mut self.partial);
        self.take_text(config, &text)?;
        if bhs.flags & FINAL == 0 {
            return Ok(Next::Request);
        }
        match LoginStage(bhs.flags & 3) {
            LoginStage::FULL_FEATURE_PHASE => {
                self.negotiated.tsih = bhs.tsih.get();
                if config.strict && bhs.tsih.get() == 0 {
                    return Err(wrong("TSIH of a complete login is 0"));
                }
                self.check_digests(config)?;
                Ok(Next::Complete(self.negotiated.clone()))
            }
            next if next.0 > self.stage.0 => {
                self.stage = next;
                self.said = false;
                Ok(Next::Request)
            }
            _ => Err(wrong("NSG does not lead further")),
        }
    }

    fn take_text(&mut self, config: &Config, text: &[u8]) -> Result<(), Error> {
        for pair in Pairs::new(text) {
            let pair = pair?;
            self.take_key(config, pair.key, pair.value)
                .ok_or_else(|| Error::Key {
                    key: pair.key.to_owned(),
                    value: pair.value.to_owned(),
                })?;
        }
        Ok(())
    }

    /// One answer; `None` when it cannot be accepted.
    fn take_key(&mut self, config: &Config, key: &str, value: &str) -> Option<()> {
        let offers = &config.offers;
        let agreed = &mut self.negotiated;
        let at_most = |max: u32| short(value).filter(|&n| n <= max);
        match key {
            _ if value == "Irrelevant" => {}
            "AuthMethod" => return (value == "None").then_some(()),
            "HeaderDigest" => agreed.header_digest = digest(value)?,
            "DataDigest" => agreed.data_digest = digest(value)?,
            "InitialR2T" => {
                let answer = text::boolean(value)?;
                agreed.initial_r2t = answer || offers.initial_r2t;
            }
            "ImmediateData" => {
                let answer = text::boolean(value)?;
                agreed.immediate_data = answer && offers.immediate_data;
            }
            "MaxRecvDataSegmentLength" => {
                agreed.max_send_data_segment_length = at_most(0xff_ffff).filter(|&n| n >= 512)?;
            }
            "MaxBurstLength" => agreed.max_burst_length = at_most(offers.max_burst_length)?,
            "FirstBurstLength" => agreed.first_burst_length = at_most(offers.first_burst_length)?,
            "MaxOutstandingR2T" => {
                agreed.max_outstanding_r2t =
                    u16::try_from(at_most(offers.max_outstanding_r2t.into())?).ok()?;
            }
            "MaxConnections" => {
                agreed.max_connections =
                    u16::try_from(at_most(offers.max_connections.into())?).ok()?;
            }
            "ErrorRecoveryLevel" => {
                agreed.error_recovery_level =
                    u8::try_from(at_most(offers.error_recovery_level.into())?).ok()?;
            }
            "DefaultTime2Wait" => agreed.default_time2wait = u16::try_from(short(value)?).ok()?,
            "DefaultTime2Retain" => {
                agreed.default_time2retain = u16::try_from(short(value)?).ok()?
            }
            "DataPDUInOrder" | "DataSequenceInOrder" => return (value == "Yes").then_some(()),
            "TargetPortalGroupTag" => {
                agreed.target_portal_group_tag = Some(u16::try_from(short(value)?).ok()?);
            }
            "TargetAlias" => agreed.target_alias = Some(value.to_owned()),
            "TargetAddress" => {}
            // Of ours, whatever came of it; answers to answers would never end.
            _ if config.extra_keys.iter().any(|(ours, _)| ours == key) => {}
            _ if matches!(value, "NotUnderstood" | "Reject") => {}
            _ => text::write_pair(&mut self.answers, key, "NotUnderstood"),
        }
        Some(())
    }

    fn check_digests(&self, config: &Config) -> Result<(), Error> {
        for (key, offer, agreed) in [
            (
                "HeaderDigest",
                config.offers.header_digest,
                self.negotiated.header_digest,
            ),
            (
                "DataDigest",
                config.offers.data_digest,
                self.negotiated.data_digest,
            ),
        ] {
            let fits = match offer {
                DigestOffer::Off => !agreed,
                DigestOffer::Required => agreed,
                DigestOffer::Preferred | DigestOffer::Tolerated => true,
            };
            let left_out = config.left_out.iter().any(|left_out| left_out == key);
            if !fits && !left_out {
                return Err(Error::Key {
                    key: key.to_owned(),
                    value: if agreed { "CRC32C" } else { "None" }.to_owned(),
                });
            }
        }
        Ok(())
    }
}

fn digest(value: &str) -> Option<bool> {
    match value {
        "CRC32C" => Some(true),
        "None" => Some(false),
        _ => None,
    }
}

fn short(value: &str) -> Option<u32> {
    text::number(value).and_then(|n| u32::try_from(n).ok())
}
