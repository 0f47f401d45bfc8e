//! The data of writes: what may be sent unasked, and cutting it into Data-Out PDUs.

use super::config::Negotiated;
use super::engine::append;
use super::event::R2t;
use crate::pdu::bhs::{DataOutBhs, FINAL, length_to_24};
use crate::pdu::code::Opcode;
use crate::units::SerialNumber;

/// How much of `len` bytes goes with the command, and how much goes before any R2T, that included
/// (RFC 7143, sections 13.10, 13.11 and 13.14).
pub(super) fn unsolicited(negotiated: &Negotiated, len: usize) -> (usize, usize) {
    let first_burst = len.min(negotiated.first_burst_length as usize);
    let immediate = if negotiated.immediate_data {
        first_burst.min(negotiated.max_send_data_segment_length as usize)
    } else {
        0
    };
    if negotiated.initial_r2t {
        (immediate, immediate)
    } else {
        (immediate, first_burst)
    }
}

/// Sends what `r2t` wants of `data`, the data of the whole command, as one sequence of Data-Out PDUs. What
/// lies beyond the data is not sent.
pub(super) fn send(
    out: &mut Vec<u8>,
    negotiated: &Negotiated,
    exp_stat_sn: SerialNumber,
    r2t: &R2t,
    data: &[u8],
) {
    let start = (r2t.offset as usize).min(data.len());
    let end = (start + r2t.len as usize).min(data.len());
    let piece_len = (negotiated.max_send_data_segment_length as usize).max(512);
    let mut offset = r2t.offset;
    let mut pieces = data[start..end].chunks(piece_len).peekable();
    let mut data_sn = 0u32;
    while let Some(piece) = pieces.next() {
        let len = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        let bhs = DataOutBhs {
            opcode: Opcode::DATA_OUT.0,
            flags: if pieces.peek().is_none() { FINAL } else { 0 },
            reserved_2: [0; 2],
            total_ahs_length: 0,
            data_segment_length: length_to_24(len),
            lun: r2t.lun.into(),
            initiator_task_tag: r2t.initiator_task_tag.into(),
            target_transfer_tag: r2t.target_transfer_tag.into(),
            reserved_24: [0; 4],
            exp_stat_sn: exp_stat_sn.0.into(),
            reserved_32: [0; 4],
            data_sn: data_sn.into(),
            buffer_offset: offset.into(),
            reserved_44: [0; 4],
        };
        let header = zerocopy::transmute_ref!(&bhs);
        append(
            out,
            header,
            piece,
            negotiated.header_digest,
            negotiated.data_digest,
        );
        data_sn = data_sn.wrapping_add(1);
        offset = offset.wrapping_add(len);
    }
}
