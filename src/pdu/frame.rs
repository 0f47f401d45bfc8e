//! Cutting a byte stream into PDUs, and putting PDUs together.
//!
//! [`Framing::decode`] looks at the bytes there are from the start of a PDU and says how many more it
//! needs, or where the parts of the PDU lie. It holds no bytes and no state, so however the stream is
//! cut the answer is the same. Lengths are believed only in this order: TotalAHSLength, bounded, to
//! find the header digest; then the digest; then DataSegmentLength, bounded.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::bhs::{GenericBhs, IMMEDIATE, length_from_24};
use super::code::Opcode;
use super::digest::{DIGEST_LEN, RunningDigest, header_digest};
use super::{BHS_LEN, padding};

/// What must be known to find the end of a PDU: the digests agreed on, and how much is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// Every header is followed by its CRC32C (RFC 7143, section 13.1).
    pub header_digest: bool,
    /// Every data segment that is not empty is followed by its CRC32C (section 13.1).
    pub data_digest: bool,
    /// Longest data segment taken, in bytes: the receiver's MaxRecvDataSegmentLength (section 13.12).
    pub max_data_segment_length: u32,
    /// Most bytes of additional header segments taken: at most 1020 can be said (section 11.2.1.5).
    pub max_ahs_length: u16,
}

impl Framing {
    /// Framing of the login phase: no digests, the default MaxRecvDataSegmentLength, no AHS.
    pub const LOGIN: Self = Self {
        header_digest: false,
        data_digest: false,
        max_data_segment_length: 8192,
        max_ahs_length: 0,
    };

    /// Decides what `stream`, the bytes there are from the start of a PDU, says.
    ///
    /// # Errors
    /// [`FrameError`] when the header cannot be believed or asks for more than is accepted. Where the
    /// next PDU starts is then unknown, so the connection cannot go on.
    pub fn decode(&self, stream: &[u8]) -> Result<Frame, FrameError> {
        let Some(bhs) = stream.first_chunk::<BHS_LEN>() else {
            return Ok(Frame::NeedMore { bytes: BHS_LEN });
        };
        let generic: &GenericBhs = header(bhs);
        let ahs_len = u16::from(generic.total_ahs_length) * 4;
        if ahs_len > self.max_ahs_length {
            return Err(FrameError::AhsTooLong {
                bytes: ahs_len,
                max: self.max_ahs_length,
            });
        }
        let header_len = BHS_LEN + usize::from(ahs_len);
        let data_offset = header_len + if self.header_digest { DIGEST_LEN } else { 0 };
        let Some(whole_header) = stream.get(..data_offset) else {
            return Ok(Frame::NeedMore { bytes: data_offset });
        };
        if self.header_digest {
            let (header, digest) = whole_header.split_at(header_len);
            if header_digest(header) != digest {
                return Err(FrameError::HeaderDigest);
            }
        }
        let data_len = length_from_24(generic.data_segment_length);
        if data_len > self.max_data_segment_length {
            return Err(FrameError::DataSegmentTooLong {
                bytes: data_len,
                max: self.max_data_segment_length,
            });
        }
        let data_len = data_len as usize;
        Ok(Frame::Header(PduLayout {
            opcode: Opcode(generic.opcode & 0x3f),
            immediate: generic.opcode & IMMEDIATE != 0,
            header_len,
            data_offset,
            data_len,
            padded_len: data_len + padding(data_len),
            data_digest: self.data_digest && data_len > 0,
        }))
    }
}

/// What [`Framing::decode`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Undecided until this many bytes are there, counted from the start of the PDU.
    NeedMore {
        /// Bytes from the start of the PDU; always more than there were.
        bytes: usize,
    },
    /// The header is whole, its digest is right and its lengths are within bounds.
    Header(PduLayout),
}

/// Where the parts of one PDU lie, in bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PduLayout {
    /// Opcode, without the immediate bit.
    pub opcode: Opcode,
    /// The I bit (RFC 7143, section 11.2.1.1).
    pub immediate: bool,
    /// BHS and AHS, without digest.
    pub header_len: usize,
    /// Where the data segment starts: after the header and its digest.
    pub data_offset: usize,
    /// Length of the data segment as DataSegmentLength has it.
    pub data_len: usize,
    /// Length of the data segment and its padding.
    pub padded_len: usize,
    /// Whether a data digest follows. Never for an empty data segment.
    pub data_digest: bool,
}

impl PduLayout {
    /// The whole PDU.
    #[must_use]
    pub const fn total_len(&self) -> usize {
        self.digest_offset() + if self.data_digest { DIGEST_LEN } else { 0 }
    }

    /// Where the data digest is, if there is one: after the padding.
    #[must_use]
    pub const fn digest_offset(&self) -> usize {
        self.data_offset + self.padded_len
    }

    /// The data segment, without padding; `None` while `pdu` does not hold all of it.
    #[must_use]
    pub fn data<'a>(&self, pdu: &'a [u8]) -> Option<&'a [u8]> {
        pdu.get(self.data_offset..self.data_offset + self.data_len)
    }

    /// The part of the data segment, without padding, that `pdu` already holds.
    #[must_use]
    pub fn data_so_far<'a>(&self, pdu: &'a [u8]) -> &'a [u8] {
        let end = pdu.len().min(self.data_offset + self.data_len);
        pdu.get(self.data_offset..end).unwrap_or_default()
    }

    /// Whether the data segment of `pdu` is what was sent; `None` while `pdu` is not whole. True where
    /// no digest was agreed on.
    #[must_use]
    pub fn data_is_right(&self, pdu: &[u8]) -> Option<bool> {
        let pdu = pdu.get(..self.total_len())?;
        if !self.data_digest {
            return Some(true);
        }
        let (before, digest) = pdu.split_last_chunk::<DIGEST_LEN>()?;
        let mut crc = RunningDigest::new();
        crc.update(before.get(self.data_offset..)?);
        Some(crc.matches(*digest))
    }

    /// The additional header segments; empty while `pdu` does not hold them all.
    #[must_use]
    pub fn ahs<'a>(&self, pdu: &'a [u8]) -> AhsSegments<'a> {
        AhsSegments::new(pdu.get(BHS_LEN..self.header_len).unwrap_or_default())
    }
}

/// Why a stream cannot be cut any further. All of them are the sender's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The header was damaged on its way (RFC 7143, section 7.7).
    #[error("header digest error")]
    HeaderDigest,
    /// More data than the receiver declared it takes.
    #[error("data segment of {bytes} bytes, but {max} is the most accepted")]
    DataSegmentTooLong {
        /// DataSegmentLength.
        bytes: u32,
        /// The receiver's MaxRecvDataSegmentLength.
        max: u32,
    },
    /// More additional header segments than any known command needs.
    #[error("{bytes} bytes of additional header segments, but {max} is the most accepted")]
    AhsTooLong {
        /// TotalAHSLength, in bytes.
        bytes: u16,
        /// What is accepted.
        max: u16,
    },
}

/// `bytes` as the header that its opcode says it is. Any 48 bytes are any header, so this cannot fail.
#[must_use]
pub fn header<T: FromBytes + KnownLayout + Immutable + Unaligned>(bytes: &[u8; BHS_LEN]) -> &T {
    const { assert!(size_of::<T>() == BHS_LEN) };
    T::ref_from_bytes(bytes).expect("48 bytes, alignment 1")
}

/// The header at the start of `pdu`; `None` while there are fewer than 48 bytes.
#[must_use]
pub fn header_of<T: FromBytes + KnownLayout + Immutable + Unaligned>(pdu: &[u8]) -> Option<&T> {
    pdu.first_chunk().map(header)
}

/// One additional header segment (RFC 7143, section 11.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahs<'a> {
    /// CDB bytes from the 17th on (section 11.2.2.3).
    ExtendedCdb(&'a [u8]),
    /// Bytes the initiator has room for, of a bidirectional command (section 11.2.2.4).
    BidirectionalReadLength(u32),
    /// A reserved code; its bytes after AHSType.
    Unknown {
        /// AHS code: six bits.
        code: u8,
        /// AHS-Specific, without padding.
        bytes: &'a [u8],
    },
}

/// Why additional header segments make no sense. The PDU's length is still known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AhsError {
    /// AHSLength reaches beyond TotalAHSLength.
    #[error("an additional header segment is longer than TotalAHSLength")]
    Truncated,
    /// AHSLength is not one that its AHSType can have.
    #[error("an additional header segment has a length that its type cannot have")]
    WrongLength,
}

/// Iterates over additional header segments; ends after the first error.
#[derive(Clone, Debug)]
pub struct AhsSegments<'a> {
    rest: &'a [u8],
}

impl<'a> AhsSegments<'a> {
    /// The segments in `bytes`, which is everything between BHS and header digest.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn split(&mut self) -> Result<Ahs<'a>, AhsError> {
        let [a, b, kind, ..] = *self.rest else {
            return Err(AhsError::Truncated);
        };
        let len = usize::from(u16::from_be_bytes([a, b]));
        let used = 3 + len;
        let bytes = self.rest.get(3..used).ok_or(AhsError::Truncated)?;
        self.rest = self.rest.get(used + padding(used)..).unwrap_or_default();
        match (kind & 0x3f, bytes) {
            // The reserved byte and at least the 17th byte of the CDB.
            (1, [_reserved, cdb @ ..]) if !cdb.is_empty() => Ok(Ahs::ExtendedCdb(cdb)),
            (2, &[_reserved, a, b, c, d]) => {
                Ok(Ahs::BidirectionalReadLength(u32::from_be_bytes([
                    a, b, c, d,
                ])))
            }
            (1 | 2, _) => Err(AhsError::WrongLength),
            (code, bytes) => Ok(Ahs::Unknown { code, bytes }),
        }
    }
}

impl<'a> Iterator for AhsSegments<'a> {
    type Item = Result<Ahs<'a>, AhsError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let segment = self.split();
        if segment.is_err() {
            self.rest = &[];
        }
        Some(segment)
    }
}

/// A header ready to send: 48 bytes, and its digest if one was agreed on.
#[derive(Clone, Copy, Debug)]
pub struct EncodedHeader {
    bytes: [u8; BHS_LEN + DIGEST_LEN],
    len: u8,
}

impl EncodedHeader {
    /// No header yet.
    pub const NONE: Self = Self {
        bytes: [0; BHS_LEN + DIGEST_LEN],
        len: 0,
    };

    /// `bhs` with its digest, if `digest`. DataSegmentLength is the caller's to fill in.
    #[must_use]
    pub fn new<T: IntoBytes + Immutable>(bhs: &T, digest: bool) -> Self {
        let mut header = Self::NONE;
        header.fill(bhs, digest);
        header
    }

    /// Makes it [`Self::new`] of these, in its place.
    pub fn fill<T: IntoBytes + Immutable>(&mut self, bhs: &T, digest: bool) {
        const { assert!(size_of::<T>() == BHS_LEN) };
        self.bytes[..BHS_LEN].copy_from_slice(bhs.as_bytes());
        let mut len = BHS_LEN;
        if digest {
            let crc = header_digest(&self.bytes[..BHS_LEN]);
            self.bytes[BHS_LEN..].copy_from_slice(&crc);
            len += DIGEST_LEN;
        }
        #[allow(clippy::cast_possible_truncation, reason = "at most 52")]
        let len = len as u8;
        self.len = len;
    }

    /// The bytes to send.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// What follows a data segment: 0 to 3 zeros, and the digest if one was agreed on.
#[derive(Clone, Copy, Debug, Default)]
pub struct EncodedTrailer {
    bytes: [u8; 3 + DIGEST_LEN],
    len: u8,
}

impl EncodedTrailer {
    /// Nothing.
    pub const NONE: Self = Self {
        bytes: [0; 3 + DIGEST_LEN],
        len: 0,
    };

    /// The trailer of `data`, with its digest if `digest`. Empty for an empty data segment.
    #[must_use]
    pub fn new(data: &[u8], digest: bool) -> Self {
        let crc = digest.then(|| {
            let mut crc = RunningDigest::new();
            crc.update(data);
            crc
        });
        Self::of_pieces(data.len(), crc)
    }

    /// The trailer of `data_len` bytes that `digest`, if any, has taken in already.
    #[must_use]
    pub fn of_pieces(data_len: usize, digest: Option<RunningDigest>) -> Self {
        let mut bytes = [0; 3 + DIGEST_LEN];
        let mut len = padding(data_len);
        if let Some(mut crc) = digest
            && data_len > 0
        {
            crc.pad(data_len);
            bytes[len..len + DIGEST_LEN].copy_from_slice(&crc.finish());
            len += DIGEST_LEN;
        }
        #[allow(clippy::cast_possible_truncation, reason = "at most 7")]
        let len = len as u8;
        Self { bytes, len }
    }

    /// The bytes to send.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pdu::bhs::{ScsiCommandBhs, length_to_24};
    use proptest::prelude::*;

    const ALL: Framing = Framing {
        header_digest: true,
        data_digest: true,
        max_data_segment_length: 1 << 18,
        max_ahs_length: 1020,
    };

    fn framing() -> impl Strategy<Value = Framing> {
        any::<(bool, bool, u16, u16)>().prop_map(|(header_digest, data_digest, data, ahs)| {
            Framing {
                header_digest,
                data_digest,
                max_data_segment_length: u32::from(data),
                max_ahs_length: ahs,
            }
        })
    }

    fn pdu(framing: Framing, data: &[u8]) -> Vec<u8> {
        let mut bhs = [0u8; BHS_LEN];
        bhs[0] = IMMEDIATE | 0x04;
        bhs[5..8].copy_from_slice(&length_to_24(u32::try_from(data.len()).unwrap()));
        let mut pdu = EncodedHeader::new(&bhs, framing.header_digest)
            .as_slice()
            .to_vec();
        pdu.extend_from_slice(data);
        pdu.extend_from_slice(EncodedTrailer::new(data, framing.data_digest).as_slice());
        pdu
    }

    #[test]
    fn a_wrong_header_digest_is_seen_before_the_length_is_believed() {
        let mut bytes = pdu(ALL, b"abc");
        bytes[5] = 0xff;
        assert_eq!(ALL.decode(&bytes), Err(FrameError::HeaderDigest));
    }

    #[test]
    fn lengths_beyond_the_bounds_are_errors() {
        let mut bhs = [0u8; BHS_LEN];
        bhs[4] = 1;
        assert_eq!(
            Framing::LOGIN.decode(&bhs),
            Err(FrameError::AhsTooLong { bytes: 4, max: 0 })
        );
        bhs[4] = 0;
        bhs[5..8].copy_from_slice(&length_to_24(8193));
        assert_eq!(
            Framing::LOGIN.decode(&bhs),
            Err(FrameError::DataSegmentTooLong {
                bytes: 8193,
                max: 8192
            })
        );
    }

    #[test]
    fn an_empty_data_segment_has_no_digest() {
        let bytes = pdu(ALL, b"");
        assert_eq!(bytes.len(), 52);
        let Ok(Frame::Header(layout)) = ALL.decode(&bytes) else {
            panic!("not whole")
        };
        assert_eq!(
            (layout.total_len(), layout.data_is_right(&bytes)),
            (52, Some(true))
        );
    }

    #[test]
    fn headers_are_handed_out_by_type() {
        let mut bytes = [0u8; 60];
        bytes[20..24].copy_from_slice(&77u32.to_be_bytes());
        let command: &ScsiCommandBhs = header_of(&bytes).unwrap();
        assert_eq!(command.expected_data_transfer_length.get(), 77);
        assert!(header_of::<ScsiCommandBhs>(&bytes[..47]).is_none());
    }

    #[test]
    fn ahs_of_every_kind_are_told_apart() {
        let bytes = [
            0, 3, 1, 0, 0xaa, 0xbb, 0, 0, // extended CDB of 18 bytes, two bytes of padding
            0, 5, 2, 0, 0, 0, 2, 0, // bidirectional
            0, 1, 0xc3, 9, // code 3, with reserved bits set
        ];
        let all: Vec<_> = AhsSegments::new(&bytes).collect();
        assert_eq!(
            all,
            [
                Ok(Ahs::ExtendedCdb(&[0xaa, 0xbb])),
                Ok(Ahs::BidirectionalReadLength(512)),
                Ok(Ahs::Unknown {
                    code: 3,
                    bytes: &[9]
                }),
            ]
        );
    }

    #[test]
    fn wrong_ahs_lengths_end_the_iteration() {
        let truncated: Vec<_> = AhsSegments::new(&[0, 9, 1, 0, 1, 2, 3, 4]).collect();
        assert_eq!(truncated, [Err(AhsError::Truncated)]);
        let short: Vec<_> = AhsSegments::new(&[0, 1, 1, 0, 0, 1, 1, 0]).collect();
        assert_eq!(short, [Err(AhsError::WrongLength)]);
        let six: Vec<_> = AhsSegments::new(&[0, 6, 2, 0, 0, 0, 2, 0, 0, 0, 0, 0]).collect();
        assert_eq!(six, [Err(AhsError::WrongLength)]);
    }

    proptest! {
        /// However the stream is cut, the layout is the same and depends on nothing after the header.
        #[test]
        fn layout_is_independent_of_segmentation(
            framing in framing(), bhs in any::<[u8; 48]>(), tail in any::<Vec<u8>>(), cut in 0..48usize,
        ) {
            prop_assert_eq!(framing.decode(&bhs[..cut]), Ok(Frame::NeedMore { bytes: 48 }));
            let stream = [&bhs[..], &tail].concat();
            match framing.decode(&stream) {
                Ok(Frame::NeedMore { bytes }) => prop_assert!(bytes > stream.len()),
                Ok(Frame::Header(layout)) => {
                    prop_assert_eq!(framing.decode(&stream[..layout.data_offset]), Ok(Frame::Header(layout)));
                    prop_assert!(layout.data_len <= framing.max_data_segment_length as usize);
                    prop_assert_eq!(layout.total_len() % 4, 0);
                    let _ = (layout.data(&stream), layout.data_so_far(&stream), layout.data_is_right(&stream));
                    let _ = layout.ahs(&stream).count();
                }
                Err(_) => {}
            }
        }

        /// What is encoded is decoded, with any digests, and is whole only when all of it is there.
        #[test]
        fn what_is_encoded_is_decoded(
            header_digest in any::<bool>(), data_digest in any::<bool>(), data in any::<Vec<u8>>(),
        ) {
            let framing = Framing { header_digest, data_digest, ..ALL };
            let bytes = pdu(framing, &data);
            let Ok(Frame::Header(layout)) = framing.decode(&bytes) else { panic!("not decoded") };
            prop_assert_eq!(layout.total_len(), bytes.len());
            prop_assert_eq!(layout.data(&bytes), Some(&data[..]));
            prop_assert_eq!(layout.data_is_right(&bytes), Some(true));
            prop_assert_eq!(layout.data_is_right(&bytes[..bytes.len() - 1]), None);
            prop_assert_eq!((layout.opcode, layout.immediate), (Opcode::TEXT_REQUEST, true));
        }

        /// A flipped bit anywhere is noticed when both digests are on.
        #[test]
        fn a_flipped_bit_is_noticed(data in proptest::collection::vec(any::<u8>(), 1..99), at in any::<usize>()) {
            let mut bytes = pdu(ALL, &data);
            let at = at % (bytes.len() * 8);
            bytes[at / 8] ^= 1 << (at % 8);
            let noticed = match ALL.decode(&bytes) {
                Ok(Frame::Header(layout)) => layout.data_is_right(&bytes) == Some(false),
                // A longer AHS moves the digest beyond the end.
                Ok(Frame::NeedMore { .. }) => (4 * 8..5 * 8).contains(&at),
                Err(_) => true,
            };
            prop_assert!(noticed);
        }

        #[test]
        fn ahs_of_any_bytes_end(bytes in any::<Vec<u8>>()) {
            prop_assert!(AhsSegments::new(&bytes).count() <= bytes.len());
        }
    }
}
