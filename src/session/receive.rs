//! Where bytes of a connection land: a linear receive ring, and the memory of large payloads.

use std::io::IoSliceMut;

use super::memory::Source;
use super::task::TaskTable;
use super::turn::RECEIVED_PER_TURN;
use crate::buffer::Buffer;
use crate::pdu::frame::{Framing, PduLayout};

/// A payload of which this much is still to come goes straight to its own memory (architecture: to be
/// measured). In bytes.
pub(super) const DIRECT_FROM: usize = 16 * 1024;

/// Where a large payload goes.
#[derive(Debug)]
pub(super) enum Sink {
    /// Memory of the PDU itself.
    Own { buffer: Buffer, from: Source },
    /// The data buffer of a task, from `at`.
    Task { slot: u16, at: usize },
    /// Nowhere: nobody waits for it.
    Drop,
}

/// A PDU whose data does not go through the ring. Its header is at the ring's start; what follows the
/// data (padding, digest, next PDU) comes right behind the header.
#[derive(Debug)]
pub(super) struct Direct {
    pub(super) layout: PduLayout,
    pub(super) filled: usize,
    pub(super) sink: Sink,
}

impl Direct {
    /// Data still to come.
    pub(super) fn missing(&self) -> usize {
        self.layout.data_len - self.filled
    }
}

/// The receiving half of a connection.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) framing: Framing,
    /// Taken out while PDUs are run from it.
    pub(super) ring: Option<Buffer>,
    /// The ring, while the session is to move: without it nothing is received and no PDU is run.
    pub(super) aside: Option<Buffer>,
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) direct: Option<Direct>,
    /// Bytes in the ring that came behind a payload just taken out of it: where, and how many.
    pub(super) tail: (usize, usize),
}

impl Receiver {
    pub(super) fn new(framing: Framing, ring: Buffer) -> Self {
        Self {
            framing,
            ring: Some(ring),
            aside: None,
            start: 0,
            end: 0,
            direct: None,
            tail: (0, 0),
        }
    }

    fn capacity(&self) -> usize {
        self.ring.as_ref().map_or(0, Buffer::len)
    }

    /// The two places for the next bytes; both empty when nothing can be taken in now.
    pub(super) fn places<'a>(&'a mut self, tasks: &'a mut TaskTable) -> [IoSliceMut<'a>; 2] {
        let Some(ring) = self.ring.as_mut() else {
            return [IoSliceMut::new(&mut []), IoSliceMut::new(&mut [])];
        };
        let free = &mut ring.as_mut_slice()[self.end..];
        let Some(direct) = self.direct.as_mut() else {
            let room = free.len().min(RECEIVED_PER_TURN);
            return [IoSliceMut::new(&mut []), IoSliceMut::new(&mut free[..room])];
        };
        let (filled, len) = (direct.filled, direct.layout.data_len);
        let memory: &mut [u8] = match &mut direct.sink {
            Sink::Own { buffer, .. } => &mut buffer.as_mut_slice()[filled..len],
            Sink::Task { slot, at } => match tasks.get_mut(*slot).data.as_mut() {
                Some(data) => &mut data.as_mut_slice()[*at + filled..*at + len],
                None => &mut [],
            },
            Sink::Drop => &mut [],
        };
        // A short look-ahead: the next header, and not much of a payload that could go direct as well.
        let ahead = free.len().min(DIRECT_FROM);
        let most = memory.len().min(RECEIVED_PER_TURN - ahead);
        if most < memory.len() {
            return [
                IoSliceMut::new(&mut memory[..most]),
                IoSliceMut::new(&mut []),
            ];
        }
        [IoSliceMut::new(memory), IoSliceMut::new(&mut free[..ahead])]
    }

    /// Takes note of `len` bytes that were received into [`Self::places`]. False: more than there was room for.
    pub(super) fn note(&mut self, len: usize) -> bool {
        let mut len = len;
        if let Some(direct) = self.direct.as_mut()
            && !matches!(direct.sink, Sink::Drop)
        {
            let straight = len.min(direct.missing());
            direct.filled += straight;
            len -= straight;
        }
        if len > self.capacity() - self.end {
            return false;
        }
        self.end += len;
        self.drain_dropped();
        true
    }

    /// Forgets the data of a payload that nobody wants.
    pub(super) fn drain_dropped(&mut self) {
        let Some(direct) = self.direct.as_mut() else {
            return;
        };
        if !matches!(direct.sink, Sink::Drop) {
            return;
        }
        let at = self.start + direct.layout.data_offset;
        let gone = (self.end - at).min(direct.missing());
        direct.filled += gone;
        if gone > 0
            && let Some(ring) = self.ring.as_mut()
        {
            ring.as_mut_slice().copy_within(at + gone..self.end, at);
            self.end -= gone;
        }
    }

    /// The memory of a task goes away: what comes for it is dropped.
    pub(super) fn forget_task(&mut self, slot: u16) {
        if let Some(direct) = self.direct.as_mut()
            && matches!(direct.sink, Sink::Task { slot: s, .. } if s == slot)
        {
            direct.sink = Sink::Drop;
        }
    }

    /// Moves what came behind a payload to where the payload was.
    pub(super) fn keep_tail(&mut self) {
        let (from, len) = std::mem::take(&mut self.tail);
        if len > 0
            && let Some(ring) = self.ring.as_mut()
        {
            ring.as_mut_slice().copy_within(from..from + len, self.end);
            self.end += len;
        }
    }

    /// Moves what is left to the front, so that the free part is as large as can be.
    pub(super) fn compact(&mut self) {
        if self.start == 0 {
            return;
        }
        if self.start < self.end
            && let Some(ring) = self.ring.as_mut()
        {
            ring.as_mut_slice().copy_within(self.start..self.end, 0);
        }
        self.end -= self.start;
        self.start = 0;
    }
}
