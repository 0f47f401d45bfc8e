//! MODE SENSE (SPC-4; pages also in SBC-3). Nothing can
//! be changed, so the changeable masks are zero and the defaults are what is.

use super::allocation_length_16;
use crate::scsi::command::Plan;
use crate::scsi::parameter::{Out, Parameter, Source};
use crate::scsi::{Bounds, Cdb, Context, LogicalUnit, Sense};

/// One mode page: code, subpage, and its bytes after the header.
struct Page {
    code: u8,
    subpage: u8,
    len: u8,
    /// Sets what is not zero.
    fill: fn(&LogicalUnit, &mut [u8; 32]),
}

#[rustfmt::skip]
static PAGES: &[Page] = &[
    // Read-write error recovery: nothing is reassigned or retried by itself.
    Page { code: 0x01, subpage: 0x00, len: 0x0a, fill: |_, _| {} },
    // Caching: WCE; RCD is 0, reads may come from a cache.
    Page { code: 0x08, subpage: 0x00, len: 0x12, fill: |unit, page| page[0] = u8::from(unit.geometry.write_cache) << 2 },
    // Control: one task set for all (TST 0), unrestricted reordering, fixed format sense data (D_SENSE 0).
    Page { code: 0x0a, subpage: 0x00, len: 0x0a, fill: |_, page| page[1] = 0x10 },
    // Control extension: nothing of it is used.
    Page { code: 0x0a, subpage: 0x01, len: 0x1c, fill: |_, _| {} },
    // Informational exceptions control: DEXCPT, none are reported.
    Page { code: 0x1c, subpage: 0x00, len: 0x0a, fill: |_, page| page[0] = 0x08 },
];

const ALL_PAGES: u8 = 0x3f;
const ALL_SUBPAGES: u8 = 0xff;

pub(in crate::scsi) fn mode_sense_6(
    cdb: &Cdb,
    bounds: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    check(cdb)?;
    Ok(Parameter::plan(cdb, bounds, cx, cdb[4].into(), write_6))
}

pub(in crate::scsi) fn mode_sense_10(
    cdb: &Cdb,
    bounds: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    check(cdb)?;
    let allocation_length = allocation_length_16(cdb, 7);
    Ok(Parameter::plan(
        cdb,
        bounds,
        cx,
        allocation_length,
        write_10,
    ))
}

fn check(cdb: &Cdb) -> Result<(), Sense> {
    if !PAGES
        .iter()
        .any(|page| page.code == cdb[2] & 0x3f || cdb[2] & 0x3f == ALL_PAGES)
    {
        return Err(Sense::INVALID_FIELD_IN_CDB.at(2, 5));
    }
    if !PAGES.iter().any(|page| page.is_asked_for(cdb)) {
        return Err(Sense::INVALID_FIELD_IN_CDB.at(3, 7));
    }
    // Page control 11b: saved values.
    if cdb[2] >> 6 == 3 {
        return Err(Sense::SAVING_NOT_SUPPORTED);
    }
    Ok(())
}

impl Page {
    fn is_asked_for(&self, cdb: &Cdb) -> bool {
        let (code, subpage) = (cdb[2] & 0x3f, cdb[3]);
        (code == self.code || code == ALL_PAGES)
            && (subpage == self.subpage || subpage == ALL_SUBPAGES)
    }

    fn write(&self, unit: &LogicalUnit, changeable: bool, out: &mut Out<'_>) {
        if self.subpage == 0 {
            out.put(&[self.code, self.len]);
        } else {
            out.put(&[0x40 | self.code, self.subpage, 0, self.len]);
        }
        let mut bytes = [0; 32];
        if !changeable {
            (self.fill)(unit, &mut bytes);
        }
        out.put(&bytes[..self.len.into()]);
    }
}

/// DEVICE-SPECIFIC PARAMETER (SBC-3): WP, and DPOFUA since both bits are taken.
fn device_specific(unit: &LogicalUnit) -> u8 {
    u8::from(unit.geometry.read_only) << 7 | 0x10
}

fn write_6(source: &Source<'_>, out: &mut Out<'_>) {
    let Some(unit) = source.unit else { return };
    let descriptor = source.cdb[1] & 0x08 == 0;
    let len = if descriptor { 8 } else { 0 };
    out.put(&[0, 0x00, device_specific(unit), len]);
    if descriptor {
        short_block_descriptor(unit, out);
    }
    write_pages(source.cdb, unit, out);
    out.patch_len_8(0, 1);
}

fn write_10(source: &Source<'_>, out: &mut Out<'_>) {
    let Some(unit) = source.unit else { return };
    let (descriptor, long) = (source.cdb[1] & 0x08 == 0, source.cdb[1] & 0x10 != 0);
    let len = match (descriptor, long) {
        (false, _) => 0,
        (true, false) => 8,
        (true, true) => 16,
    };
    let long_lba = u8::from(descriptor && long);
    out.put(&[0, 0, 0x00, device_specific(unit), long_lba, 0, 0, len]);
    if descriptor && long {
        out.put(&unit.geometry.capacity.0.to_be_bytes());
        out.zeros(4);
        out.put(&unit.geometry.block_size.bytes().to_be_bytes());
    } else if descriptor {
        short_block_descriptor(unit, out);
    }
    write_pages(source.cdb, unit, out);
    out.patch_len_16(0, 2);
}

/// Short LBA mode parameter block descriptor (SBC-3). More blocks than fit: all ones.
fn short_block_descriptor(unit: &LogicalUnit, out: &mut Out<'_>) {
    let blocks = u32::try_from(unit.geometry.capacity.0).unwrap_or(u32::MAX);
    out.put(&blocks.to_be_bytes());
    out.put(&unit.geometry.block_size.bytes().to_be_bytes());
}

fn write_pages(cdb: &Cdb, unit: &LogicalUnit, out: &mut Out<'_>) {
    let changeable = cdb[2] >> 6 == 1;
    for page in PAGES.iter().filter(|page| page.is_asked_for(cdb)) {
        page.write(unit, changeable, out);
    }
}

#[cfg(test)]
mod tests {
    use crate::scsi::Sense;
    use crate::scsi::testing::{Rig, cdb};

    #[test]
    fn all_pages_in_order_with_a_block_descriptor() {
        let data = Rig::new().run(&cdb(&[0x1a, 0, 0x3f, 0, 255, 0])).data_in;
        assert_eq!(usize::from(data[0]), data.len() - 1);
        assert_eq!(data[1..4], [0, 0x10, 8]);
        assert_eq!(
            data[4..12],
            [0, 0, 4, 0, 0, 0, 2, 0],
            "1024 blocks of 512 bytes"
        );
        assert_eq!(data[12..14], [1, 10]);
        assert_eq!(data[24..27], [8, 18, 4], "WCE");
        assert_eq!(data[44..46], [0x0a, 10]);
        assert_eq!(data[56..59], [0x1c, 10, 8]);
    }

    #[test]
    fn subpages_come_only_when_asked_for() {
        let mut rig = Rig::new();
        let data = rig.run(&cdb(&[0x1a, 8, 0x0a, 0xff, 255, 0])).data_in;
        assert_eq!(
            (data.len(), data[4], data[16], data[17], data[19]),
            (4 + 12 + 32, 0x0a, 0x4a, 1, 28)
        );
        let data = rig.run(&cdb(&[0x1a, 8, 0x0a, 0x01, 255, 0])).data_in;
        assert_eq!((data.len(), data[4]), (36, 0x4a));
    }

    #[test]
    fn nothing_is_changeable_and_nothing_saved() {
        let mut rig = Rig::new();
        let data = rig.run(&cdb(&[0x1a, 8, 0x48, 0, 255, 0])).data_in;
        assert_eq!(data[4..7], [8, 18, 0]);
        let done = rig.run(&cdb(&[0x1a, 8, 0xc8, 0, 255, 0]));
        assert_eq!(done.sense(), Sense::SAVING_NOT_SUPPORTED);
    }

    #[test]
    fn unknown_pages_and_subpages_are_refused_by_position() {
        let mut rig = Rig::new();
        let done = rig.run(&cdb(&[0x1a, 0, 0x05, 0, 255, 0]));
        assert_eq!(done.sense(), Sense::INVALID_FIELD_IN_CDB.at(2, 5));
        let done = rig.run(&cdb(&[0x1a, 0, 0x08, 7, 255, 0]));
        assert_eq!(done.sense(), Sense::INVALID_FIELD_IN_CDB.at(3, 7));
    }

    #[test]
    fn the_long_header_can_carry_a_long_descriptor() {
        let mut rig = Rig::new();
        rig.unit.as_mut().unwrap().geometry.read_only = true;
        let data = rig
            .run(&cdb(&[0x5a, 0x10, 0x08, 0, 0, 0, 0, 1, 0, 0]))
            .data_in;
        assert_eq!(data.len(), 8 + 16 + 20);
        assert_eq!(data[..8], [0, 42, 0, 0x90, 1, 0, 0, 16]);
        assert_eq!(
            data[8..24],
            [0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 2, 0]
        );
        let data = rig
            .run(&cdb(&[0x5a, 0x18, 0x08, 0, 0, 0, 0, 0, 4, 0]))
            .data_in;
        assert_eq!(data, [0, 26, 0, 0x90]);
    }

    #[test]
    fn an_allocation_length_of_zero_is_no_error() {
        let done = Rig::new().run(&cdb(&[0x1a, 0, 0x3f, 0, 0, 0]));
        assert_eq!((done.asked_in, done.data_in.len()), (0, 0));
    }
}
