//! A test double: a medium that fails as it is told.
//!
//! Memory with a volatile write cache in front. Operations complete when the backend is polled, never at
//! submission, and only while they are not held; blocks can be bad, a flush can fail, and a crash loses
//! what was not stable. It is public so that tests of every layer can use it; nothing serves it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::SeqCst};

use super::{
    AttachContext, Backend, BlockError, BlockIo, Completion, Geometry, IoTag, Medium, Submit,
};
use crate::buffer::Buffer;
use crate::sys::copy::SharedMemory;
use crate::units::{BlockSize, Blocks, Extent, Lba};

/// What is wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// Nothing.
    None,
    /// Reading it is an EIO.
    Read,
    /// Writing it is an EIO.
    Write,
    /// The medium ends before it: a short read.
    Short,
    /// There is no room to write it.
    NoSpace,
}

/// The medium, and the levers of the test.
#[derive(Debug)]
pub struct FaultMedium {
    geometry: Geometry,
    cache: SharedMemory,
    stable: SharedMemory,
    /// Blocks of the cache that are not stable.
    dirty: Box<[AtomicBool]>,
    faults: Box<[AtomicU8]>,
    /// How many flushes are still to fail.
    failing_flushes: AtomicUsize,
    poisoned: AtomicBool,
    held: AtomicBool,
    /// How many operations are still to hang as they are submitted.
    to_hang: AtomicUsize,
    /// Counts releases: what hangs does so until the next one.
    releases: AtomicUsize,
    deaf: AtomicBool,
    off: AtomicBool,
    flushes: AtomicUsize,
}

impl FaultMedium {
    /// `capacity` blocks of zeroes with nothing wrong.
    #[must_use]
    pub fn new(block_size: BlockSize, capacity: Blocks) -> Arc<Self> {
        let blocks = usize::try_from(capacity.0).expect("a test fits in memory");
        let bytes = blocks << block_size.shift();
        let memory = || {
            SharedMemory::new(bytes, false)
                .expect("memory for a test")
                .0
        };
        Arc::new(Self {
            geometry: Geometry {
                block_size,
                capacity,
                physical_block_exponent: 0,
                read_only: false,
                write_cache: true,
                forgets: false,
            },
            cache: memory(),
            stable: memory(),
            dirty: (0..blocks).map(|_| AtomicBool::new(false)).collect(),
            faults: (0..blocks).map(|_| AtomicU8::new(0)).collect(),
            failing_flushes: AtomicUsize::new(0),
            poisoned: AtomicBool::new(false),
            held: AtomicBool::new(false),
            to_hang: AtomicUsize::new(0),
            releases: AtomicUsize::new(0),
            deaf: AtomicBool::new(false),
            off: AtomicBool::new(false),
            flushes: AtomicUsize::new(0),
        })
    }

    fn index(lba: Lba) -> usize {
        usize::try_from(lba.0).expect("inside the medium")
    }

    /// Makes one block bad, or good again.
    pub fn set_fault(&self, at: Lba, fault: Fault) {
        self.faults[Self::index(at)].store(fault as u8, SeqCst);
    }

    /// The next `count` flushes fail (a write with FUA counts as one); the first that does poisons the
    /// medium until [`Self::reopen`].
    pub fn fail_flushes(&self, count: usize) {
        self.failing_flushes.store(count, SeqCst);
    }

    /// While true, no operation completes.
    pub fn hold(&self, on: bool) {
        self.held.store(on, SeqCst);
    }

    /// The next `count` operations submitted hang until [`Self::release`] or a cancel.
    pub fn hang_next(&self, count: usize) {
        self.to_hang.store(count, SeqCst);
    }

    /// Lets every operation go on, and no further one hang.
    pub fn release(&self) {
        self.to_hang.store(0, SeqCst);
        self.releases.fetch_add(1, SeqCst);
        self.held.store(false, SeqCst);
        self.deaf.store(false, SeqCst);
    }

    /// While true, a cancel has no effect, as with a device that will not give up.
    pub fn ignore_cancel(&self, on: bool) {
        self.deaf.store(on, SeqCst);
    }

    /// The power fails: what is not stable is lost, and every operation ends with [`BlockError::Gone`] until
    /// [`Self::reopen`].
    pub fn crash(&self) {
        self.off.store(true, SeqCst);
        for index in 0..self.dirty.len() {
            if self.dirty[index].swap(false, SeqCst) {
                self.copy_block(index, &self.stable, &self.cache);
            }
        }
    }

    /// Power is back; an earlier flush failure is forgotten.
    pub fn reopen(&self) {
        self.off.store(false, SeqCst);
        self.poisoned.store(false, SeqCst);
    }

    /// What is stable of one block.
    #[must_use]
    pub fn stable_block(&self, at: Lba) -> Vec<u8> {
        let size = self.geometry.block_size.bytes() as usize;
        let mut block = vec![0; size];
        self.stable.read(Self::index(at) * size, &mut block);
        block
    }

    /// How many flushes (and writes with FUA) succeeded.
    #[must_use]
    pub fn flushes(&self) -> usize {
        self.flushes.load(SeqCst)
    }

    fn copy_block(&self, index: usize, from: &SharedMemory, to: &SharedMemory) {
        let size = self.geometry.block_size.bytes() as usize;
        let mut block = [0; 4096];
        from.read(index * size, &mut block[..size]);
        to.write(index * size, &block[..size]);
    }

    /// The first block of the extent that has one of these faults.
    fn first_bad(&self, extent: Extent, faults: &[Fault]) -> Option<(Lba, u8)> {
        (extent.start().0..extent.end().0)
            .map(Lba)
            .map(|lba| (lba, self.faults[Self::index(lba)].load(SeqCst)))
            .find(|(_, fault)| faults.iter().any(|f| *f as u8 == *fault))
    }

    fn make_stable(&self, indices: std::ops::Range<usize>) -> Result<(), BlockError> {
        let fails = self
            .failing_flushes
            .fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1));
        if fails.is_ok() {
            self.poisoned.store(true, SeqCst);
            return Err(BlockError::FlushFailed);
        }
        for index in indices {
            if self.dirty[index].swap(false, SeqCst) {
                self.copy_block(index, &self.cache, &self.stable);
            }
        }
        self.flushes.fetch_add(1, SeqCst);
        Ok(())
    }

    fn run(&self, io: BlockIo, buffer: Option<&mut Buffer>) -> Result<(), BlockError> {
        let size = self.geometry.block_size;
        let place = |e: Extent| Self::index(e.start()) << size.shift();
        if self.off.load(SeqCst) {
            return Err(BlockError::Gone);
        }
        if self.poisoned.load(SeqCst) && matches!(io, BlockIo::Write { .. } | BlockIo::Flush) {
            return Err(BlockError::FlushFailed);
        }
        match (io, buffer) {
            (BlockIo::Read(extent), Some(buffer)) => {
                if let Some((at, _)) = self.first_bad(extent, &[Fault::Read, Fault::Short]) {
                    return Err(BlockError::Medium { at });
                }
                let len = super::transfer_len(extent, size, buffer.len());
                self.cache
                    .read(place(extent), &mut buffer.as_mut_slice()[..len]);
                Ok(())
            }
            (BlockIo::Write { extent, fua }, Some(buffer)) => {
                match self.first_bad(extent, &[Fault::Write, Fault::NoSpace]) {
                    Some((_, fault)) if fault == Fault::NoSpace as u8 => {
                        return Err(BlockError::NoSpace);
                    }
                    Some((at, _)) => return Err(BlockError::Medium { at }),
                    None => {}
                }
                let len = super::transfer_len(extent, size, buffer.len());
                self.cache.write(place(extent), &buffer.as_slice()[..len]);
                let blocks = Self::index(extent.start())..Self::index(extent.end());
                for dirty in &self.dirty[blocks.clone()] {
                    dirty.store(true, SeqCst);
                }
                if fua {
                    self.make_stable(blocks)
                } else {
                    Ok(())
                }
            }
            (BlockIo::Flush, _) => self.make_stable(0..self.dirty.len()),
            _ => Ok(()),
        }
    }
}

impl Medium for FaultMedium {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn describe(&self) -> String {
        "fault:test".to_owned()
    }

    fn attach(self: Arc<Self>, context: &AttachContext) -> std::io::Result<Box<dyn Backend>> {
        Ok(Box::new(FaultBackend {
            queue: VecDeque::with_capacity(context.depth.max(1) as usize),
            medium: self,
        }))
    }

    fn flush(&self) -> std::io::Result<()> {
        self.run(BlockIo::Flush, None)
            .map_err(std::io::Error::other)
    }
}

#[derive(Debug)]
struct FaultBackend {
    medium: Arc<FaultMedium>,
    queue: VecDeque<Queued>,
}

#[derive(Debug)]
struct Queued {
    tag: IoTag,
    io: BlockIo,
    buffer: Option<Buffer>,
    /// Hangs until there have been so many releases.
    until: usize,
    cancelled: bool,
}

impl Backend for FaultBackend {
    fn submit(&mut self, tag: IoTag, io: BlockIo, buffer: Option<Buffer>) -> Submit {
        if self.queue.len() == self.queue.capacity() {
            return Submit::Full(buffer);
        }
        let hangs = self
            .medium
            .to_hang
            .fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1))
            .is_ok();
        let until = self.medium.releases.load(SeqCst) + usize::from(hangs);
        self.queue.push_back(Queued {
            tag,
            io,
            buffer,
            until,
            cancelled: false,
        });
        Submit::Pending
    }

    fn poll(&mut self, done: &mut dyn FnMut(Completion)) -> usize {
        let mut count = 0;
        for _ in 0..self.queue.len() {
            let Some(mut op) = self.queue.pop_front() else {
                break;
            };
            let released = self.medium.releases.load(SeqCst) >= op.until;
            let waits = !released || self.medium.held.load(SeqCst);
            if waits && !op.cancelled {
                self.queue.push_back(op);
                continue;
            }
            let result = if op.cancelled {
                Err(BlockError::Cancelled)
            } else {
                self.medium.run(op.io, op.buffer.as_mut())
            };
            done(Completion {
                tag: op.tag,
                result,
                buffer: op.buffer,
            });
            count += 1;
        }
        count
    }

    fn in_flight(&self) -> usize {
        self.queue.len()
    }

    fn cancel(&mut self, tag: IoTag) {
        if self.medium.deaf.load(SeqCst) {
            return;
        }
        if let Some(op) = self.queue.iter_mut().find(|op| op.tag == tag) {
            op.cancelled = true;
        }
    }
}
