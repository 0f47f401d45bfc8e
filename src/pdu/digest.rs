//! HeaderDigest and DataDigest: CRC32C (RFC 7143, section 13.1), sent with its least significant byte
//! first as the examples of RFC 3720, appendix B.4 have it.
//!
//! `crc-fast` picks once, by what the CPU has, between VPCLMULQDQ, PCLMULQDQ with the CRC32 instruction and
//! tables; short input (headers) goes through the CRC32 instruction in any case. `cargo bench --bench pdu` sets it
//! beside the `crc32c` crate, which knows the CRC32 instruction only: half as quick at 4 KiB, and no better at 48 bytes.

use crc_fast::{CrcAlgorithm, Digest, crc32_iscsi};

use super::padding;

/// Bytes of a digest on the wire.
pub const DIGEST_LEN: usize = 4;

const ZEROS: [u8; 3] = [0; 3];

/// Digest of a header: BHS and AHS together.
#[must_use]
pub fn header_digest(header: &[u8]) -> [u8; DIGEST_LEN] {
    crc32_iscsi(header).to_le_bytes()
}

/// Digest of a data segment and the zeros that pad it.
#[must_use]
pub fn data_digest(data: &[u8]) -> [u8; DIGEST_LEN] {
    let mut digest = RunningDigest::new();
    digest.update(data);
    digest.pad(data.len());
    digest.finish()
}

/// The digest of a segment that comes, or goes, in pieces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunningDigest(u32);

impl RunningDigest {
    /// The digest of nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Takes in the next piece, in order.
    pub fn update(&mut self, piece: &[u8]) {
        if self.0 == 0 {
            // Nothing yet, or what cannot be told from it.
            self.0 = crc32_iscsi(piece);
        } else if !piece.is_empty() {
            self.append(piece);
        }
    }

    /// Apart, as most digests are of one piece.
    #[inline(never)]
    fn append(&mut self, piece: &[u8]) {
        let state = u64::from(!self.0);
        let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, state);
        digest.update(piece);
        self.0 = u32::try_from(digest.finalize()).expect("32 bits");
    }

    /// Takes in the zeros that pad a segment of `data_len` bytes. A receiver does not use this: it
    /// gives the padding it received to [`Self::update`], for that is what the sender's digest covers.
    pub fn pad(&mut self, data_len: usize) {
        self.update(&ZEROS[..padding(data_len)]);
    }

    /// The four bytes that go on the wire.
    #[must_use]
    pub const fn finish(self) -> [u8; DIGEST_LEN] {
        self.0.to_le_bytes()
    }

    /// Whether `received`, as found on the wire, is the digest of what was taken in.
    #[must_use]
    pub fn matches(self, received: [u8; DIGEST_LEN]) -> bool {
        self.finish() == received
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 3720, appendix B.4.
    #[test]
    fn the_examples_of_the_standard_hold() {
        let rising: [u8; 32] = std::array::from_fn(|i| u8::try_from(i).expect("below 32"));
        let mut falling = rising;
        falling.reverse();
        assert_eq!(header_digest(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(header_digest(&[0xff; 32]), [0x43, 0xab, 0xa8, 0x62]);
        assert_eq!(header_digest(&rising), [0x4e, 0x79, 0xdd, 0x46]);
        assert_eq!(header_digest(&falling), [0x5c, 0xdb, 0x3f, 0x11]);
    }

    /// RFC 3720, appendix B.4: "an iSCSI - SCSI Read (10) Command PDU".
    #[test]
    fn the_read_10_pdu_of_the_standard_has_its_digest() {
        let mut pdu = [0u8; 48];
        pdu[0] = 0x01;
        pdu[1] = 0xc0;
        pdu[16] = 0x14;
        pdu[22] = 0x04;
        pdu[27] = 0x14;
        pdu[31] = 0x18;
        pdu[32] = 0x28;
        pdu[40] = 0x02;
        assert_eq!(header_digest(&pdu), [0x56, 0x3a, 0x96, 0xd9]);
    }

    proptest! {
        /// All of `crc-fast`'s ways: by length, alignment and what came before.
        #[test]
        fn it_is_what_another_crc32c_says(
            data in proptest::collection::vec(any::<u8>(), 0..9000),
            start in 0_usize..64,
            cut in any::<usize>(),
        ) {
            let data = data.get(start..).unwrap_or_default();
            let other = crc32c::crc32c(data).to_le_bytes();
            prop_assert_eq!(header_digest(data), other);
            let (first, second) = data.split_at(cut % (data.len() + 1));
            let mut digest = RunningDigest::new();
            digest.update(first);
            digest.update(second);
            prop_assert!(digest.matches(other));
        }

        #[test]
        fn pieces_make_the_same_digest_as_the_whole(data in any::<Vec<u8>>(), cut in any::<usize>()) {
            let cut = cut % (data.len() + 1);
            let mut digest = RunningDigest::new();
            digest.update(&data[..cut]);
            digest.update(&data[cut..]);
            digest.pad(data.len());
            prop_assert!(digest.matches(data_digest(&data)));
        }

        #[test]
        fn padding_is_covered(data in any::<Vec<u8>>()) {
            let mut padded = data.clone();
            padded.resize(data.len() + padding(data.len()), 0);
            prop_assert_eq!(data_digest(&data), header_digest(&padded));
        }
    }
}
