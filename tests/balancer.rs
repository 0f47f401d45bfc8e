//! The balancer, end to end: real reactors, sockets, sessions that work. A program of its own: it looks at how busy cores
//! are, and other tests beside it would show.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringtgt::control::{Controller, PollPolicy};
use ringtgt::initiator::{Command, Event, Payload};

#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared by tests that use different parts of it"
)]
#[path = "common/served.rs"]
mod served;

use served::{Peer, ram, start_with};

/// Sessions: all on reactor 0 at first.
const SESSIONS: u8 = 6;
const BLOCK: usize = 4096;
/// Two moves take 7 seconds where nothing else runs: looks are a second apart, and three must show the same.
const PATIENCE: Duration = Duration::from_secs(25);
/// By then the first move would have been made.
const LONG_ENOUGH: Duration = Duration::from_millis(4500);

/// A command that ends well; its payload.
fn run(peer: &mut Peer, cdb: [u8; 16], payload: Payload) -> Payload {
    let command = Command::new(1, 0, cdb, payload);
    peer.initiator.submit(command).expect("the window is open");
    match peer.next() {
        Some(Event::Command(done)) => {
            assert!(done.is_good(), "{done:?}");
            done.payload
        }
        other => panic!("{other:?}"),
    }
}

/// A CDB of 10 bytes for `blocks` blocks of 512 bytes.
fn cdb(opcode: u8, lba: u32, blocks: u16) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// VERIFY of 15 MiB, many times: much to do for the target, which reads it all, and little for the one who asks. How
/// long it took.
fn labour(peer: &mut Peer) -> Duration {
    let begin = Instant::now();
    for _ in 0..16 {
        run(peer, cdb(0x2f, 2048, 30 << 10), Payload::None);
    }
    begin.elapsed()
}

/// Works until `done`, with pauses of `rest` so that it keeps a reactor busy for a part of the time; each block it writes
/// is read back. How many.
fn work(peer: &mut Peer, number: u8, rest: Duration, done: &AtomicBool) -> u32 {
    let lba = u32::from(number) * 8;
    let mut rounds = 0_u32;
    while !done.load(Ordering::Relaxed) {
        let block: Vec<u8> = (rounds.to_be_bytes().into_iter().cycle())
            .take(BLOCK)
            .collect();
        run(peer, cdb(0x2a, lba, 8), Payload::Write(block.clone()));
        labour(peer);
        let read = run(peer, cdb(0x28, lba, 8), Payload::Read(vec![0; BLOCK]));
        assert!(
            matches!(read, Payload::Read(read) if read == block),
            "session {number}, round {rounds}"
        );
        rounds += 1;
        let timeout = peer.stream.set_read_timeout(Some(rest));
        timeout.expect("can be");
        let heard = std::io::Read::read(&mut peer.stream, &mut [0; 1]);
        assert!(heard.is_err(), "nothing is to be said");
        peer.stream.set_read_timeout(None).expect("can be");
    }
    rounds
}

/// All sessions work, on reactor 0 to begin with, until something is so.
fn work_on_one_reactor(
    controller: &Controller,
    peers: &mut [Peer],
    mut until: impl FnMut() -> bool,
) {
    for peer in &mut *peers {
        // Takes the unit attention.
        peer.ask();
    }
    for session in controller.sessions() {
        if session.reactor.0 != 0 {
            assert_eq!(controller.move_session(session.tsih, 0), Ok(()));
        }
    }
    let mut took: Vec<Duration> = (0..5).map(|_| labour(&mut peers[0])).collect();
    took.sort_unstable();
    // So two sessions are enough to keep a reactor busy, and six more than that.
    let rest = took[2];
    let done = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (peers.iter_mut().zip(0..))
            .map(|(peer, number)| scope.spawn(move || work(peer, number, rest, done)))
            .collect();
        // Who looked all the time would keep a core busy itself.
        while !until() {
            std::thread::park_timeout(Duration::from_millis(50));
        }
        done.store(true, Ordering::Relaxed);
        for worker in workers {
            assert!(worker.join().expect("what was read is what was written") > 0);
        }
    });
}

fn moves(controller: &Controller) -> u64 {
    let counters = controller.counters();
    counters
        .iter()
        .map(|cell| cell.sessions_moved_out.value())
        .sum()
}

/// Every command was answered, every session is where one was.
fn assert_nothing_is_lost(controller: Controller, peers: Vec<Peer>) {
    let sessions: u64 = controller.reactors().iter().map(|r| r.sessions).sum();
    assert_eq!(sessions, u64::from(SESSIONS));
    drop(peers);
    let counters = controller.counters();
    controller.stop().expect("everything is flushed");
    let sum = |value: fn(&ringtgt::stats::ReactorCounters) -> u64| -> u64 {
        counters.iter().map(|cell| value(cell)).sum()
    };
    let (started, ended) = (
        sum(|c| c.commands_started.value()),
        sum(|c| c.commands_ended.value()),
    );
    assert_eq!(started, ended);
    assert_eq!(sum(|c| c.sessions_closed.value()), u64::from(SESSIONS));
}

#[test]
fn sessions_on_one_core_spread_by_themselves_unless_they_are_not_to() {
    for balance in [true, false] {
        let Some((controller, address)) = start_with(ram(), PollPolicy::Adaptive, 2, balance)
        else {
            return;
        };
        let mut peers: Vec<Peer> = (0..SESSIONS)
            .map(|isid| Peer::log_in(address, isid))
            .collect();
        let mut forced = None;
        let begin = Instant::now();
        let mut late = false;
        work_on_one_reactor(&controller, &mut peers, || {
            let forced = *forced.get_or_insert_with(|| moves(&controller));
            let reactors = controller.reactors();
            late = begin.elapsed() > if balance { PATIENCE } else { LONG_ENOUGH };
            late || (balance && moves(&controller) - forced >= 2 && reactors[1].sessions >= 2)
        });
        for reactor in controller.reactors() {
            println!("balance {balance}, {:?}: {reactor:?}", begin.elapsed());
        }
        let moved = moves(&controller) - forced.expect("looked at");
        if balance {
            assert!(
                moved >= 2 && !late,
                "{moved} moves: {:?}",
                controller.reactors()
            );
        } else {
            assert_eq!(moved, 0);
            assert_eq!(controller.reactors()[1].sessions, 0);
        }
        assert_nothing_is_lost(controller, peers);
    }
}
