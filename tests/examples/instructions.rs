//! `instructions SHAPE COMMANDS`: drives session, device server and `ram` backend without a kernel, so that
//! callgrind can count what a command costs. `scripts/instructions` runs it, and says how to read the figures.
//!
//! Only what runs below the three `target_*` functions is the target's; the rest plays initiator and kernel.
//! Every command's status is checked: an error path would be a cheap command.
#![allow(missing_docs, reason = "an example")]

#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared by tests that use different parts of it"
)]
#[path = "../common/bare.rs"]
mod bare;

use std::io::IoSliceMut;
use std::process::ExitCode;
use std::time::Instant;

use ringtgt::buffer::Piece;
use ringtgt::pdu::bhs::{
    DataOutBhs, FINAL, NO_TAG, READ, ScsiCommandBhs, WRITE, length_from_24, length_to_24,
};
use ringtgt::pdu::code::Opcode;
use ringtgt::pdu::digest::{data_digest, header_digest};
use ringtgt::session::params::OperationalParams;
use ringtgt::session::{SessionKey, Shard};
use zerocopy::IntoBytes;

/// What is measured.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    write: bool,
    /// Bytes of a command's data.
    data: usize,
    /// Commands that arrive together.
    depth: u32,
    digests: bool,
}

const fn shape(name: &'static str, write: bool, data: usize, depth: u32, digests: bool) -> Shape {
    Shape {
        name,
        write,
        data,
        depth,
        digests,
    }
}

const SHAPES: &[Shape] = &[
    shape("read-4k-1", false, 4096, 1, false),
    shape("read-4k-32", false, 4096, 32, false),
    shape("read-4k-1-digests", false, 4096, 1, true),
    shape("read-4k-32-digests", false, 4096, 32, true),
    shape("write-4k-1", true, 4096, 1, false),
    shape("write-4k-32", true, 4096, 32, false),
    shape("write-4k-1-digests", true, 4096, 1, true),
    shape("write-4k-32-digests", true, 4096, 32, true),
    shape("read-256k-4", false, 256 << 10, 4, false),
    shape("read-256k-4-digests", false, 256 << 10, 4, true),
    shape("write-256k-4", true, 256 << 10, 4, false),
    shape("write-256k-4-digests", true, 256 << 10, 4, true),
];

/// Pieces of one gathered send, as many as the reactor has.
const PIECES: usize = 128;

// The target's side. Never inlined and named alike, so that callgrind can be told to count here only.

#[inline(never)]
fn target_places(shard: &mut Shard, key: SessionKey) -> [IoSliceMut<'_>; 2] {
    shard.receive_into(key)
}

#[inline(never)]
fn target_received(shard: &mut Shard, now: Instant, key: SessionKey, bytes: usize) {
    let received = shard.handle_received(now, key, bytes);
    received.expect("nothing wrong was sent");
}

#[inline(never)]
fn target_ready(shard: &mut Shard, now: Instant) -> usize {
    let work = shard.poll_backends(now);
    while shard.poll_ready().is_some() {}
    work
}

#[inline(never)]
fn target_gathered<'a>(shard: &'a mut Shard, key: SessionKey, pieces: &mut [Piece<'a>]) -> usize {
    shard.gather_pieces(key, pieces)
}

#[inline(never)]
fn target_sent(shard: &mut Shard, key: SessionKey, bytes: usize) {
    shard.transmitted(key, bytes);
}

/// Initiator and kernel.
struct Host {
    shard: Shard,
    key: SessionKey,
    now: Instant,
    shape: Shape,
    params: OperationalParams,
    cmd_sn: u32,
    block: usize,
    payload: Vec<u8>,
    unsent: Vec<u8>,
    answers: Vec<u8>,
}

impl Host {
    fn new(shape: Shape) -> Self {
        let params = OperationalParams {
            header_digest: shape.digests,
            data_digest: shape.digests,
            initial_r2t: false,
            max_recv_data_segment_length: 262_144,
            max_send_data_segment_length: 262_144,
            max_burst_length: 1 << 20,
            max_outstanding_r2t: 4,
            ..OperationalParams::DEFAULT
        };
        let mut shard = bare::shard_with_ram(32 << 20);
        let now = Instant::now();
        let opened = shard.open_session(bare::established(params), now);
        let mut payload = vec![0; shape.data];
        for (byte, n) in payload.iter_mut().zip(0..251_u8) {
            *byte = n;
        }
        Self {
            key: opened.expect("room"),
            shard,
            now,
            shape,
            params,
            cmd_sn: 1,
            block: 0,
            payload,
            unsent: Vec::new(),
            answers: Vec::new(),
        }
    }

    fn push(&mut self, bhs: &[u8], from: usize, len: usize) {
        self.unsent.extend_from_slice(bhs);
        if self.params.header_digest {
            self.unsent.extend_from_slice(&header_digest(bhs));
        }
        let data = &self.payload[from..from + len];
        self.unsent.extend_from_slice(data);
        if self.params.data_digest && len > 0 {
            self.unsent.extend_from_slice(&data_digest(data));
        }
    }

    fn command(&mut self, tag: u32) {
        let Shape { write, data, .. } = self.shape;
        let blocks = data / 512;
        let (opcode, flags) = if write { (0x2a, WRITE) } else { (0x28, READ) };
        // Immediate data as far as FirstBurstLength goes; R2Ts ask for the rest.
        let first_burst = self.params.first_burst_length as usize;
        let immediate = if write { data.min(first_burst) } else { 0 };
        let mut cdb = [0; 16];
        cdb[0] = opcode;
        cdb[2..6].copy_from_slice(&small(self.block).to_be_bytes());
        cdb[6..9].copy_from_slice(&length_to_24(small(blocks)));
        // Somewhere else each time, and all over the disk; the step is prime.
        let places = usize::try_from(bare::DISK).expect("64 bits") / data;
        self.block = (self.block / blocks + 1021) % places * blocks;
        let bhs = ScsiCommandBhs {
            opcode: Opcode::SCSI_COMMAND.0,
            flags: flags | FINAL | 1,
            reserved: [0; 2],
            total_ahs_length: 0,
            data_segment_length: length_to_24(small(immediate)),
            lun: 0.into(),
            initiator_task_tag: tag.into(),
            expected_data_transfer_length: small(data).into(),
            cmd_sn: self.cmd_sn.into(),
            exp_stat_sn: 0.into(),
            cdb,
        };
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        self.push(bhs.as_bytes(), 0, immediate);
    }

    /// `depth` commands arrive together; returns how many were answered well.
    fn batch(&mut self) -> u32 {
        for tag in 0..self.shape.depth {
            self.command(tag);
        }
        let mut good = 0;
        while !self.unsent.is_empty() {
            let unsent = std::mem::take(&mut self.unsent);
            self.deliver(&unsent);
            self.unsent = unsent;
            self.unsent.clear();
            good += self.read_answers();
        }
        good
    }

    fn deliver(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let mut taken = 0;
            for mut place in target_places(&mut self.shard, self.key) {
                let len = place.len().min(bytes.len());
                let (now, later) = bytes.split_at(len);
                place[..len].copy_from_slice(now);
                bytes = later;
                taken += len;
            }
            target_received(&mut self.shard, self.now, self.key, taken);
            self.collect();
        }
    }

    /// As the reactor does: backends, then one gathered send, until nothing moves.
    fn collect(&mut self) {
        loop {
            let work = target_ready(&mut self.shard, self.now);
            let mut pieces = [Piece::EMPTY; PIECES];
            let count = target_gathered(&mut self.shard, self.key, &mut pieces);
            let mut len = 0;
            for piece in &pieces[..count] {
                let at = self.answers.len();
                self.answers.resize(at + piece.len(), 0);
                len += piece.copy_to(&mut self.answers[at..]);
            }
            if len > 0 {
                target_sent(&mut self.shard, self.key, len);
            } else if work == 0 {
                return;
            }
        }
    }

    fn read_answers(&mut self) -> u32 {
        let answers = std::mem::take(&mut self.answers);
        let mut good = 0;
        let mut at = 0;
        while at < answers.len() {
            let bhs = &answers[at..at + 48];
            let len = length_from_24([bhs[5], bhs[6], bhs[7]]) as usize;
            match Opcode(bhs[0]) {
                Opcode::R2T => self.send_data_out(bhs),
                Opcode::DATA_IN => good += u32::from(bhs[1] & 1 == 1 && bhs[3] == 0),
                Opcode::SCSI_RESPONSE => good += u32::from(bhs[3] == 0),
                _ => {}
            }
            let digests = [
                self.params.header_digest,
                self.params.data_digest && len > 0,
            ];
            at += 48 + len.next_multiple_of(4);
            at += digests.iter().filter(|&&there| there).count() * 4;
        }
        self.answers = answers;
        self.answers.clear();
        good
    }

    /// All that an R2T asks for, in one PDU.
    fn send_data_out(&mut self, r2t: &[u8]) {
        let word = |at: usize| u32::from_be_bytes(r2t[at..at + 4].try_into().expect("four bytes"));
        let (offset, len) = (word(40), word(44));
        let out = DataOutBhs {
            opcode: Opcode::DATA_OUT.0,
            flags: FINAL,
            reserved_2: [0; 2],
            total_ahs_length: 0,
            data_segment_length: length_to_24(len),
            lun: 0.into(),
            initiator_task_tag: word(16).into(),
            target_transfer_tag: word(20).into(),
            reserved_24: [0; 4],
            exp_stat_sn: 0.into(),
            reserved_32: [0; 4],
            data_sn: 0.into(),
            buffer_offset: offset.into(),
            reserved_44: [0; 4],
        };
        debug_assert_ne!(word(20), NO_TAG);
        self.push(out.as_bytes(), offset as usize, len as usize);
    }
}

fn small(n: usize) -> u32 {
    u32::try_from(n).expect("a length of this program")
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [name, commands] = words.as_slice() else {
        // The shapes, for the script: name, commands that arrive together, bytes of a command's data.
        for Shape {
            name, depth, data, ..
        } in SHAPES
        {
            println!("{name} {depth} {data}");
        }
        return ExitCode::SUCCESS;
    };
    let shape = SHAPES.iter().find(|shape| shape.name == name);
    let (Some(&shape), Ok(commands)) = (shape, commands.parse::<u32>()) else {
        eprintln!("instructions: no shape {name}, or {commands} is no number of commands");
        return ExitCode::FAILURE;
    };
    let mut host = Host::new(shape);
    // The first command finds the unit attention; the second batch finds everything warm.
    host.batch();
    let mut answered = 0;
    while answered < commands {
        let good = host.batch();
        assert_eq!(good, shape.depth, "every command is answered, and well");
        answered += good;
    }
    ExitCode::SUCCESS
}
