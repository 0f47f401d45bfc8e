//! Why a login ends without a session: who is at fault, and what the initiator is told.

use crate::pdu::code::{LoginStatus, Opcode};
use crate::pdu::text::TextError;

/// The end of a login that came to nothing. The connection is to be closed, after
/// [`Login::poll_transmit`](super::Login::poll_transmit) was sent as far as the socket takes it at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The first PDU was something else (RFC 7143, section 4.2.4): there is no answer.
    #[error("the first PDU was no Login Request but opcode {0}")]
    NotLogin(Opcode),
    /// More bytes came than a login has room for, while an answer was due.
    #[error("the initiator sent on without waiting for the answer")]
    TooMuchInput,
    /// The login took too long.
    #[error("the login was not finished in time")]
    Deadline,
    /// A Login Response says why.
    #[error("login refused: {0}")]
    Refused(Refusal),
}

/// What a Login Response with a status other than success is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Section 4.2.4.
    #[error("a PDU other than a Login Request before the login was finished")]
    OtherPdu(Opcode),
    /// Sections 6.3 and 11.2.1.5: more than 8192 bytes of data, or additional header segments.
    #[error("a Login Request with more data than 8192 bytes or with additional header segments")]
    Length,
    /// Section 11.12.4.
    #[error("version 0 is not among the initiator's versions")]
    Version,
    /// Section 11.12: ISID, TSIH, CID, versions and tag are the same in the whole login.
    #[error("a header field changed within the login")]
    HeaderChanged,
    /// Sections 6.3 and 11.12.3.
    #[error("a stage that cannot be here, or cannot be next")]
    Stage,
    /// Section 11.12.2.
    #[error("a Login Request that both continues and transits")]
    ContinueAndTransit,
    /// Our bound.
    #[error("too many Login Requests, or too much text")]
    TooLong,
    /// Section 6.1.
    #[error("{0}")]
    Text(TextError),
    /// Section 6.3.
    #[error("a key was sent twice")]
    KeyTwice,
    /// Section 13: a stage, a session or a sender that it is not for.
    #[error("a key where it may not be")]
    KeyOutOfPlace,
    /// Section 6.2: "Reject", "Irrelevant" or "NotUnderstood" without a proposal of ours.
    #[error("a reserved word as a proposal")]
    ReservedValue,
    /// Section 13.12.
    #[error("a declaration with a value it cannot have")]
    Declaration,
    /// Section 13.14.
    #[error("FirstBurstLength is greater than MaxBurstLength")]
    FirstBurstLength,
    /// Section 13.5.
    #[error("no InitiatorName")]
    NoInitiatorName,
    /// Section 4.2.7.
    #[error("the InitiatorName is no iSCSI name")]
    InitiatorName,
    /// Section 13.4.
    #[error("no TargetName")]
    NoTargetName,
    /// There is no such target here.
    #[error("no such target at this portal")]
    TargetNotFound,
    /// Section 13.21.
    #[error("an unknown SessionType")]
    SessionType,
    /// Section 12.1: none of the initiator's methods is one of ours.
    #[error("no common AuthMethod")]
    AuthMethod,
    /// The directory, or whoever should have taken the session.
    #[error("{0}")]
    Placement(LoginStatus),
}

impl Refusal {
    /// What the initiator is told (section 11.13.5).
    #[must_use]
    pub const fn status(self) -> LoginStatus {
        match self {
            Self::OtherPdu(_) => LoginStatus::INVALID_DURING_LOGIN,
            Self::Version => LoginStatus::UNSUPPORTED_VERSION,
            Self::NoInitiatorName | Self::NoTargetName => LoginStatus::MISSING_PARAMETER,
            Self::TargetNotFound => LoginStatus::NOT_FOUND,
            Self::SessionType => LoginStatus::SESSION_TYPE_NOT_SUPPORTED,
            Self::AuthMethod => LoginStatus::AUTHENTICATION_FAILURE,
            Self::Placement(status) => status,
            Self::Length
            | Self::HeaderChanged
            | Self::Stage
            | Self::ContinueAndTransit
            | Self::TooLong
            | Self::Text(_)
            | Self::KeyTwice
            | Self::KeyOutOfPlace
            | Self::ReservedValue
            | Self::Declaration
            | Self::FirstBurstLength
            | Self::InitiatorName => LoginStatus::INITIATOR_ERROR,
        }
    }
}

impl From<TextError> for Refusal {
    fn from(error: TextError) -> Self {
        Self::Text(error)
    }
}
