//! Who is at fault, and so what happens: answer, reject, or drop the connection.

use crate::pdu::frame::FrameError;

/// Why a connection has to end. Nothing of its session survives (ErrorRecoveryLevel 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// The stream cannot be cut into PDUs any more (RFC 7143, sections 7.7 and 7.8). The initiator's fault,
    /// or the network's.
    #[error("the stream cannot be followed: {0}")]
    Frame(#[from] FrameError),
    /// More bytes were reported than there was room for. Our fault: the caller broke the contract.
    #[error("more bytes were reported as received than there was room for")]
    Overrun,
    /// The key names no open session. Our fault.
    #[error("there is no such session")]
    NoSuchSession,
}

impl ConnectionError {
    /// Its name in counters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Frame(FrameError::HeaderDigest) => "header_digest",
            Self::Frame(FrameError::DataSegmentTooLong { .. }) => "data_segment_too_long",
            Self::Frame(FrameError::AhsTooLong { .. }) => "ahs_too_long",
            Self::Overrun => "overrun",
            Self::NoSuchSession => "no_such_session",
        }
    }

    /// Whether the other side, or the network between, caused it.
    #[must_use]
    pub const fn is_peers_fault(self) -> bool {
        matches!(self, Self::Frame(_))
    }

    pub(super) const fn event(self) -> Event {
        match self {
            Self::Frame(FrameError::HeaderDigest) => Event::HeaderDigestError,
            Self::Frame(FrameError::DataSegmentTooLong { .. }) => Event::DataSegmentTooLong,
            Self::Frame(FrameError::AhsTooLong { .. }) => Event::AhsTooLong,
            Self::Overrun | Self::NoSuchSession => Event::Misuse,
        }
    }
}

macro_rules! events {
    ($($(#[$doc:meta])* $variant:ident $name:literal;)*) => {
        /// What a shard counts: each has a reason worth knowing.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Event { $($(#[$doc])* $variant),* }

        impl Event {
            /// All of them, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Name in exported counters.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

events! {
    /// A PDU was taken in.
    PduReceived "pdus_received";
    /// A PDU was put on the wire.
    PduSent "pdus_sent";
    /// A SCSI command was begun.
    CommandStarted "commands_started";
    /// A SCSI command was answered.
    CommandEnded "commands_ended";
    /// Bytes of Data-In.
    BytesRead "bytes_read";
    /// Bytes of data-out that were accepted.
    BytesWritten "bytes_written";
    /// A header digest was wrong: the connection ended.
    HeaderDigestError "header_digest_errors";
    /// A data digest was wrong: Reject.
    DataDigestError "data_digest_errors";
    /// A data segment was longer than declared: the connection ended.
    DataSegmentTooLong "data_segment_too_long";
    /// Too many additional header segments: the connection ended.
    AhsTooLong "ahs_too_long";
    /// The caller broke the contract.
    Misuse "misuse";
    /// A Reject was sent.
    Rejected "rejects";
    /// A command outside of the command window, or sent twice, was ignored (section 4.2.2.1).
    OutsideWindow "commands_outside_window";
    /// Data-Out that belongs to no task (any more) was dropped.
    StaleData "stale_data";
    /// A task ended because of its data-out: too much, too little, in the wrong place, damaged.
    BadDataOut "bad_data_out";
    /// A task management function was asked for.
    TaskManagement "task_management_functions";
    /// A task was aborted.
    TaskAborted "tasks_aborted";
    /// A task waited for memory.
    MemoryWait "memory_waits";
    /// A task waited for a place in a backend's queue.
    QueueWait "queue_waits";
    /// A session was opened.
    SessionOpened "sessions_opened";
    /// A session was closed.
    SessionClosed "sessions_closed";
}

/// One number per [`Event`]; plain cells of one core.
#[derive(Clone, Debug)]
pub struct Counters([u64; Event::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self([0; Event::ALL.len()])
    }
}

impl Counters {
    /// How often (or how many bytes).
    #[must_use]
    pub const fn of(&self, event: Event) -> u64 {
        self.0[event as usize]
    }

    pub(super) fn add(&mut self, event: Event, n: u64) {
        let cell = &mut self.0[event as usize];
        *cell = cell.wrapping_add(n);
    }
}
