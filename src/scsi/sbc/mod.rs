//! Commands of block devices (SBC-3).

mod cache;
mod capacity;
mod defects;
mod read_write;
mod start_stop;
mod verify;

pub(super) use cache::{
    Flush, Prefetch, prefetch_10, prefetch_16, synchronize_cache_10, synchronize_cache_16,
};
pub(super) use capacity::{read_capacity_10, read_capacity_16};
pub(super) use defects::{read_defect_data_10, read_defect_data_12};
pub(super) use read_write::{
    Read, Write, read_6, read_10, read_12, read_16, write_6, write_10, write_12, write_16,
};
pub(super) use start_stop::{StartStop, start_stop_unit};
pub(super) use verify::{
    Verify, verify_10, verify_12, verify_16, write_verify_10, write_verify_12, write_verify_16,
};

use super::{Cdb, Context, LogicalUnit, Sense};
use crate::units::{Blocks, Extent, Lba};

/// The logical unit, for commands that the table refuses without one.
fn unit<'a>(cx: &Context<'a>) -> Result<&'a LogicalUnit, Sense> {
    cx.unit.ok_or(Sense::LUN_NOT_SUPPORTED)
}

/// Where and how much, as a CDB says it.
#[derive(Clone, Copy)]
struct Range {
    lba: u64,
    blocks: u64,
}

impl Range {
    /// 21 bits of address, and 8 of length with 0 for 256.
    fn of_6(cdb: &Cdb) -> Self {
        Self {
            lba: u32::from_be_bytes([0, cdb[1] & 0x1f, cdb[2], cdb[3]]).into(),
            blocks: if cdb[4] == 0 { 256 } else { cdb[4].into() },
        }
    }

    fn of_10(cdb: &Cdb) -> Self {
        Self {
            lba: u32::from_be_bytes([cdb[2], cdb[3], cdb[4], cdb[5]]).into(),
            blocks: u16::from_be_bytes([cdb[7], cdb[8]]).into(),
        }
    }

    fn of_12(cdb: &Cdb) -> Self {
        Self {
            lba: u32::from_be_bytes([cdb[2], cdb[3], cdb[4], cdb[5]]).into(),
            blocks: u32::from_be_bytes([cdb[6], cdb[7], cdb[8], cdb[9]]).into(),
        }
    }

    fn of_16(cdb: &Cdb) -> Self {
        let [_, _, a, b, c, d, e, f, g, h, ..] = *cdb;
        Self {
            lba: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            blocks: u32::from_be_bytes([cdb[10], cdb[11], cdb[12], cdb[13]]).into(),
        }
    }

    /// The blocks, if all of them are on the medium; also no blocks must not start beyond its end.
    fn on(self, unit: &LogicalUnit) -> Result<Extent, Sense> {
        Extent::new(Lba(self.lba), Blocks(self.blocks), unit.geometry.capacity)
            .ok_or(Sense::LBA_OUT_OF_RANGE)
    }

    /// The same where a length of 0 stands for all blocks to the end.
    fn to_the_end_on(self, unit: &LogicalUnit) -> Result<Extent, Sense> {
        let rest = unit.geometry.capacity.0.saturating_sub(self.lba);
        let blocks = if self.blocks == 0 { rest } else { self.blocks };
        Self { blocks, ..self }.on(unit)
    }
}
