//! The LUNs of a session, and what each I_T_L nexus remembers.

use super::UnitId;
use super::target::Target;
use super::task::Attribute;
use crate::scsi::{self, Luns, NexusUnit};

/// One LUN of one session.
#[derive(Clone, Debug)]
pub(super) struct LunState {
    lun: u16,
    unit: UnitId,
    pub(super) nexus: NexusUnit,
    /// Tasks that have started and not ended.
    pub(super) active: u32,
    /// Tasks that wait for older ones.
    pub(super) dormant: u32,
    /// An ordered task is active.
    pub(super) ordered: bool,
}

impl LunState {
    fn new(lun: u16, unit: UnitId) -> Self {
        Self {
            lun,
            unit,
            nexus: NexusUnit::new(),
            active: 0,
            dormant: 0,
            ordered: false,
        }
    }

    /// Whether a task of this attribute may not start before older ones have ended (SAM-5, section 8.6).
    pub(super) const fn must_wait(&self, attribute: Attribute) -> bool {
        match attribute {
            Attribute::HeadOfQueue => false,
            Attribute::Simple => self.dormant > 0 || self.ordered,
            Attribute::Ordered => self.dormant > 0 || self.active > 0,
        }
    }
}

/// The LUNs of a session, in ascending order; and one entry for all the others.
#[derive(Clone, Debug)]
pub(super) struct LunTable {
    luns: Vec<LunState>,
    nobody: LunState,
}

impl LunTable {
    pub(super) fn new(target: Option<&Target>) -> Self {
        let luns = target.map_or(&[][..], |t| &t.luns[..]);
        Self {
            luns: luns.iter().map(|&(l, u)| LunState::new(l, u)).collect(),
            nobody: LunState::new(u16::MAX, UnitId(u32::MAX)),
        }
    }

    /// The index of a LUN as it is on the wire.
    pub(super) fn find(&self, wire: u64) -> Option<u16> {
        let lun = scsi::lun::decode(wire.to_be_bytes())?;
        let guess = usize::from(lun);
        if self.luns.get(guess).is_some_and(|l| l.lun == lun) {
            return Some(lun);
        }
        let found = self.luns.binary_search_by_key(&lun, |l| l.lun).ok()?;
        u16::try_from(found).ok()
    }

    /// The logical unit at an index.
    pub(super) fn unit(&self, index: u16) -> Option<UnitId> {
        self.luns.get(usize::from(index)).map(|l| l.unit)
    }

    /// Where a logical unit is.
    pub(super) fn of_unit(&self, unit: UnitId) -> Option<u16> {
        let found = self.luns.iter().position(|l| l.unit == unit)?;
        u16::try_from(found).ok()
    }

    /// The state at an index; `None` is the entry of LUNs that are not there.
    pub(super) fn at(&mut self, index: Option<u16>) -> &mut LunState {
        match index {
            Some(index) => &mut self.luns[usize::from(index)],
            None => &mut self.nobody,
        }
    }

    /// Every index.
    pub(super) fn indices(&self) -> std::ops::Range<u16> {
        0..u16::try_from(self.luns.len()).unwrap_or(u16::MAX)
    }
}

/// The LUNs that REPORT LUNS lists.
#[derive(Clone, Debug)]
pub(super) struct VisibleLuns(pub(super) Vec<u16>);

impl Luns for VisibleLuns {
    fn lun(&self, index: usize) -> Option<u16> {
        self.0.get(index).copied()
    }
}
