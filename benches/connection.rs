//! Whole turns without a kernel: bytes in, session, device server, `ram` backend, bytes out.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::io::IoSlice;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringtgt::pdu::bhs::{FINAL, READ, ScsiCommandBhs, WRITE, length_to_24};
use ringtgt::pdu::code::Opcode;
use ringtgt::pdu::digest::{data_digest, header_digest};
use ringtgt::session::params::OperationalParams;
use ringtgt::session::{SessionKey, Shard};
use zerocopy::IntoBytes;

#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared by tests that use different parts of it"
)]
#[path = "../tests/common/bare.rs"]
mod bare;

const DATA: usize = 4096;
const DATA_BLOCKS: u8 = 8;

#[derive(Clone, Copy)]
enum Direction {
    In,
    Out,
}

struct Host {
    shard: Shard,
    key: SessionKey,
    now: Instant,
    digests: bool,
    cmd_sn: u32,
    lba: u32,
    data: Vec<u8>,
    digest: [u8; 4],
    bytes: Vec<u8>,
}

impl Host {
    fn new(digests: bool) -> Self {
        let params = OperationalParams {
            header_digest: digests,
            data_digest: digests,
            max_recv_data_segment_length: 262_144,
            max_send_data_segment_length: 262_144,
            initial_r2t: false,
            ..OperationalParams::DEFAULT
        };
        let mut shard = bare::shard_with_ram(64 << 20);
        let now = Instant::now();
        let key = shard
            .open_session(bare::established(params), now)
            .expect("room");
        let data = vec![0x5a; DATA];
        let mut host = Self {
            shard,
            key,
            now,
            digests,
            cmd_sn: 1,
            lba: 0,
            digest: data_digest(&data),
            data,
            bytes: Vec::new(),
        };
        // The first command finds the unit attention.
        host.turn(Direction::In, 1);
        host
    }

    fn command(&mut self, tag: u32, direction: Direction) {
        let (opcode, flags, data) = match direction {
            Direction::In => (0x28, READ, 0),
            Direction::Out => (0x2a, WRITE, DATA),
        };
        let mut cdb = [0; 16];
        cdb[0] = opcode;
        cdb[2..6].copy_from_slice(&self.lba.to_be_bytes());
        cdb[8] = DATA_BLOCKS;
        self.lba = (self.lba + 8 * 1021) % (64 * 2048);
        let bhs = ScsiCommandBhs {
            opcode: Opcode::SCSI_COMMAND.0,
            flags: flags | FINAL | 1,
            reserved: [0; 2],
            total_ahs_length: 0,
            data_segment_length: length_to_24(u32::try_from(data).expect("short")),
            lun: 0.into(),
            initiator_task_tag: tag.into(),
            expected_data_transfer_length: 4096.into(),
            cmd_sn: self.cmd_sn.into(),
            exp_stat_sn: 0.into(),
            cdb,
        };
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        self.bytes.extend_from_slice(bhs.as_bytes());
        if self.digests {
            self.bytes.extend_from_slice(&header_digest(bhs.as_bytes()));
        }
        if data > 0 {
            self.bytes.extend_from_slice(&self.data);
            if self.digests {
                self.bytes.extend_from_slice(&self.digest);
            }
        }
    }

    /// `depth` commands arrive together and are answered; returns the bytes of the answers.
    fn turn(&mut self, direction: Direction, depth: u32) -> usize {
        self.bytes.clear();
        for tag in 0..depth {
            self.command(tag, direction);
        }
        let mut at = 0;
        let mut answered = 0;
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
            answered += self.send();
        }
        answered
    }

    fn send(&mut self) -> usize {
        let mut sent = 0;
        loop {
            let work = self.shard.poll_backends(self.now);
            while self.shard.poll_ready().is_some() {}
            let mut pieces = [IoSlice::new(&[]); 64];
            let count = self.shard.gather(self.key, &mut pieces);
            let len: usize = pieces[..count].iter().map(|piece| piece.len()).sum();
            self.shard.transmitted(self.key, len);
            sent += len;
            if len == 0 && work == 0 {
                return sent;
            }
        }
    }
}

fn turns(c: &mut Criterion) {
    for (name, direction) in [
        ("READ(10) 4 KiB", Direction::In),
        ("WRITE(10) 4 KiB", Direction::Out),
    ] {
        let mut group = c.benchmark_group(name);
        for digests in [false, true] {
            for depth in [1, 32] {
                let mut host = Host::new(digests);
                let with = if digests { "digests" } else { "plain" };
                // Every command is answered: a read by its data and 48 bytes, a write by 48.
                let least = match direction {
                    Direction::In => (48 + DATA) * depth as usize,
                    Direction::Out => 48 * depth as usize,
                };
                assert!(host.turn(direction, depth) >= least);
                group.throughput(Throughput::Elements(u64::from(depth)));
                group.bench_function(BenchmarkId::new(with, depth), |b| {
                    b.iter(|| host.turn(direction, depth));
                });
            }
        }
        group.finish();
    }
}

criterion_group!(benches, turns);
criterion_main!(benches);
