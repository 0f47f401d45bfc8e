//! The budget of one core: a buddy allocator, and the promises made on it.
//!
//! The invariant: wholly free chunks >= chunks promised + one kept for scratch (comparing commands), where
//! the scratch chunk may be out, but is then owed first. So a promised buffer is always there.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use super::buddy::{Buddy, ORDERS, bytes_of, order_for};
use super::{Buffer, CHUNK, LARGEST};
use crate::sys::hugepage::{self, MapOptions, Mapping, Pages, Slot};

/// How much, and where.
#[derive(Clone, Copy, Debug)]
pub struct PoolConfig {
    /// Bytes wanted; rounded up to a multiple of 2 MiB.
    pub bytes: usize,
    /// NUMA node of the core that will use it.
    pub numa_node: Option<u32>,
    /// Try huge pages.
    pub hugepages: bool,
}

/// What was got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolReport {
    /// Bytes in the pool.
    pub bytes: usize,
    /// Kinds of pages.
    pub pages: Pages,
    /// The NUMA node it is bound to.
    pub node: Option<u32>,
    /// What was wished for and is not so, in sentences.
    pub notes: Vec<String>,
}

/// Blocks of each order kept uncut and unjoined, so that take-drop-take is a push and a pop.
const KEPT: usize = 16;
/// Blocks longer than this order are never kept: they are worth many chunks.
const KEPT_ORDERS: usize = 7;

/// The buffers of one core. Clones are the same pool.
#[derive(Clone)]
pub struct Pool(Rc<Inner>);

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("total_bytes", &self.total_bytes())
            .finish_non_exhaustive()
    }
}

struct Inner {
    state: RefCell<State>,
    mapping: Rc<Mapping>,
    total: usize,
}

struct State {
    buddy: Buddy,
    /// Recently freed blocks by order; their chunks count as used.
    kept: [Vec<Slot>; KEPT_ORDERS],
    free_bytes: usize,
    promised: usize,
}

impl Pool {
    /// Maps the memory and touches all of it; in reserved huge pages, if there are enough.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(config: PoolConfig) -> io::Result<(Self, PoolReport)> {
        Self::with_reserved(config, usize::MAX)
    }

    /// As [`Self::new`], with so many reserved huge pages of 2 MiB at most: its part of those that several pools share.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn with_reserved(config: PoolConfig, pages: usize) -> io::Result<(Self, PoolReport)> {
        let options = MapOptions {
            hugepages: config.hugepages,
            reserved: true,
            numa_node: config.numa_node,
            touch: true,
        };
        let (slot, report) = hugepage::map_with(config.bytes.max(LARGEST), pages, options)?;
        let total = slot.len();
        let mapping = Rc::clone(slot.mapping());
        let state = State {
            buddy: Buddy::new(slot),
            kept: std::array::from_fn(|_| Vec::with_capacity(KEPT)),
            free_bytes: total,
            promised: 0,
        };
        let pool = Self(Rc::new(Inner {
            state: RefCell::new(state),
            mapping,
            total,
        }));
        let report = PoolReport {
            bytes: report.bytes,
            pages: report.pages,
            node: report.node,
            notes: report.notes,
        };
        Ok((pool, report))
    }

    /// A buffer of `wanted` bytes, rounded up to a power of two, if there is one; else the largest there
    /// is, of at least `least` bytes. Never touches what is promised. A wish beyond [`LARGEST`] counts as
    /// [`LARGEST`].
    #[must_use]
    pub fn take(&self, wanted: usize, least: usize) -> Option<Buffer> {
        self.take_keeping(wanted, least, 1)
    }

    /// As [`Self::take`], but it may use the one chunk the pool keeps so that a comparing command
    /// can always go on.
    #[must_use]
    pub fn take_scratch(&self, len: usize) -> Option<Buffer> {
        self.take_keeping(len, len, 0)
    }

    fn take_keeping(&self, wanted: usize, least: usize, scratch: usize) -> Option<Buffer> {
        if least > LARGEST {
            return None;
        }
        let mut state = self.0.state.borrow_mut();
        let slot = state
            .take(order_for(wanted), scratch)
            .or_else(|| state.take_less(order_for(wanted), order_for(least), scratch))?;
        drop(state);
        Some(self.buffer(slot))
    }

    /// Reserves one [`CHUNK`]; false when there is none to give.
    #[must_use]
    pub fn promise(&self) -> bool {
        let mut state = self.0.state.borrow_mut();
        if state.buddy.free_chunks() < state.promised + 2 {
            state.join_kept();
        }
        let possible = state.buddy.free_chunks() >= state.promised + 2;
        state.promised += usize::from(possible);
        possible
    }

    /// Gives a promise back unspent.
    ///
    /// # Panics
    /// When none is outstanding.
    pub fn unpromise(&self) {
        let mut state = self.0.state.borrow_mut();
        assert!(state.promised > 0, "no promise is outstanding");
        state.promised -= 1;
    }

    /// Spends one promise on a buffer of at least `len` bytes. Cannot fail.
    ///
    /// # Panics
    /// When no promise is outstanding or `len` is more than [`CHUNK`].
    #[must_use]
    pub fn take_promised(&self, len: usize) -> Buffer {
        let mut state = self.0.state.borrow_mut();
        assert!(len <= CHUNK, "a promise is worth {CHUNK} bytes, not {len}");
        assert!(state.promised > 0, "no promise is outstanding");
        state.promised -= 1;
        let slot = state
            .pop(order_for(len))
            .expect("promised chunks are free until taken");
        drop(state);
        self.buffer(slot)
    }

    /// Makes a promise of a buffer of a whole [`CHUNK`] again. Cannot fail.
    ///
    /// # Panics
    /// When the buffer is smaller.
    pub fn promise_again(&self, buffer: Buffer) {
        assert_eq!(buffer.len(), CHUNK, "a promise is worth a chunk");
        drop(buffer);
        let mut state = self.0.state.borrow_mut();
        if state.buddy.free_chunks() <= state.promised {
            state.join_kept();
        }
        state.promised += 1;
        debug_assert!(state.buddy.free_chunks() >= state.promised);
    }

    /// Bytes that are not in a buffer, promised or not.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.0.state.borrow().free_bytes
    }

    /// Bytes in the pool.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        self.0.total
    }

    /// Promises outstanding; each is worth [`CHUNK`] bytes.
    #[must_use]
    pub fn promised(&self) -> usize {
        self.0.state.borrow().promised
    }

    /// The mapping behind it, for registering it with the core's ring.
    #[must_use]
    pub fn mapping(&self) -> &Rc<Mapping> {
        &self.0.mapping
    }

    fn buffer(&self, slot: Slot) -> Buffer {
        Buffer {
            slot: Some(slot),
            home: self.clone(),
        }
    }

    pub(super) fn put_back(&self, slot: Slot) {
        self.0.state.borrow_mut().put_back(slot);
    }
}

impl State {
    /// A block of exactly `order`, if promises and `scratch` chunks stay covered.
    fn take(&mut self, order: usize, scratch: usize) -> Option<Slot> {
        let kept = self.kept.get(order).is_some_and(|k| !k.is_empty());
        if !kept && !self.affordable(order, scratch) {
            self.join_kept();
            if !self.affordable(order, scratch) {
                return None;
            }
        }
        self.pop(order)
    }

    /// The largest block below `wanted` and not below `least`. Kept blocks were joined by `take`.
    fn take_less(&mut self, wanted: usize, least: usize, scratch: usize) -> Option<Slot> {
        let order = (least..wanted)
            .rev()
            .find(|&o| self.affordable(o, scratch))?;
        self.pop(order)
    }

    fn affordable(&self, order: usize, scratch: usize) -> bool {
        self.buddy.cost(order).is_some_and(|cost| {
            cost == 0 || self.buddy.free_chunks() >= self.promised + scratch + cost
        })
    }

    fn pop(&mut self, order: usize) -> Option<Slot> {
        let slot = match self.kept.get_mut(order).and_then(Vec::pop) {
            Some(slot) => slot,
            None => self.buddy.take(order)?,
        };
        self.free_bytes -= bytes_of(order);
        Some(slot)
    }

    fn put_back(&mut self, slot: Slot) {
        self.free_bytes += slot.len();
        match self.kept.get_mut(order_for(slot.len())) {
            Some(kept) if kept.len() < KEPT => kept.push(slot),
            _ => self.buddy.give(slot),
        }
    }

    /// Joins what was kept with its neighbours: at most `KEPT * KEPT_ORDERS` steps.
    fn join_kept(&mut self) {
        for order in 0..KEPT_ORDERS {
            while let Some(slot) = self.kept[order].pop() {
                self.buddy.give(slot);
            }
        }
    }
}

const _: () = assert!(KEPT_ORDERS <= ORDERS);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::SMALLEST;
    use proptest::prelude::*;

    fn pool(bytes: usize) -> Pool {
        let config = PoolConfig {
            bytes,
            numa_node: None,
            hugepages: false,
        };
        Pool::new(config).expect("memory").0
    }

    #[test]
    fn a_buffer_is_aligned_and_a_power_of_two() {
        let pool = pool(2 << 20);
        for (wanted, len) in [
            (0, 4096),
            (1, 4096),
            (4097, 8192),
            (70_000, 131_072),
            (9 << 20, LARGEST),
        ] {
            let buffer = pool.take(wanted, 1).expect("there is room");
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_slice().as_ptr().align_offset(4096), 0);
        }
        assert_eq!(pool.free_bytes(), pool.total_bytes());
    }

    #[test]
    fn the_last_buffer_dropped_is_the_next_one_taken() {
        let pool = pool(2 << 20);
        let at = |b: &Buffer| b.as_slice().as_ptr() as usize;
        let (first, second) = (
            pool.take(4096, 1).expect("room"),
            pool.take(4096, 1).expect("room"),
        );
        let place = at(&first);
        drop(second);
        drop(first);
        assert_eq!(at(&pool.take(4096, 1).expect("room")), place);
    }

    #[test]
    fn less_is_given_when_the_wish_is_too_large() {
        let pool = pool(2 << 20);
        let _half = pool.take(LARGEST, LARGEST).expect("room");
        // One chunk is kept for scratch, so not a second whole half.
        assert!(pool.take(LARGEST, LARGEST).is_none());
        assert_eq!(pool.take(LARGEST, 4096).expect("some").len(), LARGEST / 2);
        assert!(pool.take(2 * LARGEST, 2 * LARGEST).is_none());
    }

    #[test]
    fn scratch_is_there_when_everything_else_is_gone() {
        let pool = pool(2 << 20);
        let mut all = Vec::new();
        while let Some(buffer) = pool.take(LARGEST, SMALLEST) {
            all.push(buffer);
        }
        let scratch = pool.take_scratch(CHUNK).expect("the chunk kept for it");
        assert!(pool.take_scratch(CHUNK).is_none());
        assert!(!pool.promise());
        drop(scratch);
        assert!(pool.take_scratch(CHUNK).is_some());
    }

    #[test]
    fn a_pool_of_promises_serves_them_all() {
        let pool = pool(2 << 20);
        let mut promises = 0;
        while pool.promise() {
            promises += 1;
        }
        assert_eq!(promises, (2 << 20) / CHUNK - 1);
        assert!(pool.take(1, 1).is_none());
        let buffers: Vec<_> = (0..promises).map(|_| pool.take_promised(CHUNK)).collect();
        drop(buffers);
        assert_eq!(pool.free_bytes(), pool.total_bytes());
    }

    #[test]
    fn a_lent_buffer_comes_home() {
        let pool = pool(2 << 20);
        let (lent, loan) = pool.take(4096, 4096).expect("room").lend();
        assert_eq!(pool.free_bytes(), pool.total_bytes() - 4096);
        drop(lent.reclaim(loan));
        assert_eq!(pool.free_bytes(), pool.total_bytes());
    }

    #[derive(Clone, Debug)]
    enum Act {
        Take(usize, usize),
        Scratch(usize),
        Drop(usize),
        Promise,
        Unpromise,
        Spend(usize),
    }

    fn act() -> impl Strategy<Value = Act> {
        let len = prop_oneof![1..8192usize, 1..CHUNK, 1..LARGEST];
        prop_oneof![
            4 => (len.clone(), 1..CHUNK).prop_map(|(a, b)| Act::Take(a, b.min(a))),
            1 => len.prop_map(Act::Scratch),
            4 => any::<usize>().prop_map(Act::Drop),
            2 => Just(Act::Promise),
            1 => Just(Act::Unpromise),
            1 => (1..=CHUNK).prop_map(Act::Spend),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Buffers never overlap, promised ones are always there, and in the end all is one again.
        #[test]
        fn any_sequence_keeps_the_promises(acts in prop::collection::vec(act(), 0..400)) {
            let pool = pool(4 << 20);
            let mut held: Vec<(Buffer, u8)> = Vec::new();
            let mut promised = 0;
            for (n, act) in acts.into_iter().enumerate() {
                let mark = u8::try_from(n % 251).expect("below 251");
                let mut got = None;
                match act {
                    Act::Take(wanted, least) => {
                        got = pool.take(wanted, least);
                        if let Some(b) = &got { prop_assert!(b.len() >= least); }
                    }
                    Act::Scratch(len) => got = pool.take_scratch(len),
                    Act::Drop(i) if !held.is_empty() => {
                        let (buffer, mark) = held.swap_remove(i % held.len());
                        prop_assert!(buffer.as_slice()[..64].iter().all(|&b| b == mark));
                        prop_assert!(buffer.as_slice()[buffer.len() - 64..].iter().all(|&b| b == mark));
                    }
                    Act::Promise => promised += usize::from(pool.promise()),
                    Act::Unpromise if promised > 0 => { pool.unpromise(); promised -= 1; }
                    Act::Spend(len) if promised > 0 => {
                        promised -= 1;
                        got = Some(pool.take_promised(len));
                    }
                    _ => {}
                }
                if let Some(mut buffer) = got {
                    buffer.as_mut_slice().fill(mark);
                    held.push((buffer, mark));
                }
                prop_assert_eq!(pool.promised(), promised);
            }
            for _ in 0..promised { held.push((pool.take_promised(CHUNK), 0)); }
            let mut ranges: Vec<_> = held.iter().map(|(b, _)| b.as_slice().as_ptr_range()).collect();
            ranges.sort_by_key(|r| r.start);
            prop_assert!(ranges.windows(2).all(|w| w[0].end <= w[1].start));
            drop(held);
            prop_assert_eq!(pool.free_bytes(), pool.total_bytes());
            let whole: Vec<_> = std::iter::from_fn(|| pool.take_scratch(LARGEST)).collect();
            prop_assert_eq!(whole.len(), 4);
        }
    }
}
