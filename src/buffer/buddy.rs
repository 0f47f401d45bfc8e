//! The buddy allocator: owned slots in, owned slots out. Safe code: it could lose memory, not share it.

use super::{CHUNK, LARGEST, SMALLEST};
use crate::sys::hugepage::Slot;

/// Orders there are: 4 KiB is order 0, 1 MiB is the last.
pub(super) const ORDERS: usize = (LARGEST / SMALLEST).ilog2() as usize + 1;
/// The order of a [`CHUNK`].
pub(super) const CHUNK_ORDER: usize = (CHUNK / SMALLEST).ilog2() as usize;
/// End of a list.
const NONE: u32 = u32::MAX;

/// The smallest order whose blocks hold `len` bytes; the largest order when none does.
pub(super) fn order_for(len: usize) -> usize {
    let pages = len.div_ceil(SMALLEST).max(1).next_power_of_two();
    (pages.ilog2() as usize).min(ORDERS - 1)
}

/// Bytes in a block of `order`.
pub(super) const fn bytes_of(order: usize) -> usize {
    SMALLEST << order
}

/// How many whole chunks a free block of `order` is.
const fn chunks_in(order: usize) -> usize {
    if order >= CHUNK_ORDER {
        1 << (order - CHUNK_ORDER)
    } else {
        0
    }
}

/// One per smallest block: the free block that starts there, and its neighbours in its order's list.
struct Entry {
    slot: Option<Slot>,
    previous: u32,
    next: u32,
}

/// Free blocks of one mapping.
pub(super) struct Buddy {
    entries: Vec<Entry>,
    heads: [u32; ORDERS],
    /// Wholly free chunks in the lists.
    chunks: usize,
}

impl Buddy {
    /// An allocator that owns `slot`, whose length must be a multiple of [`LARGEST`].
    pub(super) fn new(slot: Slot) -> Self {
        let pages = slot.len() / SMALLEST;
        assert!(slot.len().is_multiple_of(LARGEST) && u32::try_from(pages).is_ok());
        let mut entries = Vec::with_capacity(pages);
        entries.resize_with(pages, || Entry {
            slot: None,
            previous: NONE,
            next: NONE,
        });
        let mut buddy = Self {
            entries,
            heads: [NONE; ORDERS],
            chunks: 0,
        };
        // From the back, so that the lowest addresses are taken first.
        let mut rest = slot;
        while rest.len() > LARGEST {
            let at = rest.len() - LARGEST;
            let (front, block) = rest.split_at(at);
            buddy.push(block);
            rest = front;
        }
        buddy.push(rest);
        buddy
    }

    /// Wholly free chunks.
    pub(super) fn free_chunks(&self) -> usize {
        self.chunks
    }

    /// The order of the free block that `take(order)` would cut, and how many free chunks that costs.
    pub(super) fn cost(&self, order: usize) -> Option<usize> {
        let from = (order..ORDERS).find(|&o| self.heads[o] != NONE)?;
        Some(match (from >= CHUNK_ORDER, order >= CHUNK_ORDER) {
            (true, true) => chunks_in(order),
            (true, false) => 1,
            (false, _) => 0,
        })
    }

    /// A block of `order`: the last one freed of the smallest order that will do.
    pub(super) fn take(&mut self, order: usize) -> Option<Slot> {
        let from = (order..ORDERS).find(|&o| self.heads[o] != NONE)?;
        let mut slot = self.unlink(self.heads[from]);
        for smaller in (order..from).rev() {
            let (front, back) = slot.split_at(bytes_of(smaller));
            self.push(back);
            slot = front;
        }
        Some(slot)
    }

    /// Gives a block back, and joins it with its free neighbours.
    pub(super) fn give(&mut self, slot: Slot) {
        let mut slot = slot;
        while slot.len() < LARGEST {
            let buddy = index_of(slot.offset() ^ slot.len());
            let free = self.entries[buddy as usize].slot.as_ref();
            if free.is_none_or(|b| b.len() != slot.len()) {
                break;
            }
            let other = self.unlink(buddy);
            slot = if other.offset() < slot.offset() {
                Slot::merge(other, slot)
            } else {
                Slot::merge(slot, other)
            };
        }
        self.push(slot);
    }

    fn push(&mut self, slot: Slot) {
        let order = order_for(slot.len());
        let index = index_of(slot.offset());
        let next = self.heads[order];
        self.chunks += chunks_in(order);
        self.entries[index as usize] = Entry {
            slot: Some(slot),
            previous: NONE,
            next,
        };
        if next != NONE {
            self.entries[next as usize].previous = index;
        }
        self.heads[order] = index;
    }

    fn unlink(&mut self, index: u32) -> Slot {
        let entry = &mut self.entries[index as usize];
        let slot = entry.slot.take().expect("only free blocks are linked");
        let (previous, next) = (entry.previous, entry.next);
        let order = order_for(slot.len());
        self.chunks -= chunks_in(order);
        if previous == NONE {
            self.heads[order] = next;
        } else {
            self.entries[previous as usize].next = next;
        }
        if next != NONE {
            self.entries[next as usize].previous = previous;
        }
        slot
    }
}

fn index_of(offset: usize) -> u32 {
    u32::try_from(offset / SMALLEST).expect("checked in new")
}
