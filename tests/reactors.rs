//! Several reactors over loopback: where sessions are, how they move, and how reactors wait.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::{Duration, Instant};

use ringtgt::control::config::Storage;
use ringtgt::control::{BackendKind, Controller, PollPolicy, Unmoved};
use ringtgt::initiator::driver;
use ringtgt::initiator::plan::{Access, Length, Operation, Plan, Work};
use ringtgt::initiator::{Command, Event, Offers, Payload};

#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared by tests that use different parts of it"
)]
#[path = "common/served.rs"]
mod served;

use served::{NAME, Peer, WHO, ram, start, wait_until};

#[test]
fn sessions_land_on_every_reactor() {
    let Some((controller, address)) = start(ram(), PollPolicy::Adaptive, 2) else {
        return;
    };
    let mut peers: Vec<Peer> = (0..6).map(|isid| Peer::log_in(address, isid)).collect();
    assert!(peers.iter_mut().all(Peer::ping));
    let sessions: Vec<u64> = controller.reactors().iter().map(|r| r.sessions).collect();
    assert_eq!(sessions, [3, 3]);
    for peer in &mut peers {
        for _ in 0..10 {
            peer.ask();
        }
    }
    let counters = controller.counters();
    controller.stop().expect("everything is flushed");
    for cell in counters {
        assert!(cell.commands_started.value() >= 30, "each has worked");
        assert!(cell.busy_nanos.value() > 0);
    }
}

/// Moves every session to and fro while `plan` runs, until `wanted` moves were made.
fn move_under(controller: &Controller, plan: &Plan, wanted: usize) -> usize {
    let mut plan = plan.clone();
    let mut moves = 0;
    while moves < wanted {
        plan.seed += 1;
        let running = plan.clone();
        let run = std::thread::spawn(move || driver::run(&running, &mut |_| {}));
        while !run.is_finished() {
            for session in controller.sessions() {
                match controller.move_session(session.tsih, 1 - session.reactor.0) {
                    Ok(()) => moves += 1,
                    // It was logging in or out.
                    Err(Unmoved::NoSession | Unmoved::Busy | Unmoved::Refused) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        }
        let (_, outcome) = run
            .join()
            .expect("no panic")
            .expect("every connection lives");
        let results = &outcome.works[0];
        assert_eq!(results.errors, 0, "{:?}", results.first_error);
        assert_eq!(results.mismatches, 0, "{:?}", results.first_mismatch);
        assert!(results.verified > 0);
    }
    moves
}

#[test]
fn a_thousand_moves_lose_and_reorder_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut moves = 0;
    for kind in [BackendKind::Ram, BackendKind::File, BackendKind::IoUring] {
        let storage = Storage {
            size: Some(16 << 20),
            ..Storage::new(0, kind, dir.path().join(kind.to_string()))
        };
        let Some((controller, address)) = start(storage, PollPolicy::Adaptive, 2) else {
            return;
        };
        for (block_size, commands, share) in [(4096, 6000, 200), (256 << 10, 300, 140)] {
            let plan = Plan {
                url: format!("iscsi://{address}/{NAME}/0")
                    .parse()
                    .expect("a URL"),
                initiator_name: WHO.to_owned(),
                offers: Offers::DEFAULT,
                work: Work {
                    operation: Operation::Mixed { read_percent: 50 },
                    access: Access::Random,
                    block_size,
                    depth: 32,
                    connections: 1,
                    rate: None,
                },
                also: Vec::new(),
                length: Length::Commands(commands),
                warmup: Duration::ZERO,
                span: None,
                verify: true,
                seed: 1,
                lenient: false,
                busy: false,
                core: None,
                interval: None,
            };
            moves += move_under(&controller, &plan, share);
        }
        let counters = controller.counters();
        controller.stop().expect("everything is flushed");
        let sum = |value: fn(&ringtgt::stats::ReactorCounters) -> u64| -> u64 {
            counters.iter().map(|cell| value(cell)).sum()
        };
        assert_eq!(
            sum(|c| c.sessions_moved_in.value()),
            sum(|c| c.sessions_moved_out.value())
        );
        assert_eq!(
            sum(|c| c.commands_started.value()),
            sum(|c| c.commands_ended.value()),
            "every command was answered"
        );
        assert_eq!(
            sum(|c| c.sessions_opened.value()),
            sum(|c| c.sessions_closed.value())
        );
    }
    assert!(moves >= 1000, "{moves}");
}

#[test]
fn a_login_finds_the_session_it_takes_the_place_of_while_that_moves() {
    let Some((controller, address)) = start(ram(), PollPolicy::Adaptive, 2) else {
        return;
    };
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                for session in controller.sessions() {
                    let _ = controller.move_session(session.tsih, 1 - session.reactor.0);
                }
            }
        });
        let mut first = Peer::log_in(address, 1);
        for _ in 0..60 {
            let mut second = Peer::log_in(address, 1);
            assert!(first.next().is_none(), "the old one is closed");
            assert!(second.ping());
            first = second;
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        wait_until(|| controller.sessions().len() == 1);
        assert!(first.ping());
        // The reactor that a session came to counts it before the other one forgets it.
        wait_until(|| {
            let here: u64 = controller.reactors().iter().map(|r| r.sessions).sum();
            here == 1
        });
    });
    controller.stop().expect("everything is flushed");
}

#[test]
fn a_session_whose_peer_does_not_read_stays_and_loses_nothing() {
    const READS: u64 = 48;
    let Some((controller, address)) = start(ram(), PollPolicy::Adaptive, 2) else {
        return;
    };
    let mut peer = Peer::log_in(address, 1);
    peer.ask();
    for cookie in 0..READS {
        // READ(10) of 2048 blocks from block 0.
        let mut cdb = [0; 16];
        (cdb[0], cdb[7]) = (0x28, 8);
        let read = Command::new(cookie, 0, cdb, Payload::Discard(1 << 20));
        peer.initiator.submit(read).expect("the window is wide");
    }
    assert!(peer.send());
    // Until the sockets between us are full, it can go.
    wait_until(|| {
        let session = controller.sessions().remove(0);
        controller.move_session(session.tsih, 1 - session.reactor.0) == Err(Unmoved::Refused)
    });
    for _ in 0..READS {
        match peer.next() {
            Some(Event::Command(read)) => assert_eq!(read.received, 1 << 20),
            other => panic!("{other:?}"),
        }
    }
    let session = controller.sessions().remove(0);
    let there = 1 - session.reactor.0;
    assert_eq!(controller.move_session(session.tsih, there), Ok(()));
    assert_eq!(controller.sessions()[0].reactor.0, there);
    assert!(peer.ping());
    controller.stop().expect("everything is flushed");
}

#[test]
fn a_move_that_makes_no_sense_is_refused_in_words() {
    let Some((controller, address)) = start(ram(), PollPolicy::Event, 2) else {
        return;
    };
    let mut peer = Peer::log_in(address, 1);
    let session = controller.sessions().remove(0);
    assert_eq!(session.initiator_name, WHO);
    assert_eq!(session.target_name, NAME);
    for (tsih, reactor, result) in [
        (session.tsih, session.reactor.0, Ok(())),
        (session.tsih, 2, Err(Unmoved::NoReactor)),
        (session.tsih + 1, 0, Err(Unmoved::NoSession)),
    ] {
        assert_eq!(controller.move_session(tsih, reactor), result);
    }
    assert!(peer.ping());
    controller.stop().expect("everything is flushed");
}

#[test]
fn a_reactor_waits_as_it_is_told_while_it_runs() {
    let (controller, address) = start(ram(), PollPolicy::Event, 1).expect("one core");
    let cell = controller.counters().remove(0);
    let mut peer = Peer::log_in(address, 1);
    let spins = |many: u64| {
        let before = cell.idle_turns.value();
        wait_until(|| cell.idle_turns.value() >= before + many);
    };
    assert!(peer.ping());
    assert!(cell.sleeps.value() > 0);
    assert_eq!(controller.set_poll(0, PollPolicy::Busy), Ok(()));
    assert_eq!(controller.reactors()[0].poll, PollPolicy::Busy);
    spins(1000);
    let sleeps = cell.sleeps.value();
    assert!(peer.ping());
    spins(100_000);
    assert!(peer.ping());
    assert_eq!(cell.sleeps.value(), sleeps, "busy never sleeps");
    for poll in [PollPolicy::Adaptive, PollPolicy::Event] {
        let sleeps = cell.sleeps.value();
        assert_eq!(controller.set_poll(0, poll), Ok(()));
        wait_until(|| cell.sleeps.value() > sleeps);
        let sleeps = cell.sleeps.value();
        assert!(peer.ping());
        wait_until(|| cell.sleeps.value() > sleeps);
        assert_eq!(controller.set_poll(0, PollPolicy::Busy), Ok(()));
        spins(1000);
    }
    assert_eq!(
        controller.set_poll(1, PollPolicy::Busy),
        Err(Unmoved::NoReactor)
    );
    controller.stop().expect("everything is flushed");
}

/// Nanoseconds on a core, and voluntary context switches, of each thread of this process whose name starts so.
fn threads(prefix: &str) -> BTreeMap<String, (u64, u64)> {
    let mut found = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").expect("Linux") {
        let task = task.expect("an entry").path();
        let read = |file: &str| std::fs::read_to_string(task.join(file)).unwrap_or_default();
        let name = read("comm").trim().to_owned();
        if !name.starts_with(prefix) {
            continue;
        }
        let nanos = read("schedstat");
        let nanos = nanos.split_whitespace().next().and_then(|n| n.parse().ok());
        let status = read("status");
        let switches = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
            .and_then(|n| n.trim().parse().ok());
        let id = task.file_name().map(|id| id.to_string_lossy().into_owned());
        if let (Some(nanos), Some(switches), Some(id)) = (nanos, switches, id) {
            found.insert(format!("{name} {id}"), (nanos, switches));
        }
    }
    found
}

/// Its own process, as threads of other tests would be counted: see `an_idle_target_sleeps`.
#[test]
#[ignore = "run by another test"]
fn idle_for_a_second() {
    let (controller, address) = start(ram(), PollPolicy::Adaptive, 1).expect("one core");
    let mut peers: Vec<Peer> = (0..8).map(|isid| Peer::log_in(address, isid)).collect();
    for peer in &mut peers {
        peer.ask();
        assert!(peer.ping());
    }
    let cell = controller.counters().remove(0);
    let sleeps = cell.sleeps.value();
    wait_until(|| cell.sleeps.value() > sleeps || controller.reactors()[0].idle > Duration::ZERO);
    let ours = |threads: &BTreeMap<String, (u64, u64)>| -> (u64, u64) {
        let sum = threads.values();
        sum.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    };
    let all = || {
        let mut all = threads("reactor-");
        all.extend(threads("control"));
        all
    };
    // Nobody speaks for a second: the peer hears nothing.
    let first = &mut peers[0].stream;
    first
        .set_read_timeout(Some(Duration::from_secs(1)))
        .expect("can be");
    // Its first moments: the reactor may be about to go to sleep.
    let mut before = ours(&all());
    let mut begin = Instant::now();
    for settled in [true, false] {
        assert!(first.read(&mut [0; 1]).is_err(), "nothing is to be said");
        if settled {
            (before, begin) = (ours(&all()), Instant::now());
        }
    }
    let (elapsed, after) = (begin.elapsed(), ours(&all()));
    let busy = after.0 - before.0;
    let wakeups = after.1 - before.1;
    assert_eq!(all().len(), 2, "{:?}", all());
    let part = busy as f64 / elapsed.as_nanos() as f64;
    println!(
        "idle: {:.4} % of a core, {wakeups} wake-ups in {elapsed:?}",
        part * 100.0
    );
    assert!(part < 0.01, "{part}");
    assert!(wakeups <= 2, "{wakeups} wake-ups of {:?}", all());
    assert!(peers.iter_mut().skip(1).all(Peer::ping));
    controller.stop().expect("everything is flushed");
}

#[test]
fn an_idle_target_sleeps() {
    let mut test = std::process::Command::new(std::env::current_exe().expect("this program"));
    let test = test.args(["--ignored", "--exact", "idle_for_a_second", "--nocapture"]);
    let output = test.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
}

/// What counting busy time costs: one of these per turn. A measurement, as above.
#[test]
#[ignore = "a measurement"]
fn a_reading_of_the_time_stamp_counter() {
    const READINGS: u32 = 20_000_000;
    let begin = Instant::now();
    let (mut last, mut sum) = (ringtgt::sys::ticks::ticks(), 0_u64);
    for _ in 0..READINGS {
        let now = ringtgt::sys::ticks::ticks();
        sum = sum.wrapping_add(now.wrapping_sub(last));
        last = now;
    }
    let ticks = begin.elapsed() / READINGS;
    let begin = Instant::now();
    for _ in 0..READINGS {
        last = last.max(u64::from(Instant::now().elapsed().subsec_nanos()));
    }
    // Two readings each.
    let instants = begin.elapsed() / (2 * READINGS);
    println!("ticks {ticks:?}, Instant::now {instants:?} ({sum} {last})");
}
