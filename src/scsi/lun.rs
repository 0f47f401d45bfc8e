//! Logical unit numbers on the wire (SAM-5, "Logical unit number").

/// The LUN's eight bytes as a number, if they are a single-level LUN: peripheral device addressing
/// (00b, bus 0, up to 255) or flat space addressing (01b, up to 16383). Anything else names no logical unit.
#[must_use]
pub fn decode(wire: [u8; 8]) -> Option<u16> {
    let [high, low, rest @ ..] = wire;
    if rest != [0; 6] {
        return None;
    }
    match high >> 6 {
        0 if high == 0 => Some(low.into()),
        1 => Some(u16::from_be_bytes([high & 0x3f, low])),
        _ => None,
    }
}

/// The number as eight bytes: peripheral device addressing below 256, flat space addressing from there.
///
/// # Panics
/// Above 16383, which no [`decode`] gives and no LUN map holds.
#[must_use]
pub fn encode(lun: u16) -> [u8; 8] {
    assert!(lun < 0x4000, "single-level LUN");
    let method = if lun < 256 { 0 } else { 0x4000 };
    let [high, low] = (method | lun).to_be_bytes();
    [high, low, 0, 0, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lun_survives_the_wire() {
        for lun in 0..0x4000 {
            assert_eq!(decode(encode(lun)), Some(lun));
        }
    }

    #[test]
    fn lun_256_is_not_lun_0() {
        assert_eq!(encode(256), [0x41, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(decode([0x01, 0, 0, 0, 0, 0, 0, 0]), None, "bus 1");
    }

    #[test]
    fn flat_addressing_also_names_low_luns() {
        assert_eq!(decode([0x40, 3, 0, 0, 0, 0, 0, 0]), Some(3));
    }

    #[test]
    fn well_known_and_multi_level_luns_are_nobodys() {
        assert_eq!(decode([0xc1, 1, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(decode([0, 1, 0, 1, 0, 0, 0, 0]), None);
        assert_eq!(decode([0x80, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
