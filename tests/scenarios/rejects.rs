//! What is rejected (sections 7.9, 7.11 and 11.17), and that life goes on afterwards.

use ringtgt::initiator::Event;
use ringtgt::pdu::bhs::{IMMEDIATE, NO_TAG, SnackRequestBhs};
use ringtgt::pdu::code::{Opcode, RejectReason};

use crate::common::cdb;
use crate::common::disk::Pace;
use crate::common::pair::{BLOCK, Pair};
use crate::common::raw;

#[test]
fn an_unknown_opcode_is_rejected_with_its_header() {
    for opcode in [0x07u8, 0x1c, 0x3f, 0x21] {
        let mut pair = Pair::new();
        let link = pair.quiet_session();
        let mut bhs = raw::bytes(&raw::nop_out(raw::TAG));
        bhs[0] = opcode | IMMEDIATE;
        pair.links[link].initiator.send_pdu(bhs, &[]);
        pair.run();
        let Some(Event::Rejected { reason, header }) = pair.event(link) else {
            panic!(
                "{opcode:#x} was not rejected: {:?}",
                pair.links[link].closed
            )
        };
        assert!(
            [
                RejectReason::COMMAND_NOT_SUPPORTED,
                RejectReason::PROTOCOL_ERROR
            ]
            .contains(&reason),
            "{opcode:#x}: {reason}"
        );
        assert_eq!(header, bhs);
        pair.assert_works(link);
    }
}

#[test]
fn a_snack_is_rejected_without_error_recovery() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    let snack = SnackRequestBhs {
        opcode: Opcode::SNACK_REQUEST.0,
        kind: 0x80,
        reserved_2: [0; 2],
        total_ahs_length: 0,
        data_segment_length: [0; 3],
        lun: 0.into(),
        initiator_task_tag: NO_TAG.into(),
        target_transfer_tag: NO_TAG.into(),
        reserved_24: [0; 4],
        exp_stat_sn: 0.into(),
        reserved_32: [0; 8],
        beg_run: 0.into(),
        run_length: 0.into(),
    };
    let mut bytes = raw::bytes(&snack);
    for kind in 0..4 {
        bytes[1] = 0x80 | kind;
        pair.links[link].initiator.send_pdu(bytes, &[]);
    }
    pair.run();
    assert_eq!(raw::rejects(&mut pair, link).len(), 4);
    pair.assert_works(link);
}

#[test]
fn a_tag_that_is_in_use_does_not_start_a_second_task() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    let other = pair.quiet_session();
    pair.disk().set_pace(Pace::Held);
    let write = raw::command(raw::TAG, 0xa0, 512, cdb::write_10(0, 1));
    raw::send(&mut pair, link, &write, &[1; BLOCK]);
    pair.run();
    let second = raw::command(raw::TAG, 0xa0, 512, cdb::write_10(5, 1));
    raw::send(&mut pair, link, &second, &[2; BLOCK]);
    pair.run();
    pair.disk().set_pace(Pace::AtOnce);
    pair.run();
    let rejected = raw::rejects(&mut pair, link);
    let closed = pair.links[link].closed.is_some();
    assert!(
        closed
            || rejected == [RejectReason::TASK_IN_PROGRESS]
            || rejected == [RejectReason::INVALID_PDU_FIELD],
        "{rejected:?}"
    );
    assert_eq!(
        pair.disk().bytes()[5 * BLOCK],
        0,
        "the second one was not done"
    );
    if !closed {
        assert_eq!(raw::status(&mut pair, link, raw::TAG).0, 0);
        pair.assert_works(link);
    }
    pair.assert_works(other);
}

#[test]
fn the_reserved_tag_is_no_tag_for_a_command() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    let other = pair.quiet_session();
    let read = raw::command(NO_TAG, 0xc0, 512, cdb::read_10(0, 1));
    raw::send(&mut pair, link, &read, &[]);
    pair.run();
    assert!(!raw::rejects(&mut pair, link).is_empty() || pair.links[link].closed.is_some());
    pair.assert_works(other);
}

#[test]
fn a_bidirectional_command_is_refused_or_done_as_its_cdb_says() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    let both = raw::command(raw::TAG, 0xe0, 512, cdb::write_10(0, 1));
    raw::send(&mut pair, link, &both, &[1; BLOCK]);
    pair.run();
    let refused = !raw::rejects(&mut pair, link).is_empty()
        || pair.links[link].closed.is_some()
        || raw::status(&mut pair, link, raw::TAG).0 != 0;
    let written = pair.disk().bytes()[..BLOCK] == [1; BLOCK];
    assert!(written != refused);
    assert!(pair.disk().bytes()[BLOCK..].iter().all(|&byte| byte == 0));
}

#[test]
fn a_direction_that_is_not_the_commands_moves_nothing() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    // A write that is said to read.
    let write = raw::command(raw::TAG, 0xc0, 512, cdb::write_10(0, 1));
    raw::send(&mut pair, link, &write, &[]);
    pair.run();
    raw::answers(&mut pair, link);
    assert!(pair.disk().bytes().iter().all(|&byte| byte == 0));
    // A read that is said to write.
    let read = raw::command(raw::TAG + 1, 0xa0, 512, cdb::read_10(0, 1));
    raw::send(&mut pair, link, &read, &[7; BLOCK]);
    pair.run();
    raw::answers(&mut pair, link);
    assert!(pair.disk().bytes().iter().all(|&byte| byte == 0));
    pair.assert_works(link);
}

#[test]
fn additional_header_segments_are_understood_or_refused_but_never_taken_for_data() {
    for words in [1usize, 2, 8, 255] {
        let mut pair = Pair::new();
        let link = pair.quiet_session();
        let other = pair.quiet_session();
        let cmd_sn = pair.links[link].initiator.cmd_sn();
        let mut write = raw::command(raw::TAG, 0xa0, 512, cdb::write_10(0, 1));
        write.total_ahs_length = u8::try_from(words).unwrap();
        write.data_segment_length = [0, 2, 0];
        write.cmd_sn = cmd_sn.0.into();
        let mut bytes = raw::bytes(&write).to_vec();
        // An extended CDB (AHSType 1) that fills all of it, or nonsense for what is longer.
        let mut ahs = vec![0xa5; words * 4];
        ahs[..4].copy_from_slice(&[0, u8::try_from(words * 4 - 3).unwrap_or(9), 1, 0]);
        bytes.extend_from_slice(&ahs);
        bytes.extend_from_slice(&[3; BLOCK]);
        pair.links[link].initiator.set_cmd_sn(cmd_sn.next());
        pair.links[link].initiator.send_raw(&bytes);
        pair.run();
        let block = pair.disk().bytes()[..BLOCK].to_vec();
        assert!(
            block == [3; BLOCK] || block == [0; BLOCK],
            "{words}: the wrong bytes were written"
        );
        raw::answers(&mut pair, link);
        raw::rejects(&mut pair, link);
        if pair.links[link].closed.is_none() {
            pair.assert_works(link);
        }
        pair.assert_works(other);
    }
}

#[test]
fn many_rejects_are_all_told() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    let mut bhs = raw::bytes(&raw::nop_out(raw::TAG));
    bhs[0] = 0x1c | IMMEDIATE;
    for _ in 0..500 {
        pair.links[link].initiator.send_pdu(bhs, &[9; 100]);
    }
    pair.run();
    assert_eq!(raw::rejects(&mut pair, link).len(), 500);
    pair.assert_works(link);
}
