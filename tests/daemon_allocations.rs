//! The whole target over loopback: its reactors allocate nothing for 100 000 mixed commands, whatever
//! the backend, the direction, the way the data of writes comes, and the digests.
#![allow(
    unsafe_code,
    reason = "a global allocator that counts, and a thread's name, can only be had so"
)]
#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, reason = "a test")]

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "tests' own numbers"
)]
mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use common::cdb;
use common::pair::BLOCK;
use common::random::Random;
use common::wire::{Daemon, Peer, config, ending, ram};
use ringtgt::control::config::Storage;
use ringtgt::control::{BackendKind, PollPolicy, Settings};
use ringtgt::initiator::{Command, DigestOffer, Initiator, Offers, Payload, wire_lun};
use ringtgt::sys::ring;

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

/// Allocations are counted now.
static ARMED: AtomicBool = AtomicBool::new(false);
/// Those of reactor threads.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
/// Their bytes.
static BYTES: AtomicU64 = AtomicU64::new(0);
/// Where the first one came from.
static FIRST: Mutex<Option<Backtrace>> = Mutex::new(None);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unknown,
    Reactor,
    Other,
}

thread_local! {
    static KIND: Cell<Kind> = const { Cell::new(Kind::Unknown) };
}

/// What this thread is by its name; asks the kernel, and allocates nothing.
fn kind_by_name() -> Kind {
    let mut name = [0_u8; 16];
    // SAFETY: PR_GET_NAME writes at most 16 bytes, and so many there are.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    if name.starts_with(b"reactor-") {
        Kind::Reactor
    } else {
        Kind::Other
    }
}

fn note(bytes: usize) {
    if !ARMED.load(SeqCst) {
        return;
    }
    let kind = KIND.get();
    if kind == Kind::Unknown {
        KIND.set(kind_by_name());
    }
    if KIND.get() != Kind::Reactor {
        return;
    }
    BYTES.fetch_add(bytes as u64, SeqCst);
    // Remembering where allocates too.
    KIND.set(Kind::Other);
    if ALLOCATIONS.fetch_add(1, SeqCst) == 0 {
        *FIRST.lock().unwrap() = Some(Backtrace::force_capture());
    }
    KIND.set(Kind::Reactor);
}

// SAFETY: everything is handed to the system's allocator unchanged; counting touches nothing of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: as the caller promised.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Runs `work`; gives the allocations of reactor threads meanwhile, and where the first came from.
fn count(work: impl FnOnce()) -> (u64, Option<Backtrace>) {
    ALLOCATIONS.store(0, SeqCst);
    BYTES.store(0, SeqCst);
    ARMED.store(true, SeqCst);
    work();
    ARMED.store(false, SeqCst);
    (ALLOCATIONS.load(SeqCst), FIRST.lock().unwrap().take())
}

const DISK: u64 = 32 << 20;

/// Sessions whose writes come in every way: immediate and then unasked, only unasked, only asked for.
fn sessions(daemon: &Daemon, digests: DigestOffer) -> Vec<Peer> {
    let ways = [(true, false), (false, false), (false, true)];
    let peers = ways.iter().zip(1..).map(|(&(immediate, asked), isid)| {
        let mut config = config(isid);
        config.offers = Offers {
            header_digest: digests,
            data_digest: digests,
            immediate_data: immediate,
            initial_r2t: asked,
            ..Offers::DEFAULT
        };
        Peer::log_in(daemon.address, config)
    });
    peers.collect()
}

/// One mixed command after the other, `depth` at a time.
fn run(peer: &mut Peer, seed: u64, depth: usize, commands: usize) {
    let mut random = Random::new(seed);
    let mut spare: Vec<Vec<u8>> = (0..depth).map(|_| vec![0x5a; 256 * 1024]).collect();
    let (mut begun, mut ended) = (0, 0);
    while ended < commands {
        while begun < commands && begun - ended < depth && peer.initiator.room() > 0 {
            let (cdb, payload) = command(&mut random, &mut spare);
            let command = Command::new(0, wire_lun(0), cdb, payload);
            peer.initiator.submit(command).expect("there is room");
            begun += 1;
        }
        let done = peer.done();
        assert!(done.is_good(), "{}", ending(&done));
        if let Payload::Write(buffer) = done.payload {
            spare.push(buffer);
        }
        ended += 1;
    }
}

fn command(random: &mut Random, spare: &mut Vec<Vec<u8>>) -> (cdb::Cdb, Payload) {
    if random.chance(500) {
        return (cdb::synchronize_cache_10(), Payload::None);
    }
    if random.chance(50) {
        return (cdb::TEST_UNIT_READY, Payload::None);
    }
    // Mostly 4 KiB; now and then up to 256 KiB, of any length.
    let blocks = match random.below(16) {
        0 => 512,
        1..4 => 8 + u16::try_from(random.below(505)).unwrap(),
        _ => 8,
    };
    let len = usize::from(blocks) * BLOCK;
    let last = DISK / BLOCK as u64 - u64::from(blocks);
    let lba = u32::try_from(random.below(last)).unwrap();
    if random.chance(2) {
        let expected = u32::try_from(len).unwrap();
        (cdb::read_10(lba, blocks), Payload::Discard(expected))
    } else {
        let mut buffer = spare.pop().unwrap_or_default();
        buffer.resize(len, 0x5a);
        let cdb = if random.chance(20) {
            cdb::write_10_fua(lba, blocks)
        } else {
            cdb::write_10(lba, blocks)
        };
        (cdb, Payload::Write(buffer))
    }
}

fn all_at_once(peers: &mut [Peer], seed: u64, depth: usize, commands: usize) {
    std::thread::scope(|scope| {
        for (peer, n) in peers.iter_mut().zip(1..) {
            scope.spawn(move || run(peer, seed * 10 + n, depth, commands));
        }
    });
}

/// How a daemon is used.
#[derive(Clone, Copy)]
struct Load {
    poll: PollPolicy,
    /// Memory of all reactors, in bytes.
    pool: u64,
    /// Commands a session keeps going.
    depth: usize,
    /// Commands of all sessions.
    commands: usize,
}

const LONG: Load = Load {
    poll: PollPolicy::Adaptive,
    pool: 128 << 20,
    depth: 24,
    commands: 100_000,
};
const SHORT: Load = Load {
    commands: 10_000,
    ..LONG
};
/// As little memory as there can be, and a great demand for it.
const SCARCE: Load = Load {
    pool: 1 << 20,
    depth: 100,
    ..SHORT
};

fn reactors_allocate_nothing(storage: &Storage, load: Load) {
    for digests in [DigestOffer::Off, DigestOffer::Required] {
        let daemon = Daemon::start(storage.clone(), load.poll, load.pool, Settings::default());
        let mut peers = Vec::new();
        let (allocated, _) = count(|| peers = sessions(&daemon, digests));
        assert!(
            allocated > 0,
            "a login allocates, or else nothing is counted"
        );
        let each = load.commands / 2 / peers.len() + 1;
        all_at_once(&mut peers, 1, load.depth, each / 10);
        let (allocated, first) = count(|| all_at_once(&mut peers, 2, load.depth, each));
        let kind = storage.kind;
        assert_eq!(
            allocated, 0,
            "{kind}, digests {digests:?}, first from\n{first:?}"
        );
        daemon.wait_for_count("commands_ended", 3 * each as u64);
        // What is in memory anyway takes no ring.
        let on_disk = !storage.path.starts_with("/dev/shm");
        if kind == BackendKind::IoUring && on_disk && ring::probe().is_ok() {
            daemon.wait_for_count("ring_completions", 1);
        }
        drop(peers);
        daemon.stop();
    }
}

/// Nothing before login costs more than a few KiB.
fn half_open_logins_cost_little() {
    // Less than one address may have.
    const CONNECTIONS: u32 = 60;
    let load = SHORT;
    let daemon = Daemon::start(ram(DISK), load.poll, load.pool, Settings::default());
    let first = Initiator::new(config(1)).poll_transmit().to_vec();
    for sent in [24, first.len()] {
        let mut streams = Vec::new();
        count(|| {
            for _ in 0..CONNECTIONS {
                let mut stream = TcpStream::connect(daemon.address).expect("it listens");
                stream.write_all(&first[..sent]).unwrap();
                if sent > 48 {
                    // It is answered, and so the target knows all of it.
                    stream.read_exact(&mut [0; 48]).unwrap();
                }
                streams.push(stream);
            }
            let all = || daemon.connections() == (CONNECTIONS, CONNECTIONS);
            daemon.wait_until("all are accepted", all);
        });
        let each = BYTES.load(SeqCst) / u64::from(CONNECTIONS);
        assert!(each < 8 * 1024, "{each} bytes for {sent} bytes of a login");
        drop(streams);
        daemon.wait_until_alone();
    }
    daemon.stop();
}

/// One test, as what is counted belongs to the whole process.
#[test]
fn reactors_allocate_nothing_per_command_and_little_per_login() {
    half_open_logins_cost_little();
    reactors_allocate_nothing(&ram(DISK), LONG);
    for poll in [PollPolicy::Event, PollPolicy::Busy] {
        reactors_allocate_nothing(&ram(DISK), Load { poll, ..SHORT });
    }
    reactors_allocate_nothing(&ram(DISK), SCARCE);
    let on_disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let storage = iouring(&on_disk);
    reactors_allocate_nothing(&storage, LONG);
    reactors_allocate_nothing(&storage, SCARCE);
    if let Ok(in_memory) = tempfile::tempdir_in("/dev/shm") {
        reactors_allocate_nothing(&iouring(&in_memory), SHORT);
    }
}

fn iouring(place: &tempfile::TempDir) -> Storage {
    Storage {
        size: Some(DISK),
        ..Storage::new(0, BackendKind::IoUring, place.path().join("disk"))
    }
}
