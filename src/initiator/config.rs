//! What the initiator asks for at login, and what came of it.

use crate::units::SerialNumber;

/// Who logs in where, and how.
#[derive(Clone, Debug)]
pub struct Config {
    /// InitiatorName (RFC 7143, section 13.5).
    pub initiator_name: String,
    /// TargetName (section 13.4); `None` asks for a discovery session.
    pub target_name: Option<String>,
    /// ISID (section 11.12.5).
    pub isid: [u8; 6],
    /// 0 for a new session; else the session to join or reinstate (section 11.12.6).
    pub tsih: u16,
    /// Connection ID (section 11.12.7).
    pub cid: u16,
    /// CmdSN of the first command.
    pub first_cmd_sn: SerialNumber,
    /// Starts in the operational stage, without SecurityNegotiation.
    pub skip_security: bool,
    /// What the keys offer.
    pub offers: Offers,
    /// Keys of [`Offers`] that are not sent, by name.
    pub left_out: Vec<String>,
    /// More keys, sent as they are with the operational keys.
    pub extra_keys: Vec<(String, String)>,
    /// Most requests outstanding at a time; the table of tags is this long.
    pub max_outstanding: u16,
    /// Takes every breach of the protocol for an error.
    pub strict: bool,
    /// Answers R2Ts at once; otherwise each is an event.
    pub answer_r2t: bool,
    /// Answers the target's pings at once.
    pub answer_nop: bool,
}

impl Config {
    /// A session with `target_name`, with the defaults of this initiator.
    #[must_use]
    pub fn normal(initiator_name: &str, target_name: &str) -> Self {
        Self {
            target_name: Some(target_name.to_owned()),
            ..Self::discovery(initiator_name)
        }
    }

    /// A discovery session (RFC 7143, section 4.3.1).
    #[must_use]
    pub fn discovery(initiator_name: &str) -> Self {
        Self {
            initiator_name: initiator_name.to_owned(),
            target_name: None,
            // Type "random" (section 11.12.5), so that it cannot be an adapter's.
            isid: [0x80, 0x72, 0x69, 0x6e, 0, 1],
            tsih: 0,
            cid: 0,
            first_cmd_sn: SerialNumber(1),
            skip_security: false,
            offers: Offers::DEFAULT,
            left_out: Vec::new(),
            extra_keys: Vec::new(),
            max_outstanding: 256,
            strict: true,
            answer_r2t: true,
            answer_nop: true,
        }
    }
}

/// What is offered for HeaderDigest or DataDigest (section 13.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestOffer {
    /// `None`.
    Off,
    /// `CRC32C`: the login fails without it.
    Required,
    /// `CRC32C,None`.
    Preferred,
    /// `None,CRC32C`.
    Tolerated,
}

impl DigestOffer {
    /// The list-of-values that is sent.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "None",
            Self::Required => "CRC32C",
            Self::Preferred => "CRC32C,None",
            Self::Tolerated => "None,CRC32C",
        }
    }
}

/// Values of the operational keys (section 13). Lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offers {
    /// HeaderDigest.
    pub header_digest: DigestOffer,
    /// DataDigest.
    pub data_digest: DigestOffer,
    /// InitialR2T (result: OR).
    pub initial_r2t: bool,
    /// ImmediateData (result: AND).
    pub immediate_data: bool,
    /// MaxRecvDataSegmentLength of the initiator (declared).
    pub max_recv_data_segment_length: u32,
    /// MaxBurstLength (result: minimum).
    pub max_burst_length: u32,
    /// FirstBurstLength (result: minimum).
    pub first_burst_length: u32,
    /// MaxOutstandingR2T (result: minimum).
    pub max_outstanding_r2t: u16,
    /// MaxConnections (result: minimum).
    pub max_connections: u16,
    /// ErrorRecoveryLevel (result: minimum).
    pub error_recovery_level: u8,
    /// DefaultTime2Wait in seconds (result: maximum).
    pub default_time2wait: u16,
    /// DefaultTime2Retain in seconds (result: minimum).
    pub default_time2retain: u16,
}

impl Offers {
    /// Quick and plain: no digests, data as early and in pieces as long as the target allows.
    pub const DEFAULT: Self = Self {
        header_digest: DigestOffer::Off,
        data_digest: DigestOffer::Off,
        initial_r2t: false,
        immediate_data: true,
        max_recv_data_segment_length: 262_144,
        max_burst_length: 1 << 20,
        first_burst_length: 262_144,
        max_outstanding_r2t: 4,
        max_connections: 1,
        error_recovery_level: 0,
        default_time2wait: 2,
        default_time2retain: 0,
    };

    /// The keys and their values, as sent. Keys that mean nothing in a discovery session
    /// ("Irrelevant when: SessionType=Discovery") are left out of one.
    pub(super) fn pairs(&self, discovery: bool) -> Vec<(&'static str, String)> {
        let yes_no = |value: bool| if value { "Yes" } else { "No" }.to_owned();
        let mut pairs = vec![
            ("HeaderDigest", self.header_digest.as_str().to_owned()),
            ("DataDigest", self.data_digest.as_str().to_owned()),
            (
                "MaxRecvDataSegmentLength",
                self.max_recv_data_segment_length.to_string(),
            ),
            ("DefaultTime2Wait", self.default_time2wait.to_string()),
            ("DefaultTime2Retain", self.default_time2retain.to_string()),
            ("ErrorRecoveryLevel", self.error_recovery_level.to_string()),
        ];
        if !discovery {
            pairs.extend([
                ("MaxConnections", self.max_connections.to_string()),
                ("InitialR2T", yes_no(self.initial_r2t)),
                ("ImmediateData", yes_no(self.immediate_data)),
                ("MaxBurstLength", self.max_burst_length.to_string()),
                ("FirstBurstLength", self.first_burst_length.to_string()),
                ("MaxOutstandingR2T", self.max_outstanding_r2t.to_string()),
                ("DataPDUInOrder", yes_no(true)),
                ("DataSequenceInOrder", yes_no(true)),
            ]);
        }
        pairs
    }
}

/// What login agreed on. Lengths in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// TSIH that the target gave the session.
    pub tsih: u16,
    /// TargetPortalGroupTag (section 13.9), if it was sent.
    pub target_portal_group_tag: Option<u16>,
    /// TargetAlias (section 13.6), if it was sent.
    pub target_alias: Option<String>,
    /// CRC32C over headers.
    pub header_digest: bool,
    /// CRC32C over data.
    pub data_digest: bool,
    /// No data before an R2T but immediate data.
    pub initial_r2t: bool,
    /// Data may come with the command.
    pub immediate_data: bool,
    /// Longest data segment the target takes.
    pub max_send_data_segment_length: u32,
    /// Longest data segment the initiator takes.
    pub max_recv_data_segment_length: u32,
    /// MaxBurstLength.
    pub max_burst_length: u32,
    /// FirstBurstLength.
    pub first_burst_length: u32,
    /// MaxOutstandingR2T.
    pub max_outstanding_r2t: u16,
    /// MaxConnections.
    pub max_connections: u16,
    /// ErrorRecoveryLevel.
    pub error_recovery_level: u8,
    /// DefaultTime2Wait in seconds.
    pub default_time2wait: u16,
    /// DefaultTime2Retain in seconds.
    pub default_time2retain: u16,
}

impl Negotiated {
    /// The standard's defaults: what holds for every key that nobody mentions.
    #[must_use]
    pub const fn defaults() -> Self {
        Self {
            tsih: 0,
            target_portal_group_tag: None,
            target_alias: None,
            header_digest: false,
            data_digest: false,
            initial_r2t: true,
            immediate_data: true,
            max_send_data_segment_length: 8192,
            max_recv_data_segment_length: 8192,
            max_burst_length: 262_144,
            first_burst_length: 65_536,
            max_outstanding_r2t: 1,
            max_connections: 1,
            error_recovery_level: 0,
            default_time2wait: 2,
            default_time2retain: 20,
        }
    }
}
