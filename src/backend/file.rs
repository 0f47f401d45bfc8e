//! A plain file or a block device by system calls: inline what cannot wait, threads for the rest.

use std::collections::VecDeque;
use std::sync::Arc;

use super::disk::{Disk, Witness};
use super::offload::{OffloadClient, Offloaded};
use super::table::Table;
use super::{
    AttachContext, Backend, BlockError, BlockIo, Completion, Geometry, IoTag, Medium, Submit,
};
use crate::buffer::Buffer;

/// An open file or device, served by system calls.
#[derive(Debug)]
pub struct FileMedium {
    disk: Arc<Disk>,
    /// Control's own, for the last flush.
    witness: Witness,
}

impl FileMedium {
    pub(super) fn new(disk: Arc<Disk>) -> Self {
        let witness = Witness::of(&disk);
        Self { disk, witness }
    }
}

impl Offloaded for Disk {
    fn run(&self, io: BlockIo, memory: &mut [u8]) -> Result<(), BlockError> {
        Self::run(self, io, memory)
    }
}

impl Medium for FileMedium {
    fn geometry(&self) -> Geometry {
        self.disk.geometry
    }

    fn describe(&self) -> String {
        format!("file:{}", self.disk.path.display())
    }

    fn attach(self: Arc<Self>, context: &AttachContext) -> std::io::Result<Box<dyn Backend>> {
        Ok(Box::new(FileBackend::new(&self.disk, context)))
    }

    fn flush(&self) -> std::io::Result<()> {
        flush_now(&self.disk, &self.witness)
    }
}

/// [`Medium::flush`] of a file or device. The witness hears of a failure that the kernel has reported to somebody
/// who is gone, for one a flush on a ring whose reactor was left behind.
pub(super) fn flush_now(disk: &Disk, witness: &Witness) -> std::io::Result<()> {
    let flushed = disk.run(BlockIo::Flush, &mut []);
    match flushed.and_then(|()| witness.confirm(disk)) {
        Ok(()) => Ok(()),
        Err(error) => Err(std::io::Error::other(error)),
    }
}

#[derive(Debug)]
pub(super) struct FileBackend {
    disk: Arc<Disk>,
    witness: Witness,
    offload: OffloadClient,
    table: Table<()>,
    cancelled: VecDeque<Completion>,
}

impl FileBackend {
    pub(super) fn new(disk: &Arc<Disk>, context: &AttachContext) -> Self {
        let depth = context.depth.max(1);
        let medium: Arc<dyn Offloaded> = Arc::<Disk>::clone(disk);
        Self {
            disk: Arc::clone(disk),
            witness: Witness::of(disk),
            offload: context.offload.client(medium, depth, context.waker.clone()),
            table: Table::new(depth),
            cancelled: VecDeque::with_capacity(depth as usize),
        }
    }
}

/// What can be known of `io` at once, without waiting for a device.
pub(super) enum AtOnce {
    /// It is finished.
    Done(Result<(), BlockError>),
    /// It is not; this many bytes from the start are.
    Rest(usize),
}

/// Does `io` as far as it needs no waiting.
pub(super) fn at_once(disk: &Disk, io: BlockIo, buffer: Option<&mut Buffer>) -> AtOnce {
    if let Some(refusal) = disk.refusal(io) {
        return AtOnce::Done(Err(refusal));
    }
    let memory = buffer.map_or(&mut [][..], Buffer::as_mut_slice);
    let (extent, got) = match io {
        // Without the page cache there is no place to fetch it to.
        BlockIo::Prefetch(_) if disk.direct => return AtOnce::Done(Ok(())),
        _ if disk.in_memory => return AtOnce::Done(disk.run(io, memory)),
        BlockIo::Read(extent) => (extent, disk.read_nowait(extent, memory)),
        BlockIo::Write { extent, fua } if !disk.stable(fua) => {
            (extent, disk.write_nowait(extent, memory))
        }
        BlockIo::Write { extent, .. } | BlockIo::Prefetch(extent) => (extent, 0),
        BlockIo::Flush => return AtOnce::Rest(0),
    };
    let whole = extent.byte_len(disk.geometry.block_size);
    if got as u64 == whole {
        AtOnce::Done(Ok(()))
    } else {
        AtOnce::Rest(got)
    }
}

impl Backend for FileBackend {
    fn submit(&mut self, tag: IoTag, io: BlockIo, mut buffer: Option<Buffer>) -> Submit {
        if self.table.is_full() && !self.disk.in_memory {
            // Who tries again and again should not ask the kernel each time.
            return Submit::Full(buffer);
        }
        if let AtOnce::Done(result) = at_once(&self.disk, io, buffer.as_mut()) {
            return Submit::Done(Completion {
                tag,
                result,
                buffer,
            });
        }
        let (index, loan) = self.table.insert(tag, io, (), buffer);
        match self.offload.submit(index, io, loan) {
            Ok(()) => Submit::Pending,
            // Not `Full`: it would be tried again for ever.
            Err(loan) => Submit::Done(self.table.complete(index, Err(BlockError::Gone), loan)),
        }
    }

    fn poll(&mut self, done: &mut dyn FnMut(Completion)) -> usize {
        let mut count = 0;
        while let Some(completion) = self.cancelled.pop_front() {
            done(completion);
            count += 1;
        }
        while let Some(back) = self.offload.poll() {
            let promised = match self.table.get_mut(back.index).io {
                BlockIo::Flush => true,
                BlockIo::Write { fua, .. } => self.disk.stable(fua),
                BlockIo::Read(_) | BlockIo::Prefetch(_) => false,
            };
            let result = match back.result {
                Ok(()) if promised => self.witness.confirm(&self.disk),
                other => other,
            };
            done(self.table.complete(back.index, result, back.loan));
            count += 1;
        }
        count
    }

    fn in_flight(&self) -> usize {
        self.table.len() + self.cancelled.len()
    }

    fn cancel(&mut self, tag: IoTag) {
        let Some(index) = self.table.find(tag) else {
            return;
        };
        if let Some(loan) = self.offload.withdraw(index) {
            let completion = self.table.complete(index, Err(BlockError::Cancelled), loan);
            self.cancelled.push_back(completion);
        }
    }
}
