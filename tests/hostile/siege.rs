//! A target under attack, and the session that must not notice.

use ringtgt::control::Settings;
use ringtgt::control::config::{Reactors, Storage};
use ringtgt::initiator;
use ringtgt::sys::cpu::allowed_cores;

use crate::common::cdb;
use crate::common::pair::BLOCK;
use crate::common::random::Random;
use crate::common::wire::{Daemon, Peer, config, ram, target};

/// Bytes of the disk.
pub const DISK: usize = 1 << 20;
pub const BLOCKS: u32 = (DISK / BLOCK) as u32;
/// Bytes per check's read.
const PIECE: usize = 128 * 1024;
/// Memory of all reactors: the least there can be.
const POOL: u64 = 1 << 20;

/// A daemon with two targets: one that is attacked and one that only `witness` uses.
#[derive(Debug)]
pub struct Siege {
    pub daemon: Daemon,
    pub witness: Peer,
    /// What both disks must contain.
    pub content: [Vec<u8>; 2],
    random: Random,
}

impl Siege {
    pub fn new() -> Self {
        Self::of(ram(DISK as u64), Settings::default())
    }

    /// With one reactor, which attackers and witness share.
    pub fn on_one_core() -> Self {
        let reactors = Reactors {
            cores: Some(vec![allowed_cores()[0]]),
            ..Reactors::default()
        };
        Self::with(ram(DISK as u64), reactors, Settings::default())
    }

    pub fn of(storage: Storage, settings: Settings) -> Self {
        Self::with(storage, Reactors::default(), settings)
    }

    fn with(storage: Storage, reactors: Reactors, settings: Settings) -> Self {
        let storages = vec![storage, ram(DISK as u64)];
        let daemon = Daemon::start_all(storages, reactors, POOL, settings);
        let mut random = Random::new(7);
        let content = [random.bytes(DISK), random.bytes(DISK)];
        for (disk, bytes) in (0..).zip(&content) {
            let mut peer = Peer::log_in(daemon.address, at(disk, 99));
            for (piece, lba) in bytes.chunks(PIECE).zip((0..).step_by(PIECE / BLOCK)) {
                peer.write(lba, piece);
            }
        }
        let witness = Peer::log_in(daemon.address, at(1, 100));
        Self {
            daemon,
            witness,
            content,
            random,
        }
    }

    /// A session with the target that is attacked.
    #[track_caller]
    pub fn attacker(&self) -> Peer {
        Peer::log_in(self.daemon.address, config(1))
    }

    /// The witness reads and writes, and finds what it wrote.
    #[track_caller]
    pub fn witness_goes_on(&mut self) {
        let lba = self.random.index(DISK / BLOCK - 8);
        let bytes = self.random.bytes(8 * BLOCK);
        let place = u32::try_from(lba).unwrap();
        self.witness.write(place, &bytes);
        assert!(self.witness.read(place, bytes.len()) == bytes, "at {lba}");
        self.content[1][lba * BLOCK..][..bytes.len()].copy_from_slice(&bytes);
    }

    /// All of a disk, as a fresh session reads it.
    #[track_caller]
    pub fn read_all(&self, disk: u64) -> Vec<u8> {
        let mut peer = Peer::log_in(self.daemon.address, at(disk, 101));
        let pieces = (0..BLOCKS).step_by(PIECE / BLOCK);
        pieces.flat_map(|lba| peer.read(lba, PIECE)).collect()
    }

    /// The witness lives, fresh sessions are served, and both disks contain what they must.
    #[track_caller]
    pub fn holds(&mut self, after: &str) {
        self.witness_goes_on();
        assert!(self.witness.ping(), "{after}");
        for disk in [0, 1] {
            let found = self.read_all(disk);
            let expected = &self.content[usize::try_from(disk).unwrap()];
            let differs = found.iter().zip(expected).position(|(a, b)| a != b);
            assert_eq!(differs, None, "disk {disk} after {after}");
        }
    }

    /// As [`Self::holds`], but blocks `lba..lba + blocks` of the attacked disk may have become `new`, each
    /// as a whole; what they are from now on is what they are.
    #[track_caller]
    pub fn holds_but_for(&mut self, after: &str, lba: usize, blocks: usize, new: &[u8]) {
        let found = self.read_all(0);
        for block in lba..lba + blocks {
            let place = block * BLOCK..(block + 1) * BLOCK;
            let is_new = new
                .get((block - lba) * BLOCK..(block - lba + 1) * BLOCK)
                .is_some_and(|new| found[place.clone()] == *new);
            if is_new {
                self.content[0][place.clone()].copy_from_slice(&found[place]);
            }
        }
        self.holds(after);
    }
}

/// A session with target `disk`.
pub fn at(disk: u64, isid: u8) -> initiator::Config {
    initiator::Config {
        target_name: Some(target(disk)),
        ..config(isid)
    }
}

/// READ(10) or WRITE(10) of blocks, by index.
pub fn write_10(lba: usize, blocks: usize) -> cdb::Cdb {
    cdb::write_10(lba.try_into().unwrap(), blocks.try_into().unwrap())
}

pub fn read_10(lba: usize, blocks: usize) -> cdb::Cdb {
    cdb::read_10(lba.try_into().unwrap(), blocks.try_into().unwrap())
}
