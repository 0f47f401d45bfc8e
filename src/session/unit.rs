//! The logical units attached on this core: snapshot, backend, and the barrier they are passing.

use std::sync::Arc;

use super::{ReactorId, UnitId};
use crate::backend::{Backend, BlockIo, Completion, IoTag, Submit};
use crate::buffer::Buffer;
use crate::scsi::LogicalUnit;

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
    polled: bool,
    /// It was done with the last operation on the spot. (Before the first: supposed.)
    pub(super) at_once: bool,
    /// Bytes of the buffers that its backend has.
    bytes: usize,
    /// Tasks that wait for its queue and have not been given a place.
    waiting: usize,
    /// Tasks that wait for its queue and may try again now.
    room: usize,
}

/// All units of one core, by [`UnitId`].
#[derive(Debug, Default)]
pub(super) struct Units {
    units: Vec<Option<AttachedUnit>>,
    /// Those whose backend has work in flight.
    busy: Vec<UnitId>,
    /// Backends that were replaced while they had operations in flight.
    leaving: Vec<Box<dyn Backend>>,
    /// Bytes of buffers that one unit's backend may have, when there are others.
    share: usize,
    /// Some unit has room for one that waits.
    room_made: bool,
}

impl Units {
    /// No units yet; of several, each may have `share` bytes of buffers with its medium.
    pub(super) fn new(share: usize) -> Self {
        Self {
            share,
            ..Self::default()
        }
    }

    pub(super) fn attach(&mut self, id: UnitId, unit: Arc<LogicalUnit>, backend: Box<dyn Backend>) {
        let index = id.0 as usize;
        if self.units.len() <= index {
            self.units.resize_with(index + 1, || None);
        }
        self.busy.retain(|b| *b != id);
        self.busy.reserve(self.units.len());
        let mut unit = unit;
        let mut waiting = 0;
        if let Some(old) = self.units[index].take() {
            if old.unit.generation > unit.generation {
                // A barrier has passed since this snapshot was made.
                unit = old.unit;
            }
            // They try the new one.
            waiting = old.waiting + old.room;
            if old.backend.in_flight() > 0 {
                self.leaving.push(old.backend);
            }
        }
        self.room_made |= waiting > 0;
        self.units[index] = Some(AttachedUnit {
            unit,
            backend,
            polled: false,
            at_once: true,
            bytes: 0,
            waiting: 0,
            room: waiting,
        });
    }

    /// Takes a unit away; its backend, unless the unit is not there.
    pub(super) fn detach(&mut self, id: UnitId) -> Option<Box<dyn Backend>> {
        self.busy.retain(|b| *b != id);
        let unit = self.units.get_mut(id.0 as usize)?.take()?;
        self.room_made |= unit.waiting > 0;
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
        let crowd = self.units.len() > 1;
        let unit = self.units.get_mut(id.0 as usize)?.as_mut()?;
        let len = buffer.as_ref().map_or(0, Buffer::len);
        if crowd && unit.bytes > 0 && unit.bytes + len > self.share {
            return Some(Submit::Full(buffer));
        }
        let submit = unit.backend.submit(tag, io, buffer);
        match submit {
            Submit::Done(_) => unit.at_once = true,
            Submit::Pending => {
                unit.at_once = false;
                unit.bytes += len;
                if !std::mem::replace(&mut unit.polled, true) {
                    self.busy.push(id);
                }
            }
            Submit::Full(_) => {}
        }
        Some(submit)
    }

    /// Whether the unit will finish something, which makes room.
    pub(super) fn will_make_room(&self, id: UnitId) -> bool {
        self.get(id).is_some_and(|unit| unit.polled)
    }

    /// Whether tasks wait for its queue.
    pub(super) fn is_waited_for(&self, id: UnitId) -> bool {
        self.get(id).is_some_and(|unit| unit.waiting > 0)
    }

    /// One more task waits for its queue.
    pub(super) fn note_waiting(&mut self, id: UnitId) {
        if let Some(unit) = self.get_mut(id) {
            unit.waiting += 1;
        }
    }

    /// One of them does no more.
    pub(super) fn note_left(&mut self, id: UnitId) {
        if let Some(unit) = self.get_mut(id) {
            if unit.waiting > 0 {
                unit.waiting -= 1;
            } else {
                unit.room = unit.room.saturating_sub(1);
            }
        }
    }

    /// Whether any unit has made room since this was asked.
    pub(super) fn take_room_made(&mut self) -> bool {
        std::mem::take(&mut self.room_made)
    }

    /// Whether the next task that waits for this unit may try again. One that is not there keeps nobody.
    pub(super) fn take_room(&mut self, id: UnitId) -> bool {
        let Some(unit) = self.get_mut(id) else {
            return true;
        };
        let has_room = unit.room > 0;
        unit.room -= usize::from(has_room);
        has_room
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
        let (units, room_made) = (&mut self.units, &mut self.room_made);
        self.busy.retain(|id| {
            let Some(Some(unit)) = units.get_mut(id.0 as usize) else {
                return false;
            };
            let bytes = &mut unit.bytes;
            let ended = unit.backend.poll(&mut |completion| {
                let len = completion.buffer.as_ref().map_or(0, Buffer::len);
                *bytes = bytes.saturating_sub(len);
                finished.push(completion);
            });
            unit.polled = unit.backend.in_flight() > 0;
            if unit.waiting > 0 {
                // When nothing is left that could make more, all try.
                let room = if unit.polled {
                    ended.min(unit.waiting)
                } else {
                    unit.waiting
                };
                unit.waiting -= room;
                unit.room += room;
                *room_made |= room > 0;
            }
            unit.polled
        });
    }

    /// Whether any backend has work in flight.
    pub(super) fn is_busy(&self) -> bool {
        !(self.busy.is_empty() && self.leaving.is_empty())
    }
}
