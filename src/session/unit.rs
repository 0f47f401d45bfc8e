//! The logical units attached on this core: snapshot, backend, and the barrier they are passing.

use std::sync::Arc;

use super::{ReactorId, UnitId};
use crate::backend::{Backend, BlockError, BlockIo, Completion, InPlace, IoTag, Submit};
use crate::buffer::Buffer;
use crate::scsi::LogicalUnit;
use crate::units::Extent;

/// A barrier that waits for operations in flight here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passing {
    pub(super) unit: UnitId,
    pub(super) owner: ReactorId,
    pub(super) barrier: u64,
    /// Operations that must end first.
    pub(super) remaining: u32,
}

#[derive(Debug)]
pub(super) struct AttachedUnit {
    pub(super) unit: Arc<LogicalUnit>,
    backend: Box<dyn Backend>,
    /// As the backend says.
    is_memory: bool,
    polled: bool,
}

/// All units of one core, by [`UnitId`].
#[derive(Debug, Default)]
pub(super) struct Units {
    units: Vec<Option<AttachedUnit>>,
    /// Those whose backend has work in flight.
    busy: Vec<UnitId>,
    /// Backends that were replaced while they had operations in flight.
    leaving: Vec<Box<dyn Backend>>,
}

impl Units {
    pub(super) fn attach(&mut self, id: UnitId, unit: Arc<LogicalUnit>, backend: Box<dyn Backend>) {
        let index = id.0 as usize;
        if self.units.len() <= index {
            self.units.resize_with(index + 1, || None);
        }
        self.busy.retain(|b| *b != id);
        self.busy.reserve(self.units.len());
        let mut unit = unit;
        if let Some(old) = self.units[index].take() {
            if old.unit.generation > unit.generation {
                // A barrier has passed since this snapshot was made.
                unit = old.unit;
            }
            if old.backend.in_flight() > 0 {
                self.leaving.push(old.backend);
            }
        }
        self.units[index] = Some(AttachedUnit {
            unit,
            is_memory: backend.is_memory(),
            backend,
            polled: false,
        });
    }

    /// Takes a unit away; its backend, unless the unit is not there.
    pub(super) fn detach(&mut self, id: UnitId) -> Option<Box<dyn Backend>> {
        self.busy.retain(|b| *b != id);
        let unit = self.units.get_mut(id.0 as usize)?.take()?;
        Some(unit.backend)
    }

    pub(super) fn get(&self, id: UnitId) -> Option<&AttachedUnit> {
        self.units.get(id.0 as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: UnitId) -> Option<&mut AttachedUnit> {
        self.units.get_mut(id.0 as usize)?.as_mut()
    }

    /// Submits; `None` when the unit is not there any more.
    pub(super) fn submit(
        &mut self,
        id: UnitId,
        tag: IoTag,
        io: BlockIo,
        buffer: Option<Buffer>,
    ) -> Option<Submit> {
        let unit = self.units.get_mut(id.0 as usize)?.as_mut()?;
        let submit = unit.backend.submit(tag, io, buffer);
        if matches!(submit, Submit::Pending) && !unit.polled {
            unit.polled = true;
            self.busy.push(id);
        }
        Some(submit)
    }

    /// Where the blocks of an extent can be sent from as they lie.
    pub(super) fn in_place(&mut self, id: UnitId, extent: Extent) -> Option<InPlace> {
        self.get_mut(id)?.backend.in_place(extent)
    }

    /// Whether data can come and go without a buffer.
    pub(super) fn is_memory(&self, id: UnitId) -> bool {
        self.get(id).is_some_and(|u| u.is_memory)
    }

    /// Writes `bytes` from where they are, if the unit can do that now.
    pub(super) fn write_from(
        &mut self,
        id: UnitId,
        extent: Extent,
        fua: bool,
        bytes: &[u8],
    ) -> Option<Result<(), BlockError>> {
        self.get_mut(id)?.backend.write_from(extent, fua, bytes)
    }

    pub(super) fn cancel(&mut self, id: UnitId, tag: IoTag) {
        if let Some(unit) = self.get_mut(id) {
            unit.backend.cancel(tag);
        }
    }

    /// Collects what backends with work in flight have finished.
    pub(super) fn poll(&mut self, finished: &mut Vec<Completion>) {
        self.leaving.retain_mut(|backend| {
            backend.poll(&mut |completion| finished.push(completion));
            backend.in_flight() > 0
        });
        let units = &mut self.units;
        self.busy.retain(|id| {
            let Some(Some(unit)) = units.get_mut(id.0 as usize) else {
                return false;
            };
            unit.backend
                .poll(&mut |completion| finished.push(completion));
            unit.polled = unit.backend.in_flight() > 0;
            unit.polled
        });
    }

    /// Whether any backend has work in flight.
    pub(super) fn is_busy(&self) -> bool {
        !(self.busy.is_empty() && self.leaving.is_empty())
    }
}
