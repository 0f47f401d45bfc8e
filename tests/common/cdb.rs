//! Command descriptor blocks.

pub type Cdb = [u8; 16];

fn cdb(bytes: &[u8]) -> Cdb {
    let mut cdb = [0; 16];
    cdb[..bytes.len()].copy_from_slice(bytes);
    cdb
}

fn ten(opcode: u8, flags: u8, lba: u32, blocks: u16) -> Cdb {
    let (l, b) = (lba.to_be_bytes(), blocks.to_be_bytes());
    cdb(&[opcode, flags, l[0], l[1], l[2], l[3], 0, b[0], b[1], 0])
}

fn sixteen(opcode: u8, lba: u64, blocks: u32) -> Cdb {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

pub const TEST_UNIT_READY: Cdb = [0; 16];

pub fn inquiry(allocation: u16) -> Cdb {
    let a = allocation.to_be_bytes();
    cdb(&[0x12, 0, 0, a[0], a[1], 0])
}

pub fn report_luns(allocation: u32) -> Cdb {
    let a = allocation.to_be_bytes();
    cdb(&[0xa0, 0, 0, 0, 0, 0, a[0], a[1], a[2], a[3], 0, 0])
}

pub fn request_sense(allocation: u8) -> Cdb {
    cdb(&[0x03, 0, 0, 0, allocation, 0])
}

pub fn read_10(lba: u32, blocks: u16) -> Cdb {
    ten(0x28, 0, lba, blocks)
}

pub fn write_10(lba: u32, blocks: u16) -> Cdb {
    ten(0x2a, 0, lba, blocks)
}

pub fn write_10_fua(lba: u32, blocks: u16) -> Cdb {
    ten(0x2a, 0x08, lba, blocks)
}

pub fn verify_10_bytchk(lba: u32, blocks: u16) -> Cdb {
    ten(0x2f, 0x02, lba, blocks)
}

pub fn write_and_verify_10(lba: u32, blocks: u16) -> Cdb {
    ten(0x2e, 0, lba, blocks)
}

pub fn synchronize_cache_10() -> Cdb {
    ten(0x35, 0, 0, 0)
}

pub fn read_16(lba: u64, blocks: u32) -> Cdb {
    sixteen(0x88, lba, blocks)
}

pub fn write_16(lba: u64, blocks: u32) -> Cdb {
    sixteen(0x8a, lba, blocks)
}
