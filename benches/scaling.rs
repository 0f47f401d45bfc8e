//! Two shards on two cores, without a kernel, against two loops of arithmetic that share nothing.
//!
//! Two threads do the same work alone, one after the other, and then at once: what they reach together, divided by
//! the sum of what each reached alone, is how it scales. Machines scale imperfectly (shared power, caches,
//! hypervisors), so the yardstick is arithmetic on private registers in the same run, phases interleaved. Whatever
//! the shards share that they write to (a counter, a reference count, a cache line) shows as a ratio below 1.
//!
//! `cargo bench --bench scaling` measures, and fails below 0.95.

use std::io::IoSlice;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use ringtgt::backend::ram::RamMedium;
use ringtgt::pdu::bhs::{FINAL, READ, ScsiCommandBhs, WRITE, length_to_24};
use ringtgt::pdu::code::Opcode;
use ringtgt::session::params::OperationalParams;
use ringtgt::session::{SessionKey, Shard, UnitId};
use ringtgt::sys::cpu;
use zerocopy::IntoBytes;

#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared by tests that use different parts of it"
)]
#[path = "../tests/common/bare.rs"]
mod bare;

const DATA: usize = 4096;
const DEPTH: u32 = 32;
/// Blocks that one thread reads and writes: they fit into a core's own cache.
const RANGE: u32 = 512;
const ROUNDS: usize = 31;
const PHASE: Duration = Duration::from_millis(20);
/// The least that two shards may scale, measured in what arithmetic does.
const LEAST: f64 = 0.95;

/// What a thread does between two looks at the clock.
trait Work {
    fn some(&mut self);
}

struct Arithmetic(u64);

impl Work for Arithmetic {
    fn some(&mut self) {
        for _ in 0..10_000 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
        }
        std::hint::black_box(self.0);
    }
}

/// A session of one shard: 32 commands come in, 32 answers leave; reads and writes in turn.
struct Host {
    shard: Shard,
    key: SessionKey,
    now: Instant,
    first: u32,
    cmd_sn: u32,
    writes: bool,
    bytes: Vec<u8>,
}

impl Host {
    fn new(thread: u16, disks: &[Arc<RamMedium>], unit: u32) -> Self {
        let params = OperationalParams {
            max_recv_data_segment_length: 262_144,
            max_send_data_segment_length: 262_144,
            ..OperationalParams::DEFAULT
        };
        let mut shard = bare::shard_of(thread, 2, 16 << 20, disks);
        let now = Instant::now();
        let established = bare::established_for(UnitId(unit), params);
        let key = shard.open_session(established, now).expect("room");
        let mut host = Self {
            shard,
            key,
            now,
            first: u32::from(thread) * RANGE * 4,
            cmd_sn: 1,
            writes: false,
            bytes: Vec::with_capacity(DEPTH as usize * (48 + DATA)),
        };
        for _ in 0..16 {
            // The first command finds the unit attention; memory is touched.
            host.some();
        }
        host
    }

    fn command(&mut self, tag: u32) {
        let (opcode, flags, len) = if self.writes {
            (0x2a, WRITE, DATA)
        } else {
            (0x28, READ, 0)
        };
        let mut cdb = [0; 16];
        cdb[0] = opcode;
        let lba = self.first + tag * 8 % RANGE;
        cdb[2..6].copy_from_slice(&lba.to_be_bytes());
        cdb[8] = 8;
        let bhs = ScsiCommandBhs {
            opcode: Opcode::SCSI_COMMAND.0,
            flags: flags | FINAL | 1,
            reserved: [0; 2],
            total_ahs_length: 0,
            data_segment_length: length_to_24(u32::try_from(len).expect("short")),
            lun: 0.into(),
            initiator_task_tag: tag.into(),
            expected_data_transfer_length: 4096.into(),
            cmd_sn: self.cmd_sn.into(),
            exp_stat_sn: 0.into(),
            cdb,
        };
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        self.bytes.extend_from_slice(bhs.as_bytes());
        self.bytes.resize(self.bytes.len() + len, 0x5a);
    }

    fn receive(&mut self) {
        let mut at = 0;
        while at < self.bytes.len() {
            let mut taken = 0;
            for mut piece in self.shard.receive_into(self.key) {
                let rest = &self.bytes[at + taken..];
                let len = piece.len().min(rest.len());
                piece[..len].copy_from_slice(&rest[..len]);
                taken += len;
            }
            at += taken;
            let received = self.shard.handle_received(self.now, self.key, taken);
            received.expect("nothing wrong was sent");
            self.send();
        }
    }

    fn send(&mut self) {
        loop {
            let work = self.shard.poll_backends(self.now);
            while self.shard.poll_ready().is_some() {}
            let mut pieces = [IoSlice::new(&[]); 128];
            let count = self.shard.gather(self.key, &mut pieces);
            let len: usize = pieces[..count].iter().map(|piece| piece.len()).sum();
            self.shard.transmitted(self.key, len);
            if len == 0 && work == 0 {
                return;
            }
        }
    }
}

impl Work for Host {
    fn some(&mut self) {
        self.writes = !self.writes;
        self.bytes.clear();
        for tag in 0..DEPTH {
            self.command(tag);
        }
        self.receive();
    }
}

/// Rounds of work per second.
fn rate(work: &mut dyn Work) -> f64 {
    let start = Instant::now();
    let mut count = 0.0;
    loop {
        work.some();
        count += 1.0;
        let past = start.elapsed();
        if past >= PHASE {
            return count / past.as_secs_f64();
        }
    }
}

const KINDS: [&str; 3] = [
    "arithmetic",
    "one logical unit",
    "a logical unit of its own each",
];

/// What one thread reached: for each round and kind, alone and beside the other.
fn measure(
    thread: u16,
    core: u32,
    disks: &[Arc<RamMedium>],
    barrier: &Barrier,
    rounds: usize,
) -> Vec<[(f64, f64); 3]> {
    // Without its own core it measures badly, but measures.
    let _ = cpu::pin_current_thread(core);
    let mut works: [Box<dyn Work>; 3] = [
        Box::new(Arithmetic(u64::from(thread) + 1)),
        Box::new(Host::new(thread, disks, 0)),
        Box::new(Host::new(thread, disks, u32::from(thread))),
    ];
    let mut results = Vec::new();
    for _ in 0..rounds {
        let mut round = [(0.0, 0.0); 3];
        for (work, result) in works.iter_mut().zip(&mut round) {
            for turn in 0..2 {
                barrier.wait();
                if turn == thread {
                    result.0 = rate(work.as_mut());
                }
            }
            barrier.wait();
            result.1 = rate(work.as_mut());
        }
        results.push(round);
    }
    results
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    // `cargo test --benches` only wants to see it run.
    let judges = std::env::args().any(|arg| arg == "--bench");
    let rounds = if judges { ROUNDS } else { 1 };
    let cores = cpu::allowed_cores();
    if cores.len() < 2 {
        println!("scaling: not measured, there is one core only");
        return;
    }
    let disks = [bare::ram(), bare::ram()];
    let barrier = Barrier::new(2);
    let (first, second) = std::thread::scope(|scope| {
        let other = scope.spawn(|| measure(1, cores[1], &disks, &barrier, rounds));
        let mine = measure(0, cores[0], &disks, &barrier, rounds);
        (mine, other.join().expect("it does not panic"))
    });
    let scales = |kind: usize| -> Vec<f64> {
        let both = first.iter().zip(&second);
        both.map(|(a, b)| (a[kind].1 + b[kind].1) / (a[kind].0 + b[kind].0))
            .collect()
    };
    let yardstick = scales(0);
    println!("| two threads, at once : alone | median | : arithmetic |");
    println!("| --- | --: | --: |");
    let mut missed = false;
    for (kind, name) in KINDS.iter().enumerate() {
        let scaling = scales(kind);
        let ratios = scaling.iter().zip(&yardstick).map(|(a, b)| a / b);
        let ratio = median(ratios.collect());
        println!("| {name} | {:.3} | {ratio:.3} |", median(scaling));
        missed |= ratio < LEAST;
    }
    if missed && judges {
        eprintln!("scaling: two shards reach less than {LEAST} of what arithmetic scales to");
        std::process::exit(1);
    }
}
