//! INQUIRY (SPC-4): standard data, or a vital product data page.

use super::{allocation_length_16, vpd};
use crate::scsi::command::Plan;
use crate::scsi::parameter::{Out, Parameter, Source};
use crate::scsi::{Bounds, Cdb, Context, Sense};

/// Peripheral qualifier 0, direct access block device.
pub(super) const DISK: u8 = 0x00;
/// Peripheral qualifier 011b, unknown device type: there is no logical unit.
const NOTHING: u8 = 0x7f;

/// Standards that are claimed: SAM-5, iSCSI, SPC-4, SBC-3 (SPC-4, annex on version descriptors; none with
/// a year or a revision).
const VERSIONS: [u16; 4] = [0x00a0, 0x0960, 0x0460, 0x04c0];

pub(in crate::scsi) fn inquiry(
    cdb: &Cdb,
    bounds: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    let (vital, page) = (cdb[1] & 1 != 0, cdb[2]);
    let writer = match (vital, cx.unit) {
        (false, _) if page != 0 => return Err(Sense::INVALID_FIELD_IN_CDB.at(2, 7)),
        (false, _) => standard,
        (true, Some(_)) => vpd::writer(page).ok_or(Sense::INVALID_FIELD_IN_CDB.at(2, 7))?,
        // Pages describe a logical unit, and there is none.
        (true, None) => return Err(Sense::INVALID_FIELD_IN_CDB.at(1, 0)),
    };
    let allocation_length = allocation_length_16(cdb, 3);
    Ok(Parameter::plan(cdb, bounds, cx, allocation_length, writer))
}

fn standard(source: &Source<'_>, out: &mut Out<'_>) {
    let peripheral = if source.unit.is_some() { DISK } else { NOTHING };
    // Not removable; SPC-4; HISUP, format 2; length follows; no SCC, ACC, TPGS, 3PC, PROTECT; MULTIP; CMDQUE.
    out.put(&[peripheral, 0x00, 0x06, 0x12, 0, 0x00, 0x10, 0x02]);
    let identity = source.unit.map(|unit| &unit.identity);
    let text = |of: fn(&crate::scsi::Identity) -> &String| identity.map_or("", |i| of(i).as_str());
    out.text(text(|i| &i.vendor), 8);
    out.text(text(|i| &i.product), 16);
    out.text(text(|i| &i.revision), 4);
    out.zeros(22);
    for version in VERSIONS {
        out.put(&version.to_be_bytes());
    }
    out.zeros(96 - out.len());
    out.patch_len_8(4, 5);
}

#[cfg(test)]
mod tests {
    use crate::scsi::testing::{Rig, cdb};
    use crate::scsi::{Sense, Status};

    #[test]
    fn standard_data_says_who_and_what() {
        let mut rig = Rig::new();
        let done = rig.run(&cdb(&[0x12, 0, 0, 1, 4, 0]));
        assert_eq!(done.status, Status::Good);
        assert_eq!(done.data_in.len(), 96);
        assert_eq!(done.data_in[..8], [0, 0, 6, 0x12, 91, 0, 0x10, 2]);
        assert_eq!(&done.data_in[8..36], b"RINGTGT test disk       0001");
        assert_eq!(done.data_in[58..66], [0, 0xa0, 9, 0x60, 4, 0x60, 4, 0xc0]);
    }

    #[test]
    fn inquiry_is_cut_at_the_allocation_length() {
        let mut rig = Rig::new();
        let whole = rig.run(&cdb(&[0x12, 0, 0, 0, 255, 0])).data_in;
        for len in 0..=255u8 {
            let done = rig.run(&cdb(&[0x12, 0, 0, 0, len, 0]));
            let expected = whole.len().min(len.into());
            assert_eq!(done.data_in, whole[..expected]);
            assert_eq!(
                done.asked_in, expected as u64,
                "no residual overflow by truncation"
            );
        }
    }

    #[test]
    fn a_page_code_needs_the_vital_product_data_bit() {
        let done = Rig::new().run(&cdb(&[0x12, 0, 0x83, 0, 255, 0]));
        assert_eq!(done.sense(), Sense::INVALID_FIELD_IN_CDB.at(2, 7));
    }

    #[test]
    fn where_there_is_no_logical_unit_the_qualifier_says_so() {
        let mut rig = Rig::new();
        rig.unit = None;
        let done = rig.run(&cdb(&[0x12, 0, 0, 0, 36, 0]));
        assert_eq!((done.status, done.data_in[0]), (Status::Good, 0x7f));
        let done = rig.run(&cdb(&[0x12, 1, 0x83, 0, 36, 0]));
        assert_eq!(done.sense(), Sense::INVALID_FIELD_IN_CDB.at(1, 0));
    }
}
