//! A medium that reads zeroes and forgets writes: the ceiling of everything above it.

use std::sync::Arc;

use super::{
    AttachContext, Backend, BlockError, BlockIo, Completion, Geometry, IoTag, Medium, Submit,
};
use crate::buffer::Buffer;
use crate::units::{BlockSize, Blocks};

/// Nothing, of a size.
#[derive(Debug)]
pub struct NullMedium {
    geometry: Geometry,
    name: String,
}

impl NullMedium {
    /// `capacity` blocks of nothing.
    #[must_use]
    pub fn new(name: &str, block_size: BlockSize, capacity: Blocks, read_only: bool) -> Self {
        Self {
            geometry: Geometry {
                block_size,
                capacity,
                physical_block_exponent: 0,
                read_only,
                write_cache: false,
                forgets: true,
            },
            name: name.to_owned(),
        }
    }
}

impl Medium for NullMedium {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn describe(&self) -> String {
        format!("null:{}", self.name)
    }

    fn attach(self: Arc<Self>, _context: &AttachContext) -> std::io::Result<Box<dyn Backend>> {
        Ok(Box::new(NullBackend {
            geometry: self.geometry,
        }))
    }

    fn flush(&self) -> std::io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct NullBackend {
    geometry: Geometry,
}

impl Backend for NullBackend {
    fn submit(&mut self, tag: IoTag, io: BlockIo, mut buffer: Option<Buffer>) -> Submit {
        let result = match (io, &mut buffer) {
            (BlockIo::Read(extent), Some(buffer)) => {
                let len = super::transfer_len(extent, self.geometry.block_size, buffer.len());
                buffer.as_mut_slice()[..len].fill(0);
                Ok(())
            }
            (BlockIo::Write { .. }, _) if self.geometry.read_only => Err(BlockError::ReadOnly),
            _ => Ok(()),
        };
        Submit::Done(Completion {
            tag,
            result,
            buffer,
        })
    }

    fn poll(&mut self, _done: &mut dyn FnMut(Completion)) -> usize {
        0
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn cancel(&mut self, _tag: IoTag) {}
}
