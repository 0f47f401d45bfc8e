//! Task management functions.

use super::*;

#[test]
fn abort_task_is_answered_when_its_operation_is_over() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    medium.borrow_mut().holds = true;
    let cmd_sn = host.cmd_sn;
    host.write(&mut shard, 5, 0, 1, &[1; 512]);
    host.function(
        &mut shard,
        6,
        TaskManagementFunction::ABORT_TASK,
        (5, cmd_sn),
    );
    assert!(host.receive(&mut shard).is_empty());
    medium.borrow_mut().holds = false;
    let pdus = host.receive(&mut shard);
    assert_eq!(pdus.len(), 1);
    assert_eq!(pdus[0].opcode(), Opcode::TASK_MANAGEMENT_RESPONSE);
    assert_eq!(pdus[0].bhs[2], TaskManagementResponse::FUNCTION_COMPLETE.0);
    host.function(
        &mut shard,
        6,
        TaskManagementFunction::ABORT_TASK,
        (5, cmd_sn),
    );
    let pdus = host.receive(&mut shard);
    assert_eq!(
        pdus[0].bhs[2],
        TaskManagementResponse::TASK_DOES_NOT_EXIST.0
    );
}

#[test]
fn an_aborted_write_that_waits_for_data_never_writes() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    host.write(&mut shard, 5, 0, 64, &[]);
    let r2t = host.receive(&mut shard).remove(0);
    let ttt = r2t.as_::<R2tBhs>().target_transfer_tag.get();
    host.function(
        &mut shard,
        6,
        TaskManagementFunction::ABORT_TASK_SET,
        (NO_TAG, 0),
    );
    let pdus = host.receive(&mut shard);
    assert_eq!(pdus[0].bhs[2], 0);
    host.data_out(&mut shard, 5, ttt, (0, 0), true, &[0x77; 32_768]);
    assert!(host.receive(&mut shard).is_empty());
    assert!(!medium.borrow().bytes.contains(&0x77) || medium.borrow().bytes[0] != 0x77);
}

#[test]
fn functions_that_are_not_there_say_so() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    for (function, response) in [(3, 5), (8, 4), (99, 5)] {
        host.function(&mut shard, 6, TaskManagementFunction(function), (NO_TAG, 0));
        assert_eq!(host.receive(&mut shard)[0].bhs[2], response);
    }
}
