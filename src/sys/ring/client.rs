//! One file's way to the ring.

use io_uring::{opcode, types};

use super::table::{Op, Ring, Target};
use super::{RingCompletion, RingEvent, RingOp, SharedRing, UNNAMED};
use crate::sys::hugepage::Loan;

/// Builds an entry for either kind of target.
macro_rules! on {
    ($target:expr, |$fd:ident| $build:expr) => {
        match $target {
            Target::Place($fd) => $build,
            Target::Fd($fd) => $build,
        }
    };
}
/// A part of a lent buffer, and where it goes in the file.
#[derive(Debug)]
pub struct Transfer {
    /// Owned until the completion.
    pub loan: Loan,
    /// First byte of the loan to use.
    pub start: usize,
    /// Bytes to move.
    pub len: u32,
    /// Place in the file, in bytes.
    pub offset: u64,
    /// RWF_* flags.
    pub flags: i32,
}

impl Transfer {
    fn address(&self) -> *mut u8 {
        assert!(
            self.start <= self.loan.len() && self.len as usize <= self.loan.len() - self.start,
            "{} bytes from {} of {}",
            self.len,
            self.start,
            self.loan.len()
        );
        // SAFETY: `start <= len` of the loan.
        unsafe { self.loan.ptr().add(self.start) }.as_ptr()
    }

    fn event(&self, op: RingOp, tag: u64) -> RingEvent {
        RingEvent {
            result: None,
            op,
            flags: self.flags,
            tag,
            offset: self.offset,
            len: self.len,
            registered_file: false,
            registered_memory: false,
        }
    }
}

/// One file's place on a ring. Dropped with operations in flight, their buffers are lost to their pool.
#[derive(Debug)]
pub struct RingClient {
    pub(super) ring: SharedRing,
    pub(super) id: u32,
}

impl RingClient {
    /// From now on nothing is tried on the calling thread: a thread of the kernel's does it from the start. For
    /// files that do not know what would wait. The kernel may take those of FUSE for such as are always ready (they
    /// can be polled), and wait for their server within `io_uring_enter` (tried on Linux 6.18).
    pub fn never_inline(&self) {
        let mut ring = self.ring.0.borrow_mut();
        if let Some(client) = ring.clients[self.id as usize].as_mut() {
            client.blocks = true;
        }
    }

    /// Queues a read.
    ///
    /// # Errors
    /// The loan, when ring or client are full: take completions and try again.
    ///
    /// # Panics
    /// When the transfer does not lie inside its loan.
    pub fn read(&self, tag: u64, transfer: Transfer) -> Result<(), Loan> {
        let (address, event) = (transfer.address(), transfer.event(RingOp::Read, tag));
        let Transfer {
            loan,
            len,
            offset,
            flags,
            ..
        } = transfer;
        let start = |ring: &Ring, target, event: &mut RingEvent| match ring
            .area_of(address as usize, len)
        {
            Some(area) => {
                event.registered_memory = true;
                on!(target, |fd| opcode::ReadFixed::new(fd, address, len, area)
                    .offset(offset)
                    .rw_flags(flags)
                    .build())
            }
            None => on!(target, |fd| opcode::Read::new(fd, address, len)
                .offset(offset)
                .rw_flags(flags)
                .build()),
        };
        let mut ring = self.ring.0.borrow_mut();
        ring.start(self.id, event, Some(loan), start)
            .map_err(|loan| loan.expect("it was given"))
    }

    /// Queues a write.
    ///
    /// # Errors
    /// As [`Self::read`].
    ///
    /// # Panics
    /// As [`Self::read`].
    pub fn write(&self, tag: u64, transfer: Transfer) -> Result<(), Loan> {
        let (address, event) = (transfer.address(), transfer.event(RingOp::Write, tag));
        let Transfer {
            loan,
            len,
            offset,
            flags,
            ..
        } = transfer;
        let start = |ring: &Ring, target, event: &mut RingEvent| match ring
            .area_of(address as usize, len)
        {
            Some(area) => {
                event.registered_memory = true;
                on!(target, |fd| opcode::WriteFixed::new(fd, address, len, area)
                    .offset(offset)
                    .rw_flags(flags)
                    .build())
            }
            None => on!(target, |fd| opcode::Write::new(fd, address, len)
                .offset(offset)
                .rw_flags(flags)
                .build()),
        };
        let mut ring = self.ring.0.borrow_mut();
        ring.start(self.id, event, Some(loan), start)
            .map_err(|loan| loan.expect("it was given"))
    }

    /// Queues an `fdatasync`; false when ring or client are full.
    #[must_use]
    pub fn data_sync(&self, tag: u64) -> bool {
        let event = RingEvent {
            op: RingOp::DataSync,
            tag,
            ..Op::unused().event
        };
        let start = |_: &Ring, target, _: &mut RingEvent| {
            on!(target, |fd| opcode::Fsync::new(fd)
                .flags(types::FsyncFlags::DATASYNC)
                .build())
        };
        let mut ring = self.ring.0.borrow_mut();
        ring.start(self.id, event, None, start).is_ok()
    }

    /// Queues advice that `len` bytes from `offset` will be read; false when ring or client are full.
    #[must_use]
    pub fn prefetch(&self, tag: u64, offset: u64, len: u32) -> bool {
        let event = RingEvent {
            op: RingOp::Prefetch,
            tag,
            offset,
            len,
            ..Op::unused().event
        };
        let start = |_: &Ring, target, _: &mut RingEvent| {
            on!(target, |fd| opcode::Fadvise::new(
                fd,
                i64::from(len),
                libc::POSIX_FADV_WILLNEED
            )
            .offset(offset)
            .build())
        };
        let mut ring = self.ring.0.borrow_mut();
        ring.start(self.id, event, None, start).is_ok()
    }

    /// Asks the kernel to give up the operation; it completes in any case.
    pub fn cancel(&self, tag: u64) {
        let mut ring = self.ring.0.borrow_mut();
        let found = ring.name_of(self.id, tag);
        if let Some(name) = found {
            // When there is no room, the operation simply takes its time.
            let _ = ring.push(&opcode::AsyncCancel::new(name).build().user_data(UNNAMED));
        }
    }

    /// The next completion, oldest first.
    #[must_use]
    pub fn poll(&self) -> Option<RingCompletion> {
        let mut ring = self.ring.0.borrow_mut();
        ring.clients[self.id as usize].as_mut()?.done.pop_front()
    }

    /// Operations queued whose completion was not taken yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        let ring = self.ring.0.borrow();
        ring.clients[self.id as usize]
            .as_ref()
            .map_or(0, |c| c.in_flight + c.done.len())
    }
}

impl Drop for RingClient {
    fn drop(&mut self) {
        let mut ring = self.ring.0.borrow_mut();
        if let Some(client) = ring.clients[self.id as usize].as_mut() {
            client.gone = true;
            client.done.clear();
        }
        ring.collect(self.id);
    }
}
