//! Sense data: every CHECK CONDITION by name (SPC-4, "Sense data").

use crate::backend::BlockError;

/// Sense keys (SPC-4, table "Sense key descriptions").
pub mod key {
    /// NO SENSE
    pub const NO_SENSE: u8 = 0x0;
    /// NOT READY
    pub const NOT_READY: u8 = 0x2;
    /// MEDIUM ERROR
    pub const MEDIUM_ERROR: u8 = 0x3;
    /// HARDWARE ERROR
    pub const HARDWARE_ERROR: u8 = 0x4;
    /// ILLEGAL REQUEST
    pub const ILLEGAL_REQUEST: u8 = 0x5;
    /// UNIT ATTENTION
    pub const UNIT_ATTENTION: u8 = 0x6;
    /// DATA PROTECT
    pub const DATA_PROTECT: u8 = 0x7;
    /// ABORTED COMMAND
    pub const ABORTED_COMMAND: u8 = 0xb;
    /// MISCOMPARE
    pub const MISCOMPARE: u8 = 0xe;
}

/// Longest that [`Sense::write`] makes, in bytes.
pub const LONGEST: usize = 28;

/// Why a command ended in CHECK CONDITION.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    key: u8,
    asc: u8,
    ascq: u8,
    field: Option<Field>,
    information: Option<u64>,
}

/// A place in the CDB, for the field pointer (SPC-4, "Field pointer").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    byte: u8,
    bit: u8,
}

impl Sense {
    /// Nothing to report.
    pub const NO_SENSE: Self = Self::new(key::NO_SENSE, 0x00, 0x00);
    /// The operation code is not in the table.
    pub const INVALID_OPCODE: Self = Self::new(key::ILLEGAL_REQUEST, 0x20, 0x00);
    /// A block outside the medium.
    pub const LBA_OUT_OF_RANGE: Self = Self::new(key::ILLEGAL_REQUEST, 0x21, 0x00);
    /// A bit or value that is not supported; say which with [`Sense::at`].
    pub const INVALID_FIELD_IN_CDB: Self = Self::new(key::ILLEGAL_REQUEST, 0x24, 0x00);
    /// There is no logical unit at this LUN.
    pub const LUN_NOT_SUPPORTED: Self = Self::new(key::ILLEGAL_REQUEST, 0x25, 0x00);
    /// Saved mode pages were asked for.
    pub const SAVING_NOT_SUPPORTED: Self = Self::new(key::ILLEGAL_REQUEST, 0x39, 0x00);
    /// The transport's header promises less data than the command cannot do without.
    pub const TOO_LITTLE_DATA: Self = Self::new(key::ILLEGAL_REQUEST, 0x0e, 0x03);
    /// A START STOP UNIT is needed first.
    pub const STOPPED: Self = Self::new(key::NOT_READY, 0x04, 0x02);
    /// The medium went away: somebody must look.
    pub const MEDIUM_GONE: Self = Self::new(key::NOT_READY, 0x04, 0x03);
    /// Configured offline.
    pub const OFFLINE: Self = Self::new(key::NOT_READY, 0x04, 0x12);
    /// A write to a medium that takes none.
    pub const WRITE_PROTECTED: Self = Self::new(key::DATA_PROTECT, 0x27, 0x00);
    /// No room for the write (SPACE ALLOCATION FAILED WRITE PROTECT).
    pub const NO_SPACE: Self = Self::new(key::DATA_PROTECT, 0x27, 0x07);
    /// UNRECOVERED READ ERROR; INFORMATION is the block.
    pub const READ_ERROR: Self = Self::new(key::MEDIUM_ERROR, 0x11, 0x00);
    /// WRITE ERROR; INFORMATION is the block.
    pub const WRITE_ERROR: Self = Self::new(key::MEDIUM_ERROR, 0x0c, 0x00);
    /// A flush failed once: PERIPHERAL DEVICE WRITE FAULT. HARDWARE ERROR, because a retry cannot help
    /// and the blocks concerned are not known.
    pub const WRITE_FAULT: Self = Self::new(key::HARDWARE_ERROR, 0x03, 0x00);
    /// Data-out and medium differ; INFORMATION is the offset of the first byte that does.
    pub const MISCOMPARE: Self = Self::new(key::MISCOMPARE, 0x1d, 0x00);
    /// The target broke its own rules.
    pub const INTERNAL_TARGET_FAILURE: Self = Self::new(key::HARDWARE_ERROR, 0x44, 0x00);
    /// An operation was cancelled under a command that nobody aborted.
    pub const ABORTED: Self = Self::new(key::ABORTED_COMMAND, 0x00, 0x00);
    /// Fewer bytes of data-out came than were promised (iSCSI: NOT ENOUGH UNSOLICITED DATA).
    pub const NOT_ENOUGH_UNSOLICITED_DATA: Self = Self::new(key::ABORTED_COMMAND, 0x0c, 0x0d);
    /// Data-out beyond what was asked for or promised (iSCSI: UNEXPECTED UNSOLICITED DATA).
    pub const UNEXPECTED_UNSOLICITED_DATA: Self = Self::new(key::ABORTED_COMMAND, 0x0c, 0x0c);
    /// Data-out failed its digest (PROTOCOL SERVICE CRC ERROR).
    pub const CRC_ERROR: Self = Self::new(key::ABORTED_COMMAND, 0x47, 0x05);
    /// Data-out arrived out of order or is missing (DATA PHASE ERROR).
    pub const DATA_PHASE_ERROR: Self = Self::new(key::ABORTED_COMMAND, 0x4b, 0x00);

    /// Sense key, additional sense code and qualifier.
    #[must_use]
    pub const fn new(key: u8, asc: u8, ascq: u8) -> Self {
        Self {
            key,
            asc,
            ascq,
            field: None,
            information: None,
        }
    }

    /// The same, pointing at `bit` of `byte` of the CDB.
    #[must_use]
    pub const fn at(self, byte: u8, bit: u8) -> Self {
        Self {
            field: Some(Field { byte, bit }),
            ..self
        }
    }

    /// The same, with the INFORMATION field.
    #[must_use]
    pub const fn with_information(self, information: u64) -> Self {
        Self {
            information: Some(information),
            ..self
        }
    }

    /// Sense key.
    #[must_use]
    pub const fn key(&self) -> u8 {
        self.key
    }

    /// Additional sense code (high byte) and qualifier (low byte).
    #[must_use]
    pub const fn asc_ascq(&self) -> u16 {
        (self.asc as u16) << 8 | self.ascq as u16
    }

    /// Byte and bit of the CDB that is at fault, when known.
    #[must_use]
    pub const fn field(&self) -> Option<(u8, u8)> {
        match self.field {
            Some(f) => Some((f.byte, f.bit)),
            None => None,
        }
    }

    /// The INFORMATION field, when valid.
    #[must_use]
    pub const fn information(&self) -> Option<u64> {
        self.information
    }

    /// What a failed write or flush becomes.
    #[must_use]
    pub const fn of_write(error: BlockError) -> Self {
        match error {
            BlockError::Medium { at } => Self::WRITE_ERROR.with_information(at.0),
            other => Self::of_any(other),
        }
    }

    /// What a failed read becomes.
    #[must_use]
    pub const fn of_read(error: BlockError) -> Self {
        match error {
            BlockError::Medium { at } => Self::READ_ERROR.with_information(at.0),
            other => Self::of_any(other),
        }
    }

    const fn of_any(error: BlockError) -> Self {
        match error {
            BlockError::Medium { at } => Self::READ_ERROR.with_information(at.0),
            BlockError::NoSpace => Self::NO_SPACE,
            BlockError::FlushFailed => Self::WRITE_FAULT,
            BlockError::ReadOnly => Self::WRITE_PROTECTED,
            BlockError::Gone => Self::MEDIUM_GONE,
            BlockError::Cancelled => Self::ABORTED,
        }
    }

    /// Writes it to the start of `out`, in descriptor format (72h) or fixed format (70h), and gives its
    /// full length: at most [`LONGEST`]. Bytes that do not fit are left out.
    pub fn write(&self, descriptor: bool, out: &mut [u8]) -> usize {
        let mut bytes = [0; LONGEST];
        let len = if descriptor {
            self.write_descriptor(&mut bytes)
        } else {
            self.write_fixed(&mut bytes)
        };
        let fits = len.min(out.len());
        out[..fits].copy_from_slice(&bytes[..fits]);
        len
    }

    /// Fixed format. INFORMATION has four bytes here: a greater value is not valid and left out.
    fn write_fixed(&self, out: &mut [u8; LONGEST]) -> usize {
        out[0] = 0x70;
        if let Some(information) = self.information.and_then(|i| u32::try_from(i).ok()) {
            out[0] |= 0x80;
            out[3..7].copy_from_slice(&information.to_be_bytes());
        }
        out[2] = self.key;
        out[7] = 10;
        out[12] = self.asc;
        out[13] = self.ascq;
        if let Some(field) = self.field {
            out[15..18].copy_from_slice(&field.encode());
        }
        18
    }

    /// Descriptor format: the header, then INFORMATION and the field pointer where there are.
    fn write_descriptor(&self, out: &mut [u8; LONGEST]) -> usize {
        out[..4].copy_from_slice(&[0x72, self.key, self.asc, self.ascq]);
        let mut len = 8;
        if let Some(information) = self.information {
            out[len..len + 4].copy_from_slice(&[0x00, 0x0a, 0x80, 0x00]);
            out[len + 4..len + 12].copy_from_slice(&information.to_be_bytes());
            len += 12;
        }
        if let Some(field) = self.field {
            out[len..len + 2].copy_from_slice(&[0x02, 0x06]);
            out[len + 4..len + 7].copy_from_slice(&field.encode());
            len += 8;
        }
        out[7] = u8::try_from(len - 8).expect("at most 20");
        len
    }
}

impl Field {
    /// SKSV, C/D (in the CDB), BPV and the bit; then the byte.
    const fn encode(self) -> [u8; 3] {
        [0xc8 | (self.bit & 7), 0, self.byte]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Lba;

    #[test]
    fn fixed_format_points_at_byte_and_bit() {
        let mut out = [0xff; 18];
        assert_eq!(
            Sense::INVALID_FIELD_IN_CDB.at(2, 7).write(false, &mut out),
            18
        );
        assert_eq!(
            out,
            [
                0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xcf, 0, 2
            ]
        );
    }

    #[test]
    fn descriptor_format_carries_sixty_four_bits_of_information() {
        let mut out = [0; LONGEST];
        let sense = Sense::READ_ERROR.with_information(0x1_0000_0002).at(1, 0);
        assert_eq!(sense.write(true, &mut out), 28);
        assert_eq!(&out[..8], &[0x72, 3, 0x11, 0, 0, 0, 0, 20]);
        assert_eq!(&out[8..20], &[0, 10, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 2]);
        assert_eq!(&out[20..28], &[2, 6, 0, 0, 0xc8, 0, 1, 0]);
    }

    #[test]
    fn information_too_great_for_the_fixed_format_is_not_valid() {
        let mut out = [0; 18];
        Sense::READ_ERROR
            .with_information(1 << 32)
            .write(false, &mut out);
        assert_eq!(out[0], 0x70);
        Sense::READ_ERROR.with_information(5).write(false, &mut out);
        assert_eq!((out[0], out[6]), (0xf0, 5));
    }

    #[test]
    fn a_short_buffer_gets_the_front() {
        let mut out = [0; 3];
        assert_eq!(Sense::STOPPED.write(false, &mut out), 18);
        assert_eq!(out, [0x70, 0, 2]);
    }

    #[test]
    fn a_medium_error_names_its_block() {
        let sense = Sense::of_write(BlockError::Medium { at: Lba(9) });
        assert_eq!(
            (sense.key(), sense.asc_ascq(), sense.information()),
            (3, 0x0c00, Some(9))
        );
        assert_eq!(
            Sense::of_read(BlockError::Medium { at: Lba(9) }).asc_ascq(),
            0x1100
        );
        assert_eq!(Sense::of_write(BlockError::NoSpace).asc_ascq(), 0x2707);
    }
}
