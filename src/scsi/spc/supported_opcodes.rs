//! REPORT SUPPORTED OPERATION CODES and TASK MANAGEMENT FUNCTIONS (SPC-4): the table,
//! read aloud.

use super::allocation_length_32;
use crate::scsi::command::Plan;
use crate::scsi::opcodes::{self, OPCODES, Row};
use crate::scsi::parameter::{Out, Parameter, Source, Writer};
use crate::scsi::{Bounds, Cdb, Context, Sense};

/// RCTD: with a command timeouts descriptor.
const RCTD: u8 = 0x80;

pub(in crate::scsi) fn report_supported_operation_codes(
    cdb: &Cdb,
    bounds: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    let has_actions = opcodes::rows(cdb[3])
        .first()
        .is_some_and(|row| row.action.is_some());
    let known = !opcodes::rows(cdb[3]).is_empty();
    let writer: Writer = match cdb[2] & 7 {
        0 => every,
        1 if has_actions => return Err(Sense::INVALID_FIELD_IN_CDB.at(2, 2)),
        2 if known && !has_actions => return Err(Sense::INVALID_FIELD_IN_CDB.at(2, 2)),
        1..=3 => one,
        _ => return Err(Sense::INVALID_FIELD_IN_CDB.at(2, 2)),
    };
    let allocation_length = allocation_length_32(cdb, 6);
    Ok(Parameter::plan(cdb, bounds, cx, allocation_length, writer))
}

/// REPORTING OPTIONS 000b: a list of all.
fn every(source: &Source<'_>, out: &mut Out<'_>) {
    let timeouts = source.cdb[2] & RCTD != 0;
    out.zeros(4);
    for row in OPCODES.iter().filter(|row| is_supported(source, row)) {
        let flags = u8::from(timeouts) << 1 | u8::from(row.action.is_some());
        out.put(&[row.code, 0, 0, row.action.unwrap_or(0), 0, flags, 0]);
        out.put(&[cdb_len(row)]);
        if timeouts {
            timeouts_descriptor(out);
        }
    }
    let len = u32::try_from(out.len() - 4).expect("a short table");
    out.patch(0, &len.to_be_bytes());
}

/// REPORTING OPTIONS 001b (operation code), 010b (and service action), 011b (service action if it has one).
fn one(source: &Source<'_>, out: &mut Out<'_>) {
    const NOT_SUPPORTED: u8 = 1;
    const SUPPORTED: u8 = 3;
    let action = u16::from_be_bytes([source.cdb[4], source.cdb[5]]);
    let option = source.cdb[2] & 7;
    let row = opcodes::rows(source.cdb[3])
        .iter()
        .filter(|row| option == 1 || u16::from(row.action.unwrap_or(0)) == action)
        .find(|row| is_supported(source, row));
    let Some(row) = row else {
        out.put(&[0, NOT_SUPPORTED, 0, 0]);
        return;
    };
    let timeouts = source.cdb[2] & RCTD != 0;
    out.put(&[0, u8::from(timeouts) << 7 | SUPPORTED, 0, cdb_len(row)]);
    // CDB USAGE DATA: the operation code and service action themselves, then masks.
    for (byte, &used) in row.usage.iter().enumerate() {
        out.put(&[match (byte, row.action) {
            (0, _) => row.code,
            (1, Some(action)) => used & 0xe0 | action,
            _ => used,
        }]);
    }
    if timeouts {
        timeouts_descriptor(out);
    }
}

fn is_supported(source: &Source<'_>, row: &Row) -> bool {
    source.unit.is_some_and(|unit| row.is_supported_by(unit))
}

fn cdb_len(row: &Row) -> u8 {
    u8::try_from(row.usage.len()).expect("at most 16")
}

/// Command timeouts descriptor (SPC-4): 10 bytes follow the length. No times are promised (0: not indicated).
fn timeouts_descriptor(out: &mut Out<'_>) {
    out.put(&[0, 0x0a]);
    out.zeros(10);
}

/// REPD: the extended form.
const REPD: u8 = 0x80;

#[allow(clippy::unnecessary_wraps, reason = "a row of the table")]
pub(in crate::scsi) fn report_supported_task_management(
    cdb: &Cdb,
    bounds: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    let allocation_length = allocation_length_32(cdb, 6);
    Ok(Parameter::plan(
        cdb,
        bounds,
        cx,
        allocation_length,
        task_management,
    ))
}

/// ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET, TARGET RESET; no times are promised.
fn task_management(source: &Source<'_>, out: &mut Out<'_>) {
    out.put(&[0x80 | 0x40 | 0x10 | 0x08 | 0x02, 0, 0]);
    if source.cdb[2] & REPD == 0 {
        out.put(&[0]);
    } else {
        out.put(&[0x0c]);
        out.zeros(12);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::Status;
    use crate::scsi::testing::{Rig, cdb};

    fn ask(rig: &mut Rig, option: u8, code: u8, action: u8) -> crate::scsi::testing::Done {
        rig.run(&cdb(&[
            0xa3, 0x0c, option, code, 0, action, 0, 0, 0xff, 0xff,
        ]))
    }

    #[test]
    fn the_list_is_the_table() {
        let data = ask(&mut Rig::new(), 0, 0, 0).data_in;
        assert_eq!(data.len(), 4 + 8 * OPCODES.len());
        assert_eq!(
            data[..4],
            u32::try_from(data.len() - 4).unwrap().to_be_bytes()
        );
        for (row, entry) in OPCODES.iter().zip(data[4..].chunks(8)) {
            let servactv = u8::from(row.action.is_some());
            let action = row.action.unwrap_or(0);
            assert_eq!(
                entry,
                [row.code, 0, 0, action, 0, servactv, 0, cdb_len(row)]
            );
        }
    }

    #[test]
    fn timeouts_come_when_asked_for() {
        let data = ask(&mut Rig::new(), RCTD, 0, 0).data_in;
        assert_eq!(data.len(), 4 + 20 * OPCODES.len());
        assert!(
            data[4..]
                .chunks(20)
                .all(|e| e[5] & 2 == 2 && e[8..10] == [0, 0x0a])
        );
        let data = ask(&mut Rig::new(), RCTD | 1, 0x28, 0).data_in;
        assert_eq!((data[1], data.len()), (0x83, 4 + 10 + 12));
    }

    #[test]
    fn one_command_shows_its_usage() {
        for row in OPCODES {
            let action = row.action.unwrap_or(0);
            let (right, wrong) = if row.action.is_some() { (2, 1) } else { (1, 2) };
            let mut rig = Rig::new();
            let data = ask(&mut rig, right, row.code, action).data_in;
            assert_eq!(data[..4], [0, 3, 0, cdb_len(row)], "{}", row.name);
            assert_eq!(data[4], row.code);
            assert_eq!(
                data[5] & 0x1f,
                if row.action.is_some() {
                    action
                } else {
                    row.usage[1] & 0x1f
                }
            );
            assert_eq!(data[6..], row.usage[2..]);
            assert_eq!(
                ask(&mut rig, wrong, row.code, action).sense(),
                Sense::INVALID_FIELD_IN_CDB.at(2, 2)
            );
            assert_eq!(ask(&mut rig, 3, row.code, action).data_in, data);
        }
    }

    #[test]
    fn what_is_not_there_is_not_supported() {
        let mut rig = Rig::new();
        for (option, code, action) in [
            (1, 0xff, 0),
            (2, 0xff, 1),
            (3, 0x28, 5),
            (2, 0x9e, 0x12),
            (3, 0xa3, 0),
        ] {
            let done = ask(&mut rig, option, code, action);
            assert_eq!(
                (done.status, &done.data_in[..]),
                (Status::Good, &[0, 1, 0, 0][..])
            );
        }
    }

    #[test]
    fn a_medium_that_forgets_has_no_write_and_verify() {
        let mut rig = Rig::new();
        rig.unit.as_mut().unwrap().geometry.forgets = true;
        assert_eq!(ask(&mut rig, 1, 0x2e, 0).data_in, [0, 1, 0, 0]);
        let done = rig.run(&cdb(&[0x2e, 0, 0, 0, 0, 0, 0, 0, 1, 0]));
        assert_eq!(done.sense(), Sense::INVALID_OPCODE);
    }

    #[test]
    fn task_management_functions_in_both_forms() {
        let mut rig = Rig::new();
        let short = rig.run(&cdb(&[0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 0, 64]));
        assert_eq!(short.data_in, [0xda, 0, 0, 0]);
        let long = rig.run(&cdb(&[0xa3, 0x0d, REPD, 0, 0, 0, 0, 0, 0, 64]));
        assert_eq!((long.data_in.len(), long.data_in[3]), (16, 12));
    }
}
