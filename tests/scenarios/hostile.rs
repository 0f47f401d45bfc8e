//! Bytes that no initiator sends: at worst that connection ends, and the others never notice.

use ringtgt::initiator::{Config, DigestOffer};
use ringtgt::pdu::frame::FrameError;
use ringtgt::session::ConnectionError;

use crate::common::cdb;
use crate::common::disk::Pace;
use crate::common::pair::{BLOCK, Closed, INITIATOR, Pair, Segments, Setup, TARGET};
use crate::common::random::Random;
use crate::common::raw;

#[test]
fn a_data_segment_longer_than_declared_ends_the_connection_before_it_comes() {
    for len in [262_145u32, 0xff_ffff] {
        let mut pair = Pair::new();
        let link = pair.quiet_session();
        let mut nop = raw::bytes(&raw::nop_out(raw::TAG));
        nop[5..8].copy_from_slice(&len.to_be_bytes()[1..]);
        pair.links[link].initiator.send_raw(&nop);
        pair.run();
        let why = FrameError::DataSegmentTooLong {
            bytes: len,
            max: 262_144,
        };
        pair.assert_closed(link, Closed::Connection(ConnectionError::Frame(why)));
        assert_eq!(pair.open_sessions(), 0);
    }
}

/// A stream of PDUs that are nearly right.
fn nearly(random: &mut Random, pair: &Pair, link: usize) -> Vec<u8> {
    let initiator = &pair.links[link].initiator;
    let opcodes = [
        0x00u8, 0x01, 0x01, 0x01, 0x02, 0x03, 0x04, 0x05, 0x05, 0x06, 0x10, 0x1f,
    ];
    let mut bhs = [0u8; 48];
    bhs[0] = opcodes[random.index(opcodes.len())] | if random.chance(3) { 0x40 } else { 0 };
    bhs[1] = random.bytes(1)[0];
    if bhs[0] & 0x3f == 2 && bhs[1] & 0x7f == 7 {
        // TARGET COLD RESET would rightly end the other sessions.
        bhs[1] ^= 1;
    }
    let len = if random.chance(2) {
        0
    } else {
        random.index(2000)
    };
    bhs[5..8].copy_from_slice(&u32::try_from(len).unwrap().to_be_bytes()[1..]);
    bhs[9] = u8::try_from(random.below(3)).unwrap();
    let tag = 0x8000_0000 | u32::try_from(random.below(4)).unwrap();
    bhs[16..20].copy_from_slice(&tag.to_be_bytes());
    let transfer = if random.chance(2) {
        u32::MAX
    } else {
        u32::try_from(random.below(8)).unwrap()
    };
    bhs[20..24].copy_from_slice(&transfer.to_be_bytes());
    let cmd_sn = initiator
        .cmd_sn()
        .plus(u32::try_from(random.below(4)).unwrap());
    bhs[24..28].copy_from_slice(&cmd_sn.0.to_be_bytes());
    bhs[28..32].copy_from_slice(&initiator.exp_stat_sn().0.to_be_bytes());
    let cdb = match random.below(4) {
        0 => cdb::read_10(u32::try_from(random.below(100)).unwrap(), 4),
        1 => cdb::write_10(u32::try_from(random.below(100)).unwrap(), 4),
        2 => cdb::inquiry(96),
        _ => random.bytes(16).try_into().unwrap(),
    };
    if bhs[0] & 0x3f == 1 {
        bhs[20..24].copy_from_slice(&u32::try_from(random.below(8192)).unwrap().to_be_bytes());
        bhs[32..].copy_from_slice(&cdb);
    }
    if bhs[0] & 0x3f == 5 {
        bhs[40..44].copy_from_slice(&u32::try_from(random.below(4096)).unwrap().to_be_bytes());
    }
    if random.chance(8) {
        let place = 2 + random.index(46);
        bhs[place] = random.bytes(1)[0];
    }
    let mut pdu = bhs.to_vec();
    pdu.extend(random.bytes(len.next_multiple_of(4)));
    pdu
}

#[test]
fn nearly_right_pdus_harm_neither_the_target_nor_another_session() {
    for seed in 0..24 {
        let mut pair = Pair::with(Setup {
            shards: 2,
            seed: seed + 1,
            segments: if seed % 3 == 0 {
                Segments::Random
            } else {
                Segments::Whole
            },
            ..Setup::default()
        });
        pair.disk().set_pace(if seed % 2 == 0 {
            Pace::AtOnce
        } else {
            Pace::Whenever
        });
        let witness = pair.quiet_session();
        let mut random = Random::new(seed + 1000);
        for _ in 0..4 {
            let mut config = Config::normal(INITIATOR, TARGET);
            config.strict = false;
            config.isid[5] = 0x55;
            config.offers.initial_r2t = random.chance(2);
            config.offers.immediate_data = random.chance(2);
            let link = pair.login(config);
            for _ in 0..60 {
                let pdu = nearly(&mut random, &pair, link);
                pair.links[link].initiator.send_raw(&pdu);
                if random.chance(3) {
                    pair.run();
                }
                if pair.links[link].closed.is_some() {
                    break;
                }
            }
            pair.run();
            pair.quiet(witness);
            pair.assert_works(witness);
        }
        pair.assert_all_comes_back();
    }
}

#[test]
fn noise_in_the_full_feature_phase_ends_that_connection_at_worst() {
    for seed in 0..20 {
        let mut pair = Pair::with(Setup {
            seed: seed + 1,
            segments: Segments::Random,
            ..Setup::default()
        });
        let witness = pair.quiet_session();
        let mut config = Config::normal(INITIATOR, TARGET);
        config.strict = false;
        if seed % 2 == 0 {
            config.offers.header_digest = DigestOffer::Required;
            config.offers.data_digest = DigestOffer::Required;
        }
        let link = pair.login(config);
        let noise = Random::new(seed + 500).bytes(3000);
        pair.links[link].initiator.send_raw(&noise);
        pair.run();
        pair.quiet(witness);
        pair.assert_works(witness);
        pair.assert_all_comes_back();
    }
}

#[test]
fn noise_before_and_within_the_login_ends_that_connection() {
    for seed in 0..80u64 {
        let mut pair = Pair::with(Setup {
            seed: seed + 1,
            segments: Segments::Random,
            ..Setup::default()
        });
        let link = pair.connect(Config {
            strict: false,
            ..Config::normal(INITIATOR, TARGET)
        });
        let mut random = Random::new(seed + 1);
        let mut bytes = pair.links[link].initiator.poll_transmit().to_vec();
        pair.links[link].initiator.transmitted(bytes.len());
        for _ in 0..=random.below(4) {
            let place = random.index(bytes.len());
            bytes[place] = random.bytes(1)[0];
        }
        pair.links[link].initiator.send_raw(&bytes);
        pair.run();
        let next = pair.quiet_session();
        pair.assert_works(next);
    }
}

#[test]
fn a_connection_may_break_at_every_byte_of_its_login_and_of_a_write() {
    let whole = {
        let mut pair = Pair::new();
        let link = pair.quiet_session();
        pair.write(link, 0, &[1; 8 * BLOCK]);
        pair.links[link].sent_bytes
    };
    let mut pair = Pair::new();
    let witness = pair.quiet_session();
    for bytes in (0..whole).step_by(13) {
        let mut config = Config::normal(INITIATOR, TARGET);
        config.isid[5] = 0x55;
        let link = pair.connect(config);
        pair.links[link].breaks_after = Some(bytes);
        pair.run();
        if pair.links[link].closed.is_none() && pair.links[link].initiator.room() > 0 {
            for _ in 0..4 {
                if pair.links[link].initiator.room() > 0 {
                    let payload = ringtgt::initiator::Payload::Write(vec![1; 8 * BLOCK]);
                    pair.submit(link, cdb::write_10(0, 8), payload);
                    pair.run();
                }
            }
        }
        pair.cut(link);
        pair.run();
    }
    pair.quiet(witness);
    pair.assert_works(witness);
    assert_eq!(pair.open_sessions(), 1);
    pair.assert_all_comes_back();
}
