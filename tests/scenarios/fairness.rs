//! What one connection may do in a turn, and what its neighbours feel of it.

use ringtgt::backend::BlockIo;
use ringtgt::initiator::{Config, Event, Payload};
use ringtgt::session::turn::{MOVED_PER_TURN, PORTION, RECEIVED_PER_TURN, SENT_PER_TURN};

use crate::common::cdb;
use crate::common::disk::Pace;
use crate::common::pair::{BLOCK, INITIATOR, Pair, Setup, TARGET};

/// Blocks of 1 MiB.
const MIB: u16 = 2048;

fn hog(number: u8) -> Config {
    let mut config = Config::normal(INITIATOR, TARGET);
    config.isid[5] = number;
    config.offers.max_burst_length = 1 << 20;
    config.offers.max_outstanding_r2t = 8;
    config.max_outstanding = 32;
    config
}

/// Bytes that the media moved since the last call.
fn moved(pair: &Pair) -> usize {
    let mut blocks = 0;
    for disk in &pair.disks {
        for io in disk.take_log() {
            if let BlockIo::Read(extent) | BlockIo::Write { extent, .. } = io {
                blocks += extent.end().0 - extent.start().0;
            }
        }
    }
    usize::try_from(blocks).unwrap() * BLOCK
}

/// One turn; nobody may do more in it than is allowed.
fn bounded_turn(pair: &mut Pair, links: &[usize]) {
    let before: Vec<_> = links.iter().map(|&l| pair.links[l].target_bytes).collect();
    moved(pair);
    pair.turn();
    for (&link, before) in links.iter().zip(before) {
        let now = pair.links[link].target_bytes;
        let (received, sent) = (now.0 - before.0, now.1 - before.1);
        assert!(received <= RECEIVED_PER_TURN, "received {received}");
        assert!(sent <= SENT_PER_TURN, "sent {sent}");
    }
    let all = links.len() * (MOVED_PER_TURN + PORTION);
    let moved = moved(pair);
    assert!(moved < all, "moved {moved}");
}

#[test]
fn a_read_among_a_hogs_large_writes_leaves_in_the_next_turn_and_no_turn_does_too_much() {
    for large in ["writes", "reads"] {
        let mut pair = Pair::with(Setup {
            pool_bytes: 64 << 20,
            ..Setup::default()
        });
        let reader = pair.quiet_session();
        let hog = pair.login(hog(9));
        pair.quiet(hog);
        let (mut begun, mut ended, mut reads) = (0, 0, 0);
        let mut turns_with_hog = 0;
        for turn in 0..500_u32 {
            while begun < ended + 16 {
                let lba = begun % 3 * u32::from(MIB);
                if large == "writes" {
                    let data = vec![7; usize::from(MIB) * BLOCK];
                    pair.submit(hog, cdb::write_10(lba, MIB), Payload::Write(data));
                } else {
                    let room = vec![0; usize::from(MIB) * BLOCK];
                    pair.submit(hog, cdb::read_10(lba, MIB), Payload::Read(room));
                }
                begun += 1;
            }
            if turn % 7 == 3 {
                pair.submit(reader, cdb::read_10(0, 8), Payload::Read(vec![0; 4096]));
                let before = (
                    pair.links[hog].target_bytes,
                    pair.links[reader].target_bytes,
                );
                // It arrives in this turn, and leaves in the next.
                bounded_turn(&mut pair, &[hog, reader]);
                assert_eq!(pair.links[reader].target_bytes.0, before.1.0 + 48);
                bounded_turn(&mut pair, &[hog, reader]);
                assert_eq!(pair.links[reader].target_bytes.1, before.1.1 + 48 + 4096);
                turns_with_hog += u32::from(pair.links[hog].target_bytes != before.0);
                bounded_turn(&mut pair, &[hog, reader]);
                let event = pair.event(reader);
                let Some(Event::Command(done)) = event else {
                    panic!("turn {turn}: {event:?}")
                };
                assert_eq!((done.status, done.received), (0, 4096));
                reads += 1;
            }
            bounded_turn(&mut pair, &[hog, reader]);
            while let Some(event) = pair.event(hog) {
                assert!(matches!(event, Event::Command(done) if done.status == 0));
                ended += 1;
            }
        }
        assert!(ended > 80 && reads > 60, "{ended} {reads}");
        assert!(turns_with_hog > reads / 2, "{turns_with_hog} of {reads}");
    }
}

#[test]
fn what_a_medium_works_on_by_itself_goes_to_it_in_larger_portions() {
    let mut pair = Pair::with(Setup {
        pool_bytes: 64 << 20,
        ..Setup::default()
    });
    let link = pair.login(hog(1));
    pair.quiet(link);
    let mut largest = |pace| {
        pair.disk().set_pace(pace);
        let mut longest = 0;
        for _ in 0..4 {
            pair.disk().take_log();
            let data = vec![7; usize::from(MIB) * BLOCK];
            pair.submit(link, cdb::write_10(0, MIB), Payload::Write(data));
            pair.run();
            assert!(matches!(pair.event(link), Some(Event::Command(done)) if done.status == 0));
            let log = pair.disk().take_log();
            longest = (log.iter())
                .map(|io| match io {
                    BlockIo::Write { extent, .. } => extent.end().0 - extent.start().0,
                    _ => 0,
                })
                .max()
                .unwrap();
        }
        usize::try_from(longest).unwrap() * BLOCK
    };
    assert_eq!(largest(Pace::AtOnce), PORTION);
    assert_eq!(largest(Pace::Later), 1 << 20);
    assert_eq!(largest(Pace::AtOnce), PORTION);
}

#[test]
fn a_read_leaves_in_the_same_number_of_turns_beside_a_unit_that_hangs() {
    let mut turns = Vec::new();
    for hangs in [false, true] {
        let mut pair = Pair::with(Setup {
            pool_bytes: 64 << 20,
            ..Setup::default()
        });
        let reader = pair.quiet_session();
        let stuck = pair.login(hog(9));
        pair.quiet(stuck);
        pair.disks[1].set_pace(Pace::Later);
        if hangs {
            pair.disk().set_pace(Pace::Held);
            for n in 0..8 {
                pair.submit(stuck, cdb::write_10(n, 1), Payload::Write(vec![7; BLOCK]));
            }
            pair.run();
            assert_eq!(pair.disk().in_flight(), 8);
        }
        let (cdb, room) = (cdb::read_10(0, 8), Payload::Read(vec![0; 8 * BLOCK]));
        pair.submit_on(reader, 1, cdb, room);
        let mut count = 0;
        while pair.event(reader).is_none() {
            pair.turn();
            count += 1;
            assert!(count < 10, "the read does not leave");
        }
        turns.push(count);
    }
    assert_eq!(turns[0], turns[1]);
}
