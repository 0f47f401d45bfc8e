//! Memory that is short.

use super::*;
use crate::buffer::CHUNK;

#[test]
fn sessions_that_do_not_read_leave_room_for_one_that_does() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 8);
    // Without unsolicited data nothing is promised, and windows are as wide as can be.
    let readers = OperationalParams {
        immediate_data: false,
        initial_r2t: true,
        ..wide()
    };
    let mut slow: Vec<Host> = (0..6).map(|_| Host::open(&mut shard, readers)).collect();
    let mut host = Host::open(&mut shard, readers);
    for tag in 0..16 {
        for slow in &mut slow {
            slow.read(&mut shard, tag, 0, 2048);
            shard.poll_backends(Instant::now());
        }
    }
    for round in 0..20 {
        host.read(&mut shard, 1, 0, 2048);
        let pdus = host.receive(&mut shard);
        let bytes: usize = pdus.iter().map(|p| p.data.len()).sum();
        assert_eq!(bytes, 1 << 20, "round {round}");
        let held = 8 - shard.home.pool.free_bytes() / (1 << 20);
        assert!(held >= 6, "they do hold what they can get");
        host.write(&mut shard, 3, 0, 2048, &[]);
        let (pdu, _) = feed(&host, &mut shard, 3, &vec![1; 1 << 20], 8192);
        assert_eq!(response_status(&pdu), 0);
    }
    // And they get their own when they read at last.
    for slow in &mut slow {
        let pdus = slow.receive(&mut shard);
        assert!(pdus.iter().any(|p| p.bhs[1] & STATUS != 0));
    }
}

#[test]
fn what_each_session_keeps_leaves_half_of_the_pool_to_data() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 4);
    let params = OperationalParams {
        immediate_data: false,
        initial_r2t: true,
        ..wide()
    };
    let mut open = 0;
    while shard.window_for_new_session() > 0 {
        Host::open(&mut shard, params);
        open += 1;
    }
    // 2 MiB in rings of 128 KiB and a chunk for a ping of each.
    assert_eq!(open, 10);
    let refused = shard.open_session(established(params), Instant::now());
    assert_eq!(refused, Err(login::LoginStatus::OUT_OF_RESOURCES));
}

#[test]
fn a_promise_spent_on_a_parked_command_comes_back_with_it() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 8);
    let mut host = Host::open(&mut shard, wide());
    let mut others: Vec<Host> = (0..4).map(|_| Host::open(&mut shard, wide())).collect();
    for tag in 0..16 {
        for other in &mut others {
            other.read(&mut shard, tag, 0, 2048);
        }
    }
    let promised = shard.home.pool.promised();
    let first = host.cmd_sn;
    host.cmd_sn = first + 1;
    host.read(&mut shard, 70, 0, 2048);
    host.write(&mut shard, 71, 0, 8, &[1; 4096]);
    host.write(&mut shard, 72, 0, 8, &[1; 4096]);
    host.function(
        &mut shard,
        80,
        TaskManagementFunction::ABORT_TASK_SET,
        (NO_TAG, 0),
    );
    assert_eq!(shard.home.pool.promised(), promised);
}

/// Takes what free memory there is that nobody was promised.
fn hog(shard: &Shard) -> Vec<Buffer> {
    std::iter::from_fn(|| shard.home.pool.take(4096, 4096)).collect()
}

#[test]
fn what_comes_early_is_kept_though_there_is_no_memory_for_its_data() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 8);
    // Nothing is promised.
    let params = OperationalParams {
        immediate_data: false,
        initial_r2t: true,
        ..wide()
    };
    let mut host = Host::open(&mut shard, params);
    let hog = hog(&shard);
    let first = host.cmd_sn;
    host.cmd_sn = first + 1;
    host.write(&mut shard, 71, 0, 8, &[1; 4096]);
    host.write(&mut shard, 72, 0, 60, &[1; 30_720]);
    host.cmd_sn = first;
    // TEST UNIT READY.
    host.command(&mut shard, 70, FINAL, 0, [0; 16], &[]);
    host.cmd_sn = first + 3;
    host.command(&mut shard, 73, FINAL, 0, [0; 16], &[]);
    let mut tags: Vec<u32> = (host.receive(&mut shard).iter())
        .map(|p| p.as_::<ScsiResponseBhs>().initiator_task_tag.get())
        .collect();
    tags.sort_unstable();
    assert_eq!(tags, [70, 71, 72, 73], "the window goes on");
    drop(hog);
}

#[test]
fn the_window_and_the_promises_agree_when_data_is_not_needed() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 8);
    let mut host = Host::open(&mut shard, wide());
    let mut hogs = hog(&shard);
    let first = host.cmd_sn;
    host.cmd_sn = first + 1;
    host.write(&mut shard, 71, 0, 8, &[1; 4096]);
    // What a chunk has left beyond the payload goes to others.
    hogs.extend(hog(&shard));
    // And a comparing command has the chunk that the pool keeps.
    hogs.extend(shard.home.pool.take_scratch(CHUNK));
    host.function(
        &mut shard,
        80,
        TaskManagementFunction::ABORT_TASK,
        (71, first + 1),
    );
    let session = shard.sessions[host.key.index as usize].session.as_ref();
    let session = session.expect("open");
    assert_eq!(session.promises, session.window.open());
    drop(hogs);
}

/// A NOP-Out or the first of several Text Requests with `len` bytes of data.
fn send_long(host: &mut Host, shard: &mut Shard, tag: u32, opcode: u8, len: usize) {
    let bhs = NopOutBhs {
        opcode,
        flags: if opcode & 0x3f == Opcode::TEXT_REQUEST.0 {
            CONTINUE
        } else {
            FINAL
        },
        data_segment_length: length_to_24(u32::try_from(len).unwrap()),
        initiator_task_tag: tag.into(),
        target_transfer_tag: NO_TAG.into(),
        cmd_sn: host.cmd_sn.into(),
        ..zerocopy::FromZeros::new_zeroed()
    };
    host.cmd_sn += u32::from(opcode & IMMEDIATE == 0);
    host.send_raw(shard, &[bhs.as_bytes(), &pattern(len)].concat())
        .expect("accepted");
}

#[test]
fn a_long_ping_comes_back_whole_or_is_rejected() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 8);
    let params = OperationalParams {
        max_send_data_segment_length: 262_144,
        ..wide()
    };
    let mut host = Host::open(&mut shard, params);
    let mut hogs = Vec::new();
    let nop = Opcode::NOP_OUT.0;
    // With a place in the window there is a promise, else what the session keeps for one ping.
    for (opcode, len, comes_back) in [
        (nop, 100, true),
        (nop, 1000, true),
        (nop, 60_000, true),
        (nop, 200_000, false),
        (nop | IMMEDIATE, 100, true),
        (nop | IMMEDIATE, 1000, true),
        (nop | IMMEDIATE, 60_000, true),
        (nop | IMMEDIATE, 65_536, true),
        (nop | IMMEDIATE, 65_540, false),
    ] {
        hogs.extend(hog(&shard));
        send_long(&mut host, &mut shard, 9, opcode, len);
        let pdus = host.receive(&mut shard);
        assert_eq!(pdus.len(), 1, "{len}: {pdus:?}");
        if comes_back {
            assert_eq!(pdus[0].opcode(), Opcode::NOP_IN, "{len}");
            assert_eq!(pdus[0].data, pattern(len));
        } else {
            assert_eq!(pdus[0].opcode(), Opcode::REJECT, "{len}");
        }
        let session = shard.sessions[host.key.index as usize].session.as_ref();
        let session = session.expect("open");
        assert_eq!(session.promises, session.window.open(), "{len}");
        assert_eq!((session.memory, session.reserved), (0, true), "{len}");
    }
}

#[test]
fn a_text_that_there_is_no_memory_for_is_rejected_but_one_that_fits_in_what_is_kept_is_not() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 8);
    let mut host = Host::open(&mut shard, wide());
    // The header comes alone: the data goes past the ring.
    host.cut = 48;
    let text = Opcode::TEXT_REQUEST.0;
    let (answered, rejected) = (Opcode::TEXT_RESPONSE, Opcode::REJECT);
    let mut hogs = Vec::new();
    for (opcode, len, answer) in [
        (text, 100_000, rejected),
        (text | IMMEDIATE, 16_384, answered),
        (text | IMMEDIATE, 100_000, rejected),
    ] {
        hogs.extend(hog(&shard));
        send_long(&mut host, &mut shard, 9, opcode, len);
        let pdus = host.receive(&mut shard);
        assert_eq!(pdus.len(), 1, "{len}: {pdus:?}");
        assert_eq!(pdus[0].opcode(), answer, "{len}");
        let session = shard.sessions[host.key.index as usize].session.as_ref();
        assert!(session.expect("open").reserved, "{len}");
    }
    hogs.clear();
    host.read(&mut shard, 1, 0, 1);
    assert!(!host.receive(&mut shard).is_empty(), "the session goes on");
}
