//! Reads that leave from the memory of the `ram` medium itself show what they may show, and nothing later.
#![allow(missing_docs, reason = "a test")]

#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared by tests that use different parts of it"
)]
#[path = "common/bare.rs"]
mod bare;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use ringtgt::buffer::Piece;
use ringtgt::pdu::bhs::{
    FINAL, IMMEDIATE, READ, ScsiCommandBhs, TaskManagementRequestBhs, WRITE, length_to_24,
};
use ringtgt::pdu::code::Opcode;
use ringtgt::session::params::OperationalParams;
use ringtgt::session::{SessionKey, Shard};
use zerocopy::IntoBytes;

const SIMPLE: u8 = 1;
const ORDERED: u8 = 2;

/// A core, or several that share a disk.
type Core = Rc<RefCell<Shard>>;

struct Host {
    shard: Core,
    key: SessionKey,
    cmd_sn: u32,
    unsent: Vec<u8>,
}

impl Host {
    fn new() -> Self {
        Self::on(&Rc::new(RefCell::new(bare::shard_with_ram(8 << 20))))
    }

    fn on(core: &Core) -> Self {
        let params = OperationalParams {
            initial_r2t: false,
            ..OperationalParams::DEFAULT
        };
        let shard = Rc::clone(core);
        let opened = (shard.borrow_mut()).open_session(bare::established(params), Instant::now());
        let key = opened.expect("room");
        let mut host = Self {
            shard,
            key,
            cmd_sn: 1,
            unsent: Vec::new(),
        };
        // Takes the unit attention of the new nexus.
        host.command(SIMPLE, 512, &[]);
        host.deliver();
        assert_eq!(host.collect(usize::MAX)[3], 2, "CHECK CONDITION");
        host
    }

    /// One command on the disk's first blocks: a write of `data`, or a read of `len` bytes without.
    fn command(&mut self, attribute: u8, len: u32, data: &[u8]) {
        self.command_at(0, attribute, len, data);
    }

    /// The same, from byte `at`.
    fn command_at(&mut self, at: u32, attribute: u8, len: u32, data: &[u8]) {
        let (opcode, direction) = if data.is_empty() {
            (0x28, READ)
        } else {
            (0x2a, WRITE)
        };
        let mut cdb = [0; 16];
        cdb[0] = opcode;
        cdb[2..6].copy_from_slice(&(at / 512).to_be_bytes());
        let blocks = u16::try_from(len / 512).expect("short");
        cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
        let bhs = ScsiCommandBhs {
            opcode: Opcode::SCSI_COMMAND.0,
            flags: direction | FINAL | attribute,
            reserved: [0; 2],
            total_ahs_length: 0,
            data_segment_length: length_to_24(u32::try_from(data.len()).expect("short")),
            lun: 0.into(),
            initiator_task_tag: self.cmd_sn.into(),
            expected_data_transfer_length: len.into(),
            cmd_sn: self.cmd_sn.into(),
            exp_stat_sn: 0.into(),
            cdb,
        };
        self.cmd_sn += 1;
        self.unsent.extend_from_slice(bhs.as_bytes());
        self.unsent.extend_from_slice(data);
    }

    /// All commands so far arrive in one receive.
    fn deliver(&mut self) {
        let mut rest = std::mem::take(&mut self.unsent);
        let mut taken = 0;
        let mut shard = self.shard.borrow_mut();
        for mut place in shard.receive_into(self.key) {
            let len = place.len().min(rest.len());
            place[..len].copy_from_slice(&rest[..len]);
            rest.drain(..len);
            taken += len;
        }
        assert!(rest.is_empty(), "one receive");
        let received = shard.handle_received(Instant::now(), self.key, taken);
        received.expect("nothing wrong was sent");
    }

    /// The socket takes at most `most` bytes of what there is to send now.
    fn collect(&mut self, most: usize) -> Vec<u8> {
        let mut shard = self.shard.borrow_mut();
        shard.poll_backends(Instant::now());
        let mut pieces = [Piece::EMPTY; 128];
        let count = shard.gather_pieces(self.key, &mut pieces);
        let mut bytes = Vec::new();
        for piece in &pieces[..count] {
            let at = bytes.len();
            bytes.resize(at + piece.len(), 0);
            piece.copy_to(&mut bytes[at..]);
        }
        bytes.truncate(most);
        shard.transmitted(self.key, bytes.len());
        bytes
    }

    /// Writes `byte` to `len` bytes from the disk's start, and waits for each answer: GOOD, but for a unit attention.
    fn fill(&mut self, len: u32, byte: u8) {
        for at in (0..len).step_by(8192) {
            loop {
                self.command_at(at, SIMPLE, 8192, &[byte; 8192]);
                self.deliver();
                match self.collect(usize::MAX)[3] {
                    0 => break,
                    status => assert_eq!(status, 2, "CHECK CONDITION"),
                }
            }
        }
    }

    /// Sends an immediate task management function for LUN 0.
    fn function(&mut self, function: u8) {
        let bhs = TaskManagementRequestBhs {
            opcode: Opcode::TASK_MANAGEMENT_REQUEST.0 | IMMEDIATE,
            function: FINAL | function,
            reserved_2: [0; 2],
            total_ahs_length: 0,
            data_segment_length: [0; 3],
            lun: 0.into(),
            initiator_task_tag: 0xffff.into(),
            referenced_task_tag: 0xffff_ffff.into(),
            cmd_sn: self.cmd_sn.into(),
            exp_stat_sn: 0.into(),
            ref_cmd_sn: 0.into(),
            exp_data_sn: 0.into(),
            reserved_40: [0; 8],
        };
        self.unsent.extend_from_slice(bhs.as_bytes());
        self.deliver();
    }
}

#[test]
fn an_ordered_write_does_not_show_in_a_read_before_it() {
    let mut host = Host::new();
    host.command(SIMPLE, 4096, &[1; 4096]);
    host.deliver();
    assert_eq!(host.collect(usize::MAX)[3], 0, "GOOD");
    host.command(SIMPLE, 4096, &[]);
    host.command(ORDERED, 4096, &[2; 4096]);
    host.deliver();
    let first = host.collect(usize::MAX);
    assert_eq!(first[0], Opcode::DATA_IN.0);
    assert!(first[48..48 + 4096].iter().all(|&byte| byte == 1));
    // It has been written nevertheless.
    while !host.collect(usize::MAX).is_empty() {}
    host.command(SIMPLE, 4096, &[]);
    host.deliver();
    let second = host.collect(usize::MAX);
    assert!(second[48..48 + 4096].iter().all(|&byte| byte == 2));
}

#[test]
fn a_block_of_which_a_part_has_left_leaves_as_it_was() {
    let mut host = Host::new();
    host.command(SIMPLE, 8192, &[1; 8192]);
    host.deliver();
    host.collect(usize::MAX);
    host.command(SIMPLE, 8192, &[]);
    host.deliver();
    let mut answer = host.collect(48 + 1000);
    assert_eq!(answer.len(), 48 + 1000, "the socket took a part");
    host.command(SIMPLE, 8192, &[2; 8192]);
    host.deliver();
    answer.extend(host.collect(8192 - 1000));
    assert!(answer[48..48 + 4096].iter().all(|&byte| byte == 1));
    assert_eq!(answer.len(), 48 + 8192);
}

#[test]
fn what_is_read_is_what_was_written_in_any_mixture() {
    let mut host = Host::new();
    for round in 1..=50_u8 {
        host.command(SIMPLE, 4096, &[round; 4096]);
        host.deliver();
        assert_eq!(host.collect(usize::MAX)[3], 0, "GOOD");
        host.command(SIMPLE, 4096, &[]);
        host.deliver();
        let answer = host.collect(usize::MAX);
        assert_eq!(answer.len(), 48 + 4096);
        assert!(answer[48..].iter().all(|&byte| byte == round));
    }
}

/// Two cores with one disk.
fn two_cores() -> [Core; 2] {
    let disk = [bare::ram()];
    [0, 1].map(|core| Rc::new(RefCell::new(bare::shard_of(core, 2, 64 << 20, &disk))))
}

/// Carries what cores say to each other.
fn converse(cores: &[Core; 2]) {
    let mut silent = false;
    while !silent {
        silent = true;
        for core in cores {
            core.borrow_mut().poll_backends(Instant::now());
            let said = core.borrow_mut().poll_message();
            if let Some((to, message)) = said {
                let mut to = cores[usize::from(to.0)].borrow_mut();
                to.handle_message(Instant::now(), message);
                silent = false;
            }
        }
    }
}

/// The data of Data-In PDUs, one after the other, and whether the last carried the status GOOD.
fn data_of(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let (mut data, mut good) = (Vec::new(), false);
    while let Some((header, rest)) = bytes.split_at_checked(48) {
        assert_eq!(header[0], Opcode::DATA_IN.0);
        good = header[1] & 1 != 0 && header[3] == 0;
        let len = usize::from(header[6]) << 8 | usize::from(header[7]);
        let (body, rest) = rest.split_at(len);
        data.extend_from_slice(body);
        bytes = rest;
    }
    (data, good)
}

/// What holds for a read of which the medium has lent the data: each block leaves as it was at some moment between the
/// command's execution and its leaving. So it is never older than a write that was acknowledged before the command came...
#[test]
fn what_waits_to_leave_shows_whole_blocks_old_or_new() {
    let cores = two_cores();
    let (mut reader, mut writer) = (Host::on(&cores[0]), Host::on(&cores[1]));
    writer.fill(8192, 1);
    reader.command(SIMPLE, 8192, &[]);
    reader.deliver();
    assert!(reader.collect(0).is_empty(), "the socket is full");
    writer.fill(8192, 2);
    let (data, good) = data_of(&reader.collect(usize::MAX));
    assert!(good && data.len() == 8192);
    for block in data.chunks(4096) {
        assert!(
            block
                .iter()
                .all(|byte| *byte == block[0] && (1..=2).contains(byte))
        );
    }
    reader.command(SIMPLE, 8192, &[]);
    reader.deliver();
    let (data, _) = data_of(&reader.collect(usize::MAX));
    assert!(
        data.iter().all(|&byte| byte == 2),
        "written and acknowledged before"
    );
}

/// ... and never newer than a barrier: once a reset of the logical unit is answered, on whatever core, what is written
/// next does not show in what was read before.
#[test]
fn a_reset_on_any_core_keeps_what_was_read_before_as_it_was() {
    const LOGICAL_UNIT_RESET: u8 = 5;
    for (reads, resets) in [(0, 1), (1, 0), (0, 0), (1, 1)] {
        let cores = two_cores();
        let (mut reader, mut writer) = (Host::on(&cores[reads]), Host::on(&cores[resets]));
        writer.fill(8192, 1);
        reader.command(SIMPLE, 8192, &[]);
        reader.deliver();
        assert!(reader.collect(0).is_empty(), "the socket is full");
        writer.function(LOGICAL_UNIT_RESET);
        converse(&cores);
        let answer = writer.collect(usize::MAX);
        assert_eq!(answer[0], Opcode::TASK_MANAGEMENT_RESPONSE.0);
        assert_eq!(answer[2], 0, "function complete");
        writer.fill(8192, 2);
        let (data, _) = data_of(&reader.collect(usize::MAX));
        assert_eq!(data.len(), 8192, "it was on the wire");
        assert!(data.iter().all(|&byte| byte == 1), "{reads} {resets}");
    }
}

/// A session does not move before all that it has begun to read has left: nothing that is lent on one core is sent from
/// another.
#[test]
fn a_session_that_is_to_move_sends_what_it_was_lent_first() {
    const LEN: u32 = 1 << 20;
    let cores = two_cores();
    let (mut reader, mut writer) = (Host::on(&cores[0]), Host::on(&cores[1]));
    writer.fill(LEN, 1);
    reader.command(SIMPLE, LEN, &[]);
    reader.deliver();
    assert!(cores[0].borrow_mut().begin_departure(reader.key));
    let mut sent = Vec::new();
    let mut size = 0;
    let parcel = loop {
        let packed = cores[0].borrow_mut().pack(reader.key);
        if let Some(parcel) = packed {
            break parcel;
        }
        // The socket takes some, and ever more: blocks are cut in every way.
        size += 10_000;
        let more = reader.collect(size);
        assert!(!more.is_empty(), "it can go when all is sent");
        sent.extend(more);
        if sent.len() > 300_000 {
            writer.fill(LEN, 2);
        }
    };
    let (data, good) = data_of(&sent);
    assert!(good && data.len() == LEN as usize, "all of it");
    for block in data.chunks(4096) {
        assert!(block.iter().all(|byte| *byte == block[0]), "a whole block");
    }
    assert_eq!((data[0], data[data.len() - 1]), (1, 2));
    let key = cores[1].borrow_mut().adopt(parcel).expect("there is room");
    cores[0].borrow_mut().departed(reader.key);
    (reader.shard, reader.key) = (Rc::clone(&cores[1]), key);
    reader.command(SIMPLE, 8192, &[]);
    reader.deliver();
    let (data, good) = data_of(&reader.collect(usize::MAX));
    assert!(good && data.iter().all(|&byte| byte == 2), "it goes on");
}
