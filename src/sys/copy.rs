//! Memory that several cores read and write without a lock: touched only by copies made here.
//!
//! Two writers of the same bytes leave a mix of both, as two hosts writing the same block of a disk do;
//! nothing else comes of it, because no reference to the memory ever exists.

use std::io;

use super::hugepage::{MapOptions, MapReport, Mapping};
use super::pieces::{Piece, Room};

/// A piece of memory shared by all cores.
#[derive(Debug)]
pub struct SharedMemory {
    mapping: Mapping,
}

impl SharedMemory {
    /// At least `len` bytes of zeroes, in transparent huge pages if wished: the reserved ones are the pools'.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(len: usize, hugepages: bool) -> io::Result<(Self, MapReport)> {
        let options = MapOptions {
            hugepages,
            reserved: false,
            numa_node: None,
            touch: false,
        };
        let (mapping, report) = Mapping::new(len, options)?;
        Ok((Self { mapping }, report))
    }

    /// Makes the pages of `len` bytes from `offset` present (as far as that is inside), so that the first write
    /// to them need not wait for a page; content stays as it is.
    pub fn populate(&self, offset: usize, len: usize) {
        let offset = offset.min(self.mapping.len());
        self.mapping
            .populate(offset, len.min(self.mapping.len() - offset));
    }

    fn check(&self, offset: usize, len: usize) {
        assert!(
            offset <= self.mapping.len() && len <= self.mapping.len() - offset,
            "{len} bytes from {offset} of {}",
            self.mapping.len()
        );
    }

    /// Copies from `offset` to `into`.
    ///
    /// # Panics
    /// When that is not inside.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        self.check(offset, into.len());
        // SAFETY: the source is inside the mapping, the destination is borrowed mutably, and they cannot
        // overlap because nobody has a reference into the mapping. The source may change meanwhile.
        unsafe {
            racy_copy(
                self.mapping.base().as_ptr().add(offset),
                into.as_mut_ptr(),
                into.len(),
            );
        }
    }

    /// `len` bytes from `offset`, for the kernel to send from where they are.
    ///
    /// # Panics
    /// When they are not inside.
    #[must_use]
    pub fn piece(&self, offset: usize, len: usize) -> Piece<'_> {
        self.check(offset, len);
        // SAFETY: inside the mapping, which lives as long as `self` is borrowed.
        unsafe { Piece::at(self.mapping.base().as_ptr().add(offset), len) }
    }

    /// `len` bytes from `offset`, for the kernel to receive into.
    ///
    /// # Panics
    /// When they are not inside.
    #[must_use]
    pub fn room(&self, offset: usize, len: usize) -> Room<'_> {
        self.check(offset, len);
        // SAFETY: inside the mapping, which lives as long as `self` is borrowed; it is shared memory, which
        // nobody has a reference to.
        unsafe { Room::at(self.mapping.base().as_ptr().add(offset), len) }
    }

    /// Copies `from` to `offset`.
    ///
    /// # Panics
    /// When that is not inside.
    pub fn write(&self, offset: usize, from: &[u8]) {
        self.check(offset, from.len());
        // SAFETY: as in `read`, the other way round. The destination may be read or written meanwhile.
        unsafe {
            racy_copy(
                from.as_ptr(),
                self.mapping.base().as_ptr().add(offset),
                from.len(),
            );
        }
    }
}

/// A copy that the compiler cannot see into, so that a race with another core is the hardware's matter:
/// each byte is an old or a new one.
///
/// # Safety
/// `len` bytes from `from` are readable, `len` bytes from `to` writable, and they do not overlap.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn racy_copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: by contract; the direction flag is clear by the ABI.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags)
        );
    }
}

/// As above, where there is no such instruction: byte by byte, atomically on both sides.
///
/// # Safety
/// `len` bytes from `from` are readable, `len` bytes from `to` writable, and they do not overlap.
#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn racy_copy(from: *const u8, to: *mut u8, len: usize) {
    use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
    for i in 0..len {
        // SAFETY: by contract; every access to shared memory is atomic.
        unsafe {
            let byte = AtomicU8::from_ptr(from.add(i).cast_mut()).load(Relaxed);
            AtomicU8::from_ptr(to.add(i)).store(byte, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_at_any_place_and_length() {
        let memory = SharedMemory::new(1, false).expect("memory").0;
        let mut into = [9; 5];
        memory.write(3, b"hello");
        memory.read(2, &mut into);
        assert_eq!(&into, b"\0hell");
        memory.read(0, &mut []);
        memory.write(memory.mapping.len(), b"");
    }

    #[test]
    fn making_pages_present_changes_nothing() {
        let memory = SharedMemory::new(1, true).expect("memory").0;
        memory.write(4096, b"kept");
        memory.populate(0, usize::MAX);
        memory.populate(usize::MAX, 1);
        let mut into = [9; 5];
        memory.read(4096, &mut into);
        assert_eq!(&into, b"kept\0");
    }

    #[test]
    #[should_panic(expected = "2 bytes from")]
    fn nothing_beyond_the_end_is_touched() {
        let memory = SharedMemory::new(1, false).expect("memory").0;
        memory.write(memory.mapping.len() - 1, b"xy");
    }
}
