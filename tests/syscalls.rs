//! What a 4 KiB read at depth 32 costs in system calls, over real sockets: at most a quarter of one.
//!
//! The reactor counts its own calls at full speed; that it counts all of them is checked with strace, which is too slow
//! to be asked about anything else: a target that is slowed down finds more to do per turn.
#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, reason = "a test")]

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "tests' own numbers"
)]
mod common;

use std::fs;
use std::process::{Child, Command as Process, Stdio};
use std::time::Instant;

use common::cdb;
use common::wire::{Daemon, PATIENCE, Peer, config, ending, ram};
use ringtgt::control::config::Reactors;
use ringtgt::control::{PollPolicy, Settings};
use ringtgt::initiator::{Command, DigestOffer, Offers, Payload, wire_lun};

const DISK: u64 = 16 << 20;
const DEPTH: usize = 32;
const READS: u64 = 20_000;

/// Everything a reactor with a `ram` disk ever asks of the kernel while sessions only do I/O.
const CALLS: [&str; 5] = [
    "receives",
    "empty_receives",
    "sends",
    "reactor_looks",
    "reactor_sleeps",
];

fn calls(daemon: &Daemon, names: &[&str]) -> u64 {
    names.iter().map(|name| daemon.count(name)).sum()
}

fn session(daemon: &Daemon, digests: DigestOffer) -> Peer {
    let mut config = config(1);
    config.offers = Offers {
        header_digest: digests,
        data_digest: digests,
        ..Offers::DEFAULT
    };
    Peer::log_in(daemon.address, config)
}

/// So many reads, [`DEPTH`] at a time, each answer followed by the next command.
fn read(peer: &mut Peer, reads: u64) {
    let (mut begun, mut ended) = (0, 0);
    while ended < reads {
        while begun < reads && begun - ended < DEPTH as u64 && peer.initiator.room() > 0 {
            let lba = u32::try_from(begun * 1021 % (DISK / 4096) * 8).unwrap();
            let payload = Payload::Discard(4096);
            let command = Command::new(0, wire_lun(0), cdb::read_10(lba, 8), payload);
            peer.initiator.submit(command).expect("there is room");
            begun += 1;
        }
        let done = peer.done();
        assert!(done.is_good(), "{}", ending(&done));
        ended += 1;
    }
}

/// A daemon with one reactor.
fn daemon(poll: PollPolicy) -> Daemon {
    let cores = ringtgt::sys::cpu::allowed_cores();
    let reactors = Reactors {
        cores: Some(cores.first().copied().into_iter().collect()),
        poll,
        ..Reactors::default()
    };
    Daemon::start_all(vec![ram(DISK)], reactors, 32 << 20, Settings::default())
}

fn a_read_takes_at_most_a_quarter_of_a_call(poll: PollPolicy, digests: DigestOffer) {
    let daemon = daemon(poll);
    let mut peer = session(&daemon, digests);
    read(&mut peer, 1000);
    // A reactor that waits by asking again and again asks as often as its initiator is slow: those calls belong
    // to the waiting. One that sleeps pays for all of them.
    let counted = match poll {
        PollPolicy::Event => &CALLS[..],
        PollPolicy::Adaptive | PollPolicy::Busy => &["receives", "sends"],
    };
    let before = calls(&daemon, counted);
    read(&mut peer, READS);
    let each = (calls(&daemon, counted) - before) as f64 / READS as f64;
    println!("{poll:?}, digests {digests:?}: {each:.3} system calls per read");
    assert!(each > 0.0, "{poll:?}: nothing is counted");
    assert!(each <= 0.25, "{poll:?}, digests {digests:?}: {each}");
    drop(peer);
    daemon.stop();
}

/// A few more or less: strace interrupts the call that it finds the thread in.
fn the_reactor_counts_all_its_calls(poll: PollPolicy) {
    const SLACK: u64 = 8;
    let daemon = daemon(poll);
    let mut peer = session(&daemon, DigestOffer::Off);
    read(&mut peer, 1000);
    let Some(strace) = Strace::attach(&reactor_thread()) else {
        // With CI=true scripts/test has installed it.
        assert!(std::env::var_os("CI").is_none(), "strace cannot attach");
        println!("{poll:?}: not checked, strace cannot attach");
        return;
    };
    let before = calls(&daemon, &CALLS);
    read(&mut peer, READS);
    let counted = calls(&daemon, &CALLS) - before;
    let seen = strace.detach();
    let total: u64 = seen.iter().map(|(calls, _)| calls).sum();
    println!("{poll:?}: {counted} calls counted, seen {seen:?}");
    assert!(counted > SLACK, "{counted}");
    assert!(total.abs_diff(counted) <= SLACK, "{counted}, {seen:?}");
    drop(peer);
    daemon.stop();
}

/// One test, as the reactor is found among the threads of the process.
#[test]
fn a_4_kib_read_at_depth_32_takes_at_most_a_quarter_of_a_system_call() {
    for poll in [PollPolicy::Event, PollPolicy::Adaptive, PollPolicy::Busy] {
        for digests in [DigestOffer::Off, DigestOffer::Required] {
            a_read_takes_at_most_a_quarter_of_a_call(poll, digests);
        }
    }
    the_reactor_counts_all_its_calls(PollPolicy::Event);
}

/// strace on one thread of this process.
struct Strace {
    process: Child,
    table: tempfile::NamedTempFile,
}

impl Strace {
    /// `None`: there is no strace, or it is not allowed to.
    fn attach(thread: &str) -> Option<Self> {
        let table = tempfile::NamedTempFile::new().unwrap();
        let process = Process::new("strace")
            .args(["-q", "-c", "-p", thread, "-o"])
            .arg(table.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut strace = Self {
            process: process.ok()?,
            table,
        };
        let deadline = Instant::now() + PATIENCE;
        while !is_traced(thread) {
            assert!(Instant::now() < deadline, "strace neither traces nor ends");
            if strace.process.try_wait().unwrap().is_some() {
                return None;
            }
            std::thread::yield_now();
        }
        Some(strace)
    }

    /// Lets the thread go; gives calls and names.
    fn detach(mut self) -> Vec<(u64, String)> {
        let pid = self.process.id().to_string();
        let told = Process::new("kill").args(["-INT", &pid]).status();
        assert!(told.unwrap().success());
        self.process.wait().unwrap();
        let text = fs::read_to_string(self.table.path()).unwrap();
        // % time, seconds, usecs/call, calls, [errors,] name
        let rows = text.lines().filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let calls = words.get(3)?.parse().ok()?;
            Some((calls, (*words.last()?).to_owned()))
        });
        rows.filter(|(_, name)| name != "total").collect()
    }
}

fn is_traced(thread: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap();
    let tracer = status.lines().find_map(|l| l.strip_prefix("TracerPid:"));
    tracer.unwrap().trim() != "0"
}

/// The thread of the one reactor there is.
fn reactor_thread() -> String {
    let names = fs::read_dir("/proc/self/task").unwrap();
    let mut reactors = names.filter_map(|entry| {
        let path = entry.unwrap().path();
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        let thread = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("reactor-").then_some(thread)
    });
    let thread = reactors.next().expect("a reactor runs");
    assert_eq!(reactors.next(), None, "one reactor, on the first core");
    thread
}
