//! The 48-byte basic header segments, one struct per opcode, with the RFC's field names.
//!
//! Layout is the struct: big-endian fields, no padding, size checked by the compiler. A header is read
//! from bytes with `T::ref_from_bytes` and written with `as_bytes()`; neither copies nor can fail for
//! 48 bytes.

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a basic header segment.
pub const BHS_LEN: usize = 48;
/// The immediate bit, beside an initiator's opcode (section 11.2.1.1).
pub const IMMEDIATE: u8 = 0x40;
/// The F bit of byte 1 (section 11.2.1.3).
pub const FINAL: u8 = 0x80;
/// C, "more text follows", of Login and Text PDUs.
pub const CONTINUE: u8 = 0x40;
/// R of a SCSI Command: data is read.
pub const READ: u8 = 0x40;
/// W of a SCSI Command: data is written.
pub const WRITE: u8 = 0x20;
/// O: residual overflow, of SCSI Response and Data-In.
pub const OVERFLOW: u8 = 0x04;
/// U: residual underflow, of SCSI Response and Data-In.
pub const UNDERFLOW: u8 = 0x02;
/// S of Data-In: status is in it.
pub const STATUS: u8 = 0x01;
/// The tag that names nothing (Initiator Task Tag and Target Transfer Tag).
pub const NO_TAG: u32 = 0xffff_ffff;

/// A three-byte length.
#[must_use]
pub const fn length_from_24(bytes: [u8; 3]) -> u32 {
    u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]])
}

/// `len` in three bytes; only the low 24 bits are kept, callers never hold more.
#[must_use]
pub const fn length_to_24(len: u32) -> [u8; 3] {
    let [_, a, b, c] = len.to_be_bytes();
    [a, b, c]
}

/// SCSI Command (RFC 7143, section 11.3). Lengths in bytes.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct ScsiCommandBhs {
    /// Opcode; [`IMMEDIATE`] beside it.
    pub opcode: u8,
    /// F, R, W and the task attribute (section 11.3.1).
    pub flags: u8,
    /// Reserved.
    pub reserved: [u8; 2],
    /// Additional header segments, in 4-byte words.
    pub total_ahs_length: u8,
    /// Immediate data, without padding.
    pub data_segment_length: [u8; 3],
    /// Logical unit number (SAM-5, section 4.7).
    pub lun: U64,
    /// The task's name until it is answered.
    pub initiator_task_tag: U32,
    /// Bytes the initiator has room for, or has to send.
    pub expected_data_transfer_length: U32,
    /// CmdSN.
    pub cmd_sn: U32,
    /// ExpStatSN.
    pub exp_stat_sn: U32,
    /// Command descriptor block.
    pub cdb: [u8; 16],
}
const _: () = assert!(size_of::<ScsiCommandBhs>() == BHS_LEN);

/// SCSI Response (RFC 7143, section 11.4).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct ScsiResponseBhs {
    /// Opcode.
    pub opcode: u8,
    /// o, u, O, U: residual flags (section 11.4.1).
    pub flags: u8,
    /// 0: command completed at target; 1: target failure.
    pub response: u8,
    /// SCSI status.
    pub status: u8,
    /// Always 0.
    pub total_ahs_length: u8,
    /// Sense data with its two-byte length.
    pub data_segment_length: [u8; 3],
    /// Reserved.
    pub reserved: [u8; 8],
    /// Initiator task tag.
    pub initiator_task_tag: U32,
    /// SNACK tag or 0.
    pub snack_tag: U32,
    /// StatSN.
    pub stat_sn: U32,
    /// ExpCmdSN.
    pub exp_cmd_sn: U32,
    /// MaxCmdSN.
    pub max_cmd_sn: U32,
    /// Data-In PDUs that were sent for the task (section 11.4.8); 0 for a write.
    pub exp_data_sn: U32,
    /// Bytes; 0 unless bidirectional.
    pub bidirectional_read_residual_count: U32,
    /// Bytes not moved (U) or without room (O).
    pub residual_count: U32,
}
const _: () = assert!(size_of::<ScsiResponseBhs>() == BHS_LEN);

/// Task Management Function Request (RFC 7143, section 11.5).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct TaskManagementRequestBhs {
    /// Opcode.
    pub opcode: u8,
    /// 0x80 and the function.
    pub function: u8,
    /// Reserved.
    pub reserved_2: [u8; 2],
    /// 0.
    pub total_ahs_length: u8,
    /// 0.
    pub data_segment_length: [u8; 3],
    /// Logical unit, for functions that name one.
    pub lun: U64,
    /// Tag of this request.
    pub initiator_task_tag: U32,
    /// Tag of the task to abort, else 0xffffffff.
    pub referenced_task_tag: U32,
    /// CmdSN.
    pub cmd_sn: U32,
    /// ExpStatSN.
    pub exp_stat_sn: U32,
    /// CmdSN of the referenced task.
    pub ref_cmd_sn: U32,
    /// For TASK REASSIGN.
    pub exp_data_sn: U32,
    /// Reserved.
    pub reserved_40: [u8; 8],
}
const _: () = assert!(size_of::<TaskManagementRequestBhs>() == BHS_LEN);

/// Task Management Function Response (RFC 7143, section 11.6).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct TaskManagementResponseBhs {
    /// Opcode.
    pub opcode: u8,
    /// 0x80.
    pub flags: u8,
    /// [`TaskManagementResponse`](super::code::TaskManagementResponse).
    pub response: u8,
    /// Reserved.
    pub reserved_3: u8,
    /// 0.
    pub total_ahs_length: u8,
    /// 0.
    pub data_segment_length: [u8; 3],
    /// Reserved.
    pub reserved_8: [u8; 8],
    /// Tag of the request.
    pub initiator_task_tag: U32,
    /// Reserved.
    pub reserved_20: [u8; 4],
    /// StatSN.
    pub stat_sn: U32,
    /// ExpCmdSN.
    pub exp_cmd_sn: U32,
    /// MaxCmdSN.
    pub max_cmd_sn: U32,
    /// Reserved.
    pub reserved_36: [u8; 12],
}
const _: () = assert!(size_of::<TaskManagementResponseBhs>() == BHS_LEN);

/// SCSI Data-Out (RFC 7143, section 11.7).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct DataOutBhs {
    /// Opcode.
    pub opcode: u8,
    /// F.
    pub flags: u8,
    /// Reserved.
    pub reserved_2: [u8; 2],
    /// 0.
    pub total_ahs_length: u8,
    /// Bytes of this piece.
    pub data_segment_length: [u8; 3],
    /// As in the R2T, when solicited.
    pub lun: U64,
    /// The write's tag.
    pub initiator_task_tag: U32,
    /// The R2T's tag, or 0xffffffff when unsolicited.
    pub target_transfer_tag: U32,
    /// Reserved.
    pub reserved_24: [u8; 4],
    /// ExpStatSN.
    pub exp_stat_sn: U32,
    /// Reserved.
    pub reserved_32: [u8; 4],
    /// Number of this PDU in its sequence.
    pub data_sn: U32,
    /// Place of the first byte in the command's data.
    pub buffer_offset: U32,
    /// Reserved.
    pub reserved_44: [u8; 4],
}
const _: () = assert!(size_of::<DataOutBhs>() == BHS_LEN);

/// SCSI Data-In (RFC 7143, section 11.7).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct DataInBhs {
    /// Opcode.
    pub opcode: u8,
    /// F, A, O, U, S.
    pub flags: u8,
    /// Reserved.
    pub reserved_2: u8,
    /// SCSI status, with S.
    pub status: u8,
    /// 0.
    pub total_ahs_length: u8,
    /// Bytes of this piece.
    pub data_segment_length: [u8; 3],
    /// With A only.
    pub lun: U64,
    /// The read's tag.
    pub initiator_task_tag: U32,
    /// 0xffffffff without A.
    pub target_transfer_tag: U32,
    /// StatSN, with S.
    pub stat_sn: U32,
    /// ExpCmdSN.
    pub exp_cmd_sn: U32,
    /// MaxCmdSN.
    pub max_cmd_sn: U32,
    /// Number of this PDU among the task's Data-In.
    pub data_sn: U32,
    /// Place of the first byte in the command's data.
    pub buffer_offset: U32,
    /// With S.
    pub residual_count: U32,
}
const _: () = assert!(size_of::<DataInBhs>() == BHS_LEN);

/// Ready To Transfer (RFC 7143, section 11.8).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct R2tBhs {
    /// Opcode.
    pub opcode: u8,
    /// 0x80.
    pub flags: u8,
    /// Reserved.
    pub reserved_2: [u8; 2],
    /// 0.
    pub total_ahs_length: u8,
    /// 0.
    pub data_segment_length: [u8; 3],
    /// The write's logical unit.
    pub lun: U64,
    /// The write's tag.
    pub initiator_task_tag: U32,
    /// Name of this transfer.
    pub target_transfer_tag: U32,
    /// The next StatSN; not advanced.
    pub stat_sn: U32,
    /// ExpCmdSN.
    pub exp_cmd_sn: U32,
    /// MaxCmdSN.
    pub max_cmd_sn: U32,
    /// Number of this R2T in its task.
    pub r2t_sn: U32,
    /// Where the wanted bytes start.
    pub buffer_offset: U32,
    /// How many bytes are wanted.
    pub desired_data_transfer_length: U32,
}
const _: () = assert!(size_of::<R2tBhs>() == BHS_LEN);

/// Asynchronous Message (RFC 7143, section 11.9).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct AsyncMessageBhs {
    /// Opcode.
    pub opcode: u8,
    /// 0x80.
    pub flags: u8,
    /// Reserved.
    pub reserved_2: [u8; 2],
    /// 0.
    pub total_ahs_length: u8,
    /// Sense data and event data.
    pub data_segment_length: [u8; 3],
    /// Logical unit of a SCSI event.
    pub lun: U64,
    /// 0xffffffff.
    pub all_ones: U32,
    /// Reserved.
    pub reserved_20: [u8; 4],
    /// StatSN.
    pub stat_sn: U32,
    /// ExpCmdSN.
    pub exp_cmd_sn: U32,
    /// MaxCmdSN.
    pub max_cmd_sn: U32,
    /// Event code.
    pub async_event: u8,
    /// Vendor code.
    pub async_vcode: u8,
    /// By event.
    pub parameter_1: U16,
    /// By event.
    pub parameter_2: U16,
    /// By event.
    pub parameter_3: U16,
    /// Reserved.
    pub reserved_44: [u8; 4],
}
const _: () = assert!(size_of::<AsyncMessageBhs>() == BHS_LEN);

/// Text Request (RFC 7143, section 11.10).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct TextRequestBhs {
    /// Opcode.
    pub opcode: u8,
    /// F, C.
    pub flags: u8,
    /// Reserved.
    pub reserved_2: [u8; 2],
    /// 0.
    pub total_ahs_length: u8,
    /// Bytes of text.
    pub data_segment_length: [u8; 3],
    /// As in the Text Response that is continued.
    pub lun: U64,
    /// Tag of the whole exchange.
    pub initiator_task_tag: U32,
    /// 0xffffffff to start, else as answered.
    pub target_transfer_tag: U32,
    /// CmdSN.
    pub cmd_sn: U32,
    /// ExpStatSN.
    pub exp_stat_sn: U32,
    /// Reserved.
    pub reserved_32: [u8; 16],
}
const _: () = assert!(size_of::<TextRequestBhs>() == BHS_LEN);

/// Text Response (RFC 7143, section 11.11).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct TextResponseBhs {
    /// Opcode.
    pub opcode: u8,
    /// F, C.
    pub flags: u8,
    /// Reserved.
    pub reserved_2: [u8; 2],
    /// 0.
    pub total_ahs_length: u8,
    /// Bytes of text.
    pub data_segment_length: [u8; 3],
    /// Logical unit number, or 0.
    pub lun: U64,
    /// Tag of the exchange.
    pub initiator_task_tag: U32,
    /// 0xffffffff when finished.
    pub target_transfer_tag: U32,
    /// StatSN.
    pub stat_sn: U32,
    /// ExpCmdSN.
    pub exp_cmd_sn: U32,
    /// MaxCmdSN.
    pub max_cmd_sn: U32,
    /// Reserved.
    pub reserved_36: [u8; 12],
}
const _: () = assert!(size_of::<TextResponseBhs>() == BHS_LEN);

/// Login Request (RFC 7143, section 11.12).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct LoginRequestBhs {
    /// Opcode with [`IMMEDIATE`].
    pub opcode: u8,
    /// T, C, CSG, NSG.
    pub flags: u8,
    /// Highest version supported.
    pub version_max: u8,
    /// Lowest version supported.
    pub version_min: u8,
    /// 0.
    pub total_ahs_length: u8,
    /// Bytes of text.
    pub data_segment_length: [u8; 3],
    /// Initiator part of the session's name.
    pub isid: [u8; 6],
    /// 0 for a new session.
    pub tsih: U16,
    /// Tag of the whole login.
    pub initiator_task_tag: U32,
    /// Connection.
    pub cid: U16,
    /// Reserved.
    pub reserved_22: [u8; 2],
    /// CmdSN of the first command after login.
    pub cmd_sn: U32,
    /// ExpStatSN.
    pub exp_stat_sn: U32,
    /// Reserved.
    pub reserved_32: [u8; 16],
}
const _: () = assert!(size_of::<LoginRequestBhs>() == BHS_LEN);

/// Login Response (RFC 7143, section 11.13).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct LoginResponseBhs {
    /// Opcode.
    pub opcode: u8,
    /// T, C, CSG, NSG.
    pub flags: u8,
    /// Highest version supported.
    pub version_max: u8,
    /// Version in use.
    pub version_active: u8,
    /// 0.
    pub total_ahs_length: u8,
    /// Bytes of text.
    pub data_segment_length: [u8; 3],
    /// As in the request.
    pub isid: [u8; 6],
    /// The session's handle, in the final response.
    pub tsih: U16,
    /// Tag of the login.
    pub initiator_task_tag: U32,
    /// Reserved.
    pub reserved_20: [u8; 4],
    /// StatSN.
    pub stat_sn: U32,
    /// ExpCmdSN.
    pub exp_cmd_sn: U32,
    /// MaxCmdSN.
    pub max_cmd_sn: U32,
    /// [`LoginStatus`](super::code::LoginStatus): class and detail.
    pub status: U16,
    /// Reserved.
    pub reserved_38: [u8; 10],
}
const _: () = assert!(size_of::<LoginResponseBhs>() == BHS_LEN);

/// Logout Request (RFC 7143, section 11.14).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct LogoutRequestBhs {
    /// Opcode.
    pub opcode: u8,
    /// 0x80 and the reason.
    pub reason: u8,
    /// Reserved.
    pub reserved_2: [u8; 2],
    /// 0.
    pub total_ahs_length: u8,
    /// 0.
    pub data_segment_length: [u8; 3],
    /// Reserved.
    pub reserved_8: [u8; 8],
    /// Tag.
    pub initiator_task_tag: U32,
    /// Connection to close.
    pub cid: U16,
    /// Reserved.
    pub reserved_22: [u8; 2],
    /// CmdSN.
    pub cmd_sn: U32,
    /// ExpStatSN.
    pub exp_stat_sn: U32,
    /// Reserved.
    pub reserved_32: [u8; 16],
}
const _: () = assert!(size_of::<LogoutRequestBhs>() == BHS_LEN);

/// Logout Response (RFC 7143, section 11.15).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct LogoutResponseBhs {
    /// Opcode.
    pub opcode: u8,
    /// 0x80.
    pub flags: u8,
    /// [`LogoutResponse`](super::code::LogoutResponse).
    pub response: u8,
    /// Reserved.
    pub reserved_3: u8,
    /// 0.
    pub total_ahs_length: u8,
    /// 0.
    pub data_segment_length: [u8; 3],
    /// Reserved.
    pub reserved_8: [u8; 8],
    /// Tag of the request.
    pub initiator_task_tag: U32,
    /// Reserved.
    pub reserved_20: [u8; 4],
    /// StatSN.
    pub stat_sn: U32,
    /// ExpCmdSN.
    pub exp_cmd_sn: U32,
    /// MaxCmdSN.
    pub max_cmd_sn: U32,
    /// Reserved.
    pub reserved_36: [u8; 4],
    /// Seconds to wait before a new login.
    pub time2wait: U16,
    /// Seconds that tasks are kept.
    pub time2retain: U16,
    /// Reserved.
    pub reserved_44: [u8; 4],
}
const _: () = assert!(size_of::<LogoutResponseBhs>() == BHS_LEN);

/// SNACK Request (RFC 7143, section 11.16).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct SnackRequestBhs {
    /// Opcode.
    pub opcode: u8,
    /// 0x80 and the type.
    pub kind: u8,
    /// Reserved.
    pub reserved_2: [u8; 2],
    /// 0.
    pub total_ahs_length: u8,
    /// 0.
    pub data_segment_length: [u8; 3],
    /// Logical unit number, or 0.
    pub lun: U64,
    /// Task, or 0xffffffff.
    pub initiator_task_tag: U32,
    /// Target transfer tag or SNACK tag.
    pub target_transfer_tag: U32,
    /// Reserved.
    pub reserved_24: [u8; 4],
    /// ExpStatSN.
    pub exp_stat_sn: U32,
    /// Reserved.
    pub reserved_32: [u8; 8],
    /// First number missed.
    pub beg_run: U32,
    /// How many.
    pub run_length: U32,
}
const _: () = assert!(size_of::<SnackRequestBhs>() == BHS_LEN);

/// Reject (RFC 7143, section 11.17). Its data is the header that was rejected.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct RejectBhs {
    /// Opcode.
    pub opcode: u8,
    /// 0x80.
    pub flags: u8,
    /// [`RejectReason`](super::code::RejectReason).
    pub reason: u8,
    /// Reserved.
    pub reserved_3: u8,
    /// 0.
    pub total_ahs_length: u8,
    /// 48, or more with AHS.
    pub data_segment_length: [u8; 3],
    /// Reserved.
    pub reserved_8: [u8; 8],
    /// 0xffffffff.
    pub all_ones: U32,
    /// Reserved.
    pub reserved_20: [u8; 4],
    /// StatSN.
    pub stat_sn: U32,
    /// ExpCmdSN.
    pub exp_cmd_sn: U32,
    /// MaxCmdSN.
    pub max_cmd_sn: U32,
    /// DataSN or R2TSN, for some reasons.
    pub data_sn: U32,
    /// Reserved.
    pub reserved_40: [u8; 8],
}
const _: () = assert!(size_of::<RejectBhs>() == BHS_LEN);

/// NOP-Out (RFC 7143, section 11.18).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct NopOutBhs {
    /// Opcode.
    pub opcode: u8,
    /// 0x80.
    pub flags: u8,
    /// Reserved.
    pub reserved_2: [u8; 2],
    /// 0.
    pub total_ahs_length: u8,
    /// Ping data.
    pub data_segment_length: [u8; 3],
    /// As in the NOP-In that is answered, else 0.
    pub lun: U64,
    /// 0xffffffff when no answer is wanted.
    pub initiator_task_tag: U32,
    /// As in the NOP-In that is answered, else 0xffffffff.
    pub target_transfer_tag: U32,
    /// CmdSN.
    pub cmd_sn: U32,
    /// ExpStatSN.
    pub exp_stat_sn: U32,
    /// Reserved.
    pub reserved_32: [u8; 16],
}
const _: () = assert!(size_of::<NopOutBhs>() == BHS_LEN);

/// NOP-In (RFC 7143, section 11.19).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct NopInBhs {
    /// Opcode.
    pub opcode: u8,
    /// 0x80.
    pub flags: u8,
    /// Reserved.
    pub reserved_2: [u8; 2],
    /// 0.
    pub total_ahs_length: u8,
    /// Ping data, returned.
    pub data_segment_length: [u8; 3],
    /// With a target transfer tag only.
    pub lun: U64,
    /// As in the NOP-Out, or 0xffffffff.
    pub initiator_task_tag: U32,
    /// 0xffffffff when no answer is wanted.
    pub target_transfer_tag: U32,
    /// StatSN.
    pub stat_sn: U32,
    /// ExpCmdSN.
    pub exp_cmd_sn: U32,
    /// MaxCmdSN.
    pub max_cmd_sn: U32,
    /// Reserved.
    pub reserved_36: [u8; 12],
}
const _: () = assert!(size_of::<NopInBhs>() == BHS_LEN);

/// What every header has in common (RFC 7143, section 11.2.1).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct GenericBhs {
    /// Opcode; [`IMMEDIATE`] beside it.
    pub opcode: u8,
    /// By opcode; F is bit 0x80.
    pub flags: u8,
    /// By opcode.
    pub specific_2: [u8; 2],
    /// Additional header segments, in 4-byte words.
    pub total_ahs_length: u8,
    /// Data, without padding.
    pub data_segment_length: [u8; 3],
    /// LUN or by opcode.
    pub lun_or_specific: [u8; 8],
    /// Initiator task tag.
    pub initiator_task_tag: U32,
    /// By opcode.
    pub specific_20: [u8; 28],
}
const _: () = assert!(size_of::<GenericBhs>() == BHS_LEN);
