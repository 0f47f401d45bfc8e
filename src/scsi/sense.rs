//! Sense data: every CHECK CONDITION by name.

/// Why a command ended in CHECK CONDITION.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    asc: u8,
}
