//! A medium in memory, shared by all cores; gone with the process.

use std::rc::Rc;
use std::sync::Arc;

use super::{
    AttachContext, Backend, BlockError, BlockIo, Completion, Geometry, InPlace, IoTag, Medium,
    Submit,
};
use crate::buffer::Buffer;
use crate::sys::copy::SharedMemory;
use crate::sys::cpu;
use crate::sys::hugepage::HUGE_PAGE;
use crate::units::{BlockSize, Extent};

/// Pages of so many bytes are there before the medium is: that takes the better part of a second.
const AT_ONCE: usize = 2 << 30;

/// Memory served as blocks.
#[derive(Debug)]
pub struct RamMedium {
    memory: Arc<SharedMemory>,
    geometry: Geometry,
    name: String,
}

impl RamMedium {
    /// `bytes` of zeroes. Where that leaves most of the free memory to others, its pages are taken from the kernel
    /// before anybody can write: those of the first 2 GiB here, the others by a thread in the background.
    /// Else they are taken when they are written, which holds a reactor up for as long as the kernel zeroes one.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(
        name: &str,
        block_size: BlockSize,
        bytes: u64,
        read_only: bool,
    ) -> std::io::Result<Self> {
        let len = usize::try_from(bytes).map_err(std::io::Error::other)?;
        let (memory, _report) = SharedMemory::new(len, true)?;
        let memory = Arc::new(memory);
        if !read_only && bytes <= cpu::free_memory() / 4 {
            memory.populate(0, len.min(AT_ONCE));
            if len > AT_ONCE {
                populate_in_background(&memory, len);
            }
        }
        Ok(Self {
            memory,
            geometry: Geometry {
                block_size,
                capacity: block_size.blocks_in(bytes),
                physical_block_exponent: 0,
                read_only,
                write_cache: false,
                forgets: false,
            },
            name: name.to_owned(),
        })
    }
}

/// Goes through the rest of the memory once, as long as it is in use, when the machine has nothing else to do.
fn populate_in_background(memory: &Arc<SharedMemory>, len: usize) {
    let memory = Arc::downgrade(memory);
    let go_through = move || {
        // Otherwise it is in the way, but not for long.
        let _ = cpu::run_current_thread_last();
        for start in (AT_ONCE..len).step_by(HUGE_PAGE) {
            match memory.upgrade() {
                Some(memory) => memory.populate(start, HUGE_PAGE),
                None => return,
            }
        }
    };
    // Without it, pages come when they are written.
    let _ = std::thread::Builder::new()
        .name("ram-pages".to_owned())
        .spawn(go_through);
}

impl Medium for RamMedium {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn describe(&self) -> String {
        format!("ram:{}", self.name)
    }

    fn attach(self: Arc<Self>, _context: &AttachContext) -> std::io::Result<Box<dyn Backend>> {
        let memory = Rc::new(Arc::clone(&self.memory));
        Ok(Box::new(RamBackend {
            memory,
            geometry: self.geometry,
        }))
    }

    fn flush(&self) -> std::io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct RamBackend {
    /// Counted by this core alone, so that lending it costs no atomic operation.
    #[allow(
        clippy::redundant_allocation,
        reason = "lending it counts on this core alone, which costs no atomic operation"
    )]
    memory: Rc<Arc<SharedMemory>>,
    geometry: Geometry,
}

impl RamBackend {
    fn place(&self, extent: Extent, available: usize) -> (usize, usize) {
        let size = self.geometry.block_size;
        let start = usize::try_from(extent.byte_start(size)).expect("inside memory");
        (start, super::transfer_len(extent, size, available))
    }
}

impl Backend for RamBackend {
    fn submit(&mut self, tag: IoTag, io: BlockIo, mut buffer: Option<Buffer>) -> Submit {
        let result = match (io, &mut buffer) {
            (BlockIo::Read(extent), Some(buffer)) => {
                let (start, len) = self.place(extent, buffer.len());
                self.memory.read(start, &mut buffer.as_mut_slice()[..len]);
                Ok(())
            }
            (BlockIo::Write { .. }, _) if self.geometry.read_only => Err(BlockError::ReadOnly),
            (BlockIo::Write { extent, .. }, Some(buffer)) => {
                let (start, len) = self.place(extent, buffer.len());
                self.memory.write(start, &buffer.as_slice()[..len]);
                Ok(())
            }
            // An empty transfer, a flush or a prefetch: memory is as stable as it gets.
            _ => Ok(()),
        };
        Submit::Done(Completion {
            tag,
            result,
            buffer,
        })
    }

    fn in_place(&mut self, extent: Extent) -> Option<InPlace> {
        let (start, len) = self.place(extent, usize::MAX);
        Some(InPlace {
            memory: Rc::clone(&self.memory),
            start,
            len,
        })
    }

    fn is_memory(&self) -> bool {
        true
    }

    fn write_from(
        &mut self,
        extent: Extent,
        _fua: bool,
        bytes: &[u8],
    ) -> Option<Result<(), BlockError>> {
        if self.geometry.read_only {
            return Some(Err(BlockError::ReadOnly));
        }
        let (start, len) = self.place(extent, bytes.len());
        self.memory.write(start, &bytes[..len]);
        Some(Ok(()))
    }

    fn poll(&mut self, _done: &mut dyn FnMut(Completion)) -> usize {
        0
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn cancel(&mut self, _tag: IoTag) {}
}
