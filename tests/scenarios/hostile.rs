//! Bytes that no initiator sends: at worst that connection ends, and the others never notice.

use ringtgt::initiator::{Config, DigestOffer};
use ringtgt::pdu::bhs::R2tBhs;
use ringtgt::pdu::code::Opcode;
use ringtgt::pdu::frame::{FrameError, header};
use ringtgt::session::ConnectionError;
use ringtgt::units::SerialNumber;

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

/// A number below `bound`.
fn below(random: &mut Random, bound: u64) -> u32 {
    u32::try_from(random.below(bound)).unwrap()
}

/// What a SCSI Command has that others have not.
fn command(random: &mut Random, bhs: &mut [u8; 48]) {
    let most = if random.chance(4) { 600 } else { 8 };
    let blocks = 1 + below(random, most);
    let (lba, count) = (below(random, 100), u16::try_from(blocks).unwrap());
    let (cdb, direction) = match random.below(6) {
        0 => (cdb::read_10(lba, count), 0xc0),
        1..=3 => (cdb::write_10(lba, count), 0xa0),
        4 => (cdb::verify_10_bytchk(lba, count), 0xa0),
        _ => (random.bytes(16).try_into().unwrap(), bhs[1]),
    };
    if !random.chance(5) {
        bhs[1] = direction | 1;
    }
    let expected = if random.chance(5) {
        below(random, 400_000)
    } else {
        blocks * 512
    };
    bhs[20..24].copy_from_slice(&expected.to_be_bytes());
    bhs[32..].copy_from_slice(&cdb);
}

/// One PDU that is nearly right: its header and its data. `r2ts` are the transfers that the target asked for.
fn nearly(random: &mut Random, expected: SerialNumber, r2ts: &[R2tBhs]) -> ([u8; 48], Vec<u8>) {
    let opcodes = [0x00u8, 1, 1, 1, 1, 2, 3, 4, 5, 5, 5, 5, 6, 0x10, 0x1f];
    let mut bhs = [0u8; 48];
    bhs[0] = opcodes[random.index(opcodes.len())] | if random.chance(4) { 0x40 } else { 0 };
    bhs[1] = random.bytes(1)[0];
    let opcode = bhs[0] & 0x3f;
    if opcode == 2 && bhs[1] & 0x7f == 7 {
        // TARGET COLD RESET would rightly end the other sessions.
        bhs[1] ^= 1;
    }
    if opcode == 6 && !random.chance(10) {
        bhs[0] = 0;
    }
    let mut len = match random.below(10) {
        0..=4 => 0,
        5..=8 => random.index(2000),
        _ => random.index(200_000),
    };
    bhs[9] = u8::try_from(random.below(3)).unwrap();
    let tag = 0x8000_0000 | below(random, 6);
    bhs[16..20].copy_from_slice(&tag.to_be_bytes());
    let transfer = if random.chance(2) {
        u32::MAX
    } else {
        below(random, 8)
    };
    bhs[20..24].copy_from_slice(&transfer.to_be_bytes());
    let cmd_sn = expected.plus(if random.chance(3) {
        below(random, 4)
    } else {
        0
    });
    bhs[24..28].copy_from_slice(&cmd_sn.0.to_be_bytes());
    if opcode == 1 {
        command(random, &mut bhs);
    }
    if opcode == 5 {
        bhs[40..44].copy_from_slice(&below(random, 4096).to_be_bytes());
        if !r2ts.is_empty() && !random.chance(4) {
            let r2t = r2ts[random.index(r2ts.len())];
            let wanted = r2t.desired_data_transfer_length.get();
            bhs[16..20].copy_from_slice(&r2t.initiator_task_tag.get().to_be_bytes());
            bhs[20..24].copy_from_slice(&r2t.target_transfer_tag.get().to_be_bytes());
            bhs[40..44].copy_from_slice(&r2t.buffer_offset.get().to_be_bytes());
            len = usize::try_from(if random.chance(4) {
                below(random, 300_000)
            } else {
                wanted
            })
            .unwrap();
            bhs[1] = if random.chance(4) { 0 } else { 0x80 };
        }
    }
    if random.chance(12) {
        let place = 2 + random.index(46);
        // Not the lengths: they are for the sender to set.
        if !(4..8).contains(&place) {
            bhs[place] = random.bytes(1)[0];
        }
    }
    (bhs, random.bytes(len))
}

/// One hostile connection, until it is closed or has said enough.
fn misbehave(pair: &mut Pair, random: &mut Random) {
    let mut config = Config::normal(INITIATOR, TARGET);
    config.strict = false;
    config.isid[5] = 0x55;
    config.offers.initial_r2t = random.chance(2);
    config.offers.immediate_data = random.chance(2);
    config.offers.max_burst_length = [4096, 65_536, 1 << 20][random.index(3)];
    config.offers.first_burst_length = 4096;
    if random.chance(2) {
        config.offers.header_digest = DigestOffer::Required;
        config.offers.data_digest = DigestOffer::Required;
    }
    let link = pair.login(config);
    let mut r2ts: Vec<R2tBhs> = Vec::new();
    for _ in 0..80 {
        let (expected, _) = pair.links[link].initiator.window();
        let (bhs, data) = nearly(random, expected, &r2ts);
        pair.links[link].initiator.send_pdu(bhs, &data);
        if random.chance(2) {
            pair.run();
        }
        for (bhs, _) in raw::answers(pair, link) {
            if Opcode(bhs[0]) == Opcode::R2T {
                r2ts.push(*header(&bhs));
            }
        }
        if pair.links[link].closed.is_some() {
            break;
        }
    }
    pair.run();
}

fn harass(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let mut random = Random::new(seed + 1000);
        let mut pair = Pair::with(Setup {
            shards: 1 + u16::try_from(seed % 2).unwrap(),
            seed: seed + 1,
            segments: if seed % 3 == 0 {
                Segments::Random
            } else {
                Segments::Whole
            },
            pool_bytes: [3 << 20, 16 << 20][random.index(2)],
            ..Setup::default()
        });
        let pace = [Pace::AtOnce, Pace::Later, Pace::Whenever][random.index(3)];
        pair.disk().set_pace(pace);
        let witness = pair.quiet_session();
        for _ in 0..4 {
            misbehave(&mut pair, &mut random);
            pair.quiet(witness);
            pair.assert_works(witness);
        }
        pair.assert_all_comes_back();
    }
}

#[test]
fn nearly_right_pdus_harm_neither_the_target_nor_another_session() {
    harass(0..16);
}

/// More of the same; `cargo test --test scenarios -- --ignored`.
#[test]
#[ignore = "takes minutes"]
fn nearly_right_pdus_harm_nobody_for_many_seeds() {
    harass(100..600);
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
