//! Numbers that must not be mixed: block addresses, block counts, block sizes, serial numbers.
//!
//! The check is the constructor; after it nobody checks again. Nothing here knows SCSI or iSCSI: a
//! value that does not fit is `None`, and the layer that asked names the error.

/// A logical block address (SBC-4, section 4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lba(pub u64);

/// A number of logical blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blocks(pub u64);

/// Bytes in one logical block: 512 or 4096.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockSize(u8);

impl BlockSize {
    /// 512 bytes.
    pub const B512: Self = Self(9);
    /// 4096 bytes.
    pub const B4096: Self = Self(12);

    /// The block size of `bytes`, if it is one that is served.
    #[must_use]
    pub const fn new(bytes: u32) -> Option<Self> {
        match bytes {
            512 => Some(Self::B512),
            4096 => Some(Self::B4096),
            _ => None,
        }
    }

    /// Bytes per block.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        1 << self.0
    }

    /// log2 of [`Self::bytes`] (gotgt's `blockShift`).
    #[must_use]
    pub const fn shift(self) -> u32 {
        self.0 as u32
    }

    /// `blocks` in bytes; `None` when that is more than 2^64 - 1.
    #[must_use]
    pub const fn bytes_of(self, blocks: Blocks) -> Option<u64> {
        blocks.0.checked_mul(self.bytes() as u64)
    }

    /// Whole blocks in `bytes`, rounded down.
    #[must_use]
    pub const fn blocks_in(self, bytes: u64) -> Blocks {
        Blocks(bytes >> self.0)
    }

    /// Blocks that `bytes` touch, rounded up.
    #[must_use]
    pub const fn blocks_covering(self, bytes: u64) -> Blocks {
        Blocks((bytes >> self.0) + ((bytes & (self.bytes() as u64 - 1)) != 0) as u64)
    }
}

/// A run of blocks known to lie inside a medium. Only [`Extent::new`] and its own cuts make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    start: Lba,
    len: Blocks,
}

impl Extent {
    /// `len` blocks from `start`, if they all lie below `capacity`. An empty extent may start at
    /// `capacity` itself, not beyond.
    #[must_use]
    pub const fn new(start: Lba, len: Blocks, capacity: Blocks) -> Option<Self> {
        match start.0.checked_add(len.0) {
            Some(end) if end <= capacity.0 => Some(Self { start, len }),
            _ => None,
        }
    }

    /// First block.
    #[must_use]
    pub const fn start(self) -> Lba {
        self.start
    }

    /// Number of blocks.
    #[must_use]
    pub const fn len(self) -> Blocks {
        self.len
    }

    /// Whether there is no block in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len.0 == 0
    }

    /// First block after it.
    #[must_use]
    pub const fn end(self) -> Lba {
        Lba(self.start.0 + self.len.0)
    }

    /// Cuts it after `blocks`: the front, and what remains. A cut beyond the end leaves an empty rest.
    #[must_use]
    pub const fn split_at(self, blocks: Blocks) -> (Self, Self) {
        let front = if blocks.0 < self.len.0 {
            blocks.0
        } else {
            self.len.0
        };
        (
            Self {
                start: self.start,
                len: Blocks(front),
            },
            Self {
                start: Lba(self.start.0 + front),
                len: Blocks(self.len.0 - front),
            },
        )
    }

    /// Whether the two have a block in common.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start.0 < other.end().0 && other.start.0 < self.end().0
    }

    /// Its length in bytes. Cannot overflow for a medium whose size in bytes fits in 64 bits.
    #[must_use]
    pub const fn byte_len(self, size: BlockSize) -> u64 {
        self.len.0 << size.shift()
    }

    /// Where its first byte is in the medium.
    #[must_use]
    pub const fn byte_start(self, size: BlockSize) -> u64 {
        self.start.0 << size.shift()
    }
}

/// A 32-bit serial number (RFC 1982; RFC 7143, section 4.2.2.1). Deliberately not `Ord`: `<` has no
/// meaning on a circle, so it does not compile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SerialNumber(pub u32);

impl SerialNumber {
    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// The number before this one.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.wrapping_sub(1))
    }

    /// The number `n` further on.
    #[must_use]
    pub const fn plus(self, n: u32) -> Self {
        Self(self.0.wrapping_add(n))
    }

    /// How many steps it is from `earlier` to `self`, going forward.
    #[must_use]
    pub const fn distance_from(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Whether `self` comes before `other` in serial order (RFC 1982, section 3.2).
    #[must_use]
    pub const fn is_before(self, other: Self) -> bool {
        let ahead = other.0.wrapping_sub(self.0);
        ahead != 0 && ahead < 1 << 31
    }

    /// Whether `self` lies in `first..=last`, in serial order.
    #[must_use]
    pub const fn in_window(self, first: Self, last: Self) -> bool {
        self.0.wrapping_sub(first.0) <= last.0.wrapping_sub(first.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extent_never_leaves_the_medium() {
        let capacity = Blocks(100);
        assert!(Extent::new(Lba(0), Blocks(100), capacity).is_some());
        assert!(Extent::new(Lba(100), Blocks(0), capacity).is_some());
        assert!(Extent::new(Lba(101), Blocks(0), capacity).is_none());
        assert!(Extent::new(Lba(1), Blocks(100), capacity).is_none());
        assert!(Extent::new(Lba(u64::MAX), Blocks(2), Blocks(u64::MAX)).is_none());
    }

    #[test]
    fn a_cut_loses_no_block() {
        let e = Extent::new(Lba(10), Blocks(20), Blocks(100)).expect("in range");
        let (a, b) = e.split_at(Blocks(5));
        assert_eq!(
            (a.start(), a.len(), b.start(), b.len()),
            (Lba(10), Blocks(5), Lba(15), Blocks(15))
        );
        let (a, b) = e.split_at(Blocks(50));
        assert_eq!((a, b.is_empty()), (e, true));
        assert!(a.overlaps(e) && !b.overlaps(e));
    }

    #[test]
    fn serial_numbers_wrap() {
        let top = SerialNumber(u32::MAX);
        assert!(top.is_before(top.next()));
        assert!(!top.next().is_before(top));
        assert!(SerialNumber(1).in_window(top, SerialNumber(3)));
        assert!(!SerialNumber(4).in_window(top, SerialNumber(3)));
        assert_eq!(SerialNumber(1).distance_from(top), 2);
    }

    #[test]
    fn bytes_and_blocks_convert_both_ways() {
        assert_eq!(BlockSize::B512.blocks_in(1023), Blocks(1));
        assert_eq!(BlockSize::B512.blocks_covering(1023), Blocks(2));
        assert_eq!(BlockSize::B4096.bytes_of(Blocks(u64::MAX)), None);
        assert_eq!(BlockSize::new(1024), None);
    }
}
