//! Reads that leave from the memory of the `ram` medium itself show what they may show, and nothing later.
#![allow(missing_docs, reason = "a test")]

#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared by tests that use different parts of it"
)]
#[path = "common/bare.rs"]
mod bare;

use std::time::Instant;

use ringtgt::buffer::Piece;
use ringtgt::pdu::bhs::{FINAL, READ, ScsiCommandBhs, WRITE, length_to_24};
use ringtgt::pdu::code::Opcode;
use ringtgt::session::params::OperationalParams;
use ringtgt::session::{SessionKey, Shard};
use zerocopy::IntoBytes;

const SIMPLE: u8 = 1;
const ORDERED: u8 = 2;

struct Host {
    shard: Shard,
    key: SessionKey,
    cmd_sn: u32,
    unsent: Vec<u8>,
}

impl Host {
    fn new() -> Self {
        let params = OperationalParams {
            initial_r2t: false,
            ..OperationalParams::DEFAULT
        };
        let mut shard = bare::shard_with_ram(8 << 20);
        let key = shard
            .open_session(bare::established(params), Instant::now())
            .expect("room");
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
    fn command(&mut self, attribute: u8, len: u16, data: &[u8]) {
        let (opcode, direction) = if data.is_empty() {
            (0x28, READ)
        } else {
            (0x2a, WRITE)
        };
        let mut cdb = [0; 16];
        cdb[0] = opcode;
        cdb[7..9].copy_from_slice(&(len / 512).to_be_bytes());
        let bhs = ScsiCommandBhs {
            opcode: Opcode::SCSI_COMMAND.0,
            flags: direction | FINAL | attribute,
            reserved: [0; 2],
            total_ahs_length: 0,
            data_segment_length: length_to_24(u32::try_from(data.len()).expect("short")),
            lun: 0.into(),
            initiator_task_tag: self.cmd_sn.into(),
            expected_data_transfer_length: u32::from(len).into(),
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
        for mut place in self.shard.receive_into(self.key) {
            let len = place.len().min(rest.len());
            place[..len].copy_from_slice(&rest[..len]);
            rest.drain(..len);
            taken += len;
        }
        assert!(rest.is_empty(), "one receive");
        let received = self.shard.handle_received(Instant::now(), self.key, taken);
        received.expect("nothing wrong was sent");
    }

    /// The socket takes at most `most` bytes of what there is to send now.
    fn collect(&mut self, most: usize) -> Vec<u8> {
        self.shard.poll_backends(Instant::now());
        let mut pieces = [Piece::EMPTY; 16];
        let count = self.shard.gather_pieces(self.key, &mut pieces);
        let mut bytes = Vec::new();
        for piece in &pieces[..count] {
            let at = bytes.len();
            bytes.resize(at + piece.len(), 0);
            piece.copy_to(&mut bytes[at..]);
        }
        bytes.truncate(most);
        self.shard.transmitted(self.key, bytes.len());
        bytes
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
