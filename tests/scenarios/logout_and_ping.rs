//! NOP-Out, NOP-In and Logout (sections 11.14, 11.15, 11.18 and 11.19).

use ringtgt::buffer::Buffer;
use ringtgt::initiator::{Event, Payload};
use ringtgt::pdu::bhs::{IMMEDIATE, LogoutResponseBhs, NO_TAG, NopInBhs};
use ringtgt::pdu::code::{LogoutReason, LogoutResponse, Opcode};
use ringtgt::pdu::frame::header;

use crate::common::cdb;
use crate::common::disk::Pace;
use crate::common::pair::{BLOCK, Closed, Pair, Segments, Setup};
use crate::common::raw;

#[test]
fn a_ping_comes_back_with_its_data() {
    let mut pair = Pair::with(Setup {
        segments: Segments::Random,
        ..Setup::default()
    });
    let link = pair.quiet_session();
    for len in [0, 1, 4, 100, 4096, 8191, 65_536] {
        let ping = pair.random.bytes(len);
        pair.links[link].initiator.nop(9, &ping).unwrap();
        pair.run();
        let Some(Event::Nop { cookie: 9, data }) = pair.event(link) else {
            panic!(
                "{len}: {:?} {:?}",
                pair.links[link].error, pair.links[link].closed
            )
        };
        assert!(data == ping, "{len}");
    }
    pair.assert_works(link);
}

#[test]
fn a_ping_in_its_turn_uses_its_number_and_is_answered() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    let before = pair.links[link].initiator.window().0;
    raw::send(&mut pair, link, &raw::nop_out(raw::TAG), b"data");
    pair.run();
    let answers = raw::answers(&mut pair, link);
    let nop: &NopInBhs = header(&answers[0].0);
    assert_eq!(Opcode(nop.opcode), Opcode::NOP_IN);
    assert_eq!(
        (nop.initiator_task_tag.get(), nop.target_transfer_tag.get()),
        (raw::TAG, NO_TAG)
    );
    assert_eq!(answers[0].1, b"data");
    assert_eq!(pair.links[link].initiator.window().0, before.next());
    pair.assert_works(link);
}

#[test]
fn a_nop_out_that_wants_no_answer_gets_none() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    let mut nop = raw::nop_out(NO_TAG);
    nop.opcode |= IMMEDIATE;
    raw::send(&mut pair, link, &nop, b"no answer");
    pair.run();
    assert!(pair.links[link].events.is_empty());
    pair.assert_works(link);
}

#[test]
fn a_flood_of_pings_that_nobody_reads_is_held_back_and_answered_later() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    let other = pair.quiet_session();
    pair.links[link].deaf = true;
    let mut nop = raw::nop_out(raw::TAG);
    nop.opcode |= IMMEDIATE;
    for _ in 0..5000 {
        raw::send(&mut pair, link, &nop, &[0x55; 1000]);
    }
    pair.run();
    pair.assert_works(other);
    pair.links[link].deaf = false;
    pair.links[link].nudge();
    pair.run();
    pair.assert_well(link);
    let answers = raw::answers(&mut pair, link);
    assert_eq!(answers.len(), 5000);
    assert!(answers.iter().all(|(_, data)| data[..] == [0x55; 1000]));
    pair.assert_works(link);
}

/// All the memory that nobody was promised.
fn exhaust(pair: &Pair) -> Vec<Buffer> {
    let pool = &pair.pools[0];
    let mut taken: Vec<Buffer> = std::iter::from_fn(|| pool.take(4096, 4096)).collect();
    taken.extend(std::iter::from_fn(|| pool.take_scratch(4096)));
    taken
}

#[test]
fn an_immediate_ping_is_answered_when_there_is_no_memory_left() {
    let mut pair = Pair::new();
    // Without unsolicited data the window promises no memory.
    let link = pair.quiet_session();
    let _taken = exhaust(&pair);
    for len in [129, 3000, 8192, 16_384, 65_536] {
        let ping = pair.random.bytes(len);
        pair.links[link].initiator.nop(len as u64, &ping).unwrap();
        pair.run();
        let event = pair.event(link);
        let Some(Event::Nop { data, .. }) = event else {
            panic!("{len}: {event:?}")
        };
        assert!(data == ping, "{len}");
    }
}

#[test]
fn pings_beyond_the_one_that_has_a_place_wait_for_its_answer_to_leave() {
    for segments in [Segments::Whole, Segments::Of(1000), Segments::Random] {
        let mut pair = Pair::with(Setup {
            segments,
            ..Setup::default()
        });
        let link = pair.quiet_session();
        let other = pair.quiet_session();
        let taken = exhaust(&pair);
        let pings: Vec<Vec<u8>> = (0..12)
            .map(|n| pair.random.bytes(3000 + n * 5000))
            .collect();
        pair.links[link].deaf = true;
        for ping in &pings {
            pair.links[link].initiator.nop(1, ping).unwrap();
        }
        pair.run();
        pair.links[other].initiator.nop(2, &[7; 4000]).unwrap();
        pair.run();
        assert!(matches!(pair.event(other), Some(Event::Nop { .. })));
        pair.links[link].deaf = false;
        pair.links[link].nudge();
        pair.run();
        for ping in &pings {
            let Some(Event::Nop { data, .. }) = pair.event(link) else {
                panic!("{:?}", pair.links[link].error)
            };
            assert!(data == *ping, "{}", ping.len());
        }
        drop(taken);
        pair.assert_works(link);
    }
}

#[test]
fn a_logout_of_the_session_is_answered_and_ends_it() {
    for reason in [LogoutReason::CLOSE_SESSION, LogoutReason::CLOSE_CONNECTION] {
        let mut pair = Pair::new();
        let link = pair.quiet_session();
        pair.links[link].initiator.logout(reason).unwrap();
        pair.run();
        assert!(matches!(
            pair.event(link),
            Some(Event::LoggedOut {
                response: LogoutResponse::CLOSED,
                ..
            })
        ));
        pair.assert_closed(link, Closed::Requested);
        assert_eq!(pair.open_sessions(), 0);
    }
}

#[test]
fn a_logout_waits_for_no_command_and_leaves_none_behind() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    pair.disk().set_pace(Pace::Held);
    for n in 0..4 {
        pair.submit(link, cdb::write_10(n, 1), Payload::Write(vec![1; BLOCK]));
    }
    pair.run();
    pair.links[link]
        .initiator
        .logout(LogoutReason::CLOSE_SESSION)
        .unwrap();
    pair.run();
    pair.disk().release(10);
    pair.run();
    assert!(matches!(pair.event(link), Some(Event::LoggedOut { .. })));
    pair.assert_closed(link, Closed::Requested);
    assert_eq!(pair.disk().in_flight(), 0);
    assert_eq!(pair.open_sessions(), 0);
    assert!(
        !pair.links[link]
            .events
            .iter()
            .any(|event| matches!(event, Event::Command(_)))
    );
    pair.disk().set_pace(Pace::AtOnce);
    let again = pair.quiet_session();
    pair.assert_works(again);
}

fn logout_answer(pair: &mut Pair, link: usize) -> LogoutResponse {
    let answers = raw::answers(pair, link);
    let bhs: &LogoutResponseBhs = header(&answers[0].0);
    assert_eq!(Opcode(bhs.opcode), Opcode::LOGOUT_RESPONSE);
    LogoutResponse(bhs.response)
}

#[test]
fn a_connection_that_is_not_there_cannot_be_closed() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    raw::send(&mut pair, link, &raw::logout(raw::TAG, 1, 99), &[]);
    pair.run();
    assert_eq!(
        logout_answer(&mut pair, link),
        LogoutResponse::CID_NOT_FOUND
    );
    pair.assert_works(link);
}

#[test]
fn a_logout_for_recovery_is_not_supported() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    raw::send(&mut pair, link, &raw::logout(raw::TAG, 2, 0), &[]);
    pair.run();
    assert_eq!(
        logout_answer(&mut pair, link),
        LogoutResponse::RECOVERY_NOT_SUPPORTED
    );
    pair.assert_works(link);
}

#[test]
fn an_unknown_logout_reason_is_rejected() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    raw::send(&mut pair, link, &raw::logout(raw::TAG, 9, 0), &[]);
    pair.run();
    assert_eq!(raw::rejects(&mut pair, link).len(), 1);
    pair.assert_works(link);
}

#[test]
fn what_follows_a_logout_is_not_done() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    pair.disk().take_log();
    pair.links[link]
        .initiator
        .logout(LogoutReason::CLOSE_SESSION)
        .unwrap();
    pair.submit(link, cdb::write_10(0, 1), Payload::Write(vec![1; BLOCK]));
    pair.run();
    assert!(pair.disk().take_log().is_empty());
    pair.assert_closed(link, Closed::Requested);
}
