//! Login Responses (RFC 7143, section 11.13).

use zerocopy::IntoBytes;

use crate::pdu::bhs::{FINAL, LoginRequestBhs, LoginResponseBhs, length_to_24};
use crate::pdu::code::{LoginStage, LoginStatus, Opcode};
use crate::pdu::padding;
use crate::units::SerialNumber;

/// The only version there is (section 11.12.4).
pub(super) const VERSION: u8 = 0;

/// What all requests of one login have in common, from the first one's header (section 11.12).
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) version_max: u8,
    pub(super) version_min: u8,
    pub(super) isid: [u8; 6],
    pub(super) tsih: u16,
    pub(super) initiator_task_tag: u32,
    pub(super) cid: u16,
    pub(super) cmd_sn: SerialNumber,
}

impl Header {
    pub(super) const fn of(bhs: &LoginRequestBhs) -> Self {
        Self {
            version_max: bhs.version_max,
            version_min: bhs.version_min,
            isid: bhs.isid,
            tsih: bhs.tsih.get(),
            initiator_task_tag: bhs.initiator_task_tag.get(),
            cid: bhs.cid.get(),
            cmd_sn: SerialNumber(bhs.cmd_sn.get()),
        }
    }

    /// Whether a later request's header belongs to the same login. CmdSN may move on when the session
    /// has other connections (section 11.12.8); the first one counts.
    pub(super) fn is_same_login(&self, later: &Self) -> bool {
        self.version_max == later.version_max
            && self.version_min == later.version_min
            && self.isid == later.isid
            && self.tsih == later.tsih
            && self.initiator_task_tag == later.initiator_task_tag
            && self.cid == later.cid
    }
}

/// A response that says: so far, so good.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accept<'a> {
    /// The stage that the request was of.
    pub(super) stage: LoginStage,
    /// The next stage, when the request asked for it.
    pub(super) transit: Option<LoginStage>,
    /// The session's handle, in the last response; as in the request until then.
    pub(super) tsih: u16,
    /// Commands that the initiator may send.
    pub(super) window: u32,
    /// key=value pairs.
    pub(super) text: &'a [u8],
}

/// Login Responses that are to be sent, and their StatSN.
#[derive(Debug, Default)]
pub(super) struct Responses {
    bytes: Vec<u8>,
    /// How many of `bytes` left.
    sent: usize,
    stat_sn: SerialNumber,
}

impl Responses {
    /// What is to be sent.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// `len` bytes of it left.
    pub(super) fn sent(&mut self, len: usize) {
        self.sent += len;
        assert!(self.sent <= self.bytes.len(), "more than there was");
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
        }
    }

    /// What is to be sent, and the StatSN of whatever follows it.
    pub(super) fn into_parts(mut self) -> (Vec<u8>, SerialNumber) {
        self.bytes.drain(..self.sent);
        (self.bytes, self.stat_sn)
    }

    /// Adds a response that goes on, or ends the login well.
    pub(super) fn accept(&mut self, header: &Header, accept: &Accept<'_>) {
        let (t, next) = match accept.transit {
            Some(next) => (FINAL, next.0),
            None => (0, 0),
        };
        let bhs = LoginResponseBhs {
            flags: t | accept.stage.0 << 2 | next,
            data_segment_length: data_segment_length(accept.text),
            tsih: accept.tsih.into(),
            stat_sn: self.stat_sn.0.into(),
            exp_cmd_sn: header.cmd_sn.0.into(),
            max_cmd_sn: header.cmd_sn.plus(accept.window).previous().0.into(),
            ..response(header, LoginStatus::SUCCESS)
        };
        self.stat_sn = self.stat_sn.next();
        self.bytes.extend_from_slice(bhs.as_bytes());
        self.bytes.extend_from_slice(accept.text);
        let padded = self.bytes.len() + padding(accept.text.len());
        self.bytes.resize(padded, 0);
    }

    /// Adds a response that ends the login: T, CSG, NSG and the numbers mean nothing in it.
    pub(super) fn refuse(&mut self, header: &Header, status: LoginStatus) {
        let bhs = response(header, status);
        self.bytes.extend_from_slice(bhs.as_bytes());
    }
}

/// A response to this login, with nothing in it yet.
fn response(header: &Header, status: LoginStatus) -> LoginResponseBhs {
    LoginResponseBhs {
        opcode: Opcode::LOGIN_RESPONSE.0,
        flags: 0,
        version_max: VERSION,
        version_active: VERSION,
        total_ahs_length: 0,
        data_segment_length: [0; 3],
        isid: header.isid,
        tsih: header.tsih.into(),
        initiator_task_tag: header.initiator_task_tag.into(),
        reserved_20: [0; 4],
        stat_sn: 0.into(),
        exp_cmd_sn: 0.into(),
        max_cmd_sn: 0.into(),
        status: status.0.into(),
        reserved_38: [0; 10],
    }
}

/// The initiator takes the default of 8192 bytes during a login (section 6.3), and never hears more: the
/// table and the bound of foreign keys see to it.
fn data_segment_length(text: &[u8]) -> [u8; 3] {
    debug_assert!(text.len() <= 8192, "an answer that needs the C bit");
    length_to_24(u32::try_from(text.len()).expect("answers are short"))
}
