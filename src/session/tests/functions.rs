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

/// Commands before a function that are parked, or come after it, are aborted; later ones are not.
#[test]
fn a_function_aborts_commands_that_were_held_up_before_it() {
    for function in [
        TaskManagementFunction::ABORT_TASK_SET,
        TaskManagementFunction::CLEAR_TASK_SET,
        TaskManagementFunction::LOGICAL_UNIT_RESET,
        TaskManagementFunction::TARGET_WARM_RESET,
    ] {
        let medium = medium();
        let mut shard = shard(0, 1, &medium, 16);
        let mut host = Host::open(&mut shard, wide());
        let first = host.cmd_sn;
        host.cmd_sn = first + 1;
        host.write(&mut shard, 2, 8, 1, &[0xee; 512]);
        host.cmd_sn = first + 3;
        host.write(&mut shard, 4, 16, 1, &[0xaa; 512]);
        host.cmd_sn = first + 3;
        host.function(&mut shard, 50, function, (NO_TAG, 0));
        let pdus = host.receive(&mut shard);
        assert_eq!(pdus.len(), 1);
        assert_eq!(pdus[0].bhs[2], TaskManagementResponse::FUNCTION_COMPLETE.0);
        host.cmd_sn = first + 2;
        host.write(&mut shard, 3, 8, 1, &[0xee; 512]);
        assert!(host.receive(&mut shard).is_empty());
        host.cmd_sn = first;
        host.write(&mut shard, 1, 8, 1, &[0xee; 512]);
        let pdus = host.receive(&mut shard);
        assert_eq!(pdus.len(), 1, "the one after the function: {pdus:?}");
        let bhs: &ScsiResponseBhs = pdus[0].as_();
        assert_eq!(bhs.initiator_task_tag.get(), 4);
        assert_eq!(bhs.exp_cmd_sn.get(), first + 4);
        assert_eq!(medium.borrow().bytes[8 * 512..9 * 512], [8; 512]);
        host.cmd_sn = first + 4;
        host.write(&mut shard, 5, 8, 1, &[0xdd; 512]);
        assert_eq!(response_status(&host.receive(&mut shard)[0]), 0);
        assert_eq!(shard.home.pool.promised(), {
            let open = shard.window_of(host.key);
            // And what is kept for a ping.
            usize::try_from(open).unwrap() + 1
        });
    }
}

#[test]
fn a_parked_command_can_be_aborted_by_its_number() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    let first = host.cmd_sn;
    host.cmd_sn = first + 1;
    host.write(&mut shard, 2, 8, 1, &[0xee; 512]);
    host.function(
        &mut shard,
        50,
        TaskManagementFunction::ABORT_TASK,
        (2, first + 1),
    );
    assert_eq!(host.receive(&mut shard)[0].bhs[2], 0);
    host.cmd_sn = first;
    host.read(&mut shard, 1, 0, 1);
    let pdus = host.receive(&mut shard);
    assert_eq!(pdus.len(), 1);
    assert_eq!(medium.borrow().bytes[8 * 512..9 * 512], [8; 512]);
    host.cmd_sn = first + 2;
    host.read(&mut shard, 3, 0, 1);
    assert_eq!(host.receive(&mut shard).len(), 1);
}

#[test]
fn answers_queued_before_a_function_leave_before_its_own() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    let cmd_sn = host.cmd_sn;
    host.read(&mut shard, 1, 0, 64);
    host.read(&mut shard, 2, 0, 64);
    host.function(
        &mut shard,
        50,
        TaskManagementFunction::ABORT_TASK,
        (1, cmd_sn),
    );
    host.function(
        &mut shard,
        51,
        TaskManagementFunction::LOGICAL_UNIT_RESET,
        (NO_TAG, 0),
    );
    let pdus = host.receive(&mut shard);
    let (answers, functions) = pdus.split_at(pdus.len() - 2);
    assert_eq!(answers.iter().filter(|p| p.bhs[1] & STATUS != 0).count(), 2);
    for (pdu, response) in functions.iter().zip([
        TaskManagementResponse::TASK_DOES_NOT_EXIST,
        TaskManagementResponse::FUNCTION_COMPLETE,
    ]) {
        assert_eq!(pdu.opcode(), Opcode::TASK_MANAGEMENT_RESPONSE);
        assert_eq!(pdu.bhs[2], response.0);
    }
}

#[test]
fn late_data_of_an_aborted_write_is_absorbed() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    host.write(&mut shard, 5, 0, 256, &[]);
    let r2ts = host.receive(&mut shard);
    host.function(
        &mut shard,
        6,
        TaskManagementFunction::LOGICAL_UNIT_RESET,
        (NO_TAG, 0),
    );
    assert_eq!(host.receive(&mut shard)[0].bhs[2], 0);
    for r2t in &r2ts {
        let bhs: &R2tBhs = r2t.as_();
        let (at, len) = (
            bhs.buffer_offset.get(),
            bhs.desired_data_transfer_length.get(),
        );
        let data = vec![0x77; len as usize];
        let ttt = bhs.target_transfer_tag.get();
        host.data_out(&mut shard, 5, ttt, (0, at), true, &data);
    }
    assert!(host.receive(&mut shard).is_empty());
    assert_eq!(shard.counters().of(Event::StaleData), r2ts.len() as u64);
    assert!(medium.borrow().bytes[..512].iter().all(|b| *b != 0x77));
}

#[test]
fn a_cold_reset_is_answered_before_the_connection_closes() {
    let medium = medium();
    let mut shard = shard(0, 1, &medium, 16);
    let mut host = Host::open(&mut shard, wide());
    let other = Host::open(&mut shard, wide());
    host.function(
        &mut shard,
        6,
        TaskManagementFunction::TARGET_COLD_RESET,
        (NO_TAG, 0),
    );
    assert_eq!(shard.poll_close_request(), Some(other.key));
    assert_eq!(shard.poll_close_request(), None);
    let pdus = host.receive(&mut shard);
    assert_eq!(pdus[0].opcode(), Opcode::TASK_MANAGEMENT_RESPONSE);
    assert_eq!(shard.poll_close_request(), Some(host.key));
}
