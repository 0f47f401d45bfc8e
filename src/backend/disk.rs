//! An open file or block device: what its system calls mean in blocks, shared by `file` and `iouring`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{BlockError, BlockIo, Geometry};
use crate::sys::errno;
use crate::sys::file::{self, WriteMode};
use crate::units::{BlockSize, Extent, Lba};

/// One open medium. All cores that attach share it.
#[derive(Debug)]
pub(super) struct Disk {
    /// Reads, writes and flushes go here.
    pub(super) file: Arc<File>,
    pub(super) path: PathBuf,
    pub(super) geometry: Geometry,
    /// Nothing waits for a device (tmpfs): every operation may be done at once.
    pub(super) in_memory: bool,
    /// Opened with O_DIRECT.
    pub(super) direct: bool,
    /// Writes go to threads of our own even where there is a ring. The kernel's threads write one after the other
    /// to all files that fall into one of 64 classes; one that hangs would hold up the others of its class. It is so
    /// for file systems that wait for somebody else (FUSE, NFS): they know no RWF_NOWAIT.
    pub(super) threads_write: bool,
    /// No operation may be tried on the reactor's thread: the file system does not know what would wait.
    pub(super) blocks: bool,
    /// Whether reading what is cached without waiting (RWF_NOWAIT) works here, as far as is known.
    pub(super) nowait_reads: AtomicBool,
    /// The same of writing.
    pub(super) nowait_writes: AtomicBool,
    /// A flush failed: what was written may be lost, and nothing more is accepted.
    pub(super) poisoned: AtomicBool,
}

/// What an error number means for a transfer of which `done` bytes went well.
pub(super) fn meaning(
    error: &io::Error,
    extent: Extent,
    size: BlockSize,
    done: usize,
) -> BlockError {
    match error.raw_os_error() {
        Some(errno::ENOSPC | errno::EDQUOT) => BlockError::NoSpace,
        Some(errno::ENXIO | errno::ENODEV | errno::ENOMEDIUM) => BlockError::Gone,
        Some(errno::EROFS | errno::EPERM | errno::EBADF) => BlockError::ReadOnly,
        _ => BlockError::Medium {
            at: block_at(extent, size, done),
        },
    }
}

/// The block in which byte `done` of the extent lies.
pub(super) fn block_at(extent: Extent, size: BlockSize, done: usize) -> Lba {
    let blocks = size
        .blocks_in(done as u64)
        .0
        .min(extent.len().0.saturating_sub(1));
    Lba(extent.start().0 + blocks)
}

/// How far an attempt went. Any error is left to the attempt that may wait; one that says "never" is
/// remembered.
fn tried(result: io::Result<usize>, possible: &AtomicBool) -> usize {
    result.unwrap_or_else(|error| {
        if is_never(&error) {
            possible.store(false, Ordering::Relaxed);
        }
        0
    })
}

/// What an open file can do without waiting, found out by trying: whether reads of cached bytes can be asked for.
pub(super) fn knows_nowait(file: &File) -> bool {
    let mut byte = [0; 512];
    match file::read_at(file, &mut byte, 0, true) {
        Ok(_) => true,
        Err(error) => !is_never(&error),
    }
}

/// Whether an attempt failed that will always fail.
fn is_never(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(errno::EOPNOTSUPP | errno::EINVAL)
    )
}

/// Gives up the lock. Closing the file would do it too, but perhaps later: who else has the file open (a ring that the
/// kernel is about to take apart) keeps the lock with it.
impl Drop for Disk {
    fn drop(&mut self) {
        // Not while a ring has operations of it: then it is the kernel that unlocks when the last has ended.
        if let Some(file) = Arc::get_mut(&mut self.file) {
            file::unlock(file);
        }
    }
}

impl Disk {
    pub(super) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    pub(super) fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    /// Why `io` cannot even be tried, if so.
    pub(super) fn refusal(&self, io: BlockIo) -> Option<BlockError> {
        match io {
            BlockIo::Write { .. } if self.geometry.read_only => Some(BlockError::ReadOnly),
            BlockIo::Write { .. } | BlockIo::Flush if self.is_poisoned() => {
                Some(BlockError::FlushFailed)
            }
            _ => None,
        }
    }

    /// Whether a write must be stable when it completes: asked for, or there is no write cache to be in.
    pub(super) fn stable(&self, fua: bool) -> bool {
        (fua || !self.geometry.write_cache) && !self.in_memory
    }

    /// What a success is worth. The kernel tells of a failed write-back once, to whichever flush asks first:
    /// one that went well beside one that failed has promised nothing.
    pub(super) fn confirm(&self, promised_stable: bool) -> Result<(), BlockError> {
        if promised_stable && self.is_poisoned() {
            return Err(BlockError::FlushFailed);
        }
        Ok(())
    }

    /// Does all of `io`, however long it takes, and tells what came of it.
    pub(super) fn run(&self, io: BlockIo, memory: &mut [u8]) -> Result<(), BlockError> {
        if let Some(refusal) = self.refusal(io) {
            return Err(refusal);
        }
        match io {
            BlockIo::Read(extent) => self.read(extent, memory),
            BlockIo::Write { extent, fua } => self.write(extent, memory, self.stable(fua)),
            BlockIo::Flush => self.flush(),
            BlockIo::Prefetch(extent) => {
                let size = self.geometry.block_size;
                if !extent.is_empty() {
                    // Advice that is not taken is no error.
                    let _ =
                        file::prefetch(&self.file, extent.byte_start(size), extent.byte_len(size));
                }
                Ok(())
            }
        }
    }

    /// Reads what can be had without waiting; returns how many bytes from the start that was.
    pub(super) fn read_nowait(&self, extent: Extent, memory: &mut [u8]) -> usize {
        if self.direct || !self.nowait_reads.load(Ordering::Relaxed) {
            return 0;
        }
        let size = self.geometry.block_size;
        let len = super::transfer_len(extent, size, memory.len());
        let at = extent.byte_start(size);
        tried(
            file::read_at(&self.file, &mut memory[..len], at, true),
            &self.nowait_reads,
        )
    }

    /// Writes what goes into the cache without waiting; returns how many bytes from the start that was.
    pub(super) fn write_nowait(&self, extent: Extent, memory: &[u8]) -> usize {
        if self.direct || !self.nowait_writes.load(Ordering::Relaxed) {
            return 0;
        }
        let size = self.geometry.block_size;
        let len = super::transfer_len(extent, size, memory.len());
        let at = extent.byte_start(size);
        tried(
            file::write_at(&self.file, &memory[..len], at, WriteMode::NoWait),
            &self.nowait_writes,
        )
    }

    fn read(&self, extent: Extent, memory: &mut [u8]) -> Result<(), BlockError> {
        let size = self.geometry.block_size;
        let len = super::transfer_len(extent, size, memory.len());
        let mut done = 0;
        while done < len {
            let at = extent.byte_start(size) + done as u64;
            match file::read_at(&self.file, &mut memory[done..len], at, false) {
                Ok(0) => {
                    let at = block_at(extent, size, done);
                    return Err(BlockError::Medium { at });
                }
                Ok(n) => done += n,
                Err(error) => return Err(meaning(&error, extent, size, done)),
            }
        }
        Ok(())
    }

    fn write(&self, extent: Extent, memory: &[u8], stable: bool) -> Result<(), BlockError> {
        let mut mode = if stable {
            WriteMode::Stable
        } else {
            WriteMode::Cached
        };
        let mut sync_after = None;
        let size = self.geometry.block_size;
        let len = super::transfer_len(extent, size, memory.len());
        let mut done = 0;
        while done < len {
            let at = extent.byte_start(size) + done as u64;
            match file::write_at(&self.file, &memory[done..len], at, mode) {
                Ok(0) => {
                    let at = block_at(extent, size, done);
                    return Err(BlockError::Medium { at });
                }
                Ok(n) => done += n,
                Err(error) if mode == WriteMode::Stable => match after_stable(&error) {
                    AfterStable::Poison => {
                        self.poison();
                        return Err(meaning(&error, extent, size, done));
                    }
                    next => {
                        mode = WriteMode::Cached;
                        sync_after = Some(next);
                    }
                },
                Err(error) => return Err(meaning(&error, extent, size, done)),
            }
        }
        match sync_after {
            None => self.confirm(stable),
            Some(AfterStable::WriteAndSync) => self.flush(),
            Some(_) => {
                self.poison();
                Err(BlockError::FlushFailed)
            }
        }
    }

    fn flush(&self) -> Result<(), BlockError> {
        if self.in_memory || self.geometry.read_only {
            return Ok(());
        }
        self.file.sync_data().map_err(|_| {
            self.poison();
            BlockError::FlushFailed
        })?;
        self.confirm(true)
    }
}

/// One backend's own view of failed write-backs. The kernel tells of one once to each open file description,
/// and all cores share the one that they write and flush through: of two flushes at a time one hears of the
/// failure, the other one succeeds, perhaps on another core, and perhaps is judged first.
#[derive(Debug)]
pub(super) struct Witness(Option<File>);

impl Witness {
    /// A witness for `disk`, where the page cache has a part in it.
    pub(super) fn of(disk: &Disk) -> Self {
        let cached = !disk.direct && !disk.in_memory && !disk.geometry.read_only;
        // Opening anything else, a pipe for one, could wait.
        let opens = |kind: std::fs::FileType| kind.is_file() || kind.is_block_device();
        let known = cached && disk.file.metadata().is_ok_and(|m| opens(m.file_type()));
        Self(known.then(|| file::reopen(&disk.file).ok()).flatten())
    }

    /// What the success of an operation that promised to be stable is worth. To be asked after it ended.
    pub(super) fn confirm(&self, disk: &Disk) -> Result<(), BlockError> {
        if self.0.as_ref().is_some_and(file::write_back_failed) {
            disk.poison();
        }
        disk.confirm(true)
    }
}

/// What to do when a write with RWF_DSYNC failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterStable {
    /// There is no RWF_DSYNC here: write, then flush.
    WriteAndSync,
    /// No room: was it the write that found none, or the flush of something written before? A plain write
    /// tells: if it succeeds, it was the flush.
    Probe,
    /// The flush in it may have failed, and the kernel reports that only once.
    Poison,
}

pub(super) fn after_stable(error: &io::Error) -> AfterStable {
    match error.raw_os_error() {
        Some(errno::EOPNOTSUPP | errno::EINVAL) => AfterStable::WriteAndSync,
        Some(errno::ENOSPC | errno::EDQUOT) => AfterStable::Probe,
        _ => AfterStable::Poison,
    }
}

/// log2 of logical blocks per physical block.
pub(super) fn exponent(physical: u32, block_size: crate::units::BlockSize) -> u8 {
    let ratio = (physical / block_size.bytes()).max(1);
    u8::try_from(ratio.ilog2()).expect("at most 31")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Blocks;

    #[test]
    fn an_error_names_the_block_it_happened_in() {
        let extent = Extent::new(Lba(100), Blocks(8), Blocks(1000)).expect("in range");
        let size = BlockSize::B512;
        let at = |number, done| {
            let error = io::Error::from_raw_os_error(number);
            meaning(&error, extent, size, done)
        };
        assert_eq!(at(errno::EIO, 0), BlockError::Medium { at: Lba(100) });
        assert_eq!(at(errno::EIO, 1023), BlockError::Medium { at: Lba(101) });
        assert_eq!(at(errno::EIO, 4096), BlockError::Medium { at: Lba(107) });
        assert_eq!(at(errno::ENOSPC, 0), BlockError::NoSpace);
        assert_eq!(at(errno::EDQUOT, 0), BlockError::NoSpace);
        assert_eq!(at(errno::ENODEV, 0), BlockError::Gone);
    }

    #[test]
    fn a_failed_stable_write_is_trusted_no_further_than_its_error_allows() {
        let next = |number| after_stable(&io::Error::from_raw_os_error(number));
        assert_eq!(next(errno::EOPNOTSUPP), AfterStable::WriteAndSync);
        assert_eq!(next(errno::ENOSPC), AfterStable::Probe);
        assert_eq!(next(errno::EIO), AfterStable::Poison);
    }
}
