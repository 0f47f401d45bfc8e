//! A storage that hangs: a FUSE file whose server does not answer. Others on the same core notice nothing; on
//! the unit itself no function is answered before what it covers has ended.
#![allow(missing_docs, reason = "a test")]
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    unreachable_pub,
    reason = "a test, of numbers that it made itself"
)]

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "tests' own numbers"
)]
#[path = "../common/mod.rs"]
mod common;
mod fuse;
mod latency;

use std::path::Path;
use std::time::{Duration, Instant};

use common::cdb;
use common::pair::BLOCK;
use common::wire::{Daemon, Peer, config, target};
use fuse::SlowFile;
use ringtgt::control::config::{Reactors, Storage};
use ringtgt::control::{BackendKind, PollPolicy, Settings};
use ringtgt::initiator::{Command, Event, Payload, wire_lun};
use ringtgt::pdu::code::{TaskManagementFunction as Function, TaskManagementResponse as Response};

const DISK: u64 = 8 << 20;
/// What the hanging unit is asked for: as much as a session may ask for.
const MANY: usize = 120;

/// Two units on one core: 0 on a file that can hang, 1 on an ordinary one.
struct Scene {
    slow: SlowFile,
    daemon: Daemon,
    _place: tempfile::TempDir,
}

fn storage(kind: BackendKind, path: &Path) -> Storage {
    Storage {
        size: (!path.exists()).then_some(DISK),
        ..Storage::new(0, kind, path.to_owned())
    }
}

impl Scene {
    /// `None` where no FUSE file can be had; why is printed.
    fn new(kind: BackendKind, poll: PollPolicy) -> Option<Self> {
        let slow = SlowFile::mount(DISK as usize)
            .inspect_err(|why| eprintln!("skipped: {why}"))
            .ok()?;
        let place = tempfile::tempdir().unwrap();
        let storages = vec![
            storage(kind, &slow.path()),
            storage(kind, &place.path().join("disk.img")),
        ];
        let cores = ringtgt::sys::cpu::allowed_cores();
        let reactors = Reactors {
            poll,
            cores: Some(cores[..1].to_vec()),
            ..Reactors::default()
        };
        let settings = Settings {
            patience: Duration::from_millis(200),
            flush_patience: Duration::from_secs(1),
            ..Settings::default()
        };
        Some(Self {
            slow,
            daemon: Daemon::start_all(storages, reactors, 64 << 20, settings),
            _place: place,
        })
    }

    fn log_in(&self, unit: u64, isid: u8) -> Peer {
        let mut config = config(isid);
        config.target_name = Some(target(unit));
        Peer::log_in(self.daemon.address, config)
    }

    /// A session of unit 0, with as much begun there as it may, all of which hangs.
    fn stuck(&self, isid: u8, interruptible: bool) -> Peer {
        let mut peer = self.log_in(0, isid);
        self.slow.stall(interruptible);
        for n in 0..MANY {
            begin(&mut peer, n as u64, n % 2 == 0, n as u32);
        }
        assert!(peer.send_all());
        // How many of them the medium takes at a time is its affair.
        self.daemon
            .wait_until("the medium has some", || self.slow.held() >= 2);
        peer
    }
}

/// Asks for one block to be written or read.
fn begin(peer: &mut Peer, cookie: u64, write: bool, lba: u32) -> u32 {
    let (cdb, payload) = if write {
        let data = vec![cookie as u8; BLOCK];
        (cdb::write_10(lba, 1), Payload::Write(data))
    } else {
        (cdb::read_10(lba, 1), Payload::Read(vec![0; BLOCK]))
    };
    let command = Command::new(cookie, wire_lun(0), cdb, payload);
    peer.initiator.submit(command).expect("there is room")
}

fn ask(peer: &mut Peer, function: Function, referenced: Option<u32>) {
    let lun = wire_lun(0);
    let sent = (peer.initiator).task_management(99, function, lun, referenced);
    assert!(sent.is_some());
    assert!(peer.send_all());
}

/// What was answered before a ping that is sent now; that the window is open again does not count.
fn before_ping(peer: &mut Peer) -> usize {
    let events = peer.until_ping().expect("the connection lives");
    let answers = events
        .iter()
        .filter(|event| !matches!(event, Event::Pinged { .. }));
    answers.count()
}

/// The answer to the function, and the commands that ended before it.
fn answer(peer: &mut Peer) -> (Response, Vec<u64>) {
    let mut ended = Vec::new();
    loop {
        match peer.next().expect("the connection lives") {
            Event::TaskManagement { response, .. } => return (response, ended),
            Event::Command(done) => ended.push(done.cookie),
            Event::Nop { .. } | Event::Pinged { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Everything that unit 1 is good for, with its own session and new ones, while unit 0 hangs.
fn works(scene: &Scene, good: &mut Peer, round: u8) {
    for n in 0..50_u32 {
        let block = vec![round ^ n as u8; BLOCK];
        good.write(n, &block);
        assert_eq!(good.read(n, BLOCK), block);
    }
    let flushed = good.run(cdb::synchronize_cache_10(), Payload::None);
    assert!(flushed.is_good());
    assert_eq!(before_ping(good), 0);
    // A task that is not there any more: the answer comes all the same.
    ask(good, Function::ABORT_TASK, Some(0x7000_0000));
    assert_eq!(answer(good).0, Response::TASK_DOES_NOT_EXIST);
    ask(good, Function::LOGICAL_UNIT_RESET, None);
    assert_eq!(answer(good).0, Response::FUNCTION_COMPLETE);
    // The unit attention that tells of it.
    good.run(cdb::TEST_UNIT_READY, Payload::None);
    let mut other = scene.log_in(1, 40 + round);
    assert_eq!(before_ping(&mut other), 0);
    // A newcomer may log in to the target of the unit that hangs, too.
    let mut stranger = scene.log_in(0, 60 + round);
    assert_eq!(before_ping(&mut stranger), 0);
}

fn a_file_that_hangs_holds_up_nobody_else(kind: BackendKind, poll: PollPolicy) {
    let Some(scene) = Scene::new(kind, poll) else {
        return;
    };
    let mut good = scene.log_in(1, 1);
    works(&scene, &mut good, 1);
    let mut stuck: Vec<_> = (10..14).map(|isid| scene.stuck(isid, false)).collect();
    works(&scene, &mut good, 2);
    for peer in &mut stuck {
        assert_eq!(before_ping(peer), 0, "the sessions themselves live");
    }
    scene.slow.release();
    for peer in &mut stuck {
        for _ in 0..MANY {
            assert!(peer.done().is_good());
        }
    }
    assert!(scene.slow.writes() >= 4 * MANY / 2);
    works(&scene, &mut good, 3);
    scene.daemon.stop();
}

#[test]
fn a_file_that_hangs_holds_up_nobody_else_on_the_ring() {
    a_file_that_hangs_holds_up_nobody_else(BackendKind::IoUring, PollPolicy::Adaptive);
}

#[test]
fn a_file_that_hangs_holds_up_nobody_else_on_threads() {
    a_file_that_hangs_holds_up_nobody_else(BackendKind::File, PollPolicy::Event);
}

/// A write that the medium has: its tag.
fn handed_over(scene: &Scene, peer: &mut Peer) -> u32 {
    let before = scene.slow.held();
    let tag = begin(peer, 7, true, 3);
    assert!(peer.send_all());
    let slow = &scene.slow;
    scene
        .daemon
        .wait_until("the medium has it", || slow.held() > before);
    tag
}

fn functions_wait_for_what_the_medium_has(function: Function, interruptible: bool) {
    for kind in [BackendKind::IoUring, BackendKind::File] {
        let Some(scene) = Scene::new(kind, PollPolicy::Adaptive) else {
            return;
        };
        let mut good = scene.log_in(1, 1);
        let mut peer = scene.log_in(0, 2);
        scene.slow.stall(interruptible);
        let tag = handed_over(&scene, &mut peer);
        let named = (function == Function::ABORT_TASK).then_some(tag);
        ask(&mut peer, function, named);
        // Turns of the same core pass; the session itself answers pings, but not the function.
        works(&scene, &mut good, 1);
        assert_eq!(before_ping(&mut peer), 0, "{kind}");
        assert_eq!(scene.slow.writes(), 0);
        scene.slow.release();
        let (response, ended) = answer(&mut peer);
        assert_eq!(response, Response::FUNCTION_COMPLETE);
        assert!(ended.is_empty(), "an aborted command is not answered");
        // It had taken effect by then, and nothing of it comes later.
        assert_eq!(scene.slow.writes(), 1, "{kind}");
        scene.daemon.stop();
    }
}

#[test]
fn abort_task_waits_for_a_write_that_the_medium_has() {
    functions_wait_for_what_the_medium_has(Function::ABORT_TASK, false);
}

#[test]
fn a_reset_waits_for_a_write_that_the_medium_has() {
    functions_wait_for_what_the_medium_has(Function::LOGICAL_UNIT_RESET, false);
}

#[test]
fn a_write_that_the_medium_gives_up_need_not_be_waited_for() {
    let Some(scene) = Scene::new(BackendKind::IoUring, PollPolicy::Adaptive) else {
        return;
    };
    let mut peer = scene.log_in(0, 2);
    scene.slow.stall(true);
    // A read goes through the ring, which can cancel it.
    let tag = begin(&mut peer, 7, false, 3);
    assert!(peer.send_all());
    scene
        .daemon
        .wait_until("the medium has it", || scene.slow.held() > 0);
    ask(&mut peer, Function::ABORT_TASK, Some(tag));
    assert_eq!(answer(&mut peer).0, Response::FUNCTION_COMPLETE);
    assert_eq!(scene.slow.held(), 0, "it was given up");
    scene.slow.release();
    scene.daemon.stop();
}

#[test]
fn an_initiator_whose_write_hangs_logs_in_again_and_finds_its_other_units() {
    for kind in [BackendKind::IoUring, BackendKind::File] {
        let Some(scene) = Scene::new(kind, PollPolicy::Adaptive) else {
            return;
        };
        let mut peer = scene.log_in(0, 2);
        scene.slow.stall(false);
        handed_over(&scene, &mut peer);
        // The same ISID: it takes the place of the session whose write hangs.
        let mut again = scene.log_in(0, 2);
        let busy = |peer: &mut Peer| {
            let block = Payload::Write(vec![9; BLOCK]);
            peer.run(cdb::write_10(3, 1), block).status == 0x08
        };
        again.run(cdb::TEST_UNIT_READY, Payload::None);
        assert!(again.run(cdb::TEST_UNIT_READY, Payload::None).is_good());
        assert!(busy(&mut again), "{kind}: the old write may come later");
        assert_eq!(scene.slow.writes(), 0);
        scene.slow.release();
        scene.daemon.wait_for_count("sessions_closed", 1);
        assert_eq!(scene.slow.writes(), 1, "{kind}: the old one");
        again.write(3, &[9; BLOCK]);
        assert_eq!(scene.slow.writes(), 2, "{kind}: the new one came after it");
        assert_eq!(again.read(3, BLOCK), [9; BLOCK]);
        scene.daemon.stop();
    }
}

#[test]
fn a_stop_ends_within_its_limits_although_a_file_hangs() {
    for kind in [BackendKind::IoUring, BackendKind::File] {
        let Some(scene) = Scene::new(kind, PollPolicy::Adaptive) else {
            return;
        };
        let peer = scene.stuck(2, false);
        let Scene { slow, daemon, .. } = scene;
        let began = Instant::now();
        let problems = daemon.stop_with_problems();
        // 0.2 s for commands, 2 s for what the kernel has, 1 s for the threads, 2 s for offloading, 1 s to flush.
        let took = began.elapsed();
        assert!(took < Duration::from_secs(20), "{kind}: {took:?}");
        assert!(
            problems
                .iter()
                .any(|problem| problem.contains("did not end")),
            "{kind}: {problems:?}"
        );
        drop(peer);
        slow.release();
    }
}
