//! Command numbering and the command window (section 4.2.2.1).

use ringtgt::initiator::{Config, Payload};
use ringtgt::pdu::bhs::IMMEDIATE;
use ringtgt::units::SerialNumber;

use crate::common::cdb;
use crate::common::disk::Pace;
use crate::common::pair::{BLOCK, INITIATOR, Pair, TARGET};
use crate::common::raw;

/// A write of one block, with its data in the command.
fn write_at(pair: &mut Pair, link: usize, tag: u32, cmd_sn: SerialNumber, lba: u32, byte: u8) {
    let write = raw::command(tag, 0xa0, 512, cdb::write_10(lba, 1));
    raw::send_at(pair, link, &write, &[byte; BLOCK], cmd_sn.0);
}

#[test]
fn commands_start_in_the_order_of_their_numbers_however_they_arrive() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    let first = pair.links[link].initiator.cmd_sn();
    pair.disk().take_log();
    for (arrival, n) in [2u32, 1, 3].into_iter().enumerate() {
        write_at(&mut pair, link, raw::TAG + n, first.plus(n), n, 1);
        pair.run();
        assert!(
            pair.disk().take_log().is_empty(),
            "started before its turn: {arrival}"
        );
    }
    write_at(&mut pair, link, raw::TAG, first, 0, 1);
    pair.links[link].initiator.set_cmd_sn(first.plus(4));
    pair.run();
    let starts: Vec<_> = pair
        .disk()
        .take_log()
        .iter()
        .map(crate::common::disk::start_of)
        .collect();
    assert_eq!(starts, [Some(0), Some(1), Some(2), Some(3)]);
    assert_eq!(raw::answers(&mut pair, link).len(), 4);
    pair.assert_works(link);
}

#[test]
fn a_number_outside_the_window_is_ignored() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    let (next, last) = pair.links[link].initiator.window();
    for cmd_sn in [
        next.previous(),
        last.next(),
        next.plus(1 << 30),
        next.plus(1 << 31),
    ] {
        write_at(&mut pair, link, raw::TAG, cmd_sn, 0, 1);
    }
    pair.run();
    assert!(raw::answers(&mut pair, link).is_empty());
    assert!(pair.disk().bytes().iter().all(|&byte| byte == 0));
    pair.assert_works(link);
}

#[test]
fn a_number_that_comes_twice_is_done_once() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    let first = pair.links[link].initiator.cmd_sn();
    write_at(&mut pair, link, raw::TAG + 1, first.next(), 1, 1);
    write_at(&mut pair, link, raw::TAG + 2, first.next(), 2, 2);
    write_at(&mut pair, link, raw::TAG, first, 0, 1);
    write_at(&mut pair, link, raw::TAG + 3, first, 3, 3);
    pair.links[link].initiator.set_cmd_sn(first.plus(2));
    pair.run();
    assert_eq!(raw::answers(&mut pair, link).len(), 2);
    let bytes = pair.disk().bytes();
    assert_eq!([0, 1, 2, 3].map(|n| bytes[n * BLOCK]), [1, 1, 0, 0]);
    pair.assert_works(link);
}

#[test]
fn an_immediate_command_overtakes_and_uses_no_number() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    let first = pair.links[link].initiator.cmd_sn();
    write_at(&mut pair, link, raw::TAG, first.next(), 0, 1);
    let mut immediate = raw::command(raw::TAG + 1, 0xa0, 512, cdb::write_10(1, 1));
    immediate.opcode |= IMMEDIATE;
    raw::send(&mut pair, link, &immediate, &[7; BLOCK]);
    pair.run();
    assert_eq!(pair.disk().bytes()[BLOCK], 7);
    assert_eq!(pair.links[link].initiator.window().0, first);
    write_at(&mut pair, link, raw::TAG + 2, first, 2, 1);
    pair.links[link].initiator.set_cmd_sn(first.plus(2));
    pair.run();
    pair.assert_works(link);
}

#[test]
fn numbers_wrap_around() {
    let mut pair = Pair::new();
    let mut config = Config::normal(INITIATOR, TARGET);
    config.first_cmd_sn = SerialNumber(u32::MAX - 20);
    let link = pair.login(config);
    pair.quiet(link);
    for _ in 0..50 {
        pair.assert_works(link);
    }
    assert!(pair.links[link].initiator.cmd_sn().0 < 1000);
}

#[test]
fn a_full_window_opens_again_and_nothing_is_lost() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    pair.disk().set_pace(Pace::Held);
    let mut tags = Vec::new();
    while pair.links[link].initiator.room() > 0 {
        let n = u32::try_from(tags.len()).unwrap();
        tags.push(pair.submit(link, cdb::write_10(n, 1), Payload::Write(vec![1; BLOCK])));
        pair.run();
        assert!(tags.len() <= 4096, "the window has no end");
    }
    assert!(tags.len() > 1);
    pair.disk().set_pace(Pace::Whenever);
    pair.run();
    for &tag in &tags {
        assert!(pair.done(link, tag).is_good());
    }
    assert!(pair.links[link].initiator.room() > 0);
    assert!(
        pair.disk().bytes()[..tags.len() * BLOCK]
            .iter()
            .all(|&byte| byte == 1)
    );
    pair.disk().set_pace(Pace::AtOnce);
    pair.assert_works(link);
}

#[test]
fn many_more_commands_than_the_window_pass_through_it() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    pair.disk().set_pace(Pace::Whenever);
    let mut done = 0;
    while done < 2000 {
        while pair.links[link].initiator.room() > 0 {
            pair.submit(link, cdb::read_10(0, 1), Payload::Discard(512));
        }
        pair.run();
        done += pair.links[link].events.len();
        pair.links[link].events.clear();
        pair.assert_well(link);
    }
}
