//! Memory in big pages, near the core that uses it, cut into pieces that are owned.
//!
//! [`map`] gives one [`Slot`] that is the whole mapping. A slot is exclusive: it can be split and
//! merged, but never copied, so an allocator over slots needs no `unsafe` and cannot hand the same byte
//! out twice. To let the kernel or another thread work on a slot, [`Slot::lend`] turns it into a
//! [`Loan`] (goes to the worker) and a [`Lent`] (stays); only both together are a slot again.

mod mapping;
mod pages;

pub use mapping::{HUGE_PAGE, MapOptions, MapReport, Mapping};
pub use pages::Pages;

use std::io;
use std::ptr::NonNull;
use std::rc::Rc;

/// Maps `len` bytes and gives them as one slot.
///
/// # Errors
/// As [`Mapping::new`].
pub fn map(len: usize, options: MapOptions) -> io::Result<(Slot, MapReport)> {
    let (mapping, report) = Mapping::new(len, options)?;
    Ok((Slot::whole(mapping), report))
}

/// As [`map`], with at most so many reserved huge pages; the rest is what [`MapOptions::hugepages`] says.
///
/// # Errors
/// As [`Mapping::new`].
pub fn map_with(len: usize, reserved: usize, options: MapOptions) -> io::Result<(Slot, MapReport)> {
    let (mapping, report) = Mapping::with_reserved(len, reserved, options)?;
    Ok((Slot::whole(mapping), report))
}

/// An exclusive piece of a mapping. No byte of it belongs to any other slot.
#[derive(Debug)]
pub struct Slot {
    mapping: Rc<Mapping>,
    offset: usize,
    len: usize,
}

impl Slot {
    fn whole(mapping: Mapping) -> Self {
        let len = mapping.len();
        Self {
            mapping: Rc::new(mapping),
            offset: 0,
            len,
        }
    }

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
        unsafe { self.mapping.base().add(self.offset) }
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
    fn pages_that_are_not_reserved_are_made_up_for() {
        // More than any machine has reserved.
        let options = MapOptions {
            hugepages: true,
            reserved: true,
            numa_node: None,
            touch: true,
        };
        let free = crate::sys::topology::Topology::read(std::path::Path::new("/"));
        let free: u64 = free.nodes.iter().map(|node| node.free_hugepages).sum();
        let asked = usize::try_from(free).expect("fits") + 3;
        let (mut slot, report) =
            map_with(asked * HUGE_PAGE, asked, options).expect("ordinary memory");
        assert_eq!(slot.len(), report.bytes);
        assert_eq!(report.pages.bytes(), report.bytes);
        assert!(report.pages.reserved < report.bytes);
        assert!(
            report.notes.iter().any(|note| note.contains("huge pages")),
            "{report:?}"
        );
        slot.as_mut_slice().fill(1);
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
