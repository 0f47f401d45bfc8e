//! Sequences that once went wrong.

use super::super::turn::{MOVED_PER_TURN, PORTION};
use super::*;

const ORDERED: u8 = 2;

fn fua_read_10(lba: u32, blocks: u16) -> [u8; 16] {
    let mut cdb = cdb_10(0x28, lba, blocks);
    cdb[1] = 0x08;
    cdb
}

/// The read flushes first and has no memory yet; what waits for it to end holds all that the session may.
#[test]
fn a_task_gets_memory_though_those_that_wait_for_it_hold_the_share() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 32);
    let mut host = Host::open(&mut shard, wide());
    medium.borrow_mut().holds = true;
    let cdb = fua_read_10(0, 8);
    host.command(&mut shard, 1, FINAL | READ, 4096, cdb, &[]);
    for tag in 0..16 {
        let cdb = cdb_10(0x2a, 64, 2048);
        let flags = FINAL | WRITE | ORDERED;
        host.command(&mut shard, 100 + tag, flags, 1 << 20, cdb, &[7; 8192]);
    }
    assert!(host.receive(&mut shard).is_empty());
    medium.borrow_mut().holds = false;
    let mut pdus = Vec::new();
    for _ in 0..8 {
        shard.poll_backends(Instant::now());
        pdus.extend(host.receive(&mut shard));
    }
    assert!(
        pdus.iter().any(|p| p.opcode() == Opcode::DATA_IN),
        "the read ends: {pdus:?}"
    );
    assert!(pdus.iter().any(|p| p.opcode() == Opcode::R2T));
}

/// A command that reads though its header says that it also writes takes the buffer that its unsolicited data
/// is being received into.
#[test]
fn the_stream_is_followed_when_a_payload_loses_its_buffer() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 32);
    let params = OperationalParams {
        initial_r2t: false,
        ..wide()
    };
    let mut host = Host::open(&mut shard, params);
    // Its second half is read when the first has left.
    host.read(&mut shard, 1, 0, 1024);
    let command = ScsiCommandBhs {
        opcode: Opcode::SCSI_COMMAND.0,
        flags: READ | WRITE | ORDERED,
        total_ahs_length: 2,
        initiator_task_tag: 2.into(),
        expected_data_transfer_length: 65_536.into(),
        cmd_sn: host.cmd_sn.into(),
        cdb: cdb_10(0x28, 0, 128),
        ..zerocopy::FromZeros::new_zeroed()
    };
    host.cmd_sn += 1;
    let read_length = [0, 5, 2, 0, 0, 1, 0, 0];
    let bytes = [command.as_bytes(), &read_length].concat();
    host.send_raw(&mut shard, &bytes).expect("accepted");
    let bhs = DataOutBhs {
        opcode: Opcode::DATA_OUT.0,
        flags: FINAL,
        data_segment_length: length_to_24(65_536),
        initiator_task_tag: 2.into(),
        target_transfer_tag: NO_TAG.into(),
        ..zerocopy::FromZeros::new_zeroed()
    };
    let mut bytes = bhs.as_bytes().to_vec();
    bytes.resize(48 + 65_536, 0xff);
    host.send_raw(&mut shard, &bytes[..20_000]).expect("a part");
    // The first read ends in the second turn, the second one begins: its buffer goes to the medium. What is
    // left of the first leaves in the third.
    for holds in [false, true, true] {
        loop {
            let mut pieces = [IoSlice::new(&[]); 64];
            let count = shard.gather(host.key, &mut pieces);
            let len = pieces[..count].iter().map(|p| p.len()).sum();
            if len == 0 {
                break;
            }
            shard.transmitted(host.key, len);
        }
        medium.borrow_mut().holds = holds;
        shard.poll_backends(Instant::now());
    }
    assert!(shard.has_in_flight());
    let ping = NopOutBhs {
        opcode: Opcode::NOP_OUT.0 | IMMEDIATE,
        initiator_task_tag: 9.into(),
        cmd_sn: host.cmd_sn.into(),
        ..zerocopy::FromZeros::new_zeroed()
    };
    let mut rest = bytes[20_000..].to_vec();
    rest.extend_from_slice(ping.as_bytes());
    host.send_raw(&mut shard, &rest).expect("a whole stream");
    let pdus = host.receive(&mut shard);
    assert!(
        pdus.iter().any(|p| p.opcode() == Opcode::NOP_IN),
        "the ping behind it is found: {pdus:?}"
    );
}

/// CmdSN is a circle: a function that aborted what came before it has no say half a circle later.
#[test]
fn what_a_function_aborted_before_it_came_is_forgotten_when_it_has_come() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    let first = host.cmd_sn;
    host.cmd_sn = first + 1;
    host.function(
        &mut shard,
        50,
        TaskManagementFunction::ABORT_TASK_SET,
        (NO_TAG, 0),
    );
    host.cmd_sn = first;
    host.read(&mut shard, 1, 0, 1);
    host.read(&mut shard, 2, 0, 1);
    let pdus = host.receive(&mut shard);
    assert_eq!(pdus.len(), 2, "the answers of function and second read");
    // Half a circle of commands later.
    let session = shard.sessions[host.key.index as usize].session.as_mut();
    let session = session.expect("open");
    let later = host.cmd_sn.wrapping_add(1 << 31);
    session.window = CommandWindow::new(SerialNumber(later), 8);
    session.window.advance();
    session.window.advance();
    host.cmd_sn = later;
    host.read(&mut shard, 3, 0, 1);
    assert_eq!(host.receive(&mut shard).len(), 1, "it is answered");
}

/// Whoever names the CmdSN of another command (or of no command at all) does not abort it.
#[test]
fn abort_task_with_the_cmd_sn_of_something_else_drops_nothing() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    let first = host.cmd_sn;
    host.cmd_sn = first + 1;
    host.read(&mut shard, 1, 0, 1);
    let ping = NopOutBhs {
        opcode: Opcode::NOP_OUT.0,
        initiator_task_tag: 2.into(),
        cmd_sn: host.cmd_sn.into(),
        ..zerocopy::FromZeros::new_zeroed()
    };
    host.cmd_sn += 1;
    host.send(&mut shard, ping.as_bytes(), &[]);
    let abort = TaskManagementFunction::ABORT_TASK;
    // Of a tag that is unknown, and of a ping, which is no task.
    host.function(&mut shard, 50, abort, (77, first + 1));
    host.function(&mut shard, 51, abort, (2, first + 2));
    for pdu in host.receive(&mut shard) {
        let response = pdu.as_::<TaskManagementResponseBhs>().response;
        let expected = TaskManagementResponse::TASK_DOES_NOT_EXIST;
        assert_eq!(TaskManagementResponse(response), expected, "{pdu:?}");
    }
    host.cmd_sn = first;
    host.read(&mut shard, 3, 0, 1);
    let pdus = host.receive(&mut shard);
    for tag in [1, 2, 3] {
        let answered = |p: &Pdu| p.as_::<NopOutBhs>().initiator_task_tag.get() == tag;
        assert!(pdus.iter().any(answered), "{tag} is answered: {pdus:?}");
    }
}

/// What a command before its turn says in its additional header segments holds when its turn comes.
#[test]
fn a_command_that_comes_early_keeps_its_additional_header_segments() {
    let medium = medium();
    for long in [false, true] {
        let mut residuals = Vec::new();
        for early in [false, true] {
            let mut shard = shard(0, 1, &medium, 16);
            let mut host = Host::open(&mut shard, wide());
            let first = host.cmd_sn;
            let read_length = [0, 5, 2, 0, 0, 0, 2, 0];
            let mut ahs = vec![0; if long { 104 } else { 0 }];
            if long {
                // An extended CDB of no use.
                (ahs[1], ahs[2]) = (101, 1);
            }
            ahs.extend_from_slice(&read_length);
            let command = ScsiCommandBhs {
                opcode: Opcode::SCSI_COMMAND.0,
                flags: FINAL | READ | WRITE,
                total_ahs_length: u8::try_from(ahs.len() / 4).unwrap(),
                initiator_task_tag: 2.into(),
                cmd_sn: (first + u32::from(early)).into(),
                cdb: cdb_10(0x28, 0, 2),
                ..zerocopy::FromZeros::new_zeroed()
            };
            let bytes = [command.as_bytes(), &ahs].concat();
            host.send_raw(&mut shard, &bytes).expect("accepted");
            if early {
                host.read(&mut shard, 1, 0, 1);
            }
            let of_it = |p: &Pdu| p.as_::<NopOutBhs>().initiator_task_tag.get() == 2;
            let mut pdus = host.receive(&mut shard);
            pdus.retain(of_it);
            let (answer, data) = pdus.split_last().expect("an answer");
            let moved: usize = data.iter().map(|p| p.data.len()).sum();
            residuals.push((moved, answer.bhs[1], answer.bhs[40..48].to_vec()));
        }
        assert_eq!(residuals[0], residuals[1], "long: {long}");
        assert_eq!(residuals[0].0, 512, "{residuals:?}");
    }
}

/// A medium that answers on the spot must not keep the core from other sessions for a whole window.
#[test]
fn a_window_of_large_commands_takes_many_turns() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 32);
    let mut host = Host::open(&mut shard, wide());
    let key = host.key;
    let answered = |shard: &Shard| {
        let session = shard.sessions[key.index as usize].session.as_ref();
        let session = session.expect("open");
        assert!(session.turn.moved < MOVED_PER_TURN + PORTION);
        session.tx.queue.len()
    };
    for tag in 0..6 {
        let cdb = cdb_10(0x2f, 0, 8192);
        host.command(&mut shard, tag, FINAL, 0, cdb, &[]);
    }
    assert!(answered(&shard) <= 1, "not in the turn they came in");
    let mut last = answered(&shard);
    // 4 MiB each.
    let turns = 6 * (4 << 20) / MOVED_PER_TURN;
    for turn in 0..turns {
        assert!(shard.has_work() || last == 6, "turn {turn}");
        assert!(shard.poll_backends(Instant::now()) > 0 || last == 6);
        assert!(answered(&shard) <= last + 1, "turn {turn}");
        last = answered(&shard);
    }
    let pdus = host.receive(&mut shard);
    assert_eq!(pdus.len(), 6);
    assert!(pdus.iter().all(|p| response_status(p) == 0));
}
