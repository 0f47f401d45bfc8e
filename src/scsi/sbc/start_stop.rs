//! START STOP UNIT (SBC-3). There are no power conditions and nothing to eject, so the table
//! refuses POWER CONDITION and LOEJ; IMMED is answered when it is done.

use super::unit;
use crate::backend::BlockIo;
use crate::scsi::command::Plan;
use crate::scsi::{Bounds, Cdb, Context, Outcome, OwnerRequest, Sense, Status, Step};

const START: u8 = 0x01;
const NO_FLUSH: u8 = 0x04;

pub(in crate::scsi) fn start_stop_unit(
    cdb: &Cdb,
    _: Bounds,
    cx: &mut Context<'_>,
) -> Result<Plan, Sense> {
    if !unit(cx)?.online {
        return Err(Sense::OFFLINE);
    }
    let start = cdb[4] & START != 0;
    Ok(Plan::start_stop(StartStop {
        stop: !start,
        flush: !start && cdb[4] & NO_FLUSH == 0,
        ordered: false,
    }))
}

/// A stop flushes twice: first, to fail before anything changed; again when no core takes writes any more,
/// for those that came in between.
#[derive(Clone, Copy, Debug)]
pub(in crate::scsi) struct StartStop {
    stop: bool,
    flush: bool,
    ordered: bool,
}

impl StartStop {
    pub(in crate::scsi) fn resume(&mut self, outcome: Outcome) -> Step {
        match outcome {
            Outcome::Begin | Outcome::OwnerDone if self.flush => Step::Io {
                io: BlockIo::Flush,
                buffer: None,
            },
            Outcome::Begin | Outcome::Io(Ok(())) if !self.ordered => {
                self.ordered = true;
                Step::AskOwner(OwnerRequest::SetStopped(self.stop))
            }
            Outcome::OwnerDone | Outcome::Io(Ok(())) => Step::Done(Status::Good),
            Outcome::Io(Err(error)) => Step::failed(Sense::of_write(error)),
            _ => Step::BROKEN,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::backend::{BlockError, BlockIo};
    use crate::scsi::testing::{Rig, cdb};
    use crate::scsi::{Sense, Status};

    #[test]
    fn a_stopped_unit_is_not_ready_until_started() {
        let mut rig = Rig::new();
        let done = rig.run(&cdb(&[0x1b, 0, 0, 0, 0, 0]));
        assert_eq!(
            (done.status, &done.ios[..]),
            (Status::Good, &[BlockIo::Flush; 2][..])
        );
        for code in [0x00, 0x25, 0x28, 0x2a, 0x35] {
            assert_eq!(rig.run(&cdb(&[code])).sense(), Sense::STOPPED, "{code:02x}");
        }
        assert_eq!(rig.run(&cdb(&[0x12, 0, 0, 0, 36])).status, Status::Good);
        assert_eq!(rig.run(&cdb(&[0x1a, 0, 0x3f, 0, 36])).status, Status::Good);
        assert_eq!(rig.run(&cdb(&[0x1b, 1, 0, 0, 1, 0])).status, Status::Good);
        assert_eq!(rig.run(&cdb(&[0x00])).status, Status::Good);
    }

    #[test]
    fn a_stop_that_cannot_flush_changes_nothing() {
        let mut rig = Rig::new();
        rig.fail_flush = Some(BlockError::FlushFailed);
        assert_eq!(rig.run(&cdb(&[0x1b])).sense(), Sense::WRITE_FAULT);
        assert_eq!(rig.run(&cdb(&[0x00])).status, Status::Good);
        assert_eq!(
            rig.run(&cdb(&[0x1b, 0, 0, 0, 4, 0])).status,
            Status::Good,
            "NO_FLUSH"
        );
    }

    #[test]
    fn ejecting_and_power_conditions_are_refused() {
        let mut rig = Rig::new();
        let done = rig.run(&cdb(&[0x1b, 0, 0, 0, 2, 0]));
        assert_eq!(done.sense(), Sense::INVALID_FIELD_IN_CDB.at(4, 1));
        let done = rig.run(&cdb(&[0x1b, 0, 0, 0, 0x31, 0]));
        assert_eq!(done.sense(), Sense::INVALID_FIELD_IN_CDB.at(4, 5));
    }

    #[test]
    fn starting_does_not_bring_an_offline_unit_back() {
        let mut rig = Rig::new();
        rig.unit.as_mut().unwrap().online = false;
        assert_eq!(
            rig.run(&cdb(&[0x1b, 0, 0, 0, 1, 0])).sense(),
            Sense::OFFLINE
        );
        assert_eq!(rig.run(&cdb(&[0x00])).sense(), Sense::OFFLINE);
    }
}
