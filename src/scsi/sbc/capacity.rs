//! READ CAPACITY (SBC-3).

use super::unit;
use crate::scsi::command::Plan;
use crate::scsi::parameter::{Out, Parameter, Source};
use crate::scsi::{Bounds, Cdb, Context, Sense};

pub(in crate::scsi) fn read_capacity_10(
    cdb: &Cdb,
    bounds: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    unit(cx)?;
    Ok(Parameter::plan(cdb, bounds, cx, 8, write_10))
}

/// The last block's address, all ones when it does not fit: use READ CAPACITY(16).
fn write_10(source: &Source<'_>, out: &mut Out<'_>) {
    let Some(unit) = source.unit else { return };
    let last = u32::try_from(unit.last_lba()).unwrap_or(u32::MAX);
    out.put(&last.to_be_bytes());
    out.put(&unit.geometry.block_size.bytes().to_be_bytes());
}

pub(in crate::scsi) fn read_capacity_16(
    cdb: &Cdb,
    bounds: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    unit(cx)?;
    let allocation_length = u32::from_be_bytes([cdb[10], cdb[11], cdb[12], cdb[13]]);
    Ok(Parameter::plan(
        cdb,
        bounds,
        cx,
        allocation_length,
        write_16,
    ))
}

/// No protection, aligned at block 0, fully provisioned.
fn write_16(source: &Source<'_>, out: &mut Out<'_>) {
    let Some(unit) = source.unit else { return };
    out.put(&unit.last_lba().to_be_bytes());
    out.put(&unit.geometry.block_size.bytes().to_be_bytes());
    out.put(&[0, unit.geometry.physical_block_exponent & 0x0f]);
    out.zeros(18);
}

#[cfg(test)]
mod tests {
    use crate::scsi::testing::{Rig, cdb};
    use crate::units::Blocks;

    #[test]
    fn both_forms_name_the_last_block_and_its_size() {
        let mut rig = Rig::new();
        rig.unit.as_mut().unwrap().geometry.physical_block_exponent = 3;
        let short = rig.run(&cdb(&[0x25])).data_in;
        assert_eq!(short, [0, 0, 3, 255, 0, 0, 2, 0]);
        let mut request = cdb(&[0x9e, 0x10]);
        request[13] = 32;
        let long = rig.run(&request).data_in;
        assert_eq!(long.len(), 32);
        assert_eq!(long[..14], [0, 0, 0, 0, 0, 0, 3, 255, 0, 0, 2, 0, 0, 3]);
    }

    #[test]
    fn any_allocation_length_is_right() {
        for len in 0..40 {
            let mut request = cdb(&[0x9e, 0x10]);
            request[13] = len;
            let done = Rig::new().run(&request);
            assert_eq!(done.data_in.len(), usize::from(len).min(32));
            assert_eq!(done.asked_in, done.data_in.len() as u64);
        }
    }

    #[test]
    fn a_medium_too_large_for_ten_bytes_says_so() {
        let mut rig = Rig::new();
        rig.unit.as_mut().unwrap().geometry.capacity = Blocks(1 << 32);
        assert_eq!(rig.run(&cdb(&[0x25])).data_in[..4], [0xff; 4]);
        rig.unit.as_mut().unwrap().geometry.capacity = Blocks((1 << 32) + 5);
        assert_eq!(rig.run(&cdb(&[0x25])).data_in[..4], [0xff; 4]);
    }
}
