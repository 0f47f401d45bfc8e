//! Session reinstatement and connections that break (sections 6.3.5 and 8.1).

use ringtgt::initiator::{Config, Payload};

use crate::common::cdb;
use crate::common::disk::Pace;
use crate::common::pair::{BLOCK, Closed, INITIATOR, Pair, Setup, TARGET};

fn config() -> Config {
    Config::normal(INITIATOR, TARGET)
}

#[test]
fn a_login_with_the_same_isid_takes_the_place_of_the_old_session() {
    let mut pair = Pair::with(Setup {
        shards: 2,
        ..Setup::default()
    });
    let old = pair.login(config());
    pair.quiet(old);
    let new = pair.login(config());
    pair.assert_closed(old, Closed::Reinstated);
    assert_eq!(pair.open_sessions(), 1);
    pair.quiet(new);
    pair.assert_works(new);
    let tsih = |link: usize| pair.links[link].initiator.negotiated().unwrap().tsih;
    assert_ne!(tsih(old), tsih(new));
}

#[test]
fn the_new_session_starts_when_nothing_of_the_old_one_is_left() {
    let mut pair = Pair::new();
    let old = pair.login(config());
    pair.quiet(old);
    pair.disk().never_cancel();
    pair.disk().set_pace(Pace::Held);
    pair.submit(old, cdb::write_10(0, 1), Payload::Write(vec![1; BLOCK]));
    pair.run();
    let new = pair.connect(config());
    pair.run();
    assert!(
        pair.event(new).is_none(),
        "an operation of the old session is still in flight"
    );
    pair.disk().release(1);
    pair.run();
    assert!(pair.event(new).is_some());
    pair.disk().set_pace(Pace::AtOnce);
    pair.quiet(new);
    pair.write(new, 0, &[2; BLOCK]);
    assert_eq!(pair.disk().bytes()[..BLOCK], [2; BLOCK]);
    pair.assert_works(new);
}

/// A write of an old session that the medium does not end, and the session that took the old one's place.
fn beside_a_stuck_write(pair: &mut Pair) -> usize {
    let old = pair.login(config());
    pair.quiet(old);
    pair.disk().never_cancel();
    pair.disk().set_pace(Pace::Held);
    pair.submit(old, cdb::write_10(0, 1), Payload::Write(vec![1; BLOCK]));
    pair.run();
    let new = pair.connect(config());
    pair.run();
    pair.lose_patience(new);
    pair.run();
    assert!(pair.event(new).is_some(), "it is logged in");
    pair.assert_closed(old, Closed::Reinstated);
    new
}

const BUSY: u8 = 0x08;

#[test]
fn a_login_gets_through_beside_a_stuck_write_which_never_overtakes_what_is_written_later() {
    let mut pair = Pair::new();
    let mut new = beside_a_stuck_write(&mut pair);
    for again in [false, true] {
        if again {
            // The same once more: the write is that of the session before the last.
            new = pair.connect(config());
            pair.run();
            assert!(
                pair.event(new).is_some(),
                "nothing of the last session is left"
            );
        }
        pair.quiet(new);
        assert_eq!(
            pair.command(new, cdb::TEST_UNIT_READY, Payload::None)
                .status,
            0
        );
        let write = Payload::Write(vec![2; BLOCK]);
        let read = Payload::Read(vec![0; BLOCK]);
        for (cdb, payload) in [
            (cdb::write_10(0, 1), write),
            (cdb::read_10(0, 1), read),
            (cdb::synchronize_cache_10(), Payload::None),
        ] {
            assert_eq!(
                pair.command(new, cdb, payload).status,
                BUSY,
                "{cdb:?} {again}"
            );
        }
        let block = Payload::Write(vec![3; BLOCK]);
        let other = pair.command_on(new, 1, cdb::write_10(0, 1), block);
        assert_eq!(other.status, 0, "another unit does not care");
        assert_eq!(pair.disk().bytes()[..BLOCK], [0; BLOCK]);
    }
    pair.disk().release(1);
    pair.run();
    assert_eq!(pair.disk().bytes()[..BLOCK], [1; BLOCK]);
    assert_eq!(pair.open_sessions(), 1, "nothing is left of the old one");
    pair.disk().set_pace(Pace::AtOnce);
    pair.write(new, 0, &[2; BLOCK]);
    assert_eq!(pair.disk().bytes()[..BLOCK], [2; BLOCK]);
    pair.assert_works(new);
}

#[test]
fn another_isid_is_another_session() {
    let mut pair = Pair::new();
    let first = pair.login(config());
    let mut other = config();
    other.isid[5] ^= 1;
    let second = pair.login(other);
    for link in [first, second] {
        pair.quiet(link);
        pair.assert_works(link);
    }
    assert_eq!(pair.open_sessions(), 2);
}

#[test]
fn a_reinstated_session_hears_of_the_lost_nexus() {
    let mut pair = Pair::new();
    let old = pair.login(config());
    pair.quiet(old);
    let new = pair.login(config());
    let done = pair.command(new, cdb::TEST_UNIT_READY, Payload::None);
    assert_eq!(
        (done.status, done.sense[2] & 0xf, done.sense[12]),
        (2, 6, 0x29)
    );
}

#[test]
fn a_broken_connection_leaves_nothing_behind() {
    for pace in [Pace::AtOnce, Pace::Held] {
        let mut pair = Pair::new();
        let link = pair.quiet_session();
        pair.disk().set_pace(pace);
        for n in 0..8u32 {
            pair.submit(
                link,
                cdb::write_10(n * 200, 100),
                Payload::Write(vec![1; 100 * BLOCK]),
            );
            pair.submit(
                link,
                cdb::read_10(n * 200, 100),
                Payload::Discard(100 * 512),
            );
        }
        for _ in 0..3 {
            pair.turn();
        }
        pair.cut(link);
        pair.run();
        pair.disk().release(100);
        pair.run();
        assert_eq!((pair.open_sessions(), pair.disk().in_flight()), (0, 0));
        pair.disk().set_pace(Pace::AtOnce);
        let next = pair.quiet_session();
        pair.assert_works(next);
        pair.assert_all_comes_back();
    }
}

#[test]
fn memory_comes_back_with_every_session() {
    let mut pair = Pair::with(Setup {
        pool_bytes: 8 << 20,
        ..Setup::default()
    });
    for n in 0..60u32 {
        let link = pair.login(config());
        pair.quiet(link);
        pair.disk().set_pace(Pace::Whenever);
        for m in 0..6 {
            pair.submit(
                link,
                cdb::write_10(m * 512, 512),
                Payload::Write(vec![1; 512 * BLOCK]),
            );
            pair.submit(
                link,
                cdb::read_10(m * 512, 512),
                Payload::Discard(512 * 512),
            );
        }
        for _ in 0..n % 12 {
            pair.turn();
        }
        if n % 3 != 0 {
            pair.cut(link);
        }
        pair.disk().set_pace(Pace::AtOnce);
    }
    let link = pair.login(config());
    pair.quiet(link);
    pair.assert_works(link);
    assert_eq!(pair.open_sessions(), 1);
    pair.assert_all_comes_back();
}
