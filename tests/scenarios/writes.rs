//! Data-Out: immediate, unsolicited and asked for by R2T (sections 4.2.5.2, 11.7, 11.8, 13.10 to 13.17).

use ringtgt::initiator::{Config, Event, Payload, Residual};
use ringtgt::pdu::bhs::{NO_TAG, R2tBhs};
use ringtgt::pdu::code::Opcode;
use ringtgt::pdu::frame::header;

use crate::common::cdb;
use crate::common::disk::Pace;
use crate::common::pair::{BLOCK, BLOCKS, INITIATOR, Pair, Segments, Setup, TARGET};
use crate::common::raw;

fn config(initial_r2t: bool, immediate_data: bool) -> Config {
    let mut config = Config::normal(INITIATOR, TARGET);
    config.offers.initial_r2t = initial_r2t;
    config.offers.immediate_data = immediate_data;
    config
}

fn logged_in(pair: &mut Pair, config: Config) -> usize {
    let link = pair.login(config);
    pair.quiet(link);
    pair.disk().take_log();
    link
}

/// The medium holds `data` at `lba`, and zeros elsewhere.
#[track_caller]
fn assert_only(pair: &Pair, lba: usize, data: &[u8]) {
    let bytes = pair.disk().bytes();
    let (start, end) = (lba * BLOCK, lba * BLOCK + data.len());
    assert!(bytes[start..end] == *data, "what was written is there");
    let rest = bytes[..start].iter().chain(&bytes[end..]);
    assert!(
        rest.copied().all(|byte| byte == 0),
        "nothing else was written"
    );
}

#[test]
fn writes_of_every_size_arrive_whatever_was_agreed_on() {
    for (initial_r2t, immediate_data) in
        [(false, false), (false, true), (true, false), (true, true)]
    {
        for (segment, max_burst, first_burst) in [
            (512, 512, 512),
            (8192, 16_384, 8192),
            (262_144, 262_144, 65_536),
            (8192, 1 << 20, 4096),
        ] {
            let mut pair = Pair::with(Setup {
                segments: Segments::Random,
                ..Setup::default()
            });
            pair.limits.offer.max_recv_data_segment_length = segment;
            let mut config = config(initial_r2t, immediate_data);
            config.offers.max_burst_length = max_burst;
            config.offers.first_burst_length = first_burst;
            let link = logged_in(&mut pair, config);
            let mut model = pair.disk().bytes();
            for blocks in [1u16, 2, 8, 127, 128, 129, 700] {
                let lba = pair.random.below(BLOCKS - u64::from(blocks));
                let data = pair.random.bytes(usize::from(blocks) * BLOCK);
                pair.write(link, u32::try_from(lba).unwrap(), &data);
                let start = usize::try_from(lba).unwrap() * BLOCK;
                model[start..start + data.len()].copy_from_slice(&data);
            }
            assert!(
                pair.disk().bytes() == model,
                "{initial_r2t} {immediate_data} {segment} {max_burst}"
            );
            pair.assert_well(link);
        }
    }
}

#[test]
fn as_many_r2ts_are_open_as_was_agreed_on_and_not_one_more() {
    for most in [1u16, 2, 4, 8] {
        let mut pair = Pair::new();
        let mut config = config(true, false);
        config.answer_r2t = false;
        config.offers.max_outstanding_r2t = most;
        config.offers.max_burst_length = 4096;
        config.offers.first_burst_length = 4096;
        let link = logged_in(&mut pair, config);
        let data = pair.random.bytes(64 * BLOCK);
        let tag = pair.submit(link, cdb::write_10(0, 64), Payload::Write(data.clone()));
        let mut expected = 0;
        while expected < 32_768 {
            pair.run();
            let mut open = Vec::new();
            while let Some(Event::R2t(r2t)) = pair.event(link) {
                open.push(r2t);
            }
            let room = usize::from(most).min((32_768 - expected as usize).div_ceil(4096));
            assert!(
                (1..=room).contains(&open.len()),
                "{} of {room} R2Ts",
                open.len()
            );
            if most > 1 && room > 1 {
                assert!(open.len() > 1, "several R2Ts were agreed on");
            }
            for r2t in open {
                assert_eq!(r2t.offset, expected, "sequences are in order");
                assert!(r2t.len <= 4096);
                expected += r2t.len;
                pair.links[link].initiator.answer_r2t(r2t);
            }
        }
        pair.run();
        assert!(pair.done(link, tag).is_good());
        assert_only(&pair, 0, &data);
        pair.assert_well(link);
    }
}

#[test]
fn a_write_that_is_longer_than_expected_writes_what_came_and_no_more() {
    let mut pair = Pair::new();
    let link = logged_in(&mut pair, config(false, true));
    let data = pair.random.bytes(2 * BLOCK);
    let done = pair.command(link, cdb::write_10(4, 5), Payload::Write(data.clone()));
    // Whether the part that came is written is the target's choice; beyond it nothing is.
    assert_eq!(done.residual, Residual::Overflow(3 * 512));
    let bytes = pair.disk().bytes();
    let written = &bytes[4 * BLOCK..6 * BLOCK];
    assert!(written == data || (done.status != 0 && written.iter().all(|&byte| byte == 0)));
    assert!(bytes[6 * BLOCK..].iter().all(|&byte| byte == 0));
    pair.assert_works(link);
}

#[test]
fn a_write_that_is_shorter_than_expected_leaves_the_next_block_alone() {
    for (initial_r2t, immediate_data) in
        [(false, true), (false, false), (true, true), (true, false)]
    {
        for extra in [1usize, 512, 513, 300_000] {
            let mut pair = Pair::new();
            let link = logged_in(&mut pair, config(initial_r2t, immediate_data));
            let data = pair.random.bytes(2 * BLOCK + extra);
            let done = pair.command(link, cdb::write_10(4, 2), Payload::Write(data.clone()));
            assert_eq!(done.status, 0, "{initial_r2t} {immediate_data} {extra}");
            assert_eq!(
                done.residual,
                Residual::Underflow(u32::try_from(extra).unwrap())
            );
            assert_only(&pair, 4, &data[..2 * BLOCK]);
            pair.assert_works(link);
        }
    }
}

#[test]
fn a_write_that_has_no_whole_number_of_blocks_writes_only_whole_blocks_of_its_own() {
    let mut pair = Pair::new();
    let link = logged_in(&mut pair, config(false, true));
    let data = pair.random.bytes(BLOCK + 100);
    let done = pair.command(link, cdb::write_10(4, 2), Payload::Write(data.clone()));
    assert_eq!(done.residual, Residual::Overflow(412));
    let bytes = pair.disk().bytes();
    assert!(bytes[6 * BLOCK..].iter().all(|&byte| byte == 0));
    assert!(bytes[..4 * BLOCK].iter().all(|&byte| byte == 0));
    pair.assert_works(link);
}

#[test]
fn a_write_beyond_the_end_writes_nothing_and_its_data_is_swallowed() {
    for (initial_r2t, immediate_data) in [(false, true), (false, false), (true, false)] {
        let mut pair = Pair::new();
        let link = logged_in(&mut pair, config(initial_r2t, immediate_data));
        let last = u32::try_from(BLOCKS - 1).unwrap();
        for (lba, blocks) in [(last, 2u16), (last + 1, 1), (last, 500)] {
            let data = vec![0xaa; usize::from(blocks) * BLOCK];
            let done = pair.command(link, cdb::write_10(lba, blocks), Payload::Write(data));
            assert_eq!(
                (done.status, done.sense[2] & 0xf, done.sense[12]),
                (2, 5, 0x21)
            );
        }
        assert!(pair.disk().bytes().iter().all(|&byte| byte == 0));
        pair.assert_works(link);
    }
}

/// Starts a write of `blocks` blocks by hand and gives the R2Ts that come of it.
fn start_write(pair: &mut Pair, link: usize, blocks: u16) -> Vec<R2tBhs> {
    let write = raw::command(
        raw::TAG,
        0xa0,
        u32::from(blocks) * 512,
        cdb::write_10(0, blocks),
    );
    raw::send(pair, link, &write, &[]);
    pair.run();
    r2ts(pair, link)
}

fn r2ts(pair: &mut Pair, link: usize) -> Vec<R2tBhs> {
    let answers = raw::answers(pair, link);
    let r2ts = answers
        .iter()
        .filter(|(bhs, _)| Opcode(bhs[0]) == Opcode::R2T);
    r2ts.map(|(bhs, _)| *header::<R2tBhs>(bhs)).collect()
}

#[test]
fn data_out_of_one_burst_may_come_in_many_pieces() {
    let mut pair = Pair::new();
    let link = logged_in(&mut pair, config(true, false));
    let r2t = start_write(&mut pair, link, 4)[0];
    assert_eq!(r2t.desired_data_transfer_length.get(), 2048);
    let ttt = r2t.target_transfer_tag.get();
    let data = pair.random.bytes(2048);
    let cuts = [0usize, 4, 512, 1000, 2048];
    for (n, cut) in (0u32..).zip(cuts.windows(2)) {
        let last = cut[1] == 2048;
        let out = raw::data_out(raw::TAG, ttt, n, u32::try_from(cut[0]).unwrap(), last);
        raw::send(&mut pair, link, &out, &data[cut[0]..cut[1]]);
        pair.run();
    }
    assert_eq!(raw::status(&mut pair, link, raw::TAG).0, 0);
    assert_only(&pair, 0, &data);
}

#[test]
fn a_data_out_that_is_a_little_longer_than_the_receive_ring_arrives() {
    // The ring is full when less than a direct payload's worth is missing.
    let ring =
        u16::try_from(ringtgt::session::SessionLimits::default().receive_ring / BLOCK).unwrap();
    for blocks in [
        ring - 1,
        ring,
        ring + 1,
        ring + 16,
        ring + 31,
        ring + 32,
        ring + 33,
    ] {
        let mut pair = Pair::new();
        let link = logged_in(&mut pair, config(true, false));
        let data = pair.random.bytes(usize::from(blocks) * BLOCK);
        pair.write(link, 0, &data);
        assert_only(&pair, 0, &data);
        pair.assert_well(link);
    }
}

#[test]
fn data_out_that_breaks_its_burst_never_leaves_the_commands_blocks() {
    // (offset, length, DataSN, last)
    let wrong: [&[(u32, usize, u32, bool)]; 7] = [
        &[(0, 2560, 0, true)],                       // longer than the burst
        &[(512, 2048, 0, true)],                     // reaches beyond it
        &[(1 << 31, 512, 0, true)],                  // far beyond
        &[(u32::MAX - 3, 8, 0, true)],               // around
        &[(0, 512, 5, true)],                        // DataSN out of order, and short
        &[(1024, 512, 0, false), (0, 512, 1, true)], // backwards
        &[(0, 1024, 0, true)],                       // F before the burst is full
    ];
    for pdus in wrong {
        let mut pair = Pair::new();
        let link = logged_in(&mut pair, config(true, false));
        let other = pair.quiet_session();
        let ttt = start_write(&mut pair, link, 4)[0].target_transfer_tag.get();
        for &(offset, len, data_sn, last) in pdus {
            let out = raw::data_out(raw::TAG, ttt, data_sn, offset, last);
            raw::send(&mut pair, link, &out, &vec![0xaa; len]);
        }
        pair.run();
        let bytes = pair.disk().bytes();
        assert!(bytes[4 * BLOCK..].iter().all(|&byte| byte == 0), "{pdus:?}");
        let ended = raw::answers(&mut pair, link)
            .iter()
            .any(|(bhs, _)| Opcode(bhs[0]) == Opcode::SCSI_RESPONSE && bhs[3] != 0);
        let rejected = !raw::rejects(&mut pair, link).is_empty();
        let closed = pair.links[link].closed.is_some();
        assert!(ended || rejected || closed, "{pdus:?} went unnoticed");
        pair.assert_works(other);
        if !closed && ended {
            pair.assert_works(link);
        }
    }
}

#[test]
fn unsolicited_data_that_was_not_agreed_on_is_an_error_of_that_command_alone() {
    let mut pair = Pair::new();
    let link = logged_in(&mut pair, config(true, false));
    let other = pair.quiet_session();
    // Immediate data although ImmediateData=No.
    let write = raw::command(raw::TAG, 0xa0, 1024, cdb::write_10(0, 2));
    raw::send(&mut pair, link, &write, &[0xaa; 512]);
    pair.run();
    let closed = pair.links[link].closed.is_some();
    let rejected = !raw::rejects(&mut pair, link).is_empty();
    let ended = raw::answers(&mut pair, link)
        .iter()
        .any(|(bhs, _)| Opcode(bhs[0]) == Opcode::SCSI_RESPONSE && bhs[3] != 0);
    assert!(closed || rejected || ended);
    assert!(
        pair.disk().bytes()[2 * BLOCK..]
            .iter()
            .all(|&byte| byte == 0)
    );
    pair.assert_works(other);
}

#[test]
fn more_unsolicited_data_than_first_burst_length_is_noticed() {
    let mut pair = Pair::new();
    let mut config = config(false, true);
    config.offers.first_burst_length = 1024;
    let link = logged_in(&mut pair, config);
    let other = pair.quiet_session();
    let mut write = raw::command(raw::TAG, 0x20, 4096, cdb::write_10(0, 8));
    write.flags &= !0x80;
    raw::send(&mut pair, link, &write, &[1; 1024]);
    raw::send(
        &mut pair,
        link,
        &raw::data_out(raw::TAG, NO_TAG, 0, 1024, true),
        &[2; 512],
    );
    pair.run();
    let closed = pair.links[link].closed.is_some();
    let rejected = !raw::rejects(&mut pair, link).is_empty();
    let ended = raw::answers(&mut pair, link)
        .iter()
        .any(|(bhs, _)| Opcode(bhs[0]) == Opcode::SCSI_RESPONSE && bhs[3] != 0);
    assert!(closed || rejected || ended);
    assert!(
        pair.disk().bytes()[8 * BLOCK..]
            .iter()
            .all(|&byte| byte == 0)
    );
    pair.assert_works(other);
}

#[test]
fn data_out_for_nobody_harms_nobody() {
    let mut pair = Pair::new();
    let link = logged_in(&mut pair, config(false, true));
    for (tag, transfer) in [(raw::TAG, NO_TAG), (raw::TAG, 5), (NO_TAG, NO_TAG), (0, 0)] {
        raw::send(
            &mut pair,
            link,
            &raw::data_out(tag, transfer, 0, 0, true),
            &[0xaa; 4096],
        );
    }
    raw::send(
        &mut pair,
        link,
        &raw::data_out(raw::TAG, 9, 0, 0, true),
        &vec![0xaa; 200_000],
    );
    pair.run();
    assert!(pair.disk().bytes().iter().all(|&byte| byte == 0));
    raw::rejects(&mut pair, link);
    if pair.links[link].closed.is_none() {
        pair.assert_works(link);
    }
}

#[test]
fn data_that_comes_after_the_end_of_its_write_is_swallowed() {
    let mut pair = Pair::new();
    let link = logged_in(&mut pair, config(false, false));
    // The LBA is out of range: status may come before the unsolicited data does.
    let mut write = raw::command(raw::TAG, 0x20, 65_536, cdb::write_10(u32::MAX, 128));
    write.flags &= !0x80;
    raw::send(&mut pair, link, &write, &[]);
    pair.run();
    for n in 0..8u32 {
        let out = raw::data_out(raw::TAG, NO_TAG, n, n * 8192, n == 7);
        raw::send(&mut pair, link, &out, &[0xaa; 8192]);
        pair.run();
    }
    assert_eq!(raw::status(&mut pair, link, raw::TAG).0, 2);
    assert_eq!(raw::rejects(&mut pair, link), []);
    pair.assert_works(link);
}

#[test]
fn fua_and_synchronize_cache_reach_the_medium() {
    use ringtgt::backend::BlockIo;
    let mut pair = Pair::new();
    let link = logged_in(&mut pair, config(false, true));
    let done = pair.command(
        link,
        cdb::write_10_fua(0, 1),
        Payload::Write(vec![1; BLOCK]),
    );
    assert!(done.is_good());
    assert!(matches!(
        pair.disk().take_log()[..],
        [BlockIo::Write { fua: true, .. }]
    ));
    assert!(
        pair.command(link, cdb::synchronize_cache_10(), Payload::None)
            .is_good()
    );
    assert!(matches!(pair.disk().take_log()[..], [BlockIo::Flush]));
}

#[test]
fn status_waits_for_the_medium() {
    let mut pair = Pair::new();
    let link = logged_in(&mut pair, config(false, true));
    pair.disk().set_pace(Pace::Held);
    let tag = pair.submit(link, cdb::write_10(0, 1), Payload::Write(vec![1; BLOCK]));
    pair.run();
    assert!(pair.links[link].events.is_empty());
    pair.disk().release(1);
    pair.run();
    assert!(pair.done(link, tag).is_good());
}

#[test]
fn a_backend_that_is_full_is_tried_again() {
    let mut pair = Pair::new();
    let link = logged_in(&mut pair, config(false, true));
    pair.disk().set_depth(2);
    pair.disk().set_pace(Pace::Later);
    let tags: Vec<_> = (0..16u32)
        .map(|n| pair.submit(link, cdb::write_10(n, 1), Payload::Write(vec![7; BLOCK])))
        .collect();
    pair.run();
    for tag in tags {
        assert!(pair.done(link, tag).is_good());
    }
    assert_only(&pair, 0, &[7; 16 * BLOCK]);
}

#[test]
fn little_memory_slows_writes_and_reads_down_but_ends_none() {
    let mut pair = Pair::with(Setup {
        pool_bytes: 3 << 20,
        segments: Segments::Random,
        ..Setup::default()
    });
    let links = [pair.quiet_session(), pair.quiet_session()];
    pair.disk().set_pace(Pace::Whenever);
    let mut tags = Vec::new();
    for n in 0..24u32 {
        for (place, &link) in (0u32..).zip(&links) {
            if pair.links[link].initiator.room() > 0 {
                let lba = (n * 2 + place) * 128;
                let data = vec![u8::try_from(n * 2 + place + 1).unwrap(); 128 * BLOCK];
                tags.push((
                    link,
                    lba,
                    pair.submit(link, cdb::write_10(lba, 128), Payload::Write(data)),
                ));
            } else {
                pair.run();
            }
        }
    }
    pair.run();
    for (link, lba, tag) in tags {
        let done = pair.done(link, tag);
        assert!(done.is_good(), "{lba}: {done:?}");
        let data = pair.read(link, lba, 128);
        assert!(data.iter().all(|&byte| u32::from(byte) == lba / 128 + 1));
    }
    pair.assert_well(links[0]);
    pair.assert_well(links[1]);
}
