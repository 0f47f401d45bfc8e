//! READ DEFECT DATA (SBC-3). A file, a device behind a kernel and memory tell of no defects: what reads wrongly is
//! reported when it is read. So both lists are valid and empty, in whatever format they are asked for.

use crate::scsi::command::Plan;
use crate::scsi::parameter::{Out, Parameter, Source};
use crate::scsi::{Bounds, Cdb, Context, Sense};

#[allow(clippy::unnecessary_wraps, reason = "a row of the table")]
pub(in crate::scsi) fn read_defect_data_10(
    cdb: &Cdb,
    bounds: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    let allocation_length = u16::from_be_bytes([cdb[7], cdb[8]]).into();
    Ok(Parameter::plan(
        cdb,
        bounds,
        cx,
        allocation_length,
        write_10,
    ))
}

/// PLISTV, GLISTV and the format lie as they do in the request; DEFECT LIST LENGTH 0.
fn write_10(source: &Source<'_>, out: &mut Out<'_>) {
    out.put(&[0, source.cdb[2], 0, 0]);
}

#[allow(clippy::unnecessary_wraps, reason = "a row of the table")]
pub(in crate::scsi) fn read_defect_data_12(
    cdb: &Cdb,
    bounds: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    let allocation_length = u32::from_be_bytes([cdb[6], cdb[7], cdb[8], cdb[9]]);
    Ok(Parameter::plan(
        cdb,
        bounds,
        cx,
        allocation_length,
        write_12,
    ))
}

/// As above, with GENERATION CODE 0 (not supported) and four bytes of length.
fn write_12(source: &Source<'_>, out: &mut Out<'_>) {
    out.put(&[0, source.cdb[1], 0, 0, 0, 0, 0, 0]);
}

#[cfg(test)]
mod tests {
    use crate::scsi::testing::{Rig, cdb};

    #[test]
    fn both_lists_are_valid_and_empty_in_the_format_asked_for() {
        let mut rig = Rig::new();
        let ten = rig.run(&cdb(&[0x37, 0, 0x1d, 0, 0, 0, 0, 0, 255, 0]));
        assert_eq!(ten.data_in, [0, 0x1d, 0, 0]);
        let twelve = rig.run(&cdb(&[0xb7, 0x0d, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0]));
        assert_eq!(twelve.data_in, [0, 0x0d, 0, 0, 0, 0, 0, 0]);
    }
}
