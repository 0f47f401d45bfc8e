//! The whole target over loopback: its reactors allocate nothing per command, whatever the backend, the direction
//! and the digests.
#![allow(
    unsafe_code,
    reason = "a global allocator that counts can only be written so"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};

use ringtgt::control::config::{Portal, Storage, TargetConfig};
use ringtgt::control::{BackendKind, Config, Controller, Settings};
use ringtgt::initiator::{self, Command, DigestOffer, Event, Initiator, Payload};

const NAME: &str = "iqn.2026-11.com.example:counted";
/// Commands before counting, and while counting.
const WARM_UP: u64 = 5_000;
const COUNTED: u64 = 25_000;
const DEPTH: u32 = 24;
const BLOCKS: u64 = 16 << 10;

/// Allocations by threads called `reactor-...`.
static BY_REACTORS: AtomicU64 = AtomicU64::new(0);

struct Counting;

fn count() {
    let mut name = [0_u8; 16];
    // SAFETY: the kernel writes at most 16 bytes.
    let result = unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    if result == 0 && name.starts_with(b"reactor-") {
        BY_REACTORS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed on to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the same.
        unsafe { System.dealloc(place, layout) }
    }
    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's contract is the same.
        unsafe { System.realloc(place, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// One session that always has `DEPTH` commands outstanding.
struct Load {
    stream: TcpStream,
    initiator: Initiator,
    issued: u64,
    answered: u64,
}

impl Load {
    fn new(address: SocketAddr, digests: DigestOffer) -> Self {
        let mut config = initiator::Config::normal("iqn.2026-11.com.example:counter", NAME);
        config.offers.header_digest = digests;
        config.offers.data_digest = digests;
        let stream = TcpStream::connect(address).expect("it listens");
        let mut load = Self {
            stream,
            initiator: Initiator::new(config),
            issued: 0,
            answered: 0,
        };
        while load.initiator.negotiated().is_none() {
            load.exchange();
        }
        load
    }

    fn exchange(&mut self) {
        let len = {
            let bytes = self.initiator.poll_transmit();
            self.stream.write_all(bytes).expect("the target reads");
            bytes.len()
        };
        self.initiator.transmitted(len);
        let len = self
            .stream
            .read(self.initiator.receive_into())
            .expect("the target answers");
        assert_ne!(len, 0, "the target closed the connection");
        self.initiator.handle_received(len).expect("by the rules");
        while let Some(event) = self.initiator.poll_event() {
            match event {
                Event::Command(done) => {
                    assert!(done.is_good() || self.answered == 0, "{done:?}");
                    self.answered += 1;
                }
                Event::LoggedIn => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Reads and writes of 1, 8 and 128 blocks, until `total` are answered.
    fn run_to(&mut self, total: u64) {
        while self.answered < total {
            while self.issued < total && self.issued - self.answered < u64::from(DEPTH) {
                let blocks = [1_u8, 8, 8, 8, 128][(self.issued % 5) as usize];
                let lba = (self.issued * 7919 % (BLOCKS - 128)).to_be_bytes();
                let mut cdb = [0; 16];
                cdb[2..6].copy_from_slice(&lba[4..]);
                cdb[8] = blocks;
                let bytes = usize::from(blocks) * 512;
                let is_write = (self.issued / 5).is_multiple_of(2);
                cdb[0] = if is_write { 0x2a } else { 0x28 };
                let payload = if is_write {
                    Payload::Write(vec![0xa5; bytes])
                } else {
                    Payload::Discard(u32::try_from(bytes).expect("small"))
                };
                let command = Command::new(self.issued, 0, cdb, payload);
                if self.initiator.submit(command).is_err() {
                    break;
                }
                self.issued += 1;
            }
            self.exchange();
        }
    }
}

#[test]
fn reactors_allocate_nothing_per_command() {
    let dir = tempfile::tempdir().expect("a directory");
    for kind in [BackendKind::Ram, BackendKind::IoUring] {
        for digests in [DigestOffer::Off, DigestOffer::Required] {
            let config = Config {
                storages: vec![Storage {
                    size: Some(BLOCKS * 512),
                    ..Storage::new(0, kind, dir.path().join("disk.img"))
                }],
                portals: vec![Portal {
                    id: 0,
                    address: "127.0.0.1:0".parse().expect("an address"),
                }],
                targets: vec![TargetConfig {
                    name: NAME.to_owned(),
                    portal_groups: vec![(1, vec![0])],
                    luns: vec![(0, 0)],
                }],
                ..Config::default()
            };
            let controller = Controller::start(&config, Settings::default()).expect("it starts");
            let mut load = Load::new(controller.facts().portals[0], digests);
            load.run_to(WARM_UP);
            let before = BY_REACTORS.load(Ordering::Relaxed);
            assert!(before > 0, "logins allocate, or the counting does not work");
            load.run_to(WARM_UP + COUNTED);
            let allocations = BY_REACTORS.load(Ordering::Relaxed) - before;
            assert_eq!(allocations, 0, "{kind}, digests {digests:?}");
            drop(load);
            controller.stop().expect("everything is flushed");
        }
    }
}
