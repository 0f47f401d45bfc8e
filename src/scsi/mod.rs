//! The device server, pure: a command is a value.
//!
//! [`start`] decodes and checks a CDB and gives a [`Command`]; then each [`Command::resume`] says what
//! must happen next, a [`Step`], until one ends it. Nothing here does I/O, reads a clock or knows iSCSI.
//!
//! ```text
//!  READ:   start -> resume(Begin) = NeedBuffer -> resume(Buffer{len}) = Io(Read) -> resume(Io(Ok)) = Send{len, GOOD}
//!  WRITE:  start -> resume(Begin) = NeedDataOut -> resume(DataOut{len}) = Io(Write) -> resume(Io(Ok)) = Done(GOOD)
//! ```
//!
//! A transfer longer than the memory at hand is done in portions: the caller says how long each is.

use crate::backend::{BlockError, BlockIo};
pub use command::{Command, start};
pub use logical_unit::{Identity, LogicalUnit};
pub use sense::Sense;
pub use unit_attention::{NexusUnit, UnitAttention};

mod command;
mod logical_unit;
pub mod lun;
pub mod opcodes;
mod parameter;
mod sbc;
pub mod sense;
mod spc;
mod unit_attention;

#[cfg(test)]
mod testing;

/// Command descriptor block, zero-filled to 16 bytes. (32-byte commands: a later row of the table.)
pub type Cdb = [u8; 16];

/// How a command ended (SAM-5, section 5.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 00h
    Good,
    /// 02h; the sense data exists only here.
    CheckCondition(Sense),
    /// 04h (PRE-FETCH that brought everything in).
    ConditionMet,
    /// 08h
    Busy,
    /// 18h
    ReservationConflict,
    /// 28h
    TaskSetFull,
    /// 40h
    TaskAborted,
}

/// What the initiator's header bounds the transfer to, in bytes. The CDB says how long a transfer is;
/// this only cuts it short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Room for data-in.
    pub data_in: u32,
    /// Data-out that will come.
    pub data_out: u32,
}

/// What happened since the last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing yet: the first call.
    Begin,
    /// After [`Step::NeedBuffer`]: the data buffer is `len` bytes long.
    Buffer {
        /// Bytes.
        len: u32,
    },
    /// After [`Step::NeedScratch`]: the scratch buffer is `len` bytes long.
    Scratch {
        /// Bytes.
        len: u32,
    },
    /// After [`Step::NeedDataOut`]: the next `len` bytes of data-out are in the data buffer.
    DataOut {
        /// Bytes; a multiple of the granularity, or all that remained.
        len: u32,
    },
    /// After [`Step::Io`].
    Io(Result<(), BlockError>),
    /// After a [`Step::Send`] without status: the bytes have left, the buffer may be used again.
    Sent,
    /// After [`Step::AskOwner`]: the change holds on every core.
    OwnerDone,
}

/// Which of the command's two buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one that data-in leaves from and data-out arrives in.
    Data,
    /// The second one, for comparing.
    Scratch,
}

/// What must happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Get a data buffer of `wanted` bytes, or fewer but at least `least`.
    NeedBuffer {
        /// Bytes that can be used.
        wanted: u32,
        /// Bytes without which nothing can be done.
        least: u32,
    },
    /// Get a scratch buffer of `wanted` bytes, or fewer but at least `least`.
    NeedScratch {
        /// Bytes that can be used.
        wanted: u32,
        /// Bytes without which nothing can be done.
        least: u32,
    },
    /// Bring the next data-out into the data buffer (from its start): up to `remaining` bytes, in a
    /// multiple of `granularity` unless it is all that remains.
    NeedDataOut {
        /// Bytes still to come.
        remaining: u32,
        /// Bytes.
        granularity: u32,
    },
    /// Run this on the medium with the buffer named (none for operations without data).
    Io {
        /// The operation.
        io: BlockIo,
        /// Its buffer.
        buffer: Option<Which>,
    },
    /// Send the first `len` bytes of the data buffer; `status` ends the command.
    Send {
        /// Bytes; may be 0.
        len: u32,
        /// `Some` in the last one.
        status: Option<Status>,
    },
    /// Ask the logical unit's owner core for a change that must hold on every core.
    AskOwner(OwnerRequest),
    /// The command is finished and sends no (more) data.
    Done(Status),
}

/// A change of a logical unit that is ordered across nexuses (architecture: the barrier).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerRequest {
    /// START STOP UNIT: from now on medium access is refused (true) or accepted again (false).
    SetStopped(bool),
}

/// The LUNs that a nexus may see.
pub trait Luns: std::fmt::Debug {
    /// The `index`th LUN in ascending order (single-level, below 16384), `None` past the last.
    fn lun(&self, index: usize) -> Option<u16>;
}

/// The target port of the nexus, for VPD 83h.
#[derive(Clone, Copy, Debug)]
pub struct Port<'a> {
    /// iSCSI name of the target.
    pub target_name: &'a str,
    /// TargetPortalGroupTag.
    pub portal_group_tag: u16,
}

/// What a command may look at, and the nexus it speaks for.
#[derive(Debug)]
pub struct Context<'a> {
    /// The logical unit; `None`: there is none at that LUN.
    pub unit: Option<&'a LogicalUnit>,
    /// What the logical unit keeps for this nexus. Without a logical unit: any value.
    pub nexus: &'a mut NexusUnit,
    /// The LUNs that this nexus may see.
    pub luns: &'a dyn Luns,
    /// The target port of the nexus.
    pub port: Port<'a>,
}

/// The command's two buffers; empty where it has none.
#[derive(Debug, Default)]
pub struct Memory<'a> {
    /// Data-in leaves from here, data-out arrives here.
    pub data: &'a mut [u8],
    /// For comparing.
    pub scratch: &'a mut [u8],
}
