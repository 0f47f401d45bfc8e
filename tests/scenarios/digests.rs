//! HeaderDigest and DataDigest (sections 7.7, 7.8 and 13.1).

use ringtgt::initiator::{Config, DigestOffer, Event, Payload};
use ringtgt::pdu::code::RejectReason;
use ringtgt::pdu::frame::FrameError;
use ringtgt::session::ConnectionError;

use crate::common::cdb;
use crate::common::pair::{BLOCK, Closed, INITIATOR, Pair, Segments, Setup, TARGET};
use crate::common::raw;

fn config(header: bool, data: bool) -> Config {
    let offer = |on| {
        if on {
            DigestOffer::Required
        } else {
            DigestOffer::Off
        }
    };
    let mut config = Config::normal(INITIATOR, TARGET);
    config.offers.header_digest = offer(header);
    config.offers.data_digest = offer(data);
    config
}

#[test]
fn with_every_mixture_of_digests_data_arrives() {
    for (header, data) in [(false, true), (true, false), (true, true)] {
        for (initial_r2t, immediate) in [(false, true), (true, false)] {
            for segments in [Segments::Whole, Segments::Random, Segments::Of(53)] {
                let mut pair = Pair::with(Setup {
                    segments,
                    ..Setup::default()
                });
                let mut config = config(header, data);
                config.offers.initial_r2t = initial_r2t;
                config.offers.immediate_data = immediate;
                let link = pair.login(config);
                pair.quiet(link);
                let bytes = pair.random.bytes(300 * BLOCK);
                pair.write(link, 100, &bytes);
                assert!(pair.read(link, 100, 300) == bytes);
                pair.links[link].initiator.nop(1, &bytes[..77]).unwrap();
                pair.run();
                assert!(matches!(pair.event(link), Some(Event::Nop { .. })));
                let done = pair.command(link, [0xff; 16], Payload::None);
                assert_eq!(done.status, 2, "sense data has a digest too");
                pair.assert_well(link);
            }
        }
    }
}

#[test]
fn a_list_is_settled_by_its_order() {
    for (offer, on) in [
        (DigestOffer::Preferred, true),
        (DigestOffer::Tolerated, false),
    ] {
        let mut pair = Pair::new();
        let mut config = config(false, false);
        config.offers.header_digest = offer;
        config.offers.data_digest = offer;
        let link = pair.login(config);
        let negotiated = pair.links[link].initiator.negotiated().unwrap();
        assert_eq!((negotiated.header_digest, negotiated.data_digest), (on, on));
    }
}

#[test]
fn padding_and_digest_are_found_wherever_the_receive_ring_ends() {
    let ring = ringtgt::session::SessionLimits::default().receive_ring;
    for (header, data) in [(false, true), (true, true), (false, false), (true, false)] {
        for len in (ring - 64..ring + 8).chain([ring + 16_000, ring + 16_384, ring + 16_500]) {
            let mut pair = Pair::new();
            let link = pair.login(config(header, data));
            let mut nop = raw::nop_out(raw::TAG);
            nop.opcode |= 0x40;
            raw::send(&mut pair, link, &nop, &vec![7; len]);
            pair.run();
            pair.assert_well(link);
            pair.links[link].initiator.nop(5, b"after").unwrap();
            pair.run();
            assert!(
                matches!(pair.links[link].events.back(), Some(Event::Nop { cookie: 5, data }) if data == b"after"),
                "{header} {data} {len}"
            );
            assert_eq!(raw::rejects(&mut pair, link), [], "{header} {data} {len}");
        }
    }
}

/// Bytes of a NOP-Out with `data`, with the digests in force.
fn encoded(pair: &mut Pair, link: usize, bhs: [u8; 48], data: &[u8]) -> Vec<u8> {
    let initiator = &mut pair.links[link].initiator;
    assert!(initiator.poll_transmit().is_empty());
    initiator.send_pdu(bhs, data);
    let bytes = initiator.poll_transmit().to_vec();
    initiator.transmitted(bytes.len());
    bytes
}

#[test]
fn a_damaged_header_ends_the_connection() {
    for bit in [0usize, 8, 40, 48 * 8 - 1, 49 * 8] {
        let mut pair = Pair::new();
        let link = pair.login(config(true, false));
        pair.quiet(link);
        let mut nop = raw::nop_out(raw::TAG);
        nop.opcode |= 0x40;
        let mut bytes = encoded(&mut pair, link, raw::bytes(&nop), b"");
        bytes[bit / 8] ^= 1 << (bit % 8);
        pair.links[link].initiator.send_raw(&bytes);
        pair.run();
        let closed = pair.links[link].closed.clone();
        let digest = Closed::Connection(ConnectionError::Frame(FrameError::HeaderDigest));
        // A damaged TotalAHSLength is noticed before the digest can be found.
        assert!(closed == Some(digest) || bit == 40, "{bit}: {closed:?}");
    }
}

#[test]
fn damaged_data_is_rejected_and_the_connection_goes_on() {
    for immediate in [true, false] {
        let mut pair = Pair::new();
        let link = pair.login(config(false, true));
        pair.quiet(link);
        let mut nop = raw::nop_out(raw::TAG);
        if immediate {
            nop.opcode |= 0x40;
        } else {
            let cmd_sn = pair.links[link].initiator.cmd_sn();
            nop.cmd_sn = cmd_sn.0.into();
            pair.links[link].initiator.set_cmd_sn(cmd_sn.next());
        }
        let mut bytes = encoded(&mut pair, link, raw::bytes(&nop), &[1; 64]);
        bytes[60] ^= 1;
        pair.links[link].initiator.send_raw(&bytes);
        pair.run();
        assert_eq!(
            raw::rejects(&mut pair, link),
            [RejectReason::DATA_DIGEST_ERROR]
        );
        // The rejected number was not used up (section 7.2): the initiator sends it again.
        if !immediate {
            let (expected, _) = pair.links[link].initiator.window();
            pair.links[link].initiator.set_cmd_sn(expected);
        }
        pair.assert_works(link);
    }
}

#[test]
fn a_write_whose_immediate_data_was_damaged_writes_nothing() {
    let mut pair = Pair::new();
    let link = pair.login(config(false, true));
    pair.quiet(link);
    let cmd_sn = pair.links[link].initiator.cmd_sn();
    let mut write = raw::command(raw::TAG, 0xa0, 512, cdb::write_10(0, 1));
    write.cmd_sn = cmd_sn.0.into();
    let mut bytes = encoded(&mut pair, link, raw::bytes(&write), &[1; BLOCK]);
    bytes[100] ^= 1;
    pair.links[link].initiator.send_raw(&bytes);
    pair.run();
    assert_eq!(
        raw::rejects(&mut pair, link),
        [RejectReason::DATA_DIGEST_ERROR]
    );
    assert!(pair.disk().bytes().iter().all(|&byte| byte == 0));
    let (expected, _) = pair.links[link].initiator.window();
    pair.links[link].initiator.set_cmd_sn(expected);
    pair.assert_works(link);
}

#[test]
fn a_write_whose_data_out_was_damaged_does_not_end_well() {
    for len in [512usize, 64 * 1024] {
        let mut pair = Pair::new();
        let mut config = config(false, true);
        config.offers.initial_r2t = true;
        config.offers.immediate_data = false;
        let link = pair.login(config);
        let other = pair.quiet_session();
        pair.quiet(link);
        let blocks = u16::try_from(len / BLOCK).unwrap();
        let write = raw::command(
            raw::TAG,
            0xa0,
            u32::try_from(len).unwrap(),
            cdb::write_10(0, blocks),
        );
        raw::send(&mut pair, link, &write, &[]);
        pair.run();
        let answers = raw::answers(&mut pair, link);
        let r2t: &ringtgt::pdu::bhs::R2tBhs = ringtgt::pdu::frame::header(&answers[0].0);
        let out = raw::data_out(raw::TAG, r2t.target_transfer_tag.get(), 0, 0, true);
        let mut bytes = encoded(&mut pair, link, raw::bytes(&out), &vec![1; len]);
        bytes[99] ^= 0x80;
        pair.links[link].initiator.send_raw(&bytes);
        pair.run();
        let rejected = raw::rejects(&mut pair, link) == [RejectReason::DATA_DIGEST_ERROR];
        let closed = pair.links[link].closed.is_some();
        assert!(rejected || closed);
        let good = raw::answers(&mut pair, link)
            .iter()
            .any(|(bhs, _)| bhs[0] == 0x21 && bhs[3] == 0);
        assert!(!good, "damaged data was answered with GOOD");
        pair.assert_works(other);
    }
}
