//! A medium that does what the test says: at once, later, in any order, with errors, or never.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use ringtgt::backend::{Backend, BlockError, BlockIo, Completion, Geometry, IoTag, Submit};
use ringtgt::buffer::Buffer;
use ringtgt::units::{BlockSize, Blocks, Extent, Lba};

use super::random::Random;

/// When operations end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Within `submit`.
    AtOnce,
    /// At the next `poll`, in a random order.
    Later,
    /// At some `poll`, in a random order.
    Whenever,
    /// When the test calls [`Disk::release`].
    Held,
}

#[derive(Debug)]
struct State {
    bytes: Vec<u8>,
    geometry: Geometry,
    pace: Pace,
    /// Operations that may end although they are held.
    released: usize,
    /// Operations a backend takes before it is full.
    depth: usize,
    /// Whether a held operation can be cancelled.
    cancels: bool,
    /// What an operation that touches this block ends with.
    errors: BTreeMap<u64, BlockError>,
    /// Every operation that was submitted, in order.
    log: Vec<BlockIo>,
    in_flight: usize,
}

/// A medium shared by the shards of a test.
#[derive(Clone, Debug)]
pub struct Disk(Arc<Mutex<State>>);

impl Disk {
    /// `blocks` blocks of zeros.
    pub fn new(block_size: BlockSize, blocks: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            bytes: vec![0; usize::try_from(block_size.bytes_of(Blocks(blocks)).unwrap()).unwrap()],
            geometry: Geometry {
                block_size,
                capacity: Blocks(blocks),
                physical_block_exponent: 0,
                read_only: false,
                write_cache: true,
                forgets: false,
            },
            pace: Pace::AtOnce,
            released: 0,
            depth: usize::MAX,
            cancels: true,
            errors: BTreeMap::new(),
            log: Vec::new(),
            in_flight: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn geometry(&self) -> Geometry {
        self.state().geometry
    }

    pub fn set_pace(&self, pace: Pace) {
        self.state().pace = pace;
    }

    pub fn set_depth(&self, depth: usize) {
        self.state().depth = depth;
    }

    /// Held operations cannot be cancelled from now on.
    pub fn never_cancel(&self) {
        self.state().cancels = false;
    }

    /// Lets `count` held operations end.
    pub fn release(&self, count: usize) {
        self.state().released += count;
    }

    /// Every operation on `lba` ends with `error`.
    pub fn fail(&self, lba: u64, error: BlockError) {
        self.state().errors.insert(lba, error);
    }

    /// The medium's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    /// Fills the medium.
    pub fn fill(&self, bytes: &[u8]) {
        self.state().bytes.copy_from_slice(bytes);
    }

    /// The operations submitted since the last call.
    pub fn take_log(&self) -> Vec<BlockIo> {
        std::mem::take(&mut self.state().log)
    }

    /// Operations that were submitted and have not ended.
    pub fn in_flight(&self) -> usize {
        self.state().in_flight
    }

    /// A shard's handle on it.
    pub fn attach(&self, seed: u64) -> Box<dyn Backend> {
        Box::new(Attached {
            disk: self.clone(),
            pending: Vec::new(),
            random: Random::new(seed),
        })
    }
}

impl State {
    fn run(&mut self, io: BlockIo, buffer: &mut Option<Buffer>) -> Result<(), BlockError> {
        let (extent, write) = match io {
            BlockIo::Read(extent) => (extent, false),
            BlockIo::Write { extent, .. } => (extent, true),
            _ => return Ok(()),
        };
        let touched = extent.start().0..extent.end().0;
        if let Some((_, &error)) = self.errors.range(touched).next() {
            return Err(error);
        }
        let place = self.place(extent);
        let len = place.len();
        if len == 0 {
            return Ok(());
        }
        let buffer = buffer
            .as_mut()
            .expect("an operation with data has a buffer");
        if write {
            self.bytes[place].copy_from_slice(&buffer.as_slice()[..len]);
        } else {
            buffer.as_mut_slice()[..len].copy_from_slice(&self.bytes[place]);
        }
        Ok(())
    }

    fn place(&self, extent: Extent) -> std::ops::Range<usize> {
        let size = self.geometry.block_size;
        let start = usize::try_from(extent.byte_start(size)).unwrap();
        start..start + usize::try_from(extent.byte_len(size)).unwrap()
    }
}

#[derive(Debug)]
struct Pending {
    tag: IoTag,
    io: BlockIo,
    buffer: Option<Buffer>,
    cancelled: bool,
}

#[derive(Debug)]
struct Attached {
    disk: Disk,
    pending: Vec<Pending>,
    random: Random,
}

impl Backend for Attached {
    fn submit(&mut self, tag: IoTag, io: BlockIo, mut buffer: Option<Buffer>) -> Submit {
        let mut state = self.disk.state();
        if self.pending.len() >= state.depth {
            return Submit::Full(buffer);
        }
        assert!(self.pending.iter().all(|p| p.tag != tag), "a tag in use");
        state.log.push(io);
        if state.pace == Pace::AtOnce {
            let result = state.run(io, &mut buffer);
            return Submit::Done(Completion {
                tag,
                result,
                buffer,
            });
        }
        state.in_flight += 1;
        self.pending.push(Pending {
            tag,
            io,
            buffer,
            cancelled: false,
        });
        Submit::Pending
    }

    fn poll(&mut self, done: &mut dyn FnMut(Completion)) -> usize {
        self.random.shuffle(&mut self.pending);
        let mut count = 0;
        let mut index = 0;
        while index < self.pending.len() {
            let mut state = self.disk.state();
            let ends = self.pending[index].cancelled
                || match state.pace {
                    Pace::AtOnce | Pace::Later => true,
                    Pace::Whenever => self.random.below(3) == 0,
                    Pace::Held => {
                        let may = state.released > 0;
                        state.released = state.released.saturating_sub(1);
                        may
                    }
                };
            if !ends {
                index += 1;
                continue;
            }
            let mut pending = self.pending.swap_remove(index);
            state.in_flight -= 1;
            let result = if pending.cancelled {
                Err(BlockError::Cancelled)
            } else {
                state.run(pending.io, &mut pending.buffer)
            };
            drop(state);
            done(Completion {
                tag: pending.tag,
                result,
                buffer: pending.buffer,
            });
            count += 1;
        }
        count
    }

    fn in_flight(&self) -> usize {
        self.pending.len()
    }

    fn cancel(&mut self, tag: IoTag) {
        if self.disk.state().cancels
            && let Some(pending) = self.pending.iter_mut().find(|p| p.tag == tag)
        {
            pending.cancelled = true;
        }
    }
}

/// The error of a block that cannot be read or written.
pub fn medium_error(lba: u64) -> BlockError {
    BlockError::Medium { at: Lba(lba) }
}

/// First block of an operation that has an extent.
pub fn start_of(io: &BlockIo) -> Option<u64> {
    match io {
        BlockIo::Read(extent) | BlockIo::Prefetch(extent) | BlockIo::Write { extent, .. } => {
            Some(extent.start().0)
        }
        BlockIo::Flush => None,
    }
}
