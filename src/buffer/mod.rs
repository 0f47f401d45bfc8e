//! Hugepage, NUMA-local buffers of one core.
//!
//! A [`Pool`] is one mapping, cut by a buddy allocator into page-aligned power-of-two blocks from
//! [`SMALLEST`] to [`LARGEST`]. Nothing is allocated when a buffer is taken or dropped, and running out
//! is an answer, never an abort: what must not fail is *promised* beforehand, a [`CHUNK`] each.

mod buddy;
mod pool;

pub use crate::sys::hugepage::Pages;
pub use pool::{Pool, PoolConfig, PoolReport};

use crate::sys::hugepage::{Lent, Loan, Slot};

/// Shortest buffer, in bytes: one page, what O_DIRECT may ask for.
pub const SMALLEST: usize = 4 * 1024;
/// What a promise is worth, in bytes.
pub const CHUNK: usize = 64 * 1024;
/// Longest contiguous buffer, in bytes.
pub const LARGEST: usize = 1 << 20;

/// A piece of the pool's memory; goes back when dropped. Page-aligned, a power of two long. What is in
/// it is what its last user left.
#[derive(Debug)]
pub struct Buffer {
    slot: Option<Slot>,
    home: Pool,
}

impl Buffer {
    fn slot(&self) -> &Slot {
        self.slot.as_ref().expect("only Drop and lend take it")
    }

    /// Length in bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "no buffer is empty")]
    pub fn len(&self) -> usize {
        self.slot().len()
    }

    /// Its bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.slot().as_slice()
    }

    /// Its bytes, to write.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.slot
            .as_mut()
            .expect("only Drop and lend take it")
            .as_mut_slice()
    }

    /// Lets the kernel or another thread work on it: the loan travels, the other part stays here.
    #[must_use]
    pub fn lend(mut self) -> (LentBuffer, Loan) {
        let (lent, loan) = self.slot.take().expect("only Drop and lend take it").lend();
        let home = self.home.clone();
        (LentBuffer { lent, home }, loan)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        self.as_mut_slice()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.home.put_back(slot);
        }
    }
}

/// A buffer whose bytes are with somebody else. Dropped without its loan, its memory never comes back to
/// the pool, because nobody knows whether it is still being used.
#[derive(Debug)]
pub struct LentBuffer {
    lent: Lent,
    home: Pool,
}

impl LentBuffer {
    /// Takes the loan back.
    ///
    /// # Panics
    /// When it is the loan of another buffer.
    #[must_use]
    pub fn reclaim(self, loan: Loan) -> Buffer {
        Buffer {
            slot: Some(self.lent.reclaim(loan)),
            home: self.home,
        }
    }
}
