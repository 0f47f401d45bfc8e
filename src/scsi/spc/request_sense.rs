//! REQUEST SENSE (SPC-4).

use crate::scsi::command::Plan;
use crate::scsi::parameter::{Out, Parameter, Source};
use crate::scsi::{Bounds, Cdb, Context, Sense, sense};

/// Reports, as parameter data: that there is no logical unit, or a pending unit attention (and clears it), or
/// why it is not ready, or nothing.
#[allow(clippy::unnecessary_wraps, reason = "a row of the table")]
pub(in crate::scsi) fn request_sense(
    cdb: &Cdb,
    bounds: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    let sense = match cx.unit {
        None => Sense::LUN_NOT_SUPPORTED,
        Some(unit) => match cx.nexus.take() {
            Some(unit_attention) => unit_attention.sense(),
            None => unit.ready().err().unwrap_or(Sense::NO_SENSE),
        },
    };
    Ok(Parameter::plan_with_sense(
        cdb,
        bounds,
        cx,
        cdb[4].into(),
        write,
        sense,
    ))
}

fn write(source: &Source<'_>, out: &mut Out<'_>) {
    let mut bytes = [0; sense::LONGEST];
    let len = source.sense.write(source.cdb[1] & 1 != 0, &mut bytes);
    out.put(&bytes[..len]);
}

#[cfg(test)]
mod tests {
    use crate::scsi::UnitAttention;
    use crate::scsi::testing::{Rig, cdb};

    #[test]
    fn a_unit_attention_is_reported_and_cleared() {
        let mut rig = Rig::new();
        rig.nexus.raise(UnitAttention::LunReset);
        let data = rig.run(&cdb(&[3, 0, 0, 0, 252, 0])).data_in;
        assert_eq!(
            (data.len(), data[0], data[2], data[12], data[13]),
            (18, 0x70, 6, 0x29, 3)
        );
        let data = rig.run(&cdb(&[3, 0, 0, 0, 252, 0])).data_in;
        assert_eq!((data[2], data[12]), (0, 0));
    }

    #[test]
    fn the_desc_bit_chooses_the_format() {
        let mut rig = Rig::new();
        rig.unit.as_mut().unwrap().stopped = true;
        let data = rig.run(&cdb(&[3, 1, 0, 0, 252, 0])).data_in;
        assert_eq!(data, [0x72, 2, 4, 2, 0, 0, 0, 0]);
    }

    #[test]
    fn without_a_logical_unit_that_is_the_report() {
        let mut rig = Rig::new();
        rig.unit = None;
        let data = rig.run(&cdb(&[3, 0, 0, 0, 18, 0])).data_in;
        assert_eq!((data[2], data[12]), (5, 0x25));
    }
}
