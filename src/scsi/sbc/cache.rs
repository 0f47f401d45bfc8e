//! SYNCHRONIZE CACHE and PRE-FETCH (SBC-3).
//!
//! IMMED allows an answer before the work is done; it does not ask for one. The answer comes after the
//! work here, so that a failure is told by the command that met it.

use super::{Range, unit};
use crate::backend::BlockIo;
use crate::scsi::command::Plan;
use crate::scsi::{Bounds, Cdb, Context, Outcome, Sense, Status, Step};
use crate::units::Extent;

pub(in crate::scsi) fn synchronize_cache_10(
    cdb: &Cdb,
    _: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    Range::of_10(cdb).to_the_end_on(unit(cx)?)?;
    Ok(Plan::flush())
}

pub(in crate::scsi) fn synchronize_cache_16(
    cdb: &Cdb,
    _: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    Range::of_16(cdb).to_the_end_on(unit(cx)?)?;
    Ok(Plan::flush())
}

pub(in crate::scsi) fn prefetch_10(
    cdb: &Cdb,
    _: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    Ok(Plan::prefetch(Prefetch(
        Range::of_10(cdb).to_the_end_on(unit(cx)?)?,
    )))
}

pub(in crate::scsi) fn prefetch_16(
    cdb: &Cdb,
    _: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    Ok(Plan::prefetch(Prefetch(
        Range::of_16(cdb).to_the_end_on(unit(cx)?)?,
    )))
}

/// A flush of everything, whatever part was asked for. Also without a write cache: it costs little, and
/// shows an earlier failure.
#[derive(Clone, Copy, Debug)]
pub(in crate::scsi) struct Flush;

impl Flush {
    #[allow(clippy::unused_self, reason = "as the other kinds of work")]
    pub(in crate::scsi) fn resume(self, outcome: Outcome) -> Step {
        match outcome {
            Outcome::Begin => Step::Io {
                io: BlockIo::Flush,
                buffer: None,
            },
            Outcome::Io(Ok(())) => Step::Done(Status::Good),
            Outcome::Io(Err(error)) => Step::failed(Sense::of_write(error)),
            _ => Step::BROKEN,
        }
    }
}

/// Ends in GOOD, which promises nothing: CONDITION MET would say that every block fits in the cache, and
/// the medium does not tell.
#[derive(Clone, Copy, Debug)]
pub(in crate::scsi) struct Prefetch(Extent);

impl Prefetch {
    pub(in crate::scsi) fn resume(self, outcome: Outcome) -> Step {
        match outcome {
            Outcome::Begin if !self.0.is_empty() => Step::Io {
                io: BlockIo::Prefetch(self.0),
                buffer: None,
            },
            Outcome::Begin | Outcome::Io(Ok(())) => Step::Done(Status::Good),
            Outcome::Io(Err(error)) => Step::failed(Sense::of_read(error)),
            _ => Step::BROKEN,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::backend::{BlockError, BlockIo};
    use crate::scsi::testing::{Rig, cdb};
    use crate::scsi::{Sense, Status};
    use crate::units::Lba;

    #[test]
    fn the_answer_comes_after_the_flush() {
        for immed in [0, 2] {
            let done = Rig::new().run(&cdb(&[0x35, immed, 0, 0, 0, 0, 0, 0, 0, 0]));
            assert_eq!(
                (done.status, &done.ios[..]),
                (Status::Good, &[BlockIo::Flush][..])
            );
            let done = Rig::new().run(&cdb(&[0x91, immed]));
            assert_eq!(
                (done.status, &done.ios[..]),
                (Status::Good, &[BlockIo::Flush][..])
            );
        }
    }

    #[test]
    fn a_failed_flush_is_told() {
        let mut rig = Rig::new();
        rig.fail_flush = Some(BlockError::FlushFailed);
        assert_eq!(rig.run(&cdb(&[0x35])).sense(), Sense::WRITE_FAULT);
    }

    #[test]
    fn ranges_are_checked_and_zero_is_to_the_end() {
        let mut rig = Rig::new();
        for code in [0x34, 0x35] {
            let run = |rig: &mut Rig, lba: u16, n| {
                let [a, b] = lba.to_be_bytes();
                rig.run(&cdb(&[code, 0, 0, 0, a, b, 0, 0, n, 0]))
            };
            assert_eq!(run(&mut rig, 1023, 1).status, Status::Good);
            assert_eq!(run(&mut rig, 1000, 0).status, Status::Good);
            assert_eq!(run(&mut rig, 1023, 2).sense(), Sense::LBA_OUT_OF_RANGE);
            assert_eq!(run(&mut rig, 1025, 0).sense(), Sense::LBA_OUT_OF_RANGE);
        }
        let done = rig.run(&cdb(&[0x34, 2, 0, 0, 3, 232, 3, 0, 0, 0]));
        assert_eq!(done.status, Status::Good);
        let [BlockIo::Prefetch(extent)] = done.ios[..] else {
            panic!("{done:?}")
        };
        assert_eq!((extent.start(), extent.end()), (Lba(1000), Lba(1024)));
    }
}
