//! READ and WRITE (SBC-3).

use super::{Range, unit};
use crate::backend::BlockIo;
use crate::scsi::command::Plan;
use crate::scsi::{Bounds, Cdb, Context, LogicalUnit, Outcome, Sense, Status, Step, Which};
use crate::units::{Blocks, Extent};

const FUA: u8 = 0x08;

pub(in crate::scsi) fn read_6(
    cdb: &Cdb,
    bounds: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    Read::plan(Range::of_6(cdb), false, bounds, cx)
}

pub(in crate::scsi) fn read_10(
    cdb: &Cdb,
    bounds: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    Read::plan(Range::of_10(cdb), cdb[1] & FUA != 0, bounds, cx)
}

pub(in crate::scsi) fn read_12(
    cdb: &Cdb,
    bounds: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    Read::plan(Range::of_12(cdb), cdb[1] & FUA != 0, bounds, cx)
}

pub(in crate::scsi) fn read_16(
    cdb: &Cdb,
    bounds: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    Read::plan(Range::of_16(cdb), cdb[1] & FUA != 0, bounds, cx)
}

pub(in crate::scsi) fn write_6(
    cdb: &Cdb,
    bounds: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    Write::plan(Range::of_6(cdb), false, bounds, cx)
}

pub(in crate::scsi) fn write_10(
    cdb: &Cdb,
    bounds: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    Write::plan(Range::of_10(cdb), cdb[1] & FUA != 0, bounds, cx)
}

pub(in crate::scsi) fn write_12(
    cdb: &Cdb,
    bounds: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    Write::plan(Range::of_12(cdb), cdb[1] & FUA != 0, bounds, cx)
}

pub(in crate::scsi) fn write_16(
    cdb: &Cdb,
    bounds: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    Write::plan(Range::of_16(cdb), cdb[1] & FUA != 0, bounds, cx)
}

/// A length in bytes that is known to be at most what [`Bounds`] can say, or not worth more in one step.
pub(super) fn step_len(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(1 << 31)
}

/// Cuts `extent` to the whole blocks that the data-out to come can fill.
pub(super) fn cut_to_data_out(extent: Extent, bounds: Bounds, unit: &LogicalUnit) -> Extent {
    let blocks = unit.geometry.block_size.blocks_in(bounds.data_out.into());
    extent.split_at(blocks).0
}

/// A read under way: `rest` is still to be read, `left` bytes still to be sent.
///
/// FUA: the standard wants what is on the medium, after what is newer in a volatile cache was written there
/// (SBC-3, "Caches"). So with a write cache the read waits for a flush first; without one there is
/// nothing newer. DPO only advises about caches that are not ours.
#[derive(Clone, Copy, Debug)]
pub(in crate::scsi) struct Read {
    rest: Extent,
    left: u32,
    portion: u32,
    flush_first: bool,
}

impl Read {
    fn plan(range: Range, fua: bool, bounds: Bounds, cx: &Context<'_>) -> Result<Plan, Sense> {
        let unit = unit(cx)?;
        let size = unit.geometry.block_size;
        let extent = range.on(unit)?;
        let data_in = extent.byte_len(size);
        let left = u32::try_from(data_in).map_or(bounds.data_in, |n| n.min(bounds.data_in));
        let (rest, _) = extent.split_at(size.blocks_covering(left.into()));
        let read = Self {
            rest,
            left,
            portion: 0,
            flush_first: fua && unit.geometry.write_cache,
        };
        Ok(Plan::read(read, data_in))
    }

    pub(in crate::scsi) fn resume(&mut self, outcome: Outcome, cx: &Context<'_>) -> Step {
        let Some(unit) = cx.unit else {
            return Step::failed(Sense::LUN_NOT_SUPPORTED);
        };
        let size = unit.geometry.block_size;
        match outcome {
            Outcome::Begin if self.left == 0 => return Step::Done(Status::Good),
            Outcome::Begin if self.flush_first => {
                return Step::Io {
                    io: BlockIo::Flush,
                    buffer: None,
                };
            }
            Outcome::Buffer { len } => {
                let blocks = size.blocks_in(len.into());
                let (front, rest) = self.rest.split_at(blocks);
                if front.is_empty() {
                    return Step::BROKEN;
                }
                self.rest = rest;
                self.portion = step_len(front.byte_len(size));
                return Step::Io {
                    io: BlockIo::Read(front),
                    buffer: Some(Which::Data),
                };
            }
            Outcome::Io(Err(error)) if self.flush_first => {
                return Step::failed(Sense::of_write(error));
            }
            Outcome::Io(Err(error)) => return Step::failed(Sense::of_read(error)),
            Outcome::Io(Ok(())) if !self.flush_first => {
                let len = self.portion.min(self.left);
                self.left -= len;
                return Step::Send {
                    len,
                    status: (self.left == 0).then_some(Status::Good),
                };
            }
            Outcome::Begin | Outcome::Io(Ok(())) | Outcome::Sent => self.flush_first = false,
            _ => return Step::BROKEN,
        }
        Step::NeedBuffer {
            wanted: step_len(self.rest.byte_len(size)),
            least: size.bytes(),
        }
    }
}

/// A write under way: `rest` is still to be written.
#[derive(Clone, Copy, Debug)]
pub(in crate::scsi) struct Write {
    rest: Extent,
    fua: bool,
}

impl Write {
    fn plan(range: Range, fua: bool, bounds: Bounds, cx: &Context<'_>) -> Result<Plan, Sense> {
        let unit = unit(cx)?;
        let extent = range.on(unit)?;
        let write = Self {
            rest: cut_to_data_out(extent, bounds, unit),
            fua,
        };
        Ok(Plan::write(
            write,
            extent.byte_len(unit.geometry.block_size),
        ))
    }

    pub(in crate::scsi) fn resume(&mut self, outcome: Outcome, cx: &Context<'_>) -> Step {
        let Some(unit) = cx.unit else {
            return Step::failed(Sense::LUN_NOT_SUPPORTED);
        };
        let size = unit.geometry.block_size;
        match outcome {
            Outcome::DataOut { len } => {
                let blocks: Blocks = size.blocks_in(len.into());
                let (extent, rest) = self.rest.split_at(blocks);
                if extent.is_empty() {
                    return Step::BROKEN;
                }
                self.rest = rest;
                Step::Io {
                    io: BlockIo::Write {
                        extent,
                        fua: self.fua,
                    },
                    buffer: Some(Which::Data),
                }
            }
            Outcome::Begin | Outcome::Io(Ok(())) if self.rest.is_empty() => {
                Step::Done(Status::Good)
            }
            Outcome::Begin | Outcome::Io(Ok(())) => Step::NeedDataOut {
                remaining: step_len(self.rest.byte_len(size)),
                granularity: size.bytes(),
            },
            Outcome::Io(Err(error)) => Step::failed(Sense::of_write(error)),
            _ => Step::BROKEN,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::backend::{BlockError, BlockIo};
    use crate::scsi::testing::{Rig, cdb};
    use crate::scsi::{Bounds, Sense, Status};
    use crate::units::{BlockSize, Blocks, Lba};

    const READS: [fn(u8, u8) -> [u8; 16]; 4] = [
        |lba, n| cdb(&[0x08, 0, 0, lba, n, 0]),
        |lba, n| cdb(&[0x28, 0, 0, 0, 0, lba, 0, 0, n, 0]),
        |lba, n| cdb(&[0xa8, 0, 0, 0, 0, lba, 0, 0, 0, n, 0, 0]),
        |lba, n| cdb(&[0x88, 0, 0, 0, 0, 0, 0, 0, 0, lba, 0, 0, 0, n, 0, 0]),
    ];
    const WRITES: [fn(u8, u8) -> [u8; 16]; 4] = [
        |lba, n| cdb(&[0x0a, 0, 0, lba, n, 0]),
        |lba, n| cdb(&[0x2a, 0, 0, 0, 0, lba, 0, 0, n, 0]),
        |lba, n| cdb(&[0xaa, 0, 0, 0, 0, lba, 0, 0, 0, n, 0, 0]),
        |lba, n| cdb(&[0x8a, 0, 0, 0, 0, 0, 0, 0, 0, lba, 0, 0, 0, n, 0, 0]),
    ];

    #[test]
    fn what_is_written_is_read_by_every_form_in_any_portions() {
        for (read, write) in READS.iter().zip(WRITES) {
            for portion in [512, 1000, 1024, 4096, 1 << 20] {
                let mut rig = Rig::new();
                rig.portion = portion;
                let before = rig.medium.clone();
                let data: Vec<u8> = (0..7 * 512u32).map(|i| i.to_le_bytes()[0] ^ 0x5a).collect();
                let done = rig.write(&write(9, 7), &data);
                assert_eq!((done.status, done.asked_out), (Status::Good, 3584));
                assert_eq!(rig.medium[..9 * 512], before[..9 * 512]);
                assert_eq!(rig.medium[16 * 512..], before[16 * 512..]);
                let done = rig.run(&read(9, 7));
                assert_eq!((done.status, done.asked_in), (Status::Good, 3584));
                assert_eq!(done.data_in, data);
            }
        }
    }

    #[test]
    fn a_length_of_zero_is_256_blocks_in_six_bytes_and_none_elsewhere() {
        let mut rig = Rig::new();
        assert_eq!(rig.run(&READS[0](0, 0)).data_in.len(), 256 * 512);
        for read in &READS[1..] {
            let done = rig.run(&read(0, 0));
            assert_eq!(
                (done.status, done.asked_in, done.ios.len()),
                (Status::Good, 0, 0)
            );
        }
    }

    #[test]
    fn blocks_beyond_the_end_are_refused_before_anything_moves() {
        let mut rig = Rig::new();
        for lba in [1025u32, 0x8000_0000, u32::MAX] {
            let [a, b, c, d] = lba.to_be_bytes();
            for (code, count) in [(0x28, 0), (0x28, 1), (0x2a, 0), (0x2a, 1)] {
                let done = rig.write(&cdb(&[code, 0, a, b, c, d, 0, 0, count, 0]), &[1; 512]);
                assert_eq!(done.sense(), Sense::LBA_OUT_OF_RANGE);
                assert_eq!((done.asked_in, done.asked_out, done.ios.len()), (0, 0, 0));
            }
        }
        let last = rig.run(&cdb(&[0x28, 0, 0, 0, 3, 255, 0, 0, 2, 0]));
        assert_eq!(last.sense(), Sense::LBA_OUT_OF_RANGE);
        let top = [0xff; 8];
        let mut wide = cdb(&[0x88]);
        wide[2..10].copy_from_slice(&top);
        wide[13] = 2;
        assert_eq!(rig.run(&wide).sense(), Sense::LBA_OUT_OF_RANGE);
        let empty_at_the_end = rig.run(&cdb(&[0x28, 0, 0, 0, 4, 0, 0, 0, 0, 0]));
        assert_eq!(empty_at_the_end.status, Status::Good);
    }

    #[test]
    fn a_small_room_cuts_a_read_short_and_the_residual_shows() {
        let mut rig = Rig::new();
        for (room, sent) in [(0, 0), (200, 200), (512, 512), (700, 700), (10_000, 1024)] {
            let bounds = Bounds {
                data_in: room,
                data_out: 0,
            };
            let done = rig.run_with(&READS[1](3, 2), bounds, &[]);
            assert_eq!(
                (done.status, done.data_in.len(), done.asked_in),
                (Status::Good, sent, 1024)
            );
            assert_eq!(done.data_in, rig.medium[3 * 512..][..sent]);
        }
    }

    #[test]
    fn a_write_is_cut_to_whole_blocks_that_come_and_never_grows() {
        for (promised, written) in [(0, 0), (200, 0), (512, 1), (1000, 1), (10_000, 2)] {
            let mut rig = Rig::new();
            let before = rig.medium.clone();
            let bounds = Bounds {
                data_in: 0,
                data_out: promised,
            };
            let done = rig.run_with(&WRITES[1](3, 2), bounds, &[0xee; 10_000]);
            assert_eq!((done.status, done.asked_out), (Status::Good, 1024));
            let end = (3 + written) * 512;
            assert!(rig.medium[3 * 512..end].iter().all(|b| *b == 0xee));
            assert_eq!(rig.medium[end..], before[end..]);
        }
    }

    #[test]
    fn protection_information_is_refused_by_position() {
        for code in [0x28, 0x2a, 0x2e, 0x2f] {
            let done = Rig::new().run(&cdb(&[code, 0x20, 0, 0, 0, 0, 0, 0, 1, 0]));
            assert_eq!(done.sense(), Sense::INVALID_FIELD_IN_CDB.at(1, 5));
        }
    }

    #[test]
    fn fua_reaches_the_medium() {
        let mut rig = Rig::new();
        let done = rig.write(&cdb(&[0x2a, 0x18, 0, 0, 0, 1, 0, 0, 1, 0]), &[7; 512]);
        assert!(matches!(done.ios[..], [BlockIo::Write { fua: true, .. }]));
        let done = rig.run(&cdb(&[0x28, 0x08, 0, 0, 0, 1, 0, 0, 1, 0]));
        assert!(matches!(done.ios[..], [BlockIo::Flush, BlockIo::Read(_)]));
        rig.unit.as_mut().unwrap().geometry.write_cache = false;
        let done = rig.run(&cdb(&[0x28, 0x18, 0, 0, 0, 1, 0, 0, 1, 0]));
        assert!(matches!(done.ios[..], [BlockIo::Read(_)]));
        assert_eq!(done.data_in, [7; 512]);
    }

    #[test]
    fn a_block_that_cannot_be_read_or_written_is_named() {
        let mut rig = Rig::new();
        rig.portion = 512;
        rig.fail_at = Some((Lba(5), BlockError::Medium { at: Lba(5) }));
        let done = rig.run(&READS[1](4, 3));
        assert_eq!(done.sense(), Sense::READ_ERROR.with_information(5));
        assert_eq!((done.data_in.len(), done.asked_in), (512, 512));
        let done = rig.write(&WRITES[1](4, 3), &[1; 1536]);
        assert_eq!(done.sense(), Sense::WRITE_ERROR.with_information(5));
        rig.fail_at = Some((Lba(5), BlockError::NoSpace));
        assert_eq!(
            rig.write(&WRITES[1](4, 3), &[1; 1536]).sense(),
            Sense::NO_SPACE
        );
    }

    #[test]
    fn a_read_only_medium_is_write_protected() {
        let mut rig = Rig::new();
        rig.unit.as_mut().unwrap().geometry.read_only = true;
        for write in WRITES {
            assert_eq!(
                rig.write(&write(0, 1), &[0; 512]).sense(),
                Sense::WRITE_PROTECTED
            );
        }
        assert_eq!(rig.run(&READS[1](0, 1)).status, Status::Good);
    }

    #[test]
    fn blocks_of_4096_bytes_are_counted_as_such() {
        let mut rig = Rig::new();
        let geometry = &mut rig.unit.as_mut().unwrap().geometry;
        geometry.block_size = BlockSize::B4096;
        geometry.capacity = Blocks(128);
        rig.portion = 10_000;
        let data: Vec<u8> = (0..3 * 4096u32).map(|i| i.to_le_bytes()[1]).collect();
        for (read, write) in READS.iter().zip(WRITES) {
            let done = rig.write(&write(125, 3), &data);
            assert_eq!((done.status, done.asked_out), (Status::Good, 12_288));
            assert_eq!(rig.run(&read(125, 3)).data_in, data);
            assert_eq!(rig.run(&read(126, 3)).sense(), Sense::LBA_OUT_OF_RANGE);
        }
        let bounds = Bounds {
            data_in: 0,
            data_out: 8191,
        };
        let done = rig.run_with(&WRITES[1](0, 2), bounds, &[0xee; 8191]);
        assert_eq!((done.status, done.taken_out), (Status::Good, 4096));
    }
}
