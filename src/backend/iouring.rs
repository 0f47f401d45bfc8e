//! A file or a block device through the core's ring: as many operations in flight as the depth allows.
//!
//! What needs no waiting is done inline all the same (a read of cached pages, anything on tmpfs): that is
//! quicker than the ring. The rest goes to the ring, and comes back in pieces when the kernel says so.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::disk::{AfterStable, Disk, Witness, after_stable, block_at, meaning};
use super::file::{AtOnce, FileBackend, at_once, flush_now};
use super::offload::{OffloadClient, Offloaded};
use super::table::Table;
use super::{
    AttachContext, Backend, BlockError, BlockIo, Completion, Geometry, IoTag, Medium, Submit,
};
use crate::buffer::Buffer;
use crate::sys::errno;
use crate::sys::file::WriteMode;
use crate::sys::hugepage::Loan;
use crate::sys::ring::{RingClient, RingCompletion, Transfer};
use crate::units::Extent;

/// An open file or device, served through the rings of the cores that attach; where a core has no ring,
/// by system calls.
#[derive(Debug)]
pub struct RingMedium {
    disk: Arc<Disk>,
    /// Control's own, for the last flush.
    witness: Witness,
}

impl RingMedium {
    pub(super) fn new(disk: Arc<Disk>) -> Self {
        let witness = Witness::of(&disk);
        Self { disk, witness }
    }
}

impl Medium for RingMedium {
    fn geometry(&self) -> Geometry {
        self.disk.geometry
    }

    fn describe(&self) -> String {
        format!("iouring:{}", self.disk.path.display())
    }

    fn attach(self: Arc<Self>, context: &AttachContext) -> io::Result<Box<dyn Backend>> {
        let Some(ring) = &context.ring else {
            return Ok(Box::new(FileBackend::new(&self.disk, context)));
        };
        let depth = context.depth.max(1);
        let client = ring.client(Arc::clone(&self.disk.file), depth);
        if self.disk.blocks {
            client.never_inline();
        }
        Ok(Box::new(RingBackend {
            client,
            threads: (self.disk.threads_write).then(|| Threads::new(&self.disk, context)),
            witness: Witness::of(&self.disk),
            disk: Arc::clone(&self.disk),
            table: Table::new(depth),
            again: VecDeque::with_capacity(depth as usize),
        }))
    }

    fn flush(&self) -> io::Result<()> {
        flush_now(&self.disk, &self.witness)
    }
}

/// How far an operation is.
#[derive(Clone, Copy, Debug)]
struct Progress {
    /// Bytes from the start that are done.
    done: usize,
    stage: Stage,
    cancelled: bool,
}

impl Progress {
    /// Cancelled, and not in the middle of finding out whether a flush failed.
    fn may_end(self) -> bool {
        self.cancelled && !matches!(self.stage, Stage::After(_))
    }
}

/// What the kernel is doing for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Reading, or advising.
    Plain,
    /// Writing into the cache; the `fdatasync` of a separate flush makes it stable.
    Write,
    /// Writing with RWF_DSYNC.
    Stable,
    /// Writing after RWF_DSYNC failed, and what is to follow.
    After(AfterStable),
    /// `fdatasync`.
    Sync,
    /// One of our threads does all of it.
    Thread,
}

#[derive(Debug)]
struct RingBackend {
    /// Goes before the disk, which gives its lock up only when nobody else has the file.
    client: RingClient,
    disk: Arc<Disk>,
    witness: Witness,
    threads: Option<Threads>,
    table: Table<Progress>,
    /// Operations that have more to do and found the ring full.
    again: VecDeque<(u32, Option<Loan>)>,
}

/// For writes that the kernel's threads are not to do (see [`Disk::threads_write`]).
#[derive(Debug)]
struct Threads {
    offload: OffloadClient,
    /// Withdrawn before a thread began.
    cancelled: VecDeque<(u32, Option<Loan>)>,
}

impl Threads {
    fn new(disk: &Arc<Disk>, context: &AttachContext) -> Self {
        let depth = context.depth.max(1);
        let medium: Arc<dyn Offloaded> = Arc::<Disk>::clone(disk);
        Self {
            offload: context.offload.client(medium, depth, context.waker.clone()),
            cancelled: VecDeque::with_capacity(depth as usize),
        }
    }
}

/// What a completion means for its operation.
enum Next {
    Done(Result<(), BlockError>),
    Continue,
}

impl RingBackend {
    /// Gives the ring what is left to do of an operation.
    fn start(&mut self, index: u32, loan: Option<Loan>) -> Result<(), Option<Loan>> {
        let entry = self.table.get_mut(index);
        let (io, progress) = (entry.io, entry.state);
        if progress.stage == Stage::Thread {
            let threads = self.threads.as_ref().expect("the stage says so");
            return threads.offload.submit(index, io, loan);
        }
        let name = u64::from(index);
        if progress.stage == Stage::Sync {
            if !self.client.data_sync(name) {
                return Err(loan);
            }
            // A write that is being made stable: its bytes wait here.
            let entry = self.table.get_mut(index);
            entry.held = loan.or(entry.held.take());
            return Ok(());
        }
        let size = self.disk.geometry.block_size;
        let transfer = |extent: Extent, loan: Option<Loan>, mode: WriteMode| {
            let loan = loan.expect("a transfer has a buffer");
            let len = super::transfer_len(extent, size, loan.len()) - progress.done;
            Transfer {
                loan,
                start: progress.done,
                len: u32::try_from(len).expect("a buffer is at most 1 MiB"),
                offset: extent.byte_start(size) + progress.done as u64,
                flags: mode.flags(),
            }
        };
        match io {
            BlockIo::Read(extent) => self
                .client
                .read(name, transfer(extent, loan, WriteMode::Cached))
                .map_err(Some),
            BlockIo::Write { extent, .. } => {
                let mode = if progress.stage == Stage::Stable {
                    WriteMode::Stable
                } else {
                    WriteMode::Cached
                };
                self.client
                    .write(name, transfer(extent, loan, mode))
                    .map_err(Some)
            }
            BlockIo::Prefetch(extent) => {
                let len = u32::try_from(extent.byte_len(size)).unwrap_or(u32::MAX);
                if self.client.prefetch(name, extent.byte_start(size), len) {
                    Ok(())
                } else {
                    Err(loan)
                }
            }
            BlockIo::Flush => unreachable!("a flush is in stage Sync"),
        }
    }

    /// Judges one completion of the kernel's.
    fn judge(&mut self, index: u32, result: i32) -> Next {
        let disk = &self.disk;
        let entry = self.table.get_mut(index);
        let progress = &mut entry.state;
        if let Ok(moved) = usize::try_from(result) {
            return match (entry.io, progress.stage) {
                (BlockIo::Read(extent), _) => advance(disk, progress, extent, moved),
                (BlockIo::Write { extent, .. }, stage) if stage != Stage::Sync => {
                    match (advance(disk, progress, extent, moved), stage) {
                        (Next::Done(Ok(())), Stage::After(AfterStable::WriteAndSync)) => {
                            progress.stage = Stage::Sync;
                            Next::Continue
                        }
                        (Next::Done(Ok(())), Stage::After(_)) => {
                            disk.poison();
                            Next::Done(Err(BlockError::FlushFailed))
                        }
                        (next, _) => next,
                    }
                }
                _ => Next::Done(Ok(())),
            };
        }
        let error = io::Error::from_raw_os_error(-result);
        match -result {
            // The kernel found nobody to do it just now, or a signal came between.
            errno::EAGAIN | errno::EINTR if !progress.cancelled => return Next::Continue,
            errno::ECANCELED | errno::EINTR | errno::EAGAIN if progress.cancelled => {
                return Next::Done(Err(BlockError::Cancelled));
            }
            _ => {}
        }
        match (entry.io, progress.stage) {
            (_, Stage::Sync) => {
                disk.poison();
                Next::Done(Err(BlockError::FlushFailed))
            }
            (BlockIo::Write { extent, .. }, Stage::Stable) => match after_stable(&error) {
                AfterStable::Poison => {
                    disk.poison();
                    let size = disk.geometry.block_size;
                    Next::Done(Err(meaning(&error, extent, size, progress.done)))
                }
                after => {
                    progress.stage = Stage::After(after);
                    Next::Continue
                }
            },
            (BlockIo::Read(extent) | BlockIo::Write { extent, .. }, _) => {
                let size = disk.geometry.block_size;
                Next::Done(Err(meaning(&error, extent, size, progress.done)))
            }
            // Advice that is not taken is no error.
            (BlockIo::Prefetch(_) | BlockIo::Flush, _) => Next::Done(Ok(())),
        }
    }

    fn came_back(&mut self, back: RingCompletion, done: &mut dyn FnMut(Completion)) -> usize {
        let index = u32::try_from(back.tag).expect("our own name for it");
        match self.judge(index, back.result) {
            Next::Done(result) => {
                let stage = self.table.get_mut(index).state.stage;
                let promised = matches!(stage, Stage::Stable | Stage::Sync);
                let result = match result {
                    Ok(()) if promised => self.witness.confirm(&self.disk),
                    other => other,
                };
                done(self.table.complete(index, result, back.loan));
                1
            }
            Next::Continue if self.table.get_mut(index).state.may_end() => {
                done(
                    self.table
                        .complete(index, Err(BlockError::Cancelled), back.loan),
                );
                1
            }
            Next::Continue => {
                if let Err(loan) = self.start(index, back.loan) {
                    self.again.push_back((index, loan));
                }
                0
            }
        }
    }
}

impl RingBackend {
    fn poll_threads(&mut self, done: &mut dyn FnMut(Completion)) -> usize {
        let Some(threads) = &mut self.threads else {
            return 0;
        };
        let mut count = 0;
        while let Some((index, loan)) = threads.cancelled.pop_front() {
            done(self.table.complete(index, Err(BlockError::Cancelled), loan));
            count += 1;
        }
        while let Some(back) = threads.offload.poll() {
            let io = self.table.get_mut(back.index).io;
            let promised = matches!(io, BlockIo::Write { fua, .. } if self.disk.stable(fua));
            let result = match back.result {
                Ok(()) if promised => self.witness.confirm(&self.disk),
                other => other,
            };
            done(self.table.complete(back.index, result, back.loan));
            count += 1;
        }
        count
    }
}

/// Counts what was moved.
fn advance(disk: &Disk, progress: &mut Progress, extent: Extent, moved: usize) -> Next {
    let size = disk.geometry.block_size;
    let whole = usize::try_from(extent.byte_len(size)).expect("it fits a buffer");
    let mut done = progress.done + moved;
    if disk.direct && done < whole {
        // O_DIRECT goes on at a block.
        done -= done % size.bytes() as usize;
    }
    if done >= whole {
        return Next::Done(Ok(()));
    }
    if done == progress.done {
        let at = block_at(extent, size, done);
        return Next::Done(Err(BlockError::Medium { at }));
    }
    progress.done = done;
    Next::Continue
}

impl Backend for RingBackend {
    fn submit(&mut self, tag: IoTag, io: BlockIo, mut buffer: Option<Buffer>) -> Submit {
        if self.table.is_full() && !self.disk.in_memory {
            // Who tries again and again should not ask the kernel each time.
            return Submit::Full(buffer);
        }
        let got = match at_once(&self.disk, io, buffer.as_mut()) {
            AtOnce::Done(result) => {
                return Submit::Done(Completion {
                    tag,
                    result,
                    buffer,
                });
            }
            AtOnce::Rest(got) => got,
        };
        let stage = match io {
            BlockIo::Flush => Stage::Sync,
            BlockIo::Write { .. } if self.threads.is_some() => Stage::Thread,
            BlockIo::Write { fua, .. } if self.disk.stable(fua) => Stage::Stable,
            BlockIo::Write { .. } => Stage::Write,
            BlockIo::Read(_) | BlockIo::Prefetch(_) => Stage::Plain,
        };
        let progress = Progress {
            done: got,
            stage,
            cancelled: false,
        };
        let (index, loan) = self.table.insert(tag, io, progress, buffer);
        match self.start(index, loan) {
            Ok(()) => Submit::Pending,
            // The threads are gone: nothing will ever be taken again.
            Err(loan) if stage == Stage::Thread => {
                Submit::Done(self.table.complete(index, Err(BlockError::Gone), loan))
            }
            Err(loan) => Submit::Full(self.table.remove(index, loan).1),
        }
    }

    fn poll(&mut self, done: &mut dyn FnMut(Completion)) -> usize {
        let mut count = 0;
        for _ in 0..self.again.len() {
            let Some((index, loan)) = self.again.pop_front() else {
                break;
            };
            if self.table.get_mut(index).state.may_end() {
                done(self.table.complete(index, Err(BlockError::Cancelled), loan));
                count += 1;
            } else if let Err(loan) = self.start(index, loan) {
                self.again.push_front((index, loan));
                break;
            }
        }
        while let Some(back) = self.client.poll() {
            count += self.came_back(back, done);
        }
        count + self.poll_threads(done)
    }

    fn in_flight(&self) -> usize {
        self.table.len()
    }

    fn cancel(&mut self, tag: IoTag) {
        if let Some(index) = self.table.find(tag) {
            let progress = &mut self.table.get_mut(index).state;
            progress.cancelled = true;
            match &mut self.threads {
                Some(threads) if progress.stage == Stage::Thread => {
                    let withdrawn = threads.offload.withdraw(index);
                    threads
                        .cancelled
                        .extend(withdrawn.map(|loan| (index, loan)));
                }
                _ => self.client.cancel(u64::from(index)),
            }
        }
    }
}
