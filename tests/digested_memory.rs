//! What a data digest was taken of leaves as it was, whatever is written meanwhile.
#![allow(missing_docs, reason = "a test")]

#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared by tests that use different parts of it"
)]
#[path = "common/bare.rs"]
mod bare;

use std::io::IoSlice;
use std::time::Instant;

use ringtgt::pdu::bhs::{FINAL, READ, ScsiCommandBhs, WRITE, length_to_24};
use ringtgt::pdu::code::Opcode;
use ringtgt::pdu::digest::{data_digest, header_digest};
use ringtgt::session::params::OperationalParams;
use ringtgt::session::{SessionKey, Shard};
use zerocopy::IntoBytes;

const LEN: usize = 4096;

/// One command on 4 KiB at block 0, with the data of a write.
fn command(cmd_sn: u32, data: &[u8]) -> Vec<u8> {
    let (opcode, flags) = if data.is_empty() {
        (0x28, READ)
    } else {
        (0x2a, WRITE)
    };
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[8] = 8;
    let bhs = ScsiCommandBhs {
        opcode: Opcode::SCSI_COMMAND.0,
        flags: flags | FINAL | 1,
        reserved: [0; 2],
        total_ahs_length: 0,
        data_segment_length: length_to_24(u32::try_from(data.len()).expect("short")),
        lun: 0.into(),
        initiator_task_tag: cmd_sn.into(),
        expected_data_transfer_length: 4096.into(),
        cmd_sn: cmd_sn.into(),
        exp_stat_sn: 0.into(),
        cdb,
    };
    let mut bytes = bhs.as_bytes().to_vec();
    bytes.extend_from_slice(&header_digest(bhs.as_bytes()));
    if !data.is_empty() {
        bytes.extend_from_slice(data);
        bytes.extend_from_slice(&data_digest(data));
    }
    bytes
}

fn deliver(shard: &mut Shard, key: SessionKey, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let mut taken = 0;
        for mut place in shard.receive_into(key) {
            let (now, later) = bytes.split_at(place.len().min(bytes.len()));
            place[..now.len()].copy_from_slice(now);
            bytes = later;
            taken += now.len();
        }
        let received = shard.handle_received(Instant::now(), key, taken);
        received.expect("nothing wrong was sent");
        shard.poll_backends(Instant::now());
    }
}

/// What would be sent now.
fn gathered(shard: &mut Shard, key: SessionKey) -> Vec<u8> {
    let mut pieces = [IoSlice::new(&[]); 16];
    let count = shard.gather(key, &mut pieces);
    let pieces = pieces[..count].iter();
    pieces.flat_map(|piece| piece.iter().copied()).collect()
}

/// Runs a command to its end; gives its answer.
fn run(shard: &mut Shard, key: SessionKey, bytes: &[u8]) -> Vec<u8> {
    deliver(shard, key, bytes);
    let answer = gathered(shard, key);
    shard.transmitted(key, answer.len());
    answer
}

#[test]
fn what_a_digest_was_taken_of_leaves_as_it_was() {
    let params = OperationalParams {
        header_digest: true,
        data_digest: true,
        ..OperationalParams::DEFAULT
    };
    let now = Instant::now();
    let mut shard = bare::shard_with_ram(8 << 20);
    let mut open = || {
        let key = shard.open_session(bare::established(params), now);
        let key = key.expect("room");
        // The first command finds the unit attention.
        assert_eq!(run(&mut shard, key, &command(1, &[]))[3], 2);
        key
    };
    let (reader, writer) = (open(), open());
    let (old, new) = ([0x11; LEN], [0x22; LEN]);
    assert_eq!(run(&mut shard, writer, &command(2, &old))[3], 0);
    deliver(&mut shard, reader, &command(2, &[]));
    let encoded = gathered(&mut shard, reader);
    // Nothing has left when the same blocks are written; then a part has.
    assert_eq!(run(&mut shard, writer, &command(3, &new))[3], 0);
    assert!(gathered(&mut shard, reader) == encoded, "it has changed");
    shard.transmitted(reader, 100);
    assert_eq!(run(&mut shard, writer, &command(4, &new))[3], 0);
    assert!(gathered(&mut shard, reader) == encoded[100..], "changed");
    let (header, data) = encoded.split_at(52);
    assert_eq!(header_digest(&header[..48]), header[48..]);
    assert!(data[..LEN] == old, "what was there when it was read");
    assert_eq!(data_digest(&data[..LEN]), data[LEN..]);
    // The write did take place.
    let next = run(&mut shard, reader, &command(3, &[]));
    let at = next.len() - LEN - 4;
    assert!(next[at..at + LEN] == new, "what was written");
}
