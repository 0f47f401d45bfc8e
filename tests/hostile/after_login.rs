//! What a session may be asked for, and must not do.

use ringtgt::initiator::{DigestOffer, Event, Offers, Payload, wire_lun};
use ringtgt::pdu::bhs::{FINAL, IMMEDIATE, NO_TAG, READ, WRITE};
use ringtgt::pdu::code::RejectReason;

use crate::common::pair::BLOCK;
use crate::common::raw::{self, TAG, command, data_out, nop_out};
use crate::common::wire::{Over, Peer, config};
use crate::siege::{BLOCKS, DISK, Siege, read_10, write_10};

const CHECK_CONDITION: u8 = 2;

/// A session whose writes send nothing unasked.
#[track_caller]
fn asked_only(siege: &Siege) -> Peer {
    let mut config = config(1);
    config.offers.initial_r2t = true;
    config.offers.immediate_data = false;
    Peer::log_in(siege.daemon.address, config)
}

/// Answers to hand-made requests that came before a ping's: opcode, flags, status.
#[track_caller]
fn answers(peer: &mut Peer) -> Vec<(u8, u8, u8)> {
    let events = peer.until_ping().expect("the connection lives");
    let answer = |event| match event {
        Event::Other { bhs, .. } => (bhs[0] & 0x3f, bhs[1], bhs[3]),
        Event::Rejected { reason, .. } => (0x3f, 0, reason.0),
        other => panic!("{other:?}"),
    };
    events.into_iter().map(answer).collect()
}

/// The R2T that came: its target transfer tag.
#[track_caller]
fn r2t(peer: &mut Peer) -> u32 {
    let events = peer.until_ping().expect("the connection lives");
    match &events[..] {
        [Event::Other { bhs, .. }] if bhs[0] == 0x31 => {
            u32::from_be_bytes(bhs[20..24].try_into().unwrap())
        }
        other => panic!("no R2T: {other:?}"),
    }
}

#[test]
fn data_out_that_is_wrong_writes_nothing_outside_its_command() {
    let mut siege = Siege::new();
    let data = vec![0xee; 8 * BLOCK];
    // What is sent instead of the right Data-Out: tag, transfer tag (if not the right one), offset, bytes.
    let cases: [(&str, u32, Option<u32>, u32, usize); 9] = [
        ("another transfer tag", TAG, Some(0x1234_5678), 0, 8),
        ("no transfer tag", TAG, Some(NO_TAG), 0, 8),
        ("another task", TAG + 1, None, 0, 8),
        ("past the burst", TAG, None, 4096, 8),
        ("half past the burst", TAG, None, 2048, 8),
        ("far past it", TAG, None, 0x7fff_fe00, 8),
        ("wrapping around", TAG, None, 0xffff_fe00, 8),
        ("too much", TAG, None, 0, 16),
        ("ended too early", TAG, None, 0, 4),
    ];
    for (what, tag, transfer, offset, blocks) in cases {
        let mut peer = asked_only(&siege);
        peer.put(&command(TAG, WRITE | FINAL, 4096, write_10(64, 8)), &[]);
        let right = r2t(&mut peer);
        let bhs = data_out(tag, transfer.unwrap_or(right), 0, offset, true);
        peer.put(&bhs, &vec![0xee; blocks * BLOCK]);
        // It may be answered or ignored, or the connection may end.
        let _ = peer.until_ping();
        drop(peer);
        siege.holds_but_for(what, 64, 8, &data);
    }
    let counted = |name| siege.daemon.count(name);
    assert!(counted("stale_data") + counted("bad_data_out") + counted("rejects") >= 6);
}

#[test]
fn data_out_for_a_read_is_no_data() {
    let mut siege = Siege::new();
    let mut peer = asked_only(&siege);
    peer.put(&command(TAG, READ | FINAL, 4096, read_10(0, 8)), &[]);
    peer.put(&data_out(TAG, NO_TAG, 0, 0, true), &[0xee; 4096]);
    let _ = peer.until_ping();
    // In one go, so that the task may still be there.
    let cdb = read_10(0, 256);
    let _ = peer.initiator.submit(ringtgt::initiator::Command::new(
        1,
        wire_lun(0),
        cdb,
        Payload::Discard(256 * 512),
    ));
    peer.put(&data_out(0, NO_TAG, 0, 0, true), &[0xee; 4096]);
    let _ = peer.until_ping();
    siege.holds("data for a read");
}

#[test]
fn a_tag_in_use_is_not_used_twice() {
    let mut siege = Siege::new();
    let mut peer = asked_only(&siege);
    peer.put(&command(TAG, WRITE | FINAL, 4096, write_10(64, 8)), &[]);
    r2t(&mut peer);
    let before = siege.daemon.count("rejects");
    peer.put(&command(TAG, WRITE | FINAL, 4096, write_10(128, 8)), &[]);
    if let Ok(events) = peer.until_ping() {
        let rejected = |e: &Event| matches!(e, Event::Rejected { .. });
        assert!(events.iter().any(rejected), "{events:?}");
        siege.daemon.wait_for_count("rejects", before + 1);
    }
    drop(peer);
    siege.holds("a tag used twice");
}

#[test]
fn what_lies_beyond_the_end_is_not_written() {
    let mut siege = Siege::new();
    let last = BLOCKS as usize;
    for (lba, blocks) in [(last - 4, 8), (last, 1), (0x7fff_fff8, 8), (0, last + 8)] {
        let mut peer = siege.attacker();
        let expected = blocks * BLOCK;
        let mut cdb = write_10(0, blocks);
        cdb[2..6].copy_from_slice(&u32::try_from(lba).unwrap().to_be_bytes());
        let done = peer.run(cdb, Payload::Write(vec![0xee; expected]));
        assert_eq!(done.status, CHECK_CONDITION);
        assert_eq!(done.sense[12], 0x21, "LBA OUT OF RANGE");
        cdb[0] = 0x28;
        let done = peer.run(cdb, Payload::Read(vec![0; expected]));
        assert_eq!((done.status, done.received), (CHECK_CONDITION, 0));
        // WRITE(16), where the sum does not fit 64 bits.
        let cdb = crate::common::cdb::write_16(u64::MAX - 3, 8);
        let done = peer.run(cdb, Payload::Write(vec![0xee; 4096]));
        assert_eq!(done.sense[12], 0x21);
        drop(peer);
        siege.holds(&format!("{blocks} blocks at {lba}"));
    }
}

#[test]
fn an_expected_length_that_differs_from_the_cdb_moves_only_what_both_allow() {
    let mut siege = Siege::new();
    // Blocks of the CDB, bytes expected.
    for (blocks, expected) in [
        (8, 0),
        (8, 512),
        (8, 1000),
        (8, 4095),
        (8, 4097),
        (8, 65_536),
        (1, 300_000),
        (512, 4096),
        (0, 4096),
    ] {
        for asked in [false, true] {
            let mut peer = if asked {
                asked_only(&siege)
            } else {
                siege.attacker()
            };
            let what = format!("{blocks} blocks, {expected} bytes expected");
            let new = vec![0xee; expected];
            let done = peer.run(write_10(256, blocks), Payload::Write(new.clone()));
            assert!([0, CHECK_CONDITION].contains(&done.status), "{what}");
            let done = peer.run(read_10(8, blocks), Payload::Read(vec![0; expected]));
            assert!(done.received as usize <= expected, "{what}");
            drop(peer);
            siege.holds_but_for(&what, 256, blocks, &new);
        }
    }
}

#[test]
fn strange_opcodes_and_luns_are_answered_and_do_nothing() {
    let mut siege = Siege::new();
    for opcode in 0..=0x3f_u8 {
        // The ones that mean something, and Logout.
        if [0x00, 0x01, 0x02, 0x04, 0x05, 0x06].contains(&opcode) {
            continue;
        }
        for immediate in [0, IMMEDIATE] {
            let mut peer = siege.attacker();
            let mut bhs = raw::bytes(&nop_out(TAG));
            bhs[0] = opcode | immediate;
            let before = siege.daemon.count("rejects");
            peer.put(&bhs, &[]);
            match peer.until_ping() {
                Ok(events) => {
                    let rejected = |e: &Event| matches!(e, Event::Rejected { .. });
                    assert!(events.iter().any(rejected), "{opcode:#x}: {events:?}");
                    siege.daemon.wait_for_count("rejects", before + 1);
                }
                Err(Over::Closed) => {}
                Err(Over::Error(error)) => panic!("{opcode:#x}: {error}"),
            }
        }
    }
    siege.holds("strange opcodes");
    for lun in [1, 0x4000, u64::MAX, 1 << 48, 0x4001 << 48, 0xc101 << 48] {
        let mut peer = siege.attacker();
        for (flags, cdb) in [(READ, read_10(0, 8)), (WRITE, write_10(0, 8))] {
            let mut bhs = command(TAG, flags | FINAL, 4096, cdb);
            bhs.lun = lun.into();
            peer.put(&bhs, &[]);
            for (opcode, _, status) in answers(&mut peer) {
                assert_eq!((opcode, status), (0x21, CHECK_CONDITION), "{lun:#x}");
            }
        }
    }
    siege.holds("strange LUNs");
}

#[test]
fn additional_header_segments_with_wrong_lengths_do_nothing() {
    let mut siege = Siege::new();
    let segments: [&[u8]; 8] = [
        &[0, 0, 0, 0],
        &[0xff, 0xff, 1, 0],
        &[0, 1, 1, 0],
        &[0, 4, 2, 0, 0, 0, 0, 0],
        &[0, 5, 2, 0, 0, 0, 0x10, 0],
        &[0, 9, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8],
        &[0, 2, 0x3f, 0, 0, 0, 0, 0],
        &[0xff; 1020],
    ];
    for ahs in segments {
        let mut peer = siege.attacker();
        let cmd_sn = peer.initiator.cmd_sn();
        let mut bhs = command(TAG, WRITE | FINAL, 4096, write_10(64, 8));
        bhs.total_ahs_length = (ahs.len() / 4) as u8;
        bhs.cmd_sn = cmd_sn.0.into();
        bhs.data_segment_length = [0, 0x10, 0];
        peer.initiator.set_cmd_sn(cmd_sn.next());
        peer.initiator.send_raw(&raw::bytes(&bhs));
        peer.initiator.send_raw(ahs);
        peer.initiator.send_raw(&[0xee; 4096]);
        let _ = peer.until_ping();
        drop(peer);
        siege.holds_but_for(&format!("{ahs:?}"), 64, 8, &[0xee; 4096]);
    }
}

#[test]
fn damaged_pdus_are_noticed_by_their_digests() {
    let mut siege = Siege::new();
    let digests = || {
        let mut config = config(1);
        config.offers = Offers {
            header_digest: DigestOffer::Required,
            data_digest: DigestOffer::Required,
            ..Offers::DEFAULT
        };
        config
    };
    // A byte of the header: the connection ends. Of the data: the command does not happen.
    for (place, in_header) in [
        (2, true),
        (40, true),
        (49, true),
        (60, false),
        (4148, false),
    ] {
        let mut peer = Peer::log_in(siege.daemon.address, digests());
        let write = ringtgt::initiator::Command::new(
            0,
            wire_lun(0),
            write_10(64, 8),
            Payload::Write(vec![0xee; 4096]),
        );
        peer.initiator.submit(write).unwrap();
        let mut bytes = peer.initiator.poll_transmit().to_vec();
        assert_eq!(bytes.len(), 52 + 4096 + 4);
        peer.initiator.transmitted(bytes.len());
        bytes[place] ^= 0x10;
        peer.initiator.send_raw(&bytes);
        let name = if in_header {
            "header_digest_errors"
        } else {
            "data_digest_errors"
        };
        let before = siege.daemon.count(name);
        if in_header {
            assert!(peer.is_closed());
        } else {
            let events = peer.until_ping().expect("the connection lives");
            let rejected = |e: &Event| matches!(e, Event::Rejected { reason, .. } if *reason == RejectReason::DATA_DIGEST_ERROR);
            assert!(events.iter().any(rejected), "{events:?}");
        }
        siege.daemon.wait_for_count(name, before + 1);
        drop(peer);
        siege.holds(&format!("a wrong byte at {place}"));
    }
}

#[test]
fn a_data_segment_longer_than_declared_ends_the_connection() {
    let mut siege = Siege::new();
    let mut peer = siege.attacker();
    let mut bhs = command(TAG, WRITE | FINAL, DISK as u32, write_10(0, 2048));
    bhs.data_segment_length = [0xff; 3];
    peer.initiator.send_raw(&raw::bytes(&bhs));
    assert!(peer.is_closed());
    siege.daemon.wait_for_count("long_data_segments", 1);
    siege.daemon.wait_for_count("protocol_errors", 1);
    siege.holds("a long data segment");
}

#[test]
fn a_stream_that_goes_wrong_after_a_turn_full_of_pdus_is_counted_too() {
    let mut siege = Siege::new();
    let mut peer = siege.attacker();
    for _ in 0..1000 {
        let mut bhs = nop_out(NO_TAG);
        bhs.opcode |= IMMEDIATE;
        peer.put(&bhs, &[]);
    }
    let mut bhs = command(TAG, READ | FINAL, 512, read_10(0, 1));
    bhs.data_segment_length = [0xff; 3];
    peer.initiator.send_raw(&raw::bytes(&bhs));
    assert!(peer.is_closed());
    siege.daemon.wait_for_count("pdus_received", 1000);
    siege.daemon.wait_for_count("protocol_errors", 1);
    siege.holds("a bad header behind 1000 pings");
}

#[test]
fn data_that_was_not_asked_for_writes_nothing_outside_its_command() {
    let mut siege = Siege::new();
    // Flags of the command, immediate bytes, then Data-Out without being asked.
    for (what, flags, immediate, more) in [
        ("immediate data that was not agreed on", FINAL, 4096, 0),
        ("unsolicited data that was not agreed on", 0, 0, 4096),
        ("both", 0, 2048, 2048),
        ("immediate data for more than the command", FINAL, 8192, 0),
        ("a read with immediate data", READ, 4096, 0),
    ] {
        let mut peer = asked_only(&siege);
        let cdb = write_10(64, 8);
        let bhs = command(TAG, WRITE | flags, 4096, cdb);
        peer.put(&bhs, &vec![0xee; immediate]);
        if more > 0 {
            let bhs = data_out(TAG, NO_TAG, 0, immediate as u32, true);
            peer.put(&bhs, &vec![0xee; more]);
        }
        let _ = peer.until_ping();
        drop(peer);
        siege.holds_but_for(what, 64, 8, &[0xee; 4096]);
    }
    // More than FirstBurstLength.
    let mut config = config(1);
    config.offers.first_burst_length = 4096;
    let mut peer = Peer::log_in(siege.daemon.address, config);
    peer.put(
        &command(TAG, WRITE, 65_536, write_10(256, 128)),
        &[0xee; 4096],
    );
    for n in 0..15 {
        let bhs = data_out(TAG, NO_TAG, n, 4096 * (n + 1), n == 14);
        peer.put(&bhs, &[0xee; 4096]);
    }
    let _ = peer.until_ping();
    drop(peer);
    siege.holds_but_for("too long a first burst", 256, 128, &[0xee; 65_536]);
}
