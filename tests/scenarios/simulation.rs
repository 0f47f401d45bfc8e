//! Many commands of many initiators against a plain model: random sizes, segments, completion order, aborts,
//! resets and broken connections. A failure names its seed.

use std::collections::{BTreeMap, BTreeSet};

use ringtgt::initiator::{Command, CommandDone, Config, DigestOffer, Event, Payload, wire_lun};
use ringtgt::pdu::code::{
    LogoutReason, TaskManagementFunction as Function, TaskManagementResponse,
};

use crate::common::cdb;
use crate::common::disk::{Pace, medium_error};
use crate::common::pair::{BLOCK, BLOCKS, Closed, INITIATOR, Pair, Segments, Setup, TARGET};
use crate::common::random::Random;

/// What each block of a unit may hold: a stamp that is written all over it. More than one while it is not
/// known whether a write that ended without an answer was done.
type Model = Vec<BTreeSet<u64>>;

#[derive(Clone, Copy, Debug)]
enum Kind {
    Read,
    Write(u64),
    /// VERIFY that compares with this stamp.
    Verify(u64),
    Other,
}

#[derive(Clone, Copy, Debug)]
struct Op {
    lun: usize,
    lba: u64,
    blocks: u64,
    kind: Kind,
    /// A reset came between: there may be no answer.
    doubtful: bool,
}

#[derive(Clone, Copy, Debug)]
enum Aim {
    Task(u32),
    Set(usize),
    Unit(usize),
    Target,
}

impl Aim {
    /// Whether tasks of every session on this unit end by it.
    fn resets(self, lun: usize) -> bool {
        match self {
            Self::Unit(unit) => unit == lun,
            Self::Target => true,
            Self::Task(_) | Self::Set(_) => false,
        }
    }
}

#[derive(Debug)]
struct Client {
    link: usize,
    number: u8,
    ops: BTreeMap<u32, Op>,
    /// A task management function on its way, and the tags it may end.
    aim: Option<(Aim, Vec<u32>)>,
}

struct World {
    seed: u64,
    pair: Pair,
    random: Random,
    clients: Vec<Client>,
    models: Vec<Model>,
    stamp: u64,
    answered: usize,
    /// How each medium works when it does not stand still.
    paces: Vec<Pace>,
}

fn stamped(stamp: u64, blocks: u64) -> Vec<u8> {
    stamp
        .to_le_bytes()
        .repeat(usize::try_from(blocks).unwrap() * BLOCK / 8)
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed + 77);
        let setup = Setup {
            shards: if random.chance(2) { 2 } else { 1 },
            seed,
            segments: if random.chance(4) {
                Segments::Whole
            } else {
                Segments::Random
            },
            pool_bytes: [6 << 20, 12 << 20, 64 << 20][random.index(3)],
            ..Setup::default()
        };
        let mut pair = Pair::with(setup);
        let mut paces = Vec::new();
        for disk in &pair.disks {
            let pace = [Pace::AtOnce, Pace::Later, Pace::Whenever][random.index(3)];
            disk.set_pace(pace);
            paces.push(pace);
            disk.set_depth([2, 8, 1000][random.index(3)]);
            if random.chance(2) {
                disk.never_cancel();
            }
            if random.chance(2) {
                let lba = random.below(4096);
                disk.fail(lba, medium_error(lba));
            }
        }
        pair.limits.offer.max_recv_data_segment_length = [4096, 65_536, 262_144][random.index(3)];
        let units = pair.disks.len();
        let empty = vec![BTreeSet::from([0]); usize::try_from(BLOCKS).unwrap()];
        let mut world = Self {
            seed,
            pair,
            random,
            clients: Vec::new(),
            models: vec![empty; units],
            stamp: 0,
            answered: 0,
            paces,
        };
        for number in 0..3 {
            let config = world.config(number);
            let link = world.pair.login(config);
            world.clients.push(Client {
                link,
                number,
                ops: BTreeMap::new(),
                aim: None,
            });
        }
        world
    }

    fn config(&mut self, number: u8) -> Config {
        let random = &mut self.random;
        let mut config = Config::normal(INITIATOR, TARGET);
        config.isid[5] = number;
        let mut digest = || match random.below(3) {
            0 => DigestOffer::Required,
            _ => DigestOffer::Off,
        };
        config.offers.header_digest = digest();
        config.offers.data_digest = digest();
        config.offers.initial_r2t = random.chance(2);
        config.offers.immediate_data = random.chance(2);
        config.offers.max_burst_length = [4096, 65_536, 1 << 20][random.index(3)];
        config.offers.first_burst_length =
            [512, 4096, 65_536][random.index(3)].min(config.offers.max_burst_length);
        config.offers.max_recv_data_segment_length = [512, 8192, 262_144][random.index(3)];
        config.offers.max_outstanding_r2t = [1, 2, 8][random.index(3)];
        config.max_outstanding = 64;
        config
    }

    fn step(&mut self) {
        let client = self.random.index(self.clients.len());
        match self.random.below(200) {
            0..=79 => self.transfer(client, true),
            80..=159 => self.transfer(client, false),
            160..=169 => self.verify(client),
            170..=179 => self.other(client),
            180..=189 => self.manage(client),
            190..=191 => self.disconnect(client),
            192..=193 => {
                let disk = self.random.index(self.paces.len());
                self.pair.disks[disk].set_pace(Pace::Held);
            }
            194..=197 => self.go_on(),
            _ => self.relocate(client),
        }
        for _ in 0..self.random.below(4) {
            self.pair.turn();
        }
        self.hear();
    }

    /// The session moves to another core, where there is one.
    fn relocate(&mut self, client: usize) {
        let to = self.random.index(self.pair.shards.len());
        self.pair.move_session(self.clients[client].link, to);
    }

    /// No medium stands still any more.
    fn go_on(&mut self) {
        for (disk, &pace) in self.pair.disks.iter().zip(&self.paces) {
            disk.set_pace(pace);
        }
    }

    /// A range that no write of anybody touches, nor, for a write, any read.
    fn range(&mut self, lun: usize, write: bool) -> Option<(u64, u64)> {
        let blocks = match self.random.below(20) {
            0 => 1 + self.random.below(3000),
            1..=4 => 1 + self.random.below(300),
            _ => 1 + self.random.below(9),
        };
        let area = if self.random.chance(3) { BLOCKS } else { 4096 };
        let lba = self.random.below(area - blocks.min(area - 1));
        let clash = self.clients.iter().flat_map(|c| c.ops.values()).any(|op| {
            op.lun == lun
                && op.lba < lba + blocks
                && lba < op.lba + op.blocks
                && (write || matches!(op.kind, Kind::Write(_)))
        });
        (!clash).then_some((lba, blocks))
    }

    fn submit(&mut self, client: usize, mut op: Op, cdb: [u8; 16], payload: Payload) {
        let resets = |c: &Client| matches!(c.aim, Some((aim, _)) if aim.resets(op.lun));
        op.doubtful = self.clients.iter().any(resets);
        let client = &mut self.clients[client];
        let lun = wire_lun(u16::try_from(op.lun).unwrap());
        let command = Command::new(0, lun, cdb, payload);
        if let Ok(tag) = self.pair.links[client.link].initiator.submit(command) {
            client.ops.insert(tag, op);
        }
    }

    fn transfer(&mut self, client: usize, write: bool) {
        let lun = self.random.index(self.models.len());
        let Some((lba, blocks)) = self.range(lun, write) else {
            return;
        };
        let (l, b) = (u32::try_from(lba).unwrap(), u16::try_from(blocks).unwrap());
        let long = self.random.chance(2);
        let (kind, cdb, payload) = if write {
            self.stamp += 1;
            let cdb = match (long, self.random.chance(5)) {
                (true, _) => cdb::write_16(lba, b.into()),
                (false, false) => cdb::write_10(l, b),
                (false, true) => cdb::write_10_fua(l, b),
            };
            (
                Kind::Write(self.stamp),
                cdb,
                Payload::Write(stamped(self.stamp, blocks)),
            )
        } else {
            let cdb = if long {
                cdb::read_16(lba, b.into())
            } else {
                cdb::read_10(l, b)
            };
            (
                Kind::Read,
                cdb,
                Payload::Read(vec![0xee; usize::from(b) * BLOCK]),
            )
        };
        let op = Op {
            lun,
            lba,
            blocks,
            kind,
            doubtful: false,
        };
        self.submit(client, op, cdb, payload);
    }

    /// VERIFY with BYTCHK: with what is there, or with something else.
    fn verify(&mut self, client: usize) {
        let lun = self.random.index(self.models.len());
        let Some((lba, blocks)) = self.range(lun, false) else {
            return;
        };
        let stamp = match self.models[lun][usize::try_from(lba).unwrap()].first() {
            Some(&stamp) if !self.random.chance(4) => stamp,
            _ => 1,
        };
        let blocks = if self.random.chance(2) {
            1
        } else {
            blocks.min(64)
        };
        let (l, b) = (u32::try_from(lba).unwrap(), u16::try_from(blocks).unwrap());
        let op = Op {
            lun,
            lba,
            blocks,
            kind: Kind::Verify(stamp),
            doubtful: false,
        };
        let payload = Payload::Write(stamped(stamp, blocks));
        self.submit(client, op, cdb::verify_10_bytchk(l, b), payload);
    }

    fn other(&mut self, client: usize) {
        let lun = self.random.index(self.models.len());
        let op = Op {
            lun,
            lba: 0,
            blocks: 0,
            kind: Kind::Other,
            doubtful: false,
        };
        let beyond = u32::try_from(BLOCKS).unwrap();
        let (cdb, payload) = match self.random.below(6) {
            0 => (cdb::TEST_UNIT_READY, Payload::None),
            1 => (cdb::inquiry(96), Payload::Read(vec![0; 96])),
            2 => (cdb::synchronize_cache_10(), Payload::None),
            3 => (
                cdb::read_10(beyond - 1, 5),
                Payload::Read(vec![0; 5 * BLOCK]),
            ),
            4 => (
                cdb::write_10(beyond - 1, 200),
                Payload::Write(vec![9; 200 * BLOCK]),
            ),
            _ => {
                let data = self.random.bytes(3000);
                self.pair.links[self.clients[client].link]
                    .initiator
                    .nop(0, &data);
                return;
            }
        };
        self.submit(client, op, cdb, payload);
    }

    fn manage(&mut self, client: usize) {
        let tags: Vec<u32> = self.clients[client].ops.keys().copied().collect();
        if self.clients[client].aim.is_some() || tags.is_empty() {
            return;
        }
        let lun = self.random.index(self.models.len());
        let (aim, function, referenced) = match self.random.below(8) {
            0 => (Aim::Set(lun), Function::ABORT_TASK_SET, None),
            1 => (Aim::Unit(lun), Function::LOGICAL_UNIT_RESET, None),
            2 => (Aim::Unit(lun), Function::CLEAR_TASK_SET, None),
            3 => (Aim::Target, Function::TARGET_WARM_RESET, None),
            _ => {
                let tag = tags[self.random.index(tags.len())];
                (Aim::Task(tag), Function::ABORT_TASK, Some(tag))
            }
        };
        let at = match aim {
            Aim::Task(tag) => self.clients[client].ops[&tag].lun,
            Aim::Set(lun) | Aim::Unit(lun) => lun,
            Aim::Target => 0,
        };
        let lun = wire_lun(u16::try_from(at).unwrap());
        let link = self.clients[client].link;
        let initiator = &mut self.pair.links[link].initiator;
        if initiator
            .task_management(0, function, lun, referenced)
            .is_none()
        {
            return;
        }
        for op in self.clients.iter_mut().flat_map(|c| c.ops.values_mut()) {
            op.doubtful |= aim.resets(op.lun);
        }
        self.clients[client].aim = Some((aim, tags));
    }

    /// The connection breaks, is logged out, or is taken over by a new session of the same name.
    fn disconnect(&mut self, client: usize) {
        let old = self.clients[client].link;
        let ending = self.random.below(3);
        match ending {
            0 => self.pair.cut(old),
            1 => {
                self.pair.links[old]
                    .initiator
                    .logout(LogoutReason::CLOSE_SESSION);
            }
            _ => {}
        }
        self.go_on();
        self.pair.run();
        self.hear();
        let config = self.config(self.clients[client].number);
        let new = self.pair.login(config);
        let why = [Closed::Cut, Closed::Requested, Closed::Reinstated];
        self.pair
            .assert_closed(old, why[usize::try_from(ending).unwrap()].clone());
        // Nothing of the old session is left, whether or not it was done.
        let ops = std::mem::take(&mut self.clients[client].ops);
        self.pair.run();
        self.hear();
        for op in ops.into_values() {
            self.perhaps(op);
        }
        self.clients[client].aim = None;
        self.clients[client].link = new;
    }

    /// A write that ended without an answer.
    fn perhaps(&mut self, op: Op) {
        if let Kind::Write(stamp) = op.kind {
            for lba in op.lba..op.lba + op.blocks {
                self.models[op.lun][usize::try_from(lba).unwrap()].insert(stamp);
            }
        }
    }

    fn hear(&mut self) {
        for client in 0..self.clients.len() {
            let link = self.clients[client].link;
            while let Some(event) = self.pair.event(link) {
                match event {
                    Event::Command(done) => self.finished(client, done),
                    Event::TaskManagement { response, .. } => self.managed(client, response),
                    Event::Nop { .. } | Event::LoggedOut { .. } => {}
                    // The end of a task that was given up crossed the answer of the function.
                    other => panic!("seed {}: {other:?}", self.seed),
                }
            }
            assert_eq!(self.pair.links[link].error, None, "seed {}", self.seed);
        }
    }

    fn finished(&mut self, client: usize, done: CommandDone) {
        let tag = done.initiator_task_tag;
        let Some(op) = self.clients[client].ops.remove(&tag) else {
            panic!("seed {}: an answer to {tag:#x}, which is over", self.seed);
        };
        self.answered += 1;
        if let Some((Aim::Task(aim), _)) = self.clients[client].aim
            && aim == tag
        {
            // It ended before it could be aborted.
            self.clients[client].aim = Some((Aim::Task(u32::MAX), Vec::new()));
        }
        if done.status != 0 {
            let key = done.sense.get(2).map_or(0, |byte| byte & 0xf);
            let allowed = match (done.status, key, op.kind) {
                (0x02, 6, _) | (0x02, 5, Kind::Other) | (0x02, 0xe, Kind::Verify(_)) => true,
                (0x02, 3, kind) => !matches!(kind, Kind::Other),
                (status, ..) => [0x08, 0x28, 0x40].contains(&status),
            };
            assert!(
                allowed,
                "seed {}: {op:?} {:#x} {:x?}",
                self.seed, done.status, done.sense
            );
            match key {
                // A long write may have failed on its way.
                3 => self.perhaps(op),
                0xe => self.differs(op),
                _ => {}
            }
            return;
        }
        let range = usize::try_from(op.lba).unwrap()..usize::try_from(op.lba + op.blocks).unwrap();
        match (op.kind, done.payload) {
            (Kind::Write(stamp), _) => {
                assert!(done.residual == ringtgt::initiator::Residual::None);
                self.models[op.lun][range].fill(BTreeSet::from([stamp]));
            }
            (Kind::Verify(stamp), _) => {
                for lba in range {
                    self.check(op.lun, lba, &stamped(stamp, 1));
                }
            }
            (Kind::Read, Payload::Read(data)) => {
                assert_eq!(data.len(), done.received as usize, "seed {}", self.seed);
                for (lba, block) in range.zip(data.chunks(BLOCK)) {
                    self.check(op.lun, lba, block);
                }
            }
            _ => {}
        }
    }

    /// VERIFY said that something is not as it was given.
    fn differs(&self, op: Op) {
        let Kind::Verify(stamp) = op.kind else {
            return;
        };
        let only = BTreeSet::from([stamp]);
        let range = usize::try_from(op.lba).unwrap()..usize::try_from(op.lba + op.blocks).unwrap();
        let differs = self.models[op.lun][range]
            .iter()
            .any(|model| *model != only);
        assert!(differs, "seed {}: {op:?} does not differ", self.seed);
    }

    fn check(&self, lun: usize, lba: usize, block: &[u8]) {
        let stamp = u64::from_le_bytes(block[..8].try_into().unwrap());
        let whole = block == stamped(stamp, 1);
        let model = &self.models[lun][lba];
        assert!(
            whole && model.contains(&stamp),
            "seed {}: LUN {lun}, block {lba} holds {stamp:#x} (whole: {whole}), not one of {model:?}",
            self.seed
        );
    }

    fn managed(&mut self, client: usize, response: TaskManagementResponse) {
        let Some((aim, tags)) = self.clients[client].aim.take() else {
            return;
        };
        let over: Vec<u32> = match aim {
            Aim::Task(tag) => vec![tag],
            Aim::Target => tags,
            Aim::Set(lun) | Aim::Unit(lun) => {
                let ops = &self.clients[client].ops;
                let there = |tag: &u32| ops.get(tag).is_some_and(|op| op.lun == lun);
                tags.into_iter().filter(there).collect()
            }
        };
        if response != TaskManagementResponse::FUNCTION_COMPLETE {
            let ops = &self.clients[client].ops;
            let gone = match aim {
                Aim::Task(tag) => ops.get(&tag).is_none_or(|op| op.doubtful),
                Aim::Set(_) | Aim::Unit(_) | Aim::Target => false,
            };
            assert!(gone, "seed {}: {aim:?}: {response}", self.seed);
            return;
        }
        let answered =
            matches!(aim, Aim::Task(tag) if !self.clients[client].ops.contains_key(&tag));
        assert!(
            !answered,
            "seed {}: a task was both answered and aborted",
            self.seed
        );
        for tag in over {
            if let Some(op) = self.clients[client].ops.remove(&tag) {
                let link = self.clients[client].link;
                self.pair.links[link].initiator.forget(tag);
                self.perhaps(op);
            }
        }
    }

    /// Everything ends; what a reset may have ended without an answer is given up.
    fn settle(&mut self) {
        self.go_on();
        self.pair.run();
        self.hear();
        for client in 0..self.clients.len() {
            let ops = std::mem::take(&mut self.clients[client].ops);
            for (tag, op) in ops {
                assert!(op.doubtful, "seed {}: no end of {op:?}", self.seed);
                let link = self.clients[client].link;
                self.pair.links[link].initiator.forget(tag);
                self.perhaps(op);
            }
            assert!(
                self.clients[client].aim.is_none(),
                "seed {}: no answer",
                self.seed
            );
            self.pair.assert_well(self.clients[client].link);
        }
        for (lun, disk) in self.pair.disks.clone().into_iter().enumerate() {
            assert_eq!(disk.in_flight(), 0, "seed {}", self.seed);
            for (lba, block) in disk.bytes().chunks(BLOCK).enumerate() {
                self.check(lun, lba, block);
            }
        }
    }
}

fn simulate(seeds: std::ops::Range<u64>) {
    let mut moves = (0, 0);
    for seed in seeds {
        let mut world = World::new(seed);
        for _ in 0..3 {
            for _ in 0..250 {
                world.step();
            }
            world.settle();
        }
        world.pair.assert_all_comes_back();
        assert!(
            world.answered > 100,
            "seed {seed}: {} answers",
            world.answered
        );
        moves.0 += world.pair.moves.0;
        moves.1 += world.pair.moves.1;
    }
    assert!(moves.0 > 10, "moves made and not made: {moves:?}");
}

#[test]
fn every_answer_fits_the_model() {
    simulate(0..12);
}

/// More of the same; `cargo test --test scenarios -- --ignored`.
#[test]
#[ignore = "takes minutes"]
fn every_answer_fits_the_model_for_many_seeds() {
    simulate(1000..1400);
}
