//! Task management (sections 4.2.3, 11.5 and 11.6): tasks really end, on every core.

use ringtgt::initiator::{Event, Payload, wire_lun};
use ringtgt::pdu::bhs::{IMMEDIATE, NO_TAG, TaskManagementRequestBhs, TaskManagementResponseBhs};
use ringtgt::pdu::code::{
    Opcode, TaskManagementFunction as Function, TaskManagementResponse as Response,
};
use ringtgt::pdu::frame::header;

use crate::common::cdb;
use crate::common::disk::Pace;
use crate::common::pair::{BLOCK, Closed, Pair, Setup};
use crate::common::raw;

/// Asks for a function and runs; the answer, if one came.
fn manage(
    pair: &mut Pair,
    link: usize,
    function: Function,
    lun: u16,
    tag: Option<u32>,
) -> Option<Response> {
    pair.links[link]
        .initiator
        .task_management(3, function, wire_lun(lun), tag)
        .unwrap();
    pair.run();
    answer(pair, link)
}

fn answer(pair: &mut Pair, link: usize) -> Option<Response> {
    let events = &mut pair.links[link].events;
    let place = events
        .iter()
        .position(|event| matches!(event, Event::TaskManagement { .. }))?;
    match events.remove(place) {
        Some(Event::TaskManagement { response, .. }) => Some(response),
        _ => None,
    }
}

fn ended(pair: &Pair, link: usize) -> usize {
    pair.links[link]
        .events
        .iter()
        .filter(|event| matches!(event, Event::Command(_)))
        .count()
}

fn two_cores() -> (Pair, usize, usize) {
    let mut pair = Pair::with(Setup {
        shards: 2,
        ..Setup::default()
    });
    pair.next_shard = Some(0);
    let a = pair.quiet_session();
    pair.next_shard = Some(1);
    let b = pair.quiet_session();
    pair.quiet(a);
    (pair, a, b)
}

fn held_write(pair: &mut Pair, link: usize, lba: u32) -> u32 {
    let tag = pair.submit(link, cdb::write_10(lba, 1), Payload::Write(vec![1; BLOCK]));
    pair.run();
    tag
}

/// Sense key and code of TEST UNIT READY's end; (0, 0) when it is good.
fn attention(pair: &mut Pair, link: usize, lun: u16) -> (u8, u8, u8) {
    let done = pair.command_on(link, lun, cdb::TEST_UNIT_READY, Payload::None);
    if done.status == 0 {
        return (0, 0, 0);
    }
    (done.sense[2] & 0xf, done.sense[12], done.sense[13])
}

#[test]
fn abort_task_ends_a_task_without_an_answer_of_its_own() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    pair.disk().set_pace(Pace::Held);
    let tag = held_write(&mut pair, link, 0);
    let kept = held_write(&mut pair, link, 1);
    assert_eq!(
        manage(&mut pair, link, Function::ABORT_TASK, 0, Some(tag)),
        Some(Response::FUNCTION_COMPLETE)
    );
    assert_eq!(ended(&pair, link), 0);
    pair.links[link].initiator.forget(tag);
    pair.disk().release(2);
    pair.run();
    assert!(pair.done(link, kept).is_good());
    assert_eq!(ended(&pair, link), 0);
    assert_eq!(
        pair.disk().bytes()[0],
        0,
        "an aborted write that had not started writes nothing"
    );
    pair.disk().set_pace(Pace::AtOnce);
    pair.assert_works(link);
}

#[test]
fn the_answer_waits_for_an_operation_that_cannot_be_stopped() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    pair.disk().never_cancel();
    pair.disk().set_pace(Pace::Held);
    let tag = held_write(&mut pair, link, 0);
    assert_eq!(
        manage(&mut pair, link, Function::ABORT_TASK, 0, Some(tag)),
        None
    );
    pair.disk().release(1);
    pair.run();
    assert_eq!(answer(&mut pair, link), Some(Response::FUNCTION_COMPLETE));
    pair.links[link].initiator.forget(tag);
    pair.disk().set_pace(Pace::AtOnce);
    pair.assert_works(link);
}

#[test]
fn a_task_that_is_over_does_not_exist() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    let tag = pair.submit(link, cdb::read_10(0, 1), Payload::Discard(512));
    pair.run();
    assert!(pair.done(link, tag).is_good());
    let answer = manage(&mut pair, link, Function::ABORT_TASK, 0, Some(tag));
    assert_eq!(answer, Some(Response::TASK_DOES_NOT_EXIST));
    pair.assert_works(link);
}

#[test]
fn a_task_is_answered_or_aborted_but_never_both() {
    // Write and abort arrive in one piece, and the write ends before the abort is seen.
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    let tag = pair.submit(link, cdb::write_10(0, 1), Payload::Write(vec![1; BLOCK]));
    let answer = manage(&mut pair, link, Function::ABORT_TASK, 0, Some(tag));
    assert!(pair.done(link, tag).is_good());
    assert_eq!(answer, Some(Response::TASK_DOES_NOT_EXIST));
    pair.assert_works(link);
}

fn request(function: u8, lun: u16, referenced: u32, ref_cmd_sn: u32) -> TaskManagementRequestBhs {
    TaskManagementRequestBhs {
        opcode: Opcode::TASK_MANAGEMENT_REQUEST.0 | IMMEDIATE,
        function: 0x80 | function,
        reserved_2: [0; 2],
        total_ahs_length: 0,
        data_segment_length: [0; 3],
        lun: wire_lun(lun).into(),
        initiator_task_tag: raw::TAG.into(),
        referenced_task_tag: referenced.into(),
        cmd_sn: 0.into(),
        exp_stat_sn: 0.into(),
        ref_cmd_sn: ref_cmd_sn.into(),
        exp_data_sn: 0.into(),
        reserved_40: [0; 8],
    }
}

fn raw_answer(pair: &mut Pair, link: usize) -> Option<Response> {
    let answers = raw::answers(pair, link);
    let bhs: &TaskManagementResponseBhs = header(&answers.first()?.0);
    Some(Response(bhs.response))
}

#[test]
fn a_command_that_never_came_can_be_aborted_and_is_then_not_done() {
    // Section 11.5.1: RefCmdSN is in the window, so the command is considered received and aborted.
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    let missing = pair.links[link].initiator.cmd_sn();
    let abort = request(1, 0, 0x8000_0055, missing.0);
    raw::send_at(&mut pair, link, &abort, &[], missing.next().0);
    pair.links[link].initiator.set_cmd_sn(missing.next());
    pair.run();
    assert_eq!(
        raw_answer(&mut pair, link),
        Some(Response::FUNCTION_COMPLETE)
    );
    let late = raw::command(0x8000_0055, 0xa0, 512, cdb::write_10(0, 1));
    raw::send_at(&mut pair, link, &late, &[1; BLOCK], missing.0);
    pair.run();
    assert_eq!(pair.disk().bytes()[0], 0);
    raw::answers(&mut pair, link);
    pair.assert_works(link);
}

#[test]
fn abort_task_set_ends_the_tasks_of_its_own_nexus_on_that_unit_only() {
    let (mut pair, a, b) = two_cores();
    for disk in &pair.disks {
        disk.set_pace(Pace::Held);
    }
    for lba in 0..3 {
        held_write(&mut pair, a, lba);
    }
    let other_unit = pair.submit_on(a, 1, cdb::write_10(0, 1), Payload::Write(vec![1; BLOCK]));
    let other_nexus = held_write(&mut pair, b, 9);
    assert_eq!(
        manage(&mut pair, a, Function::ABORT_TASK_SET, 0, None),
        Some(Response::FUNCTION_COMPLETE)
    );
    for disk in &pair.disks {
        disk.set_pace(Pace::AtOnce);
    }
    pair.run();
    assert!(pair.done(a, other_unit).is_good());
    assert!(pair.done(b, other_nexus).is_good());
    assert_eq!((ended(&pair, a), ended(&pair, b)), (0, 0));
    assert!(
        pair.disk().bytes()[..9 * BLOCK]
            .iter()
            .all(|&byte| byte == 0)
    );
    assert_eq!(attention(&mut pair, b, 0), (0, 0, 0));
}

#[test]
fn clear_task_set_ends_the_tasks_of_every_nexus_and_the_others_hear_of_it() {
    let (mut pair, a, b) = two_cores();
    pair.disk().set_pace(Pace::Held);
    held_write(&mut pair, a, 0);
    let tag = held_write(&mut pair, b, 1);
    assert_eq!(
        manage(&mut pair, a, Function::CLEAR_TASK_SET, 0, None),
        Some(Response::FUNCTION_COMPLETE)
    );
    pair.disk().set_pace(Pace::AtOnce);
    pair.run();
    assert_eq!((ended(&pair, a), ended(&pair, b)), (0, 0));
    pair.links[b].initiator.forget(tag);
    assert!(
        pair.disk().bytes()[..2 * BLOCK]
            .iter()
            .all(|&byte| byte == 0)
    );
    assert_eq!(attention(&mut pair, a, 0), (0, 0, 0));
    assert_eq!(attention(&mut pair, b, 0), (6, 0x2f, 0));
    assert_eq!(attention(&mut pair, b, 0), (0, 0, 0));
    pair.assert_works(a);
    pair.assert_works(b);
}

#[test]
fn a_reset_of_a_unit_ends_its_tasks_on_every_core_and_every_nexus_hears_of_it() {
    let (mut pair, a, b) = two_cores();
    for (asker, other) in [(a, b), (b, a)] {
        pair.disk().set_pace(Pace::Held);
        held_write(&mut pair, a, 0);
        held_write(&mut pair, b, 1);
        let answer = manage(&mut pair, asker, Function::LOGICAL_UNIT_RESET, 0, None);
        assert_eq!(answer, Some(Response::FUNCTION_COMPLETE));
        assert_eq!(
            pair.disk().in_flight(),
            0,
            "the answer comes when nothing is in flight any more"
        );
        pair.disk().set_pace(Pace::AtOnce);
        pair.run();
        assert_eq!((ended(&pair, a), ended(&pair, b)), (0, 0));
        assert!(
            pair.disk().bytes()[..2 * BLOCK]
                .iter()
                .all(|&byte| byte == 0)
        );
        for link in [other, asker] {
            let (key, code, _) = attention(&mut pair, link, 0);
            assert_eq!((key, code), (6, 0x29));
            assert_eq!(
                attention(&mut pair, link, 1),
                (0, 0, 0),
                "the other unit was not reset"
            );
        }
        pair.assert_works(a);
        pair.assert_works(b);
    }
}

#[test]
fn a_reset_waits_on_every_core_for_what_cannot_be_stopped() {
    let (mut pair, a, b) = two_cores();
    pair.disk().never_cancel();
    pair.disk().set_pace(Pace::Held);
    held_write(&mut pair, b, 1);
    assert_eq!(
        manage(&mut pair, a, Function::LOGICAL_UNIT_RESET, 0, None),
        None
    );
    pair.disk().release(1);
    pair.run();
    assert_eq!(answer(&mut pair, a), Some(Response::FUNCTION_COMPLETE));
    pair.disk().set_pace(Pace::AtOnce);
    attention(&mut pair, a, 0);
    attention(&mut pair, b, 0);
    pair.assert_works(a);
    pair.assert_works(b);
}

#[test]
fn a_warm_reset_of_the_target_resets_every_unit() {
    let (mut pair, a, b) = two_cores();
    for disk in &pair.disks {
        disk.set_pace(Pace::Held);
    }
    held_write(&mut pair, b, 1);
    pair.submit_on(b, 1, cdb::write_10(0, 1), Payload::Write(vec![1; BLOCK]));
    pair.run();
    let answer = manage(&mut pair, a, Function::TARGET_WARM_RESET, 0, None);
    assert_eq!(answer, Some(Response::FUNCTION_COMPLETE));
    for disk in &pair.disks {
        assert_eq!(disk.in_flight(), 0);
        disk.set_pace(Pace::AtOnce);
    }
    pair.run();
    assert_eq!(ended(&pair, b), 0);
    for link in [a, b] {
        for lun in [0, 1] {
            assert_eq!(attention(&mut pair, link, lun).0, 6);
        }
        pair.assert_works(link);
    }
}

#[test]
fn a_cold_reset_of_the_target_ends_every_session() {
    let (mut pair, a, b) = two_cores();
    pair.links[a]
        .initiator
        .task_management(3, Function::TARGET_COLD_RESET, 0, None)
        .unwrap();
    pair.run();
    pair.assert_closed(a, Closed::Requested);
    pair.assert_closed(b, Closed::Requested);
    assert_eq!(pair.open_sessions(), 0);
    let again = pair.quiet_session();
    pair.assert_works(again);
}

#[test]
fn functions_for_a_unit_need_a_unit() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    for function in [
        Function::ABORT_TASK_SET,
        Function::CLEAR_TASK_SET,
        Function::LOGICAL_UNIT_RESET,
    ] {
        let answer = manage(&mut pair, link, function, 9, None);
        assert_eq!(answer, Some(Response::LUN_DOES_NOT_EXIST), "{function}");
    }
    pair.assert_works(link);
}

#[test]
fn what_is_not_supported_says_so() {
    let mut pair = Pair::new();
    let link = pair.quiet_session();
    for (function, allowed) in [
        (3, &[Response::FUNCTION_NOT_SUPPORTED][..]),
        (
            8,
            &[
                Response::TASK_REASSIGN_NOT_SUPPORTED,
                Response::FUNCTION_NOT_SUPPORTED,
            ],
        ),
        (9, &[Response::FUNCTION_NOT_SUPPORTED]),
        (
            0,
            &[
                Response::FUNCTION_NOT_SUPPORTED,
                Response::FUNCTION_REJECTED,
            ],
        ),
        (
            0x7f,
            &[
                Response::FUNCTION_NOT_SUPPORTED,
                Response::FUNCTION_REJECTED,
            ],
        ),
    ] {
        raw::send(&mut pair, link, &request(function, 0, NO_TAG, 0), &[]);
        pair.run();
        // A function that the protocol level does not have may be rejected as a PDU instead.
        match raw_answer(&mut pair, link) {
            Some(answer) => assert!(allowed.contains(&answer), "{function}: {answer}"),
            None => assert_eq!(raw::rejects(&mut pair, link).len(), 1, "{function}"),
        }
    }
    pair.assert_works(link);
}

#[test]
fn many_functions_at_once_are_all_answered() {
    let (mut pair, a, b) = two_cores();
    pair.disk().set_pace(Pace::Whenever);
    for round in 0..6 {
        for link in [a, b] {
            for lba in 0..4 {
                pair.submit(link, cdb::write_10(lba, 1), Payload::Write(vec![1; BLOCK]));
            }
            let function = if round % 2 == 0 {
                Function::LOGICAL_UNIT_RESET
            } else {
                Function::CLEAR_TASK_SET
            };
            pair.links[link]
                .initiator
                .task_management(3, function, 0, None)
                .unwrap();
        }
        pair.turn();
    }
    pair.run();
    for link in [a, b] {
        let mut answers = Vec::new();
        while let Some(answer) = answer(&mut pair, link) {
            answers.push(answer);
        }
        assert_eq!(answers, [Response::FUNCTION_COMPLETE; 6]);
    }
    pair.disk().set_pace(Pace::AtOnce);
    for link in [a, b] {
        pair.quiet(link);
        pair.assert_works(link);
    }
}

#[test]
fn a_write_that_waits_for_its_data_is_aborted_and_late_data_is_swallowed() {
    let mut pair = Pair::new();
    let mut config = ringtgt::initiator::Config::normal(
        crate::common::pair::INITIATOR,
        crate::common::pair::TARGET,
    );
    config.offers.initial_r2t = true;
    config.offers.immediate_data = false;
    config.answer_r2t = false;
    let link = pair.login(config);
    pair.quiet(link);
    let tag = pair.submit(
        link,
        cdb::write_10(0, 100),
        Payload::Write(vec![1; 100 * BLOCK]),
    );
    pair.run();
    let Some(Event::R2t(r2t)) = pair.event(link) else {
        panic!("no R2T")
    };
    assert_eq!(
        manage(&mut pair, link, Function::ABORT_TASK, 0, Some(tag)),
        Some(Response::FUNCTION_COMPLETE)
    );
    pair.links[link].initiator.answer_r2t(r2t);
    pair.links[link].initiator.forget(tag);
    pair.run();
    assert!(pair.disk().bytes().iter().all(|&byte| byte == 0));
    raw::rejects(&mut pair, link);
    pair.assert_well(link);
    let done = pair.command(link, cdb::TEST_UNIT_READY, Payload::None);
    assert_eq!(done.status, 0);
}
