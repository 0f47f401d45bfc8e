//! Commands of every kind of device (SPC-4).

mod inquiry;
mod mode;
mod persistent_reserve;
mod report_luns;
mod request_sense;
mod supported_opcodes;
mod vpd;

pub(super) use inquiry::inquiry;
pub(super) use mode::{mode_sense_6, mode_sense_10};
pub(super) use persistent_reserve::{persistent_reserve_in, report_capabilities};
pub(super) use report_luns::report_luns;
pub(super) use request_sense::request_sense;
pub(super) use supported_opcodes::{
    report_supported_operation_codes, report_supported_task_management,
};

use super::command::Plan;
use super::{Bounds, Cdb, Context, Sense};

/// TEST UNIT READY (SPC-4): the table's access check is all of it.
#[allow(clippy::unnecessary_wraps, reason = "a row of the table")]
pub(super) fn test_unit_ready(_: &Cdb, _: Bounds, _: &mut Context<'_>) -> Result<Plan, Sense> {
    Ok(Plan::GOOD)
}

/// PREVENT ALLOW MEDIUM REMOVAL (SBC-3): remembered, though this medium cannot be removed.
#[allow(clippy::unnecessary_wraps, reason = "a row of the table")]
pub(super) fn prevent_allow(cdb: &Cdb, _: Bounds, cx: &mut Context<'_>) -> Result<Plan, Sense> {
    cx.nexus.prevent_removal(cdb[4] & 1 != 0);
    Ok(Plan::GOOD)
}

/// ALLOCATION LENGTH of 16 bits, from byte `at`.
fn allocation_length_16(cdb: &Cdb, at: usize) -> u32 {
    u16::from_be_bytes([cdb[at], cdb[at + 1]]).into()
}

/// ALLOCATION LENGTH of 32 bits, from byte `at`.
fn allocation_length_32(cdb: &Cdb, at: usize) -> u32 {
    u32::from_be_bytes([cdb[at], cdb[at + 1], cdb[at + 2], cdb[at + 3]])
}

#[cfg(test)]
mod tests {
    use crate::scsi::testing::{Rig, cdb};
    use crate::scsi::{Sense, Status};

    #[test]
    fn a_ready_unit_says_good() {
        let done = Rig::new().run(&cdb(&[0x00]));
        assert_eq!((done.status, done.asked_in), (Status::Good, 0));
    }

    #[test]
    fn preventing_removal_is_remembered_for_the_nexus() {
        let mut rig = Rig::new();
        assert_eq!(rig.run(&cdb(&[0x1e, 0, 0, 0, 1])).status, Status::Good);
        assert!(rig.nexus.removal_prevented());
        assert_eq!(rig.run(&cdb(&[0x1e, 0, 0, 0, 0])).status, Status::Good);
        assert!(!rig.nexus.removal_prevented());
        let obsolete = rig.run(&cdb(&[0x1e, 0, 0, 0, 2]));
        assert_eq!(obsolete.sense(), Sense::INVALID_FIELD_IN_CDB.at(4, 1));
    }
}
