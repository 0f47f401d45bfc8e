//! What comes out of the initiator: answers, and why it cannot go on.

use super::task::Payload;
use crate::pdu::code::{LoginStatus, LogoutResponse, Opcode, RejectReason, TaskManagementResponse};
use crate::pdu::frame::FrameError;
use crate::pdu::text::TextError;

/// Something happened.
#[derive(Debug)]
pub enum Event {
    /// The login is complete: [`super::Initiator::negotiated`] says what was agreed on.
    LoggedIn,
    /// A SCSI command ended.
    Command(CommandDone),
    /// The target wants data. Only without [`super::Config::answer_r2t`].
    R2t(R2t),
    /// A ping was answered.
    Nop {
        /// As given to [`super::Initiator::nop`].
        cookie: u64,
        /// The data that came back.
        data: Vec<u8>,
    },
    /// The target pinged (RFC 7143, section 11.19). Already answered, with [`super::Config::answer_nop`].
    Pinged {
        /// LUN of the ping.
        lun: u64,
        /// 0xffffffff when no answer is wanted.
        target_transfer_tag: u32,
    },
    /// A task management function was answered.
    TaskManagement {
        /// As given to [`super::Initiator::task_management`].
        cookie: u64,
        /// What came of it.
        response: TaskManagementResponse,
    },
    /// Text was answered, in full.
    Text {
        /// As given to [`super::Initiator::text`].
        cookie: u64,
        /// `key=value<NUL>` pairs.
        text: Vec<u8>,
    },
    /// The target agreed to end the connection, or not.
    LoggedOut {
        /// What came of it.
        response: LogoutResponse,
        /// Seconds to wait before a new login.
        time2wait: u16,
        /// Seconds that tasks are kept.
        time2retain: u16,
    },
    /// A PDU was rejected (section 11.17).
    Rejected {
        /// Why.
        reason: RejectReason,
        /// The rejected header, as it came back.
        header: Vec<u8>,
    },
    /// The target has something to say (section 11.9).
    Asynchronous {
        /// AsyncEvent code.
        code: u8,
        /// AsyncVCode.
        vendor_code: u8,
        /// Parameters 1 to 3.
        parameters: [u16; 3],
        /// Sense and event data.
        data: Vec<u8>,
    },
    /// A PDU that no outstanding request of this initiator explains, such as the answer to what
    /// [`super::Initiator::send_pdu`] sent.
    Other {
        /// Its header.
        bhs: [u8; 48],
        /// Its data segment.
        data: Vec<u8>,
    },
}

/// A SCSI command that ended.
#[derive(Debug)]
pub struct CommandDone {
    /// As given with the command.
    pub cookie: u64,
    /// Initiator task tag it had.
    pub initiator_task_tag: u32,
    /// iSCSI response: 0 is "command completed at target" (section 11.4.3).
    pub response: u8,
    /// SCSI status (SAM-5, section 5.3.1).
    pub status: u8,
    /// Bytes that were not moved, or had no room.
    pub residual: Residual,
    /// Bytes of Data-In received.
    pub received: u32,
    /// Sense data, without its length; empty if there is none.
    pub sense: Vec<u8>,
    /// The buffer that was given with the command, filled if it was a read.
    pub payload: Payload,
}

impl CommandDone {
    /// Whether it ended in GOOD and moved all its data.
    #[must_use]
    pub fn is_good(&self) -> bool {
        (self.response, self.status) == (0, 0) && self.residual == Residual::None
    }
}

/// Residual count (section 11.4.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// Everything expected was moved.
    None,
    /// So many bytes fewer than expected.
    Underflow(u32),
    /// So many bytes more would have been moved.
    Overflow(u32),
}

/// Ready To Transfer (section 11.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct R2t {
    /// Tag of the write.
    pub initiator_task_tag: u32,
    /// Tag of this transfer.
    pub target_transfer_tag: u32,
    /// LUN to be repeated.
    pub lun: u64,
    /// Where the wanted bytes start.
    pub offset: u32,
    /// How many are wanted.
    pub len: u32,
}

/// Why the connection is of no further use.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The target refused the login.
    #[error("login refused: {status} (status {:#06x}){}", status.0, moved(target_address.as_deref()))]
    Refused {
        /// Status class and detail.
        status: LoginStatus,
        /// TargetAddress of a redirection.
        target_address: Option<String>,
    },
    /// The target's answer to a key cannot be accepted.
    #[error("login: the target answered {key}={value}, which cannot be accepted")]
    Key {
        /// The key.
        key: String,
        /// The answer.
        value: String,
    },
    /// The target broke the protocol.
    #[error("the target broke the protocol in a {opcode} PDU: {what}")]
    Protocol {
        /// Of the PDU at fault.
        opcode: Opcode,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A header that cannot be believed.
    #[error("a PDU of the target cannot be taken: {0}")]
    Frame(#[from] FrameError),
    /// A data segment was damaged.
    #[error("data digest error")]
    DataDigest,
    /// Text of the target that is not pairs.
    #[error("text of the target: {0}")]
    Text(#[from] TextError),
}

fn moved(to: Option<&str>) -> String {
    to.map_or_else(String::new, |to| format!(", to {to}"))
}
