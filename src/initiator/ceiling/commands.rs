//! The few SCSI commands that initiators send before they read and write.

use super::answer::Unit;

/// ILLEGAL REQUEST, INVALID COMMAND OPERATION CODE (SPC-5, section 4.4), behind its SenseLength.
const NOT_KNOWN: [u8; 20] = [
    0, 18, 0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0,
];
/// ILLEGAL REQUEST, INVALID FIELD IN CDB.
const NOT_SUCH: [u8; 20] = [
    0, 18, 0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0, 0, 0,
];

/// Parameter data, cut to the allocation length, or the data segment of a CHECK CONDITION.
pub(super) fn answer(cdb: &[u8; 16], unit: Unit) -> Result<Vec<u8>, [u8; 20]> {
    let half = |at: usize| usize::from(u16::from_be_bytes([cdb[at], cdb[at + 1]]));
    let word = |at: usize| half(at) << 16 | half(at + 2);
    let last = unit.blocks.saturating_sub(1);
    let (mut data, room) = match (cdb[0], cdb[1] & 0x1f) {
        // TEST UNIT READY, SYNCHRONIZE CACHE(10) and (16).
        (0x00 | 0x35 | 0x91, _) => (Vec::new(), 0),
        (0x12, evpd) => (inquiry(evpd & 1 != 0, cdb[2])?, half(3)),
        // READ CAPACITY(10).
        (0x25, _) => {
            let last = u32::try_from(last).unwrap_or(u32::MAX);
            let data = [last.to_be_bytes(), unit.logical_block_size.to_be_bytes()].concat();
            (data, 8)
        }
        // READ CAPACITY(16).
        (0x9e, 0x10) => {
            let mut data = vec![0; 32];
            data[..8].copy_from_slice(&last.to_be_bytes());
            data[8..12].copy_from_slice(&unit.logical_block_size.to_be_bytes());
            (data, word(10))
        }
        // REPORT LUNS: LUN 0 alone.
        (0xa0, _) => {
            let mut data = vec![0; 16];
            data[3] = 8;
            (data, word(6))
        }
        // MODE SENSE(6): a header without block descriptors or pages.
        (0x1a, _) => (vec![3, 0, 0, 0], cdb[4].into()),
        _ => return Err(NOT_KNOWN),
    };
    data.truncate(room);
    Ok(data)
}

fn inquiry(vital: bool, page: u8) -> Result<Vec<u8>, [u8; 20]> {
    match (vital, page) {
        (false, 0) => {
            // SPC-4, CMDQUE, and names (SPC-5, section 6.7.2).
            let mut data = vec![0, 0, 6, 2, 31, 0, 0, 2];
            data.extend_from_slice(b"ringtgt ceiling         0001");
            Ok(data)
        }
        (true, 0x00) => Ok(vec![0, 0, 0, 2, 0x00, 0x80]),
        (true, 0x80) => Ok([&[0, 0x80, 0, 7][..], b"ceiling"].concat()),
        _ => Err(NOT_SUCH),
    }
}
