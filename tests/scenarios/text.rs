//! Text negotiation in the Full Feature Phase (sections 6.4, 11.10, 11.11 and appendix C).

use ringtgt::initiator::{Config, Event, discovered};
use ringtgt::pdu::bhs::{CONTINUE, FINAL, NO_TAG, TextResponseBhs};
use ringtgt::pdu::code::{Opcode, RejectReason};
use ringtgt::pdu::frame::header;

use crate::common::pair::{INITIATOR, Pair, Setup, TARGET};
use crate::common::raw;

fn ask(pair: &mut Pair, link: usize, text: &[u8]) -> Result<Vec<u8>, RejectReason> {
    pair.links[link].initiator.text(1, text).unwrap();
    pair.run();
    match pair.event(link) {
        Some(Event::Text { text, .. }) => Ok(text),
        Some(Event::Rejected { reason, .. }) => Err(reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_normal_session_may_ask_for_its_own_target_only() {
    let mut pair = Pair::new();
    let link = pair.session();
    for request in [
        "SendTargets=\0".to_owned(),
        format!("SendTargets={TARGET}\0"),
    ] {
        let text = ask(&mut pair, link, request.as_bytes()).unwrap();
        assert_eq!(discovered(&text)[0].0, TARGET);
    }
    let other = ask(
        &mut pair,
        link,
        b"SendTargets=iqn.2001-04.com.example:other\0",
    );
    assert_eq!(other, Ok(Vec::new()));
    assert_eq!(
        ask(&mut pair, link, b"SendTargets=All\0"),
        Err(RejectReason::PROTOCOL_ERROR)
    );
    pair.quiet(link);
    pair.assert_works(link);
}

#[test]
fn a_shorter_data_segment_is_declared_on_the_way_and_kept() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    assert_eq!(
        ask(&mut pair, link, b"MaxRecvDataSegmentLength=512\0"),
        Ok(Vec::new())
    );
    let read = raw::command(raw::TAG, 0xc0, 2048, crate::common::cdb::read_10(0, 4));
    raw::send(&mut pair, link, &read, &[]);
    pair.run();
    let answers = raw::answers(&mut pair, link);
    assert_eq!(answers.len(), 4);
    assert!(
        answers
            .iter()
            .all(|(bhs, data)| Opcode(bhs[0]) == Opcode::DATA_IN && data.len() == 512)
    );
}

#[test]
fn what_is_for_the_login_is_rejected_after_it() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    for text in [
        &b"MaxBurstLength=512\0"[..],
        b"HeaderDigest=CRC32C\0",
        b"InitialR2T=Yes\0",
        b"junk\0",
    ] {
        assert_eq!(
            ask(&mut pair, link, text),
            Err(RejectReason::PROTOCOL_ERROR)
        );
    }
    pair.assert_works(link);
}

#[test]
fn text_may_come_in_pieces_and_each_piece_is_answered_with_none() {
    let mut pair = Pair::new();
    let link = pair.session();
    raw::send(
        &mut pair,
        link,
        &raw::text(raw::TAG, CONTINUE, NO_TAG),
        b"SendTa",
    );
    pair.run();
    let answers = raw::answers(&mut pair, link);
    let first: &TextResponseBhs = header(&answers[0].0);
    assert_eq!((first.flags, answers[0].1.len()), (0, 0));
    let transfer = first.target_transfer_tag.get();
    assert_ne!(transfer, NO_TAG);
    raw::send(
        &mut pair,
        link,
        &raw::text(raw::TAG, FINAL, transfer),
        b"rgets=\0",
    );
    pair.run();
    let answers = raw::answers(&mut pair, link);
    let last: &TextResponseBhs = header(&answers[0].0);
    assert_eq!(
        (last.flags, last.target_transfer_tag.get()),
        (FINAL, NO_TAG)
    );
    assert_eq!(discovered(&answers[0].1)[0].0, TARGET);
}

#[test]
fn a_long_list_of_targets_comes_in_as_many_pieces_as_it_takes() {
    for segment in [512, 8192, 262_144] {
        let mut pair = Pair::with(Setup {
            more_targets: 300,
            ..Setup::default()
        });
        let mut config = Config::discovery(INITIATOR);
        config.offers.max_recv_data_segment_length = segment;
        let link = pair.login(config);
        let text = ask(&mut pair, link, b"SendTargets=All\0").unwrap();
        let all = discovered(&text);
        assert_eq!(all.len(), 301);
        assert!(
            all.iter()
                .all(|(_, addresses)| addresses == &["127.0.0.1:3260,1"])
        );
        // Half-way through, a new question takes the place of the old one.
        raw::send(
            &mut pair,
            link,
            &raw::text(raw::TAG, FINAL, NO_TAG),
            b"SendTargets=All\0",
        );
        pair.run();
        raw::answers(&mut pair, link);
        let request = format!("SendTargets={TARGET}-0007\0");
        let text = ask(&mut pair, link, request.as_bytes()).unwrap();
        assert_eq!(discovered(&text).len(), 1);
        pair.assert_well(link);
    }
}

#[test]
fn text_without_end_is_rejected() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    let mut transfer = NO_TAG;
    for _ in 0..10 {
        raw::send(
            &mut pair,
            link,
            &raw::text(raw::TAG, CONTINUE, transfer),
            &[b'A'; 8192],
        );
        pair.run();
        if !raw::rejects(&mut pair, link).is_empty() {
            return pair.assert_works(link);
        }
        let answers = raw::answers(&mut pair, link);
        transfer = header::<TextResponseBhs>(&answers[0].0)
            .target_transfer_tag
            .get();
    }
    panic!("80 KiB of text were taken");
}

#[test]
fn a_text_request_that_continues_nothing_is_rejected() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    raw::send(&mut pair, link, &raw::text(raw::TAG, FINAL, 7), b"");
    pair.run();
    assert_eq!(raw::rejects(&mut pair, link).len(), 1);
    pair.assert_works(link);
}

#[test]
fn f_and_c_together_are_rejected() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    raw::send(
        &mut pair,
        link,
        &raw::text(raw::TAG, FINAL | CONTINUE, NO_TAG),
        b"SendTargets=\0",
    );
    pair.run();
    assert_eq!(raw::rejects(&mut pair, link).len(), 1);
    pair.assert_works(link);
}
