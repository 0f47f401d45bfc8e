//! PDUs made by hand: what a well-behaved initiator would not send.

use ringtgt::initiator::Event;
use ringtgt::pdu::bhs::{
    BHS_LEN, DataOutBhs, FINAL, IMMEDIATE, LogoutRequestBhs, NO_TAG, NopOutBhs, ScsiCommandBhs,
    ScsiResponseBhs, TextRequestBhs,
};
use ringtgt::pdu::code::Opcode;
use ringtgt::pdu::frame::header;
use zerocopy::{Immutable, IntoBytes};

use super::cdb::Cdb;
use super::pair::Pair;

/// Tags of hand-made requests: the initiator never uses tags with the highest bit.
pub const TAG: u32 = 0x8000_0001;

pub fn bytes<T: IntoBytes + Immutable>(bhs: &T) -> [u8; BHS_LEN] {
    bhs.as_bytes().try_into().expect("48 bytes")
}

/// A SCSI Command; CmdSN and ExpStatSN are for [`send`] to fill in.
pub fn command(tag: u32, flags: u8, expected: u32, cdb: Cdb) -> ScsiCommandBhs {
    ScsiCommandBhs {
        opcode: Opcode::SCSI_COMMAND.0,
        flags: flags | 1,
        reserved: [0; 2],
        total_ahs_length: 0,
        data_segment_length: [0; 3],
        lun: 0.into(),
        initiator_task_tag: tag.into(),
        expected_data_transfer_length: expected.into(),
        cmd_sn: 0.into(),
        exp_stat_sn: 0.into(),
        cdb,
    }
}

/// A Data-Out.
pub fn data_out(tag: u32, transfer: u32, data_sn: u32, offset: u32, last: bool) -> DataOutBhs {
    DataOutBhs {
        opcode: Opcode::DATA_OUT.0,
        flags: if last { FINAL } else { 0 },
        reserved_2: [0; 2],
        total_ahs_length: 0,
        data_segment_length: [0; 3],
        lun: 0.into(),
        initiator_task_tag: tag.into(),
        target_transfer_tag: transfer.into(),
        reserved_24: [0; 4],
        exp_stat_sn: 0.into(),
        reserved_32: [0; 4],
        data_sn: data_sn.into(),
        buffer_offset: offset.into(),
        reserved_44: [0; 4],
    }
}

/// A NOP-Out that wants an answer.
pub fn nop_out(tag: u32) -> NopOutBhs {
    NopOutBhs {
        opcode: Opcode::NOP_OUT.0,
        flags: FINAL,
        reserved_2: [0; 2],
        total_ahs_length: 0,
        data_segment_length: [0; 3],
        lun: 0.into(),
        initiator_task_tag: tag.into(),
        target_transfer_tag: NO_TAG.into(),
        cmd_sn: 0.into(),
        exp_stat_sn: 0.into(),
        reserved_32: [0; 16],
    }
}

/// A Text Request.
pub fn text(tag: u32, flags: u8, transfer: u32) -> TextRequestBhs {
    TextRequestBhs {
        opcode: Opcode::TEXT_REQUEST.0 | IMMEDIATE,
        flags,
        reserved_2: [0; 2],
        total_ahs_length: 0,
        data_segment_length: [0; 3],
        lun: 0.into(),
        initiator_task_tag: tag.into(),
        target_transfer_tag: transfer.into(),
        cmd_sn: 0.into(),
        exp_stat_sn: 0.into(),
        reserved_32: [0; 16],
    }
}

/// A Logout Request for connection `cid`.
pub fn logout(tag: u32, reason: u8, cid: u16) -> LogoutRequestBhs {
    LogoutRequestBhs {
        opcode: Opcode::LOGOUT_REQUEST.0 | IMMEDIATE,
        reason: FINAL | reason,
        reserved_2: [0; 2],
        total_ahs_length: 0,
        data_segment_length: [0; 3],
        reserved_8: [0; 8],
        initiator_task_tag: tag.into(),
        cid: cid.into(),
        reserved_22: [0; 2],
        cmd_sn: 0.into(),
        exp_stat_sn: 0.into(),
        reserved_32: [0; 16],
    }
}

/// Sends a hand-made PDU with the next CmdSN, which it uses up unless it is immediate or a Data-Out.
pub fn send<T: IntoBytes + Immutable>(pair: &mut Pair, link: usize, bhs: &T, data: &[u8]) {
    let cmd_sn = pair.links[link].initiator.cmd_sn();
    send_at(pair, link, bhs, data, cmd_sn.0);
    let opcode = bhs.as_bytes()[0];
    if opcode & IMMEDIATE == 0 && opcode != Opcode::DATA_OUT.0 && opcode != Opcode::SNACK_REQUEST.0
    {
        pair.links[link].initiator.set_cmd_sn(cmd_sn.next());
    }
}

/// Sends a hand-made PDU with this CmdSN.
pub fn send_at<T: IntoBytes + Immutable>(
    pair: &mut Pair,
    link: usize,
    bhs: &T,
    data: &[u8],
    cmd_sn: u32,
) {
    let mut bhs = bytes(bhs);
    let exp_stat_sn = pair.links[link].initiator.exp_stat_sn();
    if Opcode(bhs[0] & 0x3f) != Opcode::DATA_OUT {
        bhs[24..28].copy_from_slice(&cmd_sn.to_be_bytes());
    }
    bhs[28..32].copy_from_slice(&exp_stat_sn.0.to_be_bytes());
    pair.links[link].initiator.send_pdu(bhs, data);
}

/// The answers to hand-made requests: header and data of each.
pub fn answers(pair: &mut Pair, link: usize) -> Vec<([u8; BHS_LEN], Vec<u8>)> {
    let events = std::mem::take(&mut pair.links[link].events);
    let (others, rest): (Vec<_>, Vec<_>) = events
        .into_iter()
        .partition(|event| matches!(event, Event::Other { .. }));
    pair.links[link].events = rest.into();
    let other = |event| match event {
        Event::Other { bhs, data } => (bhs, data),
        _ => unreachable!(),
    };
    others.into_iter().map(other).collect()
}

/// SCSI status and sense data of the one SCSI Response among the answers; of a read, of its last Data-In.
#[track_caller]
pub fn status(pair: &mut Pair, link: usize, tag: u32) -> (u8, Vec<u8>) {
    let all = answers(pair, link);
    for (bhs, data) in &all {
        let response: &ScsiResponseBhs = header(bhs);
        let opcode = Opcode(response.opcode);
        let ends = opcode == Opcode::SCSI_RESPONSE || opcode == Opcode::DATA_IN && bhs[1] & 1 != 0;
        if ends && response.initiator_task_tag.get() == tag {
            let sense = if opcode == Opcode::SCSI_RESPONSE {
                data.get(2..).unwrap_or_default().to_vec()
            } else {
                Vec::new()
            };
            return (response.status, sense);
        }
    }
    let link = &pair.links[link];
    panic!(
        "no status for {tag:#x}: {all:?} {:?} {:?} {:?}",
        link.events, link.error, link.closed
    );
}

/// Reasons of the Rejects that came.
pub fn rejects(pair: &mut Pair, link: usize) -> Vec<ringtgt::pdu::code::RejectReason> {
    let events = &mut pair.links[link].events;
    let reasons = events.iter().filter_map(|event| match event {
        Event::Rejected { reason, .. } => Some(*reason),
        _ => None,
    });
    let reasons = reasons.collect();
    events.retain(|event| !matches!(event, Event::Rejected { .. }));
    reasons
}
