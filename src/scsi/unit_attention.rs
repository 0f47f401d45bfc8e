//! What one I_T_L nexus has pending (SAM-5, "Unit attention condition") and has asked for.

use super::Sense;
use super::sense::key;

/// Something that happened to the logical unit behind the initiator's back. In the order of precedence in
/// which they are reported: a reset tells more than what it caused (SAM-5, "Unit attention condition").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum UnitAttention {
    /// 29h/00h: the target was started, or the session is new.
    PowerOn,
    /// 29h/02h: SCSI bus reset (TARGET WARM RESET).
    BusReset,
    /// 29h/03h: bus device reset function (LOGICAL UNIT RESET).
    LunReset,
    /// 29h/04h: device internal reset (TARGET COLD RESET).
    TargetReset,
    /// 29h/07h: the session ended and tasks went with it.
    NexusLoss,
    /// 2Fh/00h: another initiator's CLEAR TASK SET took tasks away.
    CommandsClearedByAnotherInitiator,
    /// 2Ah/01h: mode parameters changed.
    ModeParametersChanged,
    /// 2Ah/09h: the medium has another size.
    CapacityChanged,
    /// 3Fh/03h: INQUIRY would answer differently.
    InquiryDataChanged,
    /// 3Fh/0Eh: REPORT LUNS would answer differently.
    ReportedLunsChanged,
    /// 28h/00h: the medium may be another one.
    MediumMayHaveChanged,
}

impl UnitAttention {
    const IN_ORDER: [Self; 11] = [
        Self::PowerOn,
        Self::BusReset,
        Self::LunReset,
        Self::TargetReset,
        Self::NexusLoss,
        Self::CommandsClearedByAnotherInitiator,
        Self::ModeParametersChanged,
        Self::CapacityChanged,
        Self::InquiryDataChanged,
        Self::ReportedLunsChanged,
        Self::MediumMayHaveChanged,
    ];

    /// Its sense data.
    #[must_use]
    pub const fn sense(self) -> Sense {
        let (asc, ascq) = match self {
            // The general form: some initiators (libiscsi) know it better than POWER ON OCCURRED (29h/01h).
            Self::PowerOn => (0x29, 0x00),
            Self::BusReset => (0x29, 0x02),
            Self::LunReset => (0x29, 0x03),
            Self::TargetReset => (0x29, 0x04),
            Self::NexusLoss => (0x29, 0x07),
            Self::CommandsClearedByAnotherInitiator => (0x2f, 0x00),
            Self::ModeParametersChanged => (0x2a, 0x01),
            Self::CapacityChanged => (0x2a, 0x09),
            Self::InquiryDataChanged => (0x3f, 0x03),
            Self::ReportedLunsChanged => (0x3f, 0x0e),
            Self::MediumMayHaveChanged => (0x28, 0x00),
        };
        Sense::new(key::UNIT_ATTENTION, asc, ascq)
    }

    const fn bit(self) -> u16 {
        1 << self as u8
    }

    /// The unit attentions that tell of a reset; the first of them covers those after it.
    const RESETS: u16 = Self::PowerOn.bit()
        | Self::BusReset.bit()
        | Self::LunReset.bit()
        | Self::TargetReset.bit()
        | Self::NexusLoss.bit();
}

/// What a logical unit keeps for one nexus. A set of pending unit attentions: each is there once,
/// however often it was raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NexusUnit {
    pending: u16,
    removal_prevented: bool,
}

impl NexusUnit {
    /// A nexus that has just come to be: POWER ON is pending, so that an initiator that was away learns
    /// that nothing of what it set is left.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            pending: UnitAttention::PowerOn.bit(),
            removal_prevented: false,
        }
    }

    /// Makes `unit_attention` pending. Any reset also ends PREVENT ALLOW MEDIUM REMOVAL.
    pub fn raise(&mut self, unit_attention: UnitAttention) {
        self.pending |= unit_attention.bit();
        if unit_attention.bit() & UnitAttention::RESETS != 0 {
            self.removal_prevented = false;
        }
    }

    /// Whether one is pending.
    #[must_use]
    pub const fn is_pending(&self) -> bool {
        self.pending != 0
    }

    /// The most telling one pending, no longer pending. A reset reported clears the lesser resets, whose
    /// effects it includes.
    pub fn take(&mut self) -> Option<UnitAttention> {
        let first = UnitAttention::IN_ORDER
            .into_iter()
            .find(|ua| self.pending & ua.bit() != 0)?;
        self.pending &= !first.bit();
        if first.bit() & UnitAttention::RESETS != 0 {
            self.pending &= !UnitAttention::RESETS;
        }
        Some(first)
    }

    /// Forgets one that another command already told of (REPORT LUNS tells of a changed inventory).
    pub fn clear(&mut self, unit_attention: UnitAttention) {
        self.pending &= !unit_attention.bit();
    }

    /// Whether this nexus prevents the removal of the medium.
    #[must_use]
    pub const fn removal_prevented(&self) -> bool {
        self.removal_prevented
    }

    /// PREVENT ALLOW MEDIUM REMOVAL.
    pub fn prevent_removal(&mut self, prevent: bool) {
        self.removal_prevented = prevent;
    }
}

impl Default for NexusUnit {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_reported_once_and_resets_come_first() {
        let mut nexus = NexusUnit::new();
        nexus.raise(UnitAttention::CapacityChanged);
        nexus.raise(UnitAttention::CapacityChanged);
        nexus.raise(UnitAttention::LunReset);
        assert_eq!(nexus.take(), Some(UnitAttention::PowerOn));
        assert_eq!(nexus.take(), Some(UnitAttention::CapacityChanged));
        assert_eq!(nexus.take(), None);
    }

    #[test]
    fn the_order_is_the_order_of_the_bits() {
        for (at, ua) in UnitAttention::IN_ORDER.into_iter().enumerate() {
            assert_eq!(ua.bit(), 1 << at);
            assert_eq!(ua.sense().key(), 6);
        }
    }

    #[test]
    fn a_reset_allows_removal_again() {
        let mut nexus = NexusUnit::new();
        nexus.prevent_removal(true);
        nexus.raise(UnitAttention::CapacityChanged);
        assert!(nexus.removal_prevented());
        nexus.raise(UnitAttention::LunReset);
        assert!(!nexus.removal_prevented());
    }
}
