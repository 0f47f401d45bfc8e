//! Memory that is short.

use super::*;

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
fn receive_rings_leave_half_of_the_pool_to_data() {
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
    assert_eq!(open, 16);
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
