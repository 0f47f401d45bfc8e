//! Data-In, status and residual counts (sections 11.3.4, 11.4.5 and 11.7).

use ringtgt::initiator::{Config, Payload, Residual};
use ringtgt::pdu::bhs::{DataInBhs, FINAL, STATUS};
use ringtgt::pdu::code::Opcode;
use ringtgt::pdu::frame::header;

use crate::common::cdb;
use crate::common::disk::{Pace, medium_error};
use crate::common::pair::{BLOCK, BLOCKS, INITIATOR, Pair, Segments, Setup, TARGET};
use crate::common::raw;

fn filled(setup: Setup) -> (Pair, Vec<u8>) {
    let mut pair = Pair::with(setup);
    let bytes = pair.random.bytes(usize::try_from(BLOCKS).unwrap() * BLOCK);
    pair.disk().fill(&bytes);
    (pair, bytes)
}

/// Sense key, additional sense code and qualifier.
fn sense(data: &[u8]) -> (u8, u8, u8) {
    assert_eq!(data[0] & 0x7e, 0x70, "fixed format: {data:x?}");
    (data[2] & 0xf, data[12], data[13])
}

#[test]
fn reads_of_every_size_bring_the_right_bytes() {
    let (mut pair, bytes) = filled(Setup {
        segments: Segments::Random,
        ..Setup::default()
    });
    let link = pair.quiet_session();
    for blocks in [1u16, 2, 7, 8, 16, 127, 128, 129, 512, 2048, 2049, 5000] {
        let lba = pair.random.below(BLOCKS - u64::from(blocks));
        let start = usize::try_from(lba).unwrap() * BLOCK;
        let data = pair.read(link, u32::try_from(lba).unwrap(), blocks);
        assert!(
            data == bytes[start..start + usize::from(blocks) * BLOCK],
            "{blocks} blocks"
        );
    }
    pair.assert_well(link);
}

#[test]
fn data_in_keeps_to_the_initiators_segments_and_to_the_bursts() {
    let (mut pair, _) = filled(Setup::default());
    let mut config = Config::normal(INITIATOR, TARGET);
    config.offers.max_recv_data_segment_length = 1024;
    config.offers.max_burst_length = 4096;
    config.offers.first_burst_length = 1024;
    let link = pair.login(config);
    pair.quiet(link);
    let read = raw::command(raw::TAG, 0xc0, 20 * 512, cdb::read_10(0, 20));
    raw::send(&mut pair, link, &read, &[]);
    pair.run();
    let answers = raw::answers(&mut pair, link);
    let mut burst = 0;
    for (n, (bhs, data)) in answers.iter().enumerate() {
        let bhs: &DataInBhs = header(bhs);
        assert_eq!(Opcode(bhs.opcode), Opcode::DATA_IN);
        assert_eq!(
            (bhs.data_sn.get() as usize, bhs.buffer_offset.get() as usize),
            (n, n * 1024)
        );
        burst += data.len();
        assert!(data.len() <= 1024 && burst <= 4096);
        let last = n + 1 == answers.len();
        assert_eq!(
            bhs.flags & FINAL != 0,
            last || burst == 4096,
            "F ends a burst"
        );
        assert_eq!(
            bhs.flags & STATUS != 0,
            last,
            "status comes with the last data"
        );
        if bhs.flags & FINAL != 0 {
            burst = 0;
        }
    }
    assert_eq!(answers.len(), 10);
    assert_eq!(
        answers.iter().map(|(_, data)| data.len()).sum::<usize>(),
        20 * 512
    );
}

#[test]
fn room_for_more_than_there_is_is_an_underflow() {
    let (mut pair, bytes) = filled(Setup::default());
    let link = pair.quiet_session();
    let done = pair.command(
        link,
        cdb::read_10(3, 1),
        Payload::Read(vec![0xee; 4 * BLOCK]),
    );
    assert_eq!((done.status, done.received), (0, 512));
    assert_eq!(done.residual, Residual::Underflow(3 * 512));
    let Payload::Read(data) = done.payload else {
        panic!()
    };
    assert_eq!(data[..BLOCK], bytes[3 * BLOCK..4 * BLOCK]);
    assert!(data[BLOCK..].iter().all(|&byte| byte == 0xee));
    pair.assert_works(link);
}

#[test]
fn room_for_less_than_there_is_is_an_overflow_and_nothing_more_is_sent() {
    let (mut pair, bytes) = filled(Setup::default());
    let link = pair.quiet_session();
    for room in [BLOCK, 2 * BLOCK, 700, 1, 3 * BLOCK + 511] {
        let done = pair.command(link, cdb::read_10(3, 4), Payload::Read(vec![0; room]));
        assert_eq!((done.status, done.received as usize), (0, room));
        assert_eq!(
            done.residual,
            Residual::Overflow(u32::try_from(4 * BLOCK - room).unwrap())
        );
        let Payload::Read(data) = done.payload else {
            panic!()
        };
        assert_eq!(data, bytes[3 * BLOCK..3 * BLOCK + room]);
    }
    pair.assert_works(link);
}

#[test]
fn a_read_without_any_room_overflows_by_all_of_it() {
    let (mut pair, _) = filled(Setup::default());
    let link = pair.quiet_session();
    let done = pair.command(link, cdb::read_10(0, 2), Payload::None);
    assert_eq!((done.status, done.residual), (0, Residual::Overflow(1024)));
    pair.assert_works(link);
}

#[test]
fn a_command_without_data_underflows_by_the_room_there_was() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    let done = pair.command(link, cdb::TEST_UNIT_READY, Payload::Read(vec![0; 100]));
    assert_eq!((done.status, done.residual), (0, Residual::Underflow(100)));
    let done = pair.command(link, cdb::read_10(0, 0), Payload::Read(vec![0; 512]));
    assert_eq!((done.status, done.residual), (0, Residual::Underflow(512)));
    pair.assert_works(link);
}

#[test]
fn parameter_data_is_cut_by_its_allocation_length_and_by_the_room() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    let whole = pair.command(link, cdb::inquiry(1000), Payload::Read(vec![0; 1000]));
    let Residual::Underflow(missing) = whole.residual else {
        panic!("{whole:?}")
    };
    let len = 1000 - missing;
    assert!(len >= 36 && whole.received == len);
    let cut = pair.command(link, cdb::inquiry(36), Payload::Read(vec![0; 36]));
    assert!(cut.is_good());
    let little_room = pair.command(link, cdb::inquiry(36), Payload::Read(vec![0; 8]));
    assert_eq!(
        (little_room.received, little_room.residual),
        (8, Residual::Overflow(28))
    );
    pair.assert_works(link);
}

#[test]
fn a_read_beyond_the_end_moves_nothing_and_says_why() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    let last = u32::try_from(BLOCKS - 1).unwrap();
    for (cdb, room) in [
        (cdb::read_10(last, 2), 1024),
        (cdb::read_10(last + 1, 1), 512),
        (cdb::read_10(u32::MAX, 1), 512),
        (cdb::read_16(u64::MAX, 1), 512),
        (cdb::read_16(u64::MAX, 2), 1024),
        (cdb::read_16(0, u32::MAX), 512),
    ] {
        let done = pair.command(link, cdb, Payload::Read(vec![0; room]));
        assert_eq!((done.status, sense(&done.sense)), (2, (5, 0x21, 0)));
        assert_eq!(
            done.residual,
            Residual::Underflow(u32::try_from(room).unwrap())
        );
    }
    assert!(pair.disk().take_log().is_empty());
    pair.assert_works(link);
}

#[test]
fn a_block_that_cannot_be_read_is_named() {
    let (mut pair, _) = filled(Setup::default());
    let link = pair.quiet_session();
    pair.disk().fail(5, medium_error(5));
    let done = pair.command(
        link,
        cdb::read_10(0, 16),
        Payload::Read(vec![0; 16 * BLOCK]),
    );
    let (key, code, _) = sense(&done.sense);
    assert_eq!((done.status, key, code), (2, 3, 0x11));
    assert_eq!(done.sense[0] & 0x80, 0x80, "the information field is valid");
    assert_eq!(done.sense[3..7], 5u32.to_be_bytes());
    pair.assert_well(link);
    assert_eq!(pair.read(link, 6, 1).len(), BLOCK);
}

#[test]
fn a_lun_that_is_not_there_answers_what_it_must() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    let done = pair.command_on(link, 9, cdb::read_10(0, 1), Payload::Read(vec![0; 512]));
    assert_eq!((done.status, sense(&done.sense)), (2, (5, 0x25, 0)));
    let done = pair.command_on(link, 9, cdb::inquiry(36), Payload::Read(vec![0; 36]));
    assert_eq!(done.status, 0);
    let Payload::Read(data) = done.payload else {
        panic!()
    };
    assert_eq!(data[0], 0x7f, "peripheral qualifier 3, type 1Fh");
    let done = pair.command_on(link, 9, cdb::report_luns(64), Payload::Read(vec![0; 64]));
    assert_eq!(done.status, 0);
    pair.assert_works(link);
}

#[test]
fn an_unknown_operation_code_is_an_illegal_request() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    let mut unknown = cdb::TEST_UNIT_READY;
    unknown[0] = 0xff;
    for payload in [
        Payload::None,
        Payload::Read(vec![0; 512]),
        Payload::Write(vec![0; 512]),
    ] {
        let done = pair.command(link, unknown, payload);
        assert_eq!((done.status, sense(&done.sense)), (2, (5, 0x20, 0)));
    }
    pair.assert_works(link);
}

#[test]
fn reads_end_in_the_order_of_the_medium_not_of_the_commands() {
    let (mut pair, bytes) = filled(Setup {
        seed: 3,
        ..Setup::default()
    });
    let link = pair.quiet_session();
    pair.disk().set_pace(Pace::Whenever);
    let tags: Vec<_> = (0..20u32)
        .map(|n| {
            (
                n,
                pair.submit(
                    link,
                    cdb::read_10(n * 8, 8),
                    Payload::Read(vec![0; 8 * BLOCK]),
                ),
            )
        })
        .collect();
    pair.run();
    for (n, tag) in tags {
        let done = pair.done(link, tag);
        assert!(done.is_good());
        let start = n as usize * 8 * BLOCK;
        assert_eq!(
            done.payload,
            Payload::Read(bytes[start..start + 8 * BLOCK].to_vec())
        );
    }
    pair.assert_well(link);
}

#[test]
fn an_initiator_that_does_not_read_its_answers_stops_the_target_and_loses_nothing() {
    let (mut pair, bytes) = filled(Setup::default());
    let link = pair.quiet_session();
    let other = pair.quiet_session();
    pair.links[link].deaf = true;
    let mut tags = Vec::new();
    while pair.links[link].initiator.room() > 0 && tags.len() < 64 {
        let payload = Payload::Read(vec![0; 256 * BLOCK]);
        tags.push(pair.submit(link, cdb::read_10(0, 256), payload));
        pair.run();
    }
    pair.assert_works(other);
    let bytes_now = pair.read(other, 0, 256);
    pair.links[link].deaf = false;
    pair.links[link].nudge();
    pair.run();
    for tag in tags {
        let done = pair.done(link, tag);
        assert!(done.is_good());
        let Payload::Read(data) = done.payload else {
            panic!()
        };
        assert!(data == bytes_now || data == bytes[..256 * BLOCK]);
    }
    pair.assert_well(link);
}
