//! REPORT LUNS (SPC-4).

use super::allocation_length_32;
use crate::scsi::command::Plan;
use crate::scsi::parameter::{Out, Parameter, Source};
use crate::scsi::{Bounds, Cdb, Context, Sense, UnitAttention, lun};

/// SELECT REPORT: 0 those with addressing as usual, 1 well known ones (there are none), 2 all.
pub(in crate::scsi) fn report_luns(
    cdb: &Cdb,
    bounds: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    if cdb[2] > 2 {
        return Err(Sense::INVALID_FIELD_IN_CDB.at(2, 7));
    }
    cx.nexus.clear(UnitAttention::ReportedLunsChanged);
    let allocation_length = allocation_length_32(cdb, 6);
    Ok(Parameter::plan(cdb, bounds, cx, allocation_length, write))
}

fn write(source: &Source<'_>, out: &mut Out<'_>) {
    out.zeros(8);
    if source.cdb[2] != 1 {
        for lun in (0..).map_while(|index| source.luns.lun(index)) {
            out.put(&lun::encode(lun));
        }
    }
    let len = u32::try_from(out.len() - 8).expect("at most 16384 of 8 bytes");
    out.patch(0, &len.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use crate::scsi::testing::{Rig, cdb};
    use crate::scsi::{Sense, UnitAttention};

    #[test]
    fn luns_are_listed_even_where_there_is_no_logical_unit() {
        let mut rig = Rig::new();
        rig.unit = None;
        rig.luns.0 = vec![0, 3, 256];
        let data = rig.run(&cdb(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0])).data_in;
        assert_eq!(data.len(), 32);
        assert_eq!(data[..8], [0, 0, 0, 24, 0, 0, 0, 0]);
        assert_eq!(data[16..18], [0, 3]);
        assert_eq!(data[24..26], [0x41, 0]);
    }

    #[test]
    fn a_long_list_is_sent_in_portions() {
        let mut rig = Rig::new();
        rig.luns.0 = (0..16384).collect();
        rig.portion = 5000;
        let done = rig.run(&cdb(&[0xa0, 0, 2, 0, 0, 0, 0, 0xff, 0xff, 0xff]));
        assert_eq!(done.data_in.len(), 8 + 8 * 16384);
        assert_eq!(done.data_in[8 + 8 * 16383..][..2], [0x7f, 0xff]);
    }

    #[test]
    fn there_are_no_well_known_logical_units() {
        let done = Rig::new().run(&cdb(&[0xa0, 0, 1, 0, 0, 0, 0, 0, 1, 0]));
        assert_eq!(done.data_in, [0; 8]);
        let done = Rig::new().run(&cdb(&[0xa0, 0, 0x11, 0, 0, 0, 0, 0, 1, 0]));
        assert_eq!(done.sense(), Sense::INVALID_FIELD_IN_CDB.at(2, 7));
    }

    #[test]
    fn it_tells_of_a_changed_inventory_and_of_nothing_else() {
        let mut rig = Rig::new();
        rig.nexus.raise(UnitAttention::ReportedLunsChanged);
        rig.nexus.raise(UnitAttention::CapacityChanged);
        rig.run(&cdb(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0]));
        assert_eq!(rig.nexus.take(), Some(UnitAttention::CapacityChanged));
        assert!(!rig.nexus.is_pending());
    }
}
