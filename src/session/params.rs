//! What login agreed on: plain numbers that the hot path reads.

use crate::buffer::CHUNK;

/// Negotiated operational parameters (RFC 7143, section 13). Lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationalParams {
    /// CRC32C over every header (section 13.1).
    pub header_digest: bool,
    /// CRC32C over every data segment (section 13.1).
    pub data_digest: bool,
    /// The initiator waits for an R2T before any Data-Out (section 13.10).
    pub initial_r2t: bool,
    /// Data may come in the SCSI Command PDU (section 13.11).
    pub immediate_data: bool,
    /// Longest data segment the initiator takes (its MaxRecvDataSegmentLength, section 13.12).
    pub max_send_data_segment_length: u32,
    /// Longest data segment we take (our MaxRecvDataSegmentLength, section 13.12).
    pub max_recv_data_segment_length: u32,
    /// Longest Data-In or solicited Data-Out sequence (section 13.13). Not below `first_burst_length`.
    pub max_burst_length: u32,
    /// Most unsolicited data of one command, immediate data included (section 13.14).
    pub first_burst_length: u32,
    /// R2Ts that may be open per task (section 13.17).
    pub max_outstanding_r2t: u16,
    /// Seconds to wait before reconnecting (section 13.15).
    pub default_time2wait: u16,
    /// Seconds that tasks are kept after a connection is lost (section 13.16).
    pub default_time2retain: u16,
    /// 0: a failed connection ends its session (section 13.20).
    pub error_recovery_level: u8,
}

impl OperationalParams {
    /// Whether Data-In PDUs begin and end between blocks, whatever the block size.
    #[must_use]
    pub const fn cuts_between_blocks(&self) -> bool {
        self.max_send_data_segment_length.is_multiple_of(4096)
            && self.max_burst_length.is_multiple_of(4096)
    }

    /// The values that hold when a key is never negotiated.
    pub const DEFAULT: Self = Self {
        header_digest: false,
        data_digest: false,
        initial_r2t: true,
        immediate_data: true,
        max_send_data_segment_length: 8192,
        max_recv_data_segment_length: 8192,
        max_burst_length: 262_144,
        first_burst_length: 65_536,
        max_outstanding_r2t: 1,
        default_time2wait: 2,
        default_time2retain: 20,
        error_recovery_level: 0,
    };
}

/// What this target wants, before it hears the initiator (RFC 7143, section 13). Lengths in bytes.
///
/// MaxConnections is 1, ErrorRecoveryLevel 0, DataPDUInOrder and DataSequenceInOrder Yes for everybody, so
/// they are not here but in the key table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Longest data segment we take, declared in every login that negotiates (section 13.12).
    pub max_recv_data_segment_length: u32,
    /// Upper bound of MaxBurstLength (section 13.13).
    pub max_burst_length: u32,
    /// Upper bound of FirstBurstLength (section 13.14).
    pub first_burst_length: u32,
    /// Upper bound of MaxOutstandingR2T (section 13.17).
    pub max_outstanding_r2t: u16,
    /// Whether the target insists on an R2T before any Data-Out (section 13.10).
    pub initial_r2t: bool,
    /// Whether the target takes immediate data (section 13.11).
    pub immediate_data: bool,
    /// Lower bound of DefaultTime2Wait, in seconds (section 13.15).
    pub default_time2wait: u16,
    /// Upper bound of DefaultTime2Retain, in seconds (section 13.16): 0, since with ErrorRecoveryLevel 0
    /// nothing is kept.
    pub default_time2retain: u16,
}

impl Offer {
    /// What is offered when nothing is configured.
    pub const DEFAULT: Self = Self {
        max_recv_data_segment_length: 262_144,
        max_burst_length: 1 << 20,
        first_burst_length: 65_536,
        max_outstanding_r2t: 8,
        initial_r2t: false,
        immediate_data: true,
        default_time2wait: 2,
        default_time2retain: 0,
    };
}

// Immediate data lands in what the command window promised, whatever the offer says: see `Negotiation::new`.
const _: () = assert!(Offer::DEFAULT.first_burst_length as usize <= CHUNK);
const _: () = assert!(OperationalParams::DEFAULT.first_burst_length as usize <= CHUNK);

impl Default for Offer {
    fn default() -> Self {
        Self::DEFAULT
    }
}
