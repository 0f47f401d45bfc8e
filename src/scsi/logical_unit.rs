//! The logical unit that commands see.

use super::Sense;
use crate::backend::Geometry;

/// A logical unit as commands see it: an immutable snapshot, replaced by the barrier.
#[derive(Clone, Debug)]
pub struct LogicalUnit {
    /// Size and abilities of the medium.
    pub geometry: Geometry,
    /// What INQUIRY says of it.
    pub identity: Identity,
    /// False: every medium access is NOT READY (configuration's `online: false`).
    pub online: bool,
    /// A STOP was accepted (START STOP UNIT).
    pub stopped: bool,
    /// Counts the snapshots of this unit.
    pub generation: u64,
}

/// Names of a logical unit (SPC-5, INQUIRY and VPD 80h, 83h). ASCII; padded by the writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// T10 vendor identification, at most 8 characters.
    pub vendor: String,
    /// Product identification, at most 16 characters.
    pub product: String,
    /// Product revision level, at most 4 characters.
    pub revision: String,
    /// Unit serial number, at most 36 characters; the NAA designator is derived from it.
    pub serial: String,
}

impl LogicalUnit {
    /// Whether its medium may be accessed now, and if not, why.
    pub(super) fn ready(&self) -> Result<(), Sense> {
        if !self.online {
            Err(Sense::OFFLINE)
        } else if self.stopped {
            Err(Sense::STOPPED)
        } else {
            Ok(())
        }
    }

    /// The last block's address; 0 for an empty medium, which has none.
    pub(super) fn last_lba(&self) -> u64 {
        self.geometry.capacity.0.saturating_sub(1)
    }
}
