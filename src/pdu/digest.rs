//! HeaderDigest and DataDigest: CRC32C (RFC 7143, section 13.1), sent with its least significant byte
//! first as the examples of RFC 3720, appendix B.4 have it.

use super::padding;

/// Bytes of a digest on the wire.
pub const DIGEST_LEN: usize = 4;

/// Digest of a header: BHS and AHS together.
#[must_use]
pub fn header_digest(header: &[u8]) -> [u8; DIGEST_LEN] {
    crc32c::crc32c(header).to_le_bytes()
}

/// Digest of a data segment and the zeros that pad it.
#[must_use]
pub fn data_digest(data: &[u8]) -> [u8; DIGEST_LEN] {
    let crc = crc32c::crc32c(data);
    const ZEROS: [u8; 3] = [0; 3];
    crc32c::crc32c_append(crc, &ZEROS[..padding(data.len())]).to_le_bytes()
}
