//! Memory in big pages, near the core that uses it, cut into pieces that are owned.
//!
//! [`map`] gives one [`Slot`] that is the whole mapping. A slot is exclusive: it can be split and
//! merged, but never copied, so an allocator over slots needs no `unsafe` and cannot hand the same byte
//! out twice. To let the kernel or another thread work on a slot, [`Slot::lend`] turns it into a
//! [`Loan`] (goes to the worker) and a [`Lent`] (stays); only both together are a slot again.

use std::io;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use super::numa;

/// What backs a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Reserved 2 MiB pages (`vm.nr_hugepages`).
    Hugepages2M,
    /// Ordinary memory that the kernel was asked to back with huge pages where it can.
    TransparentHuge,
    /// Ordinary 4 KiB pages.
    Pages4K,
}

/// How to map.
#[derive(Clone, Copy, Debug)]
pub struct MapOptions {
    /// Ask for transparent huge pages where there are no reserved ones.
    pub hugepages: bool,
    /// With `hugepages`: try reserved 2 MiB pages first.
    pub reserved: bool,
    /// NUMA node to bind to before the first touch.
    pub numa_node: Option<u32>,
    /// Touch every page now, so that no page fault comes later.
    pub touch: bool,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapReport {
    /// Bytes mapped: what was asked for, rounded up to 2 MiB.
    pub bytes: usize,
    /// Kind of pages.
    pub backing: Backing,
    /// What was wished for and is not so, in sentences.
    pub notes: Vec<String>,
}

/// Size and alignment of a huge page, in bytes; every mapping is a multiple of it.
pub const HUGE_PAGE: usize = 2 << 20;

/// An anonymous private mapping; unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is an address range of the process, not of a thread; `munmap` may be called anywhere.
unsafe impl Send for Mapping {}
// SAFETY: nothing can be done through `&Mapping` but ask for its place.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// First byte.
    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Length in bytes.
    #[must_use]
    #[allow(
        clippy::len_without_is_empty,
        reason = "a mapping is never empty: mmap refuses it"
    )]
    pub fn len(&self) -> usize {
        self.len
    }

    fn anonymous(len: usize, flags: i32) -> io::Result<Self> {
        // SAFETY: an anonymous private mapping at a place of the kernel's choice touches no other memory.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base =
            NonNull::new(base.cast::<u8>()).expect("mmap without MAP_FIXED never returns null");
        Ok(Self { base, len })
    }

    /// Ordinary memory, aligned to a huge page by cutting a larger mapping.
    fn aligned(len: usize) -> io::Result<Self> {
        let raw = Self::anonymous(len + HUGE_PAGE, libc::MAP_NORESERVE)?;
        let lead = raw.base.as_ptr().align_offset(HUGE_PAGE) & (HUGE_PAGE - 1);
        // SAFETY: `lead < HUGE_PAGE`, so the result and the `len` bytes behind it are inside `raw`.
        let base = unsafe { raw.base.add(lead) };
        let tail = HUGE_PAGE - lead;
        std::mem::forget(raw);
        // SAFETY: both ranges are page-aligned parts of the mapping just made, outside `base..base+len`.
        unsafe {
            if lead > 0 {
                libc::munmap(base.sub(lead).as_ptr().cast(), lead);
            }
            if tail > 0 {
                libc::munmap(base.add(len).as_ptr().cast(), tail);
            }
        }
        Ok(Self { base, len })
    }

    /// Makes every page present, with several threads where the calling one may use several cores: where the
    /// pages come from does not depend on who touches them once the mapping is bound, and a virtual machine
    /// whose memory is not there yet takes seconds for a gigabyte.
    fn touch(&self) {
        const PIECE: usize = 16 << 20;
        const THREADS: usize = 4;
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let start = next.fetch_add(PIECE, Ordering::Relaxed);
                if start >= self.len {
                    return;
                }
                self.populate(start, PIECE.min(self.len - start));
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 1..cores.min(THREADS).min(self.len.div_ceil(PIECE)) {
                // Without it, this thread does its share.
                let _ = std::thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
    }

    /// Makes the pages of `len` bytes from `start` present; their content stays as it is.
    ///
    /// # Panics
    /// When they are not inside.
    pub(super) fn populate(&self, start: usize, len: usize) {
        assert!(
            start <= self.len && len <= self.len - start,
            "inside the mapping"
        );
        // SAFETY: `start + len` is at most `self.len`.
        let first = unsafe { self.base.add(start) };
        // SAFETY: pages of our own mapping; they are made present, no content changes.
        let done = unsafe { libc::madvise(first.as_ptr().cast(), len, libc::MADV_POPULATE_WRITE) };
        if done == 0 {
            return;
        }
        // A kernel before 5.14: adding 0 to a byte of each page writes to it, whoever else does.
        for offset in (0..len).step_by(4096) {
            // SAFETY: `offset < len`, inside the mapping; every access that may race is atomic or the hardware's.
            let byte = unsafe { AtomicU8::from_ptr(first.add(offset).as_ptr()) };
            byte.fetch_add(0, Ordering::Relaxed);
        }
    }

    /// Maps at least `len` bytes.
    ///
    /// # Errors
    /// As `mmap`: no memory, or a length of 0.
    pub fn new(len: usize, options: MapOptions) -> io::Result<(Self, MapReport)> {
        let bytes = len
            .checked_next_multiple_of(HUGE_PAGE)
            .filter(|&b| b > 0)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        let mut notes = Vec::new();
        let reserved = (options.hugepages && options.reserved)
            .then(|| Self::anonymous(bytes, libc::MAP_HUGETLB | (21 << libc::MAP_HUGE_SHIFT)));
        let (mapping, backing) = match reserved {
            Some(Ok(mapping)) => (mapping, Backing::Hugepages2M),
            refused => {
                let mapping = Self::aligned(bytes)?;
                // SAFETY: advice about our own mapping; it changes no content.
                let advised = options.hugepages
                    && unsafe {
                        libc::madvise(mapping.base.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE)
                    } == 0;
                let backing = if advised {
                    Backing::TransparentHuge
                } else {
                    Backing::Pages4K
                };
                if let Some(Err(error)) = refused {
                    notes.push(format!(
                        "no reserved huge pages ({error}); using {} (reserve some with: sysctl vm.nr_hugepages={})",
                        if advised { "transparent huge pages" } else { "4 KiB pages" },
                        bytes / HUGE_PAGE
                    ));
                }
                (mapping, backing)
            }
        };
        if let Some(node) = options.numa_node {
            // SAFETY: the mapping is `bytes` long, readable (zero pages), and nobody else has it yet.
            let area = unsafe { std::slice::from_raw_parts(mapping.base.as_ptr(), bytes) };
            if let Err(why) = numa::bind_area(area, node) {
                notes.push(format!("memory is not bound to NUMA node {node}: {why}"));
            }
        }
        if options.touch {
            mapping.touch();
        }
        Ok((
            mapping,
            MapReport {
                bytes,
                backing,
                notes,
            },
        ))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that was mapped; whoever could touch it kept this value alive.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Maps `len` bytes and gives them as one slot.
///
/// # Errors
/// As [`Mapping::new`].
pub fn map(len: usize, options: MapOptions) -> io::Result<(Slot, MapReport)> {
    let (mapping, report) = Mapping::new(len, options)?;
    let len = mapping.len;
    let slot = Slot {
        mapping: Rc::new(mapping),
        offset: 0,
        len,
    };
    Ok((slot, report))
}

/// An exclusive piece of a mapping. No byte of it belongs to any other slot.
#[derive(Debug)]
pub struct Slot {
    mapping: Rc<Mapping>,
    offset: usize,
    len: usize,
}

impl Slot {
    /// Length in bytes.
    #[must_use]
    #[allow(
        clippy::len_without_is_empty,
        reason = "no slot is empty: split_at refuses it"
    )]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Where it starts in its mapping, in bytes.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The mapping it is a piece of.
    #[must_use]
    pub fn mapping(&self) -> &Rc<Mapping> {
        &self.mapping
    }

    fn ptr(&self) -> NonNull<u8> {
        // SAFETY: `offset + len <= mapping.len` holds from `map` on and through every split and merge.
        unsafe { self.mapping.base.add(self.offset) }
    }

    /// Its bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `len` bytes from `ptr` are mapped and initialised (the kernel zeroes anonymous pages);
        // slots do not overlap, so only this one can hand out a `&mut` to them, and it is borrowed.
        unsafe { std::slice::from_raw_parts(self.ptr().as_ptr(), self.len) }
    }

    /// Its bytes, to write.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `&mut self` excludes every other reference.
        unsafe { std::slice::from_raw_parts_mut(self.ptr().as_ptr(), self.len) }
    }

    /// Cuts it after `at` bytes.
    ///
    /// # Panics
    /// When a part would be empty.
    #[must_use]
    pub fn split_at(self, at: usize) -> (Self, Self) {
        assert!(at > 0 && at < self.len, "cut at {at} of {}", self.len);
        let back = Self {
            mapping: Rc::clone(&self.mapping),
            offset: self.offset + at,
            len: self.len - at,
        };
        let front = Self {
            mapping: self.mapping,
            offset: self.offset,
            len: at,
        };
        (front, back)
    }

    /// Puts two neighbours together again.
    ///
    /// # Panics
    /// When `back` does not start where `front` ends.
    #[must_use]
    pub fn merge(front: Self, back: Self) -> Self {
        assert!(
            Rc::ptr_eq(&front.mapping, &back.mapping) && front.offset + front.len == back.offset,
            "only neighbours merge"
        );
        Self {
            mapping: front.mapping,
            offset: front.offset,
            len: front.len + back.len,
        }
    }

    /// Lets the kernel or another thread work on it: the loan travels, the other part stays here.
    #[must_use]
    pub fn lend(self) -> (Lent, Loan) {
        let loan = Loan {
            ptr: self.ptr(),
            len: self.len,
        };
        (Lent { slot: Some(self) }, loan)
    }
}

/// A slot whose bytes are with somebody else. Dropped without its loan, the mapping stays for ever:
/// nobody knows whether the bytes are still being used.
#[derive(Debug)]
pub struct Lent {
    slot: Option<Slot>,
}

impl Lent {
    /// Takes the loan back.
    ///
    /// # Panics
    /// When it is the loan of another slot.
    #[must_use]
    pub fn reclaim(mut self, loan: Loan) -> Slot {
        let slot = self.slot.take().expect("present until reclaimed");
        assert!(
            slot.ptr() == loan.ptr && slot.len == loan.len,
            "the loan of this slot"
        );
        slot
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // Leaks one count of the mapping, on purpose.
        std::mem::forget(self.slot.take());
    }
}

/// The bytes of a lent slot: exclusive, valid as long as this exists, and free to change threads.
#[derive(Debug)]
pub struct Loan {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: a loan has the only access to its bytes (its slot is inside a `Lent`, which gives none), and it
// touches no reference count; the mapping outlives it because a `Lent` without its loan leaks it.
unsafe impl Send for Loan {}

impl Loan {
    /// Length in bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "no slot is empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    pub(super) fn ptr(&self) -> NonNull<u8> {
        self.ptr
    }

    /// Its bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the loan is the only access to these mapped, initialised bytes.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }

    /// Its bytes, to write.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `&mut self` excludes every other reference.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Slot {
        let options = MapOptions {
            hugepages: false,
            reserved: false,
            numa_node: None,
            touch: true,
        };
        map(1, options).expect("2 MiB").0
    }

    #[test]
    fn a_mapping_is_whole_huge_pages_aligned_and_zero() {
        let slot = small();
        assert_eq!(slot.len(), HUGE_PAGE);
        assert_eq!(slot.as_slice().as_ptr().align_offset(HUGE_PAGE), 0);
        assert!(slot.as_slice().iter().all(|&b| b == 0));
    }

    #[test]
    fn parts_do_not_overlap_and_merge_to_the_whole() {
        let (mut a, mut b) = small().split_at(4096);
        a.as_mut_slice().fill(1);
        b.as_mut_slice().fill(2);
        assert!(a.as_slice().iter().all(|&x| x == 1));
        let whole = Slot::merge(a, b);
        assert_eq!((whole.len(), whole.offset()), (HUGE_PAGE, 0));
        assert_eq!(whole.as_slice()[4095..4097], [1, 2]);
    }

    #[test]
    #[should_panic(expected = "only neighbours merge")]
    fn strangers_do_not_merge() {
        let _ = Slot::merge(small(), small());
    }

    #[test]
    fn a_loan_works_on_another_thread_and_comes_back() {
        let (lent, mut loan) = small().lend();
        let loan = std::thread::spawn(move || {
            loan.as_mut_slice()[0] = 7;
            loan
        })
        .join()
        .expect("no panic");
        assert_eq!(lent.reclaim(loan).as_slice()[0], 7);
    }

    #[test]
    fn a_loan_outlives_its_lender() {
        let (lent, loan) = small().lend();
        drop(lent);
        assert_eq!(loan.as_slice()[loan.len() - 1], 0);
    }

    #[test]
    fn wishes_that_fail_become_notes() {
        let options = MapOptions {
            hugepages: true,
            reserved: true,
            numa_node: Some(4000),
            touch: false,
        };
        let (_slot, report) = map(HUGE_PAGE, options).expect("2 MiB");
        assert!(report.notes.iter().any(|n| n.contains("NUMA node 4000")));
    }
}
