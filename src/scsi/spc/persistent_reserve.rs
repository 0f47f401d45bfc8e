//! PERSISTENT RESERVE IN (SPC-4). There is no PERSISTENT RESERVE OUT yet, so nobody is registered, nothing is
//! reserved, and every answer says so.

use super::allocation_length_16;
use crate::scsi::command::Plan;
use crate::scsi::parameter::{Out, Parameter, Source};
use crate::scsi::{Bounds, Cdb, Context, Sense};

/// READ KEYS, READ RESERVATION and READ FULL STATUS, which are alike when there is nothing to tell.
#[allow(clippy::unnecessary_wraps, reason = "a row of the table")]
pub(in crate::scsi) fn persistent_reserve_in(
    cdb: &Cdb,
    bounds: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    let allocation_length = allocation_length_16(cdb, 7);
    Ok(Parameter::plan(cdb, bounds, cx, allocation_length, nothing))
}

/// PRGENERATION 0 (no PERSISTENT RESERVE OUT was ever processed) and ADDITIONAL LENGTH 0.
fn nothing(_: &Source<'_>, out: &mut Out<'_>) {
    out.zeros(8);
}

/// REPORT CAPABILITIES.
#[allow(clippy::unnecessary_wraps, reason = "a row of the table")]
pub(in crate::scsi) fn report_capabilities(
    cdb: &Cdb,
    bounds: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    let allocation_length = allocation_length_16(cdb, 7);
    Ok(Parameter::plan(
        cdb,
        bounds,
        cx,
        allocation_length,
        capabilities,
    ))
}

/// LENGTH 8; none of the options; TMV, so that the type mask counts, and it has no type of reservation.
fn capabilities(_: &Source<'_>, out: &mut Out<'_>) {
    const TMV: u8 = 0x80;
    out.put(&[0, 8, 0x00, TMV]);
    out.zeros(4);
}

#[cfg(test)]
mod tests {
    use crate::scsi::testing::{Rig, cdb};
    use crate::scsi::{Sense, Status};

    #[test]
    fn nobody_is_registered_and_nothing_reserved() {
        let mut rig = Rig::new();
        for action in [0, 1, 3] {
            let done = rig.run(&cdb(&[0x5e, action, 0, 0, 0, 0, 0, 0x40, 0, 0]));
            assert_eq!(
                (done.status, &done.data_in[..]),
                (Status::Good, &[0; 8][..])
            );
        }
    }

    #[test]
    fn no_type_of_reservation_is_offered() {
        let done = Rig::new().run(&cdb(&[0x5e, 2, 0, 0, 0, 0, 0, 0, 255, 0]));
        assert_eq!(done.data_in, [0, 8, 0, 0x80, 0, 0, 0, 0]);
    }

    #[test]
    fn other_service_actions_are_refused_by_position() {
        for action in 4..0x20 {
            let done = Rig::new().run(&cdb(&[0x5e, action, 0, 0, 0, 0, 0, 0, 255, 0]));
            assert_eq!(done.sense(), Sense::INVALID_FIELD_IN_CDB.at(1, 4));
        }
        assert_eq!(
            Rig::new().run(&cdb(&[0x5f])).sense(),
            Sense::INVALID_OPCODE,
            "there is no PERSISTENT RESERVE OUT"
        );
    }

    #[test]
    fn a_stopped_unit_answers_too() {
        let mut rig = Rig::new();
        rig.unit.as_mut().unwrap().stopped = true;
        let done = rig.run(&cdb(&[0x5e, 0, 0, 0, 0, 0, 0, 0, 8, 0]));
        assert_eq!(done.status, Status::Good);
    }
}
