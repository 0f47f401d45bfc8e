//! Operations in flight of one backend: a fixed table, so that nothing is allocated per operation.

use super::{BlockError, BlockIo, Completion, IoTag};
use crate::buffer::{Buffer, LentBuffer};
use crate::sys::hugepage::Loan;

/// Operations in flight; `S` is what the backend must remember of one.
#[derive(Debug)]
pub(super) struct Table<S> {
    entries: Vec<Option<Entry<S>>>,
    free: Vec<u32>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Entry<S> {
    pub(super) tag: IoTag,
    pub(super) io: BlockIo,
    pub(super) state: S,
    /// The bytes, while the kernel does something that does not need them.
    pub(super) held: Option<Loan>,
    lent: Option<LentBuffer>,
}

impl<S> Table<S> {
    pub(super) fn new(depth: u32) -> Self {
        let depth = depth.max(1);
        Self {
            entries: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Enters an operation; its buffer's bytes come back as a loan.
    pub(super) fn insert(
        &mut self,
        tag: IoTag,
        io: BlockIo,
        state: S,
        buffer: Option<Buffer>,
    ) -> (u32, Option<Loan>) {
        let index = self
            .free
            .pop()
            .expect("the caller asked whether it is full");
        let (lent, loan) = buffer.map(Buffer::lend).unzip();
        self.entries[index as usize] = Some(Entry {
            tag,
            io,
            state,
            held: None,
            lent,
        });
        (index, loan)
    }

    pub(super) fn get_mut(&mut self, index: u32) -> &mut Entry<S> {
        self.entries[index as usize].as_mut().expect("in flight")
    }

    /// Which operation has this tag.
    pub(super) fn find(&self, tag: IoTag) -> Option<u32> {
        (0u32..)
            .zip(&self.entries)
            .find(|(_, e)| e.as_ref().is_some_and(|e| e.tag == tag))
            .map(|(index, _)| index)
    }

    /// Takes it out again, with its buffer.
    pub(super) fn remove(&mut self, index: u32, loan: Option<Loan>) -> (IoTag, Option<Buffer>) {
        let entry = self.entries[index as usize].take().expect("in flight");
        self.free.push(index);
        let loan = loan.or(entry.held);
        let buffer = entry.lent.zip(loan).map(|(lent, loan)| lent.reclaim(loan));
        (entry.tag, buffer)
    }

    /// Takes it out as it is handed back.
    pub(super) fn complete(
        &mut self,
        index: u32,
        result: Result<(), BlockError>,
        loan: Option<Loan>,
    ) -> Completion {
        let (tag, buffer) = self.remove(index, loan);
        Completion {
            tag,
            result,
            buffer,
        }
    }
}
