//! Nothing is allocated per command: 100 000 mixed commands through session, device server and `ram`
//! backend, after a warm-up, with digests and without.
#![allow(
    unsafe_code,
    reason = "a global allocator that counts can only be written so"
)]
#![allow(missing_docs, reason = "a test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::IoSlice;
use std::time::Instant;

use ringtgt::pdu::bhs::{
    DataOutBhs, FINAL, IMMEDIATE, NO_TAG, NopOutBhs, READ, ScsiCommandBhs, WRITE, length_from_24,
    length_to_24,
};
use ringtgt::pdu::code::Opcode;
use ringtgt::pdu::digest::{data_digest, header_digest};
use ringtgt::pdu::padding;
use ringtgt::session::params::OperationalParams;
use ringtgt::session::{SessionKey, Shard};
use zerocopy::IntoBytes;

#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared by tests that use different parts of it"
)]
#[path = "common/bare.rs"]
mod bare;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is handed to the system's allocator unchanged; counting touches a plain cell.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: as the caller promised.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// An initiator that allocates nothing either, once it is warm.
struct Host {
    shard: Shard,
    key: SessionKey,
    params: OperationalParams,
    cmd_sn: u32,
    bytes: Vec<u8>,
    answers: Vec<u8>,
    payload: Vec<u8>,
}

impl Host {
    fn push(&mut self, bhs: &[u8], len: usize) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bhs);
        let length = length_to_24(u32::try_from(len).expect("short"));
        self.bytes[start + 5..start + 8].copy_from_slice(&length);
        if self.params.header_digest {
            let digest = header_digest(&self.bytes[start..start + 48]);
            self.bytes.extend_from_slice(&digest);
        }
        self.bytes.extend_from_slice(&self.payload[..len]);
        self.bytes.resize(self.bytes.len() + padding(len), 0);
        if self.params.data_digest && len > 0 {
            let digest = data_digest(&self.payload[..len]);
            self.bytes.extend_from_slice(&digest);
        }
    }

    fn command(&mut self, tag: u32, flags: u8, (cdb, blocks): (u8, u16), immediate: usize) {
        let mut bytes = [0; 16];
        bytes[0] = cdb;
        bytes[4] = 8 * u8::try_from(tag % 16).expect("small");
        bytes[7..9].copy_from_slice(&blocks.to_be_bytes());
        let bhs = ScsiCommandBhs {
            opcode: Opcode::SCSI_COMMAND.0,
            flags: flags | FINAL,
            reserved: [0; 2],
            total_ahs_length: 0,
            data_segment_length: [0; 3],
            lun: 0.into(),
            initiator_task_tag: tag.into(),
            expected_data_transfer_length: (u32::from(blocks) * 512).into(),
            cmd_sn: self.cmd_sn.into(),
            exp_stat_sn: 0.into(),
            cdb: bytes,
        };
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        self.push(bhs.as_bytes(), immediate);
    }

    fn ping(&mut self, tag: u32) {
        let bhs = NopOutBhs {
            opcode: Opcode::NOP_OUT.0 | IMMEDIATE,
            flags: FINAL,
            reserved_2: [0; 2],
            total_ahs_length: 0,
            data_segment_length: [0; 3],
            lun: 0.into(),
            initiator_task_tag: tag.into(),
            target_transfer_tag: NO_TAG.into(),
            cmd_sn: self.cmd_sn.into(),
            exp_stat_sn: 0.into(),
            reserved_32: [0; 16],
        };
        self.push(bhs.as_bytes(), 16);
    }

    /// Sends what was pushed, and answers R2Ts until there is nothing more to say.
    fn run(&mut self) -> usize {
        let mut answered = 0;
        while !self.bytes.is_empty() {
            let mut at = 0;
            while at < self.bytes.len() {
                let mut taken = 0;
                for mut piece in self.shard.receive_into(self.key) {
                    let len = piece.len().min(self.bytes.len() - at - taken);
                    let from = at + taken;
                    piece[..len].copy_from_slice(&self.bytes[from..from + len]);
                    taken += len;
                }
                at += taken;
                let now = Instant::now();
                let received = self.shard.handle_received(now, self.key, taken);
                received.expect("nothing wrong was sent");
                self.collect();
            }
            self.bytes.clear();
            answered += self.answer();
        }
        answered
    }

    fn collect(&mut self) {
        loop {
            let mut pieces = [IoSlice::new(&[]); 64];
            let count = self.shard.gather(self.key, &mut pieces);
            let mut len = 0;
            for piece in &pieces[..count] {
                self.answers.extend_from_slice(piece);
                len += piece.len();
            }
            self.shard.transmitted(self.key, len);
            let work = self.shard.poll_backends(Instant::now());
            while self.shard.poll_ready().is_some() {}
            if len == 0 && work == 0 {
                return;
            }
        }
    }

    fn answer(&mut self) -> usize {
        let answers = std::mem::take(&mut self.answers);
        let mut answered = 0;
        let mut at = 0;
        while at < answers.len() {
            let bhs = &answers[at..at + 48];
            let length = [bhs[5], bhs[6], bhs[7]];
            let len = length_from_24(length) as usize;
            let word =
                |at: usize| u32::from_be_bytes(bhs[at..at + 4].try_into().expect("four bytes"));
            if Opcode(bhs[0]) == Opcode::R2T {
                let out = DataOutBhs {
                    opcode: Opcode::DATA_OUT.0,
                    flags: FINAL,
                    reserved_2: [0; 2],
                    total_ahs_length: 0,
                    data_segment_length: [0; 3],
                    lun: 0.into(),
                    initiator_task_tag: word(16).into(),
                    target_transfer_tag: word(20).into(),
                    reserved_24: [0; 4],
                    exp_stat_sn: 0.into(),
                    reserved_32: [0; 4],
                    data_sn: 0.into(),
                    buffer_offset: word(40).into(),
                    reserved_44: [0; 4],
                };
                self.push(out.as_bytes(), word(44) as usize);
            } else if Opcode(bhs[0]) != Opcode::DATA_IN || bhs[1] & 1 != 0 {
                assert_ne!(Opcode(bhs[0]), Opcode::REJECT);
                answered += 1;
            }
            at += 48 + len + padding(len);
            at += if self.params.header_digest { 4 } else { 0 };
            at += if self.params.data_digest && len > 0 {
                4
            } else {
                0
            };
        }
        self.answers = answers;
        self.answers.clear();
        answered
    }

    /// 32 commands of all kinds.
    fn batch(&mut self) -> usize {
        for tag in 0..32 {
            match tag % 8 {
                0 => self.command(tag, 0, (0x00, 0), 0),
                1 => self.command(tag, READ, (0x28, 64), 0),
                2 => self.command(tag, WRITE, (0x2a, 8), 4096),
                3 => self.command(tag, WRITE, (0x2a, 256), 8192),
                4 => self.command(tag, WRITE, (0x2a, 64), 32_768),
                5 => self.ping(tag),
                6 => self.command(tag, 0, (0x35, 0), 0),
                _ => self.command(tag, READ, (0x28, 8), 0),
            }
        }
        self.run()
    }
}

#[test]
fn commands_allocate_nothing() {
    for digests in [false, true] {
        let params = OperationalParams {
            header_digest: digests,
            data_digest: digests,
            max_recv_data_segment_length: 262_144,
            max_send_data_segment_length: 65_536,
            max_outstanding_r2t: 4,
            ..OperationalParams::DEFAULT
        };
        let mut shard = bare::shard_with_ram(32 << 20);
        let opened = shard.open_session(bare::established(params), Instant::now());
        let mut host = Host {
            key: opened.expect("room"),
            shard,
            params,
            cmd_sn: 1,
            bytes: Vec::new(),
            answers: Vec::new(),
            payload: vec![0x5a; 262_144],
        };
        for _ in 0..32 {
            host.batch();
        }
        let before = ALLOCATIONS.with(Cell::get);
        let mut answered = 0;
        while answered < 50_000 {
            answered += host.batch();
        }
        let allocated = ALLOCATIONS.with(Cell::get) - before;
        assert_eq!(allocated, 0, "digests {digests}, {answered} commands");
    }
}
