//! Media: run a block operation now, or complete it later.
//!
//! Control opens a [`Medium`] (that may block) and every reactor that needs it attaches to it (that may
//! not), which gives the reactor a [`Backend`] of its own. A backend knows blocks and buffers; it never
//! sees a CDB, sense data or a session.

mod claim;
mod disk;
pub mod fault;
pub mod file;
pub mod iouring;
pub mod null;
pub mod offload;
pub mod ram;
pub mod spec;
mod table;
#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::rc::Rc;
use std::sync::Arc;

use crate::buffer::{Buffer, Piece};
use crate::sys::copy::SharedMemory;
use crate::units::{BlockSize, Blocks, Extent, Lba};

/// What control must know of a medium once it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes per logical block.
    pub block_size: BlockSize,
    /// How many blocks there are.
    pub capacity: Blocks,
    /// log2 of logical blocks per physical block (SBC-4, READ CAPACITY(16)).
    pub physical_block_exponent: u8,
    /// Nothing may be written.
    pub read_only: bool,
    /// A completed write may still be lost until a flush: the write cache of SBC-4, section 4.15.
    pub write_cache: bool,
    /// Blocks are never stored (the `null` backend): what would promise otherwise is refused.
    pub forgets: bool,
}

/// One operation on a medium. Its buffer, where it has one, is at least as long as the extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockIo {
    /// Fill the start of the buffer from the extent.
    Read(Extent),
    /// Write the start of the buffer to the extent; with `fua` it is stable when it completes.
    Write {
        /// Where to.
        extent: Extent,
        /// Force unit access: complete only when the blocks survive a loss of power.
        fua: bool,
    },
    /// Make every write that completed before this was submitted stable.
    Flush,
    /// Bring the extent into a cache, if there is one. No buffer.
    Prefetch(Extent),
}

/// The submitter's name for an operation; the backend only hands it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IoTag(pub u64);

/// An operation's end, with the buffer it was given.
#[derive(Debug)]
pub struct Completion {
    /// Name from [`Backend::submit`].
    pub tag: IoTag,
    /// What came of it.
    pub result: Result<(), BlockError>,
    /// The buffer, back at its owner.
    pub buffer: Option<Buffer>,
}

/// Blocks as they lie in the memory of their medium, where others may change them at any time.
#[derive(Clone, Debug)]
pub struct InPlace {
    #[allow(
        clippy::redundant_allocation,
        reason = "lending it counts on this core alone, which costs no atomic operation"
    )]
    memory: Rc<Arc<SharedMemory>>,
    start: usize,
    len: usize,
}

impl InPlace {
    /// Bytes there are.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.len
    }

    /// `len` bytes from the `at`th, to send from where they are.
    ///
    /// # Panics
    /// When they are not inside.
    #[must_use]
    pub fn piece(&self, at: usize, len: usize) -> Piece<'_> {
        assert!(
            at + len <= self.len,
            "{len} bytes from {at} of {}",
            self.len
        );
        self.memory.piece(self.start + at, len)
    }
}

/// The bytes of `extent`, which a buffer of `available` bytes is long enough for.
fn transfer_len(extent: Extent, size: BlockSize, available: usize) -> usize {
    let len = usize::try_from(extent.byte_len(size)).unwrap_or(usize::MAX);
    assert!(
        len <= available,
        "an extent of {len} bytes with a buffer of {available}"
    );
    len
}

/// What a medium can say; only `scsi` turns it into sense data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The medium cannot read or write this block (EIO, a short read).
    #[error("medium error at block {}", at.0)]
    Medium {
        /// First block that failed.
        at: Lba,
    },
    /// There is no room for the write (ENOSPC, EDQUOT).
    #[error("no space left on the medium")]
    NoSpace,
    /// An earlier flush failed, so what was written may be lost: nothing more is accepted until reopened.
    #[error("an earlier flush failed; the medium must be reopened")]
    FlushFailed,
    /// The medium takes no writes.
    #[error("the medium is read-only")]
    ReadOnly,
    /// The medium is not there any more.
    #[error("the medium is gone")]
    Gone,
    /// [`Backend::cancel`] came before it was started.
    #[error("cancelled")]
    Cancelled,
}

/// What became of a submission.
#[derive(Debug)]
pub enum Submit {
    /// Finished already.
    Done(Completion),
    /// It will come out of [`Backend::poll`].
    Pending,
    /// Nothing was started; here is the buffer, try again after [`Backend::poll`].
    Full(Option<Buffer>),
}

/// One reactor's handle on one medium. Not `Send`: it stays on the core that attached it.
pub trait Backend: Debug {
    /// Starts `io` without blocking. The backend owns the buffer until the completion.
    fn submit(&mut self, tag: IoTag, io: BlockIo, buffer: Option<Buffer>) -> Submit;

    /// Where the blocks of `extent` lie in memory, when this medium is memory and they can be sent from there.
    /// What is there may change while it is looked at: for who needs it as it is now, [`Self::submit`] copies.
    fn in_place(&mut self, _extent: Extent) -> Option<InPlace> {
        None
    }

    /// Whether [`Self::in_place`] and [`Self::write_from`] are worth a try.
    fn is_memory(&self) -> bool {
        false
    }

    /// Writes the start of `bytes` to the extent at once, from where they are; with `fua` they are stable
    /// then. `None`: nothing was done, [`Self::submit`] can.
    fn write_from(
        &mut self,
        _extent: Extent,
        _fua: bool,
        _bytes: &[u8],
    ) -> Option<Result<(), BlockError>> {
        None
    }

    /// Hands each finished operation to `done`, exactly once; returns how many.
    fn poll(&mut self, done: &mut dyn FnMut(Completion)) -> usize;

    /// Operations submitted and not yet handed back.
    fn in_flight(&self) -> usize;

    /// Tries to end an operation early. It completes in any case, once, with its own result or
    /// [`BlockError::Cancelled`].
    fn cancel(&mut self, tag: IoTag);
}

/// A file, a device or memory that control opened: shared by the reactors that attach to it.
pub trait Medium: Send + Sync + Debug {
    /// Size and abilities.
    fn geometry(&self) -> Geometry;

    /// Kind and place for people: `file:/srv/disk.img`.
    fn describe(&self) -> String;

    /// A backend for the calling core. Never blocks on the medium.
    ///
    /// # Errors
    /// When the core's ring or memory cannot take another one.
    fn attach(self: Arc<Self>, context: &AttachContext) -> std::io::Result<Box<dyn Backend>>;

    /// Makes everything written so far stable; blocks. For control, at shutdown.
    ///
    /// # Errors
    /// As `fdatasync`.
    fn flush(&self) -> std::io::Result<()>;
}

/// What a reactor offers to the backends it attaches.
#[derive(Clone, Debug)]
pub struct AttachContext {
    /// The core's ring; `None` where io_uring is denied.
    pub ring: Option<crate::sys::ring::SharedRing>,
    /// Threads off the reactors' cores.
    pub offload: Arc<offload::OffloadPool>,
    /// Wakes the reactor that attached, from any thread.
    pub waker: Waker,
    /// Operations this backend may have in flight.
    pub depth: u32,
}

/// Wakes a sleeping reactor; costs next to nothing when it is awake.
#[derive(Clone)]
pub struct Waker(pub Arc<dyn Fn() + Send + Sync>);

impl Waker {
    /// Wakes it.
    pub fn wake(&self) {
        (self.0)();
    }
}

impl Debug for Waker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waker")
    }
}
