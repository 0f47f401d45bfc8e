//! VERIFY and WRITE AND VERIFY (SBC-3).
//!
//! | | BYTCHK 00b | 01b | 11b |
//! |---|---|---|---|
//! | VERIFY | read every block | compare with as much data-out | compare each with one block of data-out |
//! | WRITE AND VERIFY | write (stable), read back | and compare | refused |

use super::read_write::{cut_to_data_out, step_len};
use super::{Range, unit};
use crate::backend::BlockIo;
use crate::scsi::command::Plan;
use crate::scsi::{Bounds, Cdb, Context, Memory, Outcome, Sense, Status, Step, Which};
use crate::units::{BlockSize, Blocks, Extent};

pub(in crate::scsi) fn verify_10(
    cdb: &Cdb,
    bounds: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    Verify::plan(Range::of_10(cdb), cdb, bounds, cx)
}

pub(in crate::scsi) fn verify_12(
    cdb: &Cdb,
    bounds: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    Verify::plan(Range::of_12(cdb), cdb, bounds, cx)
}

pub(in crate::scsi) fn verify_16(
    cdb: &Cdb,
    bounds: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    Verify::plan(Range::of_16(cdb), cdb, bounds, cx)
}

pub(in crate::scsi) fn write_verify_10(
    cdb: &Cdb,
    bounds: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    Verify::plan_write(Range::of_10(cdb), cdb, bounds, cx)
}

pub(in crate::scsi) fn write_verify_12(
    cdb: &Cdb,
    bounds: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    Verify::plan_write(Range::of_12(cdb), cdb, bounds, cx)
}

pub(in crate::scsi) fn write_verify_16(
    cdb: &Cdb,
    bounds: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    Verify::plan_write(Range::of_16(cdb), cdb, bounds, cx)
}

/// BYTCHK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// The blocks can be read.
    Readable,
    /// Each equals its own block of data-out.
    Equal,
    /// Each equals the one block of data-out.
    AllEqual,
}

fn byte_check(cdb: &Cdb) -> Result<Check, Sense> {
    match cdb[1] >> 1 & 3 {
        0 => Ok(Check::Readable),
        1 => Ok(Check::Equal),
        3 => Ok(Check::AllEqual),
        _ => Err(BYTCHK_REFUSED),
    }
}

const BYTCHK_REFUSED: Sense = Sense::INVALID_FIELD_IN_CDB.at(1, 2);

/// A verification under way: of a portion brought in, `portion` is still to be read, and `rest` comes after
/// it. The medium is read into the scratch buffer.
#[derive(Clone, Copy, Debug)]
pub(in crate::scsi) struct Verify {
    rest: Extent,
    portion: Extent,
    /// Being written or read.
    current: Extent,
    /// Bytes of data-out before the portion in the data buffer.
    before: u32,
    /// Bytes of the data buffer that are compared.
    compared: u32,
    check: Check,
    write: bool,
    writing: bool,
}

impl Verify {
    fn new(rest: Extent, check: Check, write: bool) -> Self {
        let (nothing, rest) = rest.split_at(Blocks(0));
        Self {
            rest,
            portion: nothing,
            current: nothing,
            before: 0,
            compared: 0,
            check,
            write,
            writing: false,
        }
    }

    fn plan(range: Range, cdb: &Cdb, bounds: Bounds, cx: &Context<'_>) -> Result<Plan, Sense> {
        let unit = unit(cx)?;
        let size = unit.geometry.block_size;
        let extent = range.on(unit)?;
        let check = byte_check(cdb)?;
        if check != Check::Readable && unit.geometry.forgets {
            return Err(BYTCHK_REFUSED);
        }
        let (rest, data_out) = match check {
            Check::Readable => (extent, 0),
            Check::Equal => (cut_to_data_out(extent, bounds, unit), extent.byte_len(size)),
            Check::AllEqual if extent.is_empty() => (extent, 0),
            // Less than the block to compare with is not a shorter comparison, but none.
            Check::AllEqual if bounds.data_out < size.bytes() => {
                return Err(Sense::TOO_LITTLE_DATA);
            }
            Check::AllEqual => (extent, size.bytes().into()),
        };
        Ok(Plan::verify(Self::new(rest, check, false), data_out))
    }

    fn plan_write(
        range: Range,
        cdb: &Cdb,
        bounds: Bounds,
        cx: &Context<'_>,
    ) -> Result<Plan, Sense> {
        let unit = unit(cx)?;
        let extent = range.on(unit)?;
        let check = byte_check(cdb)?;
        if check == Check::AllEqual {
            return Err(BYTCHK_REFUSED);
        }
        let rest = cut_to_data_out(extent, bounds, unit);
        let data_out = extent.byte_len(unit.geometry.block_size);
        Ok(Plan::verify(Self::new(rest, check, true), data_out))
    }

    pub(in crate::scsi) fn resume(
        &mut self,
        outcome: Outcome,
        memory: Memory<'_>,
        cx: &Context<'_>,
    ) -> Step {
        let Some(unit) = cx.unit else {
            return Step::failed(Sense::LUN_NOT_SUPPORTED);
        };
        let size = unit.geometry.block_size;
        match outcome {
            Outcome::Begin => self.next_portion(size, &memory),
            Outcome::DataOut { len } => self.handle_data_out(len, size, &memory),
            Outcome::Scratch { .. } => self.read(size, &memory),
            Outcome::Io(Err(error)) if self.writing => Step::failed(Sense::of_write(error)),
            Outcome::Io(Err(error)) => Step::failed(Sense::of_read(error)),
            Outcome::Io(Ok(())) if self.writing => {
                self.writing = false;
                self.read(size, &memory)
            }
            Outcome::Io(Ok(())) => match self.compare(size, &memory) {
                Err(sense) => Step::failed(sense),
                Ok(()) if self.portion.is_empty() => self.next_portion(size, &memory),
                Ok(()) => self.read(size, &memory),
            },
            _ => Step::BROKEN,
        }
    }

    fn next_portion(&mut self, size: BlockSize, memory: &Memory<'_>) -> Step {
        if self.rest.is_empty() {
            return Step::Done(Status::Good);
        }
        self.before += self.compared;
        self.compared = 0;
        let remaining = match self.check {
            Check::Readable if !self.write => {
                let (all, none) = self.rest.split_at(self.rest.len());
                (self.portion, self.rest) = (all, none);
                return self.read(size, memory);
            }
            Check::AllEqual => size.bytes(),
            Check::Readable | Check::Equal => step_len(self.rest.byte_len(size)),
        };
        Step::NeedDataOut {
            remaining,
            granularity: size.bytes(),
        }
    }

    /// Data-out is there: write it, or compare it with what is on the medium.
    fn handle_data_out(&mut self, len: u32, size: BlockSize, memory: &Memory<'_>) -> Step {
        let blocks = match self.check {
            Check::AllEqual if len >= size.bytes() => self.rest.len(),
            _ => size.blocks_in(len.into()),
        };
        (self.portion, self.rest) = self.rest.split_at(blocks);
        if self.portion.is_empty() {
            return Step::BROKEN;
        }
        if !self.write {
            return self.read(size, memory);
        }
        self.writing = true;
        Step::Io {
            io: BlockIo::Write {
                extent: self.portion,
                fua: true,
            },
            buffer: Some(Which::Data),
        }
    }

    /// Reads as much of the portion as fits in the scratch buffer, or asks for one.
    fn read(&mut self, size: BlockSize, memory: &Memory<'_>) -> Step {
        let room = size.blocks_in(memory.scratch.len() as u64);
        let (current, portion) = self.portion.split_at(room);
        if current.is_empty() {
            return Step::NeedScratch {
                wanted: step_len(self.portion.byte_len(size)),
                least: size.bytes(),
            };
        }
        (self.current, self.portion) = (current, portion);
        Step::Io {
            io: BlockIo::Read(current),
            buffer: Some(Which::Scratch),
        }
    }

    /// Compares what was read. INFORMATION of a miscompare is the offset in the data-out.
    fn compare(&mut self, size: BlockSize, memory: &Memory<'_>) -> Result<(), Sense> {
        let len = step_len(self.current.byte_len(size));
        if len == 0 {
            // Nothing was being read.
            return Err(Sense::INTERNAL_TARGET_FAILURE);
        }
        let block = size.bytes() as usize;
        let read = memory
            .scratch
            .get(..len as usize)
            .ok_or(Sense::INTERNAL_TARGET_FAILURE)?;
        let expected = match self.check {
            Check::Readable => return Ok(()),
            Check::Equal => memory
                .data
                .get(self.compared as usize..)
                .and_then(|data| data.get(..read.len())),
            Check::AllEqual => memory.data.get(..block),
        };
        let expected = expected.ok_or(Sense::INTERNAL_TARGET_FAILURE)?;
        let start = u64::from(self.before) + u64::from(self.compared);
        for chunk in read.chunks(expected.len()) {
            if let Some(at) = mismatch(chunk, expected) {
                return Err(Sense::MISCOMPARE.with_information(start + at as u64));
            }
        }
        if self.check == Check::Equal {
            self.compared += len;
        }
        Ok(())
    }
}

/// Offset of the first byte that differs.
fn mismatch(a: &[u8], b: &[u8]) -> Option<usize> {
    if a == b {
        return None;
    }
    a.iter().zip(b).position(|(a, b)| a != b)
}

#[cfg(test)]
mod tests {
    use crate::backend::{BlockError, BlockIo};
    use crate::scsi::testing::{Rig, cdb};
    use crate::scsi::{Bounds, Sense, Status};
    use crate::units::Lba;

    fn all_forms(code: [u8; 3], flags: u8, lba: u8, n: u8) -> [[u8; 16]; 3] {
        let [ten, twelve, sixteen] = code;
        [
            cdb(&[ten, flags, 0, 0, 0, lba, 0, 0, n, 0]),
            cdb(&[twelve, flags, 0, 0, 0, lba, 0, 0, 0, n, 0, 0]),
            cdb(&[sixteen, flags, 0, 0, 0, 0, 0, 0, 0, lba, 0, 0, 0, n, 0, 0]),
        ]
    }
    const VERIFY: [u8; 3] = [0x2f, 0xaf, 0x8f];
    const WRITE_AND_VERIFY: [u8; 3] = [0x2e, 0xae, 0x8e];

    #[test]
    fn equal_bytes_verify_in_any_portions() {
        for (portion, scratch) in [(512, 512), (1024, 512), (512, 4096), (1 << 20, 1536)] {
            for request in all_forms(VERIFY, 0x12, 5, 9) {
                let mut rig = Rig::new();
                (rig.portion, rig.scratch) = (portion, scratch);
                let mut data = rig.medium[5 * 512..14 * 512].to_vec();
                let done = rig.write(&request, &data);
                assert_eq!((done.status, done.asked_out), (Status::Good, 9 * 512));
                data[2222] ^= 1;
                let done = rig.write(&request, &data);
                assert_eq!(done.sense(), Sense::MISCOMPARE.with_information(2222));
            }
        }
    }

    #[test]
    fn without_byte_check_blocks_are_read_and_no_data_moves() {
        for request in all_forms(VERIFY, 0, 5, 9) {
            let mut rig = Rig::new();
            rig.scratch = 2048;
            let done = rig.write(&request, &[0; 9 * 512]);
            assert_eq!(
                (done.status, done.asked_out, done.taken_out),
                (Status::Good, 0, 0)
            );
            assert_eq!(done.ios.len(), 3);
            rig.fail_at = Some((Lba(12), BlockError::Medium { at: Lba(12) }));
            let done = rig.run(&request);
            assert_eq!(done.sense(), Sense::READ_ERROR.with_information(12));
        }
    }

    #[test]
    fn one_block_can_be_compared_with_many() {
        for request in all_forms(VERIFY, 0x06, 20, 30) {
            let mut rig = Rig::new();
            rig.scratch = 4096;
            rig.medium[20 * 512..50 * 512].fill(0xab);
            let done = rig.write(&request, &[0xab; 512]);
            assert_eq!((done.status, done.asked_out), (Status::Good, 512));
            rig.medium[49 * 512 + 17] = 0;
            let done = rig.write(&request, &[0xab; 512]);
            assert_eq!(done.sense(), Sense::MISCOMPARE.with_information(17));
            let bounds = Bounds {
                data_in: 0,
                data_out: 100,
            };
            let done = rig.run_with(&request, bounds, &[0xab; 100]);
            assert_eq!(done.sense(), Sense::TOO_LITTLE_DATA);
        }
    }

    #[test]
    fn the_reserved_byte_check_is_refused() {
        for code in [0x2e, 0x2f] {
            let done = Rig::new().run(&cdb(&[code, 4, 0, 0, 0, 0, 0, 0, 1, 0]));
            assert_eq!(done.sense(), Sense::INVALID_FIELD_IN_CDB.at(1, 2));
        }
    }

    #[test]
    fn write_and_verify_writes_stably_and_reads_back() {
        for flags in [0, 2] {
            for request in all_forms(WRITE_AND_VERIFY, flags, 3, 4) {
                let mut rig = Rig::new();
                (rig.portion, rig.scratch) = (1024, 512);
                let done = rig.write(&request, &[0x77; 2048]);
                assert_eq!((done.status, done.asked_out), (Status::Good, 2048));
                assert!(rig.medium[3 * 512..7 * 512].iter().all(|b| *b == 0x77));
                assert!(matches!(
                    done.ios[..3],
                    [
                        BlockIo::Write { fua: true, .. },
                        BlockIo::Read(_),
                        BlockIo::Read(_)
                    ]
                ));
                assert_eq!(done.ios.len(), 6);
            }
        }
    }

    #[test]
    fn write_and_verify_notices_what_was_not_written() {
        let mut rig = Rig::new();
        rig.drop_writes = true;
        let [request, ..] = all_forms(WRITE_AND_VERIFY, 2, 3, 1);
        let mut data = rig.medium[3 * 512..4 * 512].to_vec();
        data[100] ^= 1;
        let done = rig.write(&request, &data);
        assert_eq!(done.sense(), Sense::MISCOMPARE.with_information(100));
    }

    #[test]
    fn a_short_write_and_verify_keeps_to_what_comes() {
        for (promised, blocks) in [(0, 0), (200, 0), (512, 1), (10_000, 2)] {
            let mut rig = Rig::new();
            let before = rig.medium.clone();
            let bounds = Bounds {
                data_in: 0,
                data_out: promised,
            };
            let done = rig.run_with(
                &cdb(&[0x2e, 0, 0, 0, 0, 0, 0, 0, 2, 0]),
                bounds,
                &[9; 10_000],
            );
            assert_eq!((done.status, done.asked_out), (Status::Good, 1024));
            assert!(rig.medium[..blocks * 512].iter().all(|b| *b == 9));
            assert_eq!(rig.medium[blocks * 512..], before[blocks * 512..]);
        }
    }

    #[test]
    fn a_medium_that_forgets_compares_nothing() {
        let mut rig = Rig::new();
        rig.unit.as_mut().unwrap().geometry.forgets = true;
        let done = rig.write(&cdb(&[0x2f, 2, 0, 0, 0, 0, 0, 0, 1, 0]), &[0; 512]);
        assert_eq!(done.sense(), Sense::INVALID_FIELD_IN_CDB.at(1, 2));
        assert_eq!(
            rig.run(&cdb(&[0x2f, 0, 0, 0, 0, 0, 0, 0, 1, 0])).status,
            Status::Good
        );
    }
}
