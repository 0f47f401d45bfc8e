//! What one ring knows: its clients, and the operations in flight.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use io_uring::{IoUring, cqueue, squeue, types};

use super::{LONGEST_REGISTERED, RingCompletion, RingEvent, RingOp, UNNAMED};
use crate::sys::hugepage::{Loan, Mapping};

pub(super) struct Ring {
    pub(super) ring: IoUring,
    /// A kernel thread takes what is queued.
    pub(super) has_sq_thread: bool,
    /// Entries queued since the last [`Self::submit`].
    pub(super) unsubmitted: usize,
    pub(super) ops: Vec<Op>,
    pub(super) free: Vec<u32>,
    pub(super) clients: Vec<Option<Client>>,
    /// Which places of the kernel's file table are taken; empty when there is no table.
    pub(super) file_table: Vec<bool>,
    /// Registered memory: first address, end, index.
    pub(super) areas: Vec<(usize, usize, u16)>,
    /// The kernel writes to it when there is something to reap.
    pub(super) event: OwnedFd,
    /// Keeps the registered memory mapped.
    pub(super) mappings: Vec<Rc<Mapping>>,
    pub(super) recording: Option<VecDeque<RingEvent>>,
}

pub(super) struct Op {
    pub(super) client: u32,
    pub(super) generation: u32,
    pub(super) tag: u64,
    pub(super) loan: Option<Loan>,
    pub(super) busy: bool,
    pub(super) event: RingEvent,
}

pub(super) struct Client {
    pub(super) file: Arc<File>,
    pub(super) place: Option<u32>,
    pub(super) done: VecDeque<RingCompletion>,
    pub(super) in_flight: usize,
    pub(super) gone: bool,
    /// Nothing is tried on the submitting thread.
    pub(super) blocks: bool,
    /// Operations it may have in flight.
    pub(super) depth: usize,
    /// By tag, below the depth: which entry of the table has the operation; to be checked there.
    pub(super) places: Vec<u32>,
}

impl Op {
    pub(super) fn unused() -> Self {
        Self {
            client: 0,
            generation: 0,
            tag: 0,
            loan: None,
            busy: false,
            event: RingEvent {
                result: None,
                op: RingOp::Read,
                flags: 0,
                tag: 0,
                offset: 0,
                len: 0,
                registered_file: false,
                registered_memory: false,
            },
        }
    }
}

impl Ring {
    pub(super) fn register_memory(&mut self, mapping: &Rc<Mapping>) -> io::Result<()> {
        if !self.mappings.is_empty() {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        let base = mapping.base();
        // Pages of one size in each piece: the kernel then joins them.
        let (cut, end) = (mapping.reserved(), mapping.len());
        let starts = (0..cut)
            .step_by(LONGEST_REGISTERED)
            .chain((cut..end).step_by(LONGEST_REGISTERED));
        let pieces: Vec<libc::iovec> = starts
            .map(|at| libc::iovec {
                // SAFETY: `at < mapping.len()`.
                iov_base: unsafe { base.add(at) }.as_ptr().cast(),
                iov_len: LONGEST_REGISTERED.min(if at < cut { cut } else { end } - at),
            })
            .collect();
        // SAFETY: the pieces are parts of a mapping that `self.mappings` keeps; the kernel only accesses
        // them for operations, each of which owns the loan of what it touches.
        unsafe { self.ring.submitter().register_buffers(&pieces)? };
        self.mappings.push(Rc::clone(mapping));
        self.areas = pieces
            .iter()
            .zip(0u16..)
            .map(|(p, i)| (p.iov_base as usize, p.iov_base as usize + p.iov_len, i))
            .collect();
        Ok(())
    }

    pub(super) fn add_client(&mut self, file: Arc<File>, depth: u32) -> u32 {
        let place = self.file_table.iter().position(|taken| !taken);
        let place = place.and_then(|p| u32::try_from(p).ok()).filter(|&p| {
            let update = self
                .ring
                .submitter()
                .register_files_update(p, &[file.as_raw_fd()]);
            update.is_ok_and(|n| n == 1)
        });
        if let Some(place) = place {
            self.file_table[place as usize] = true;
        }
        let depth = self.ops.len().min(depth as usize);
        let client = Client {
            file,
            place,
            done: VecDeque::with_capacity(depth),
            in_flight: 0,
            gone: false,
            blocks: false,
            depth,
            places: vec![0; depth],
        };
        let id = match self.clients.iter().position(Option::is_none) {
            Some(id) => id,
            None => {
                self.clients.push(None);
                self.clients.len() - 1
            }
        };
        self.clients[id] = Some(client);
        self.allow_workers();
        u32::try_from(id).expect("a client is a file, of which a process has fewer than 2^32")
    }

    /// What blocks runs on threads of the kernel's, which all clients share; with its own limit (4 for each core), a
    /// few operations that hang would keep everybody else's waiting. So there may be one for each operation; they
    /// are started when needed, and end when idle.
    fn allow_workers(&self) {
        let all: usize = self.clients.iter().flatten().map(|c| c.depth).sum();
        let all = u32::try_from(all.min(self.ops.len())).unwrap_or(u32::MAX);
        // Asks first: 0 changes nothing.
        let mut limits = [0, 0];
        let submitter = self.ring.submitter();
        if submitter.register_iowq_max_workers(&mut limits).is_ok() && limits[0] < all {
            // An old kernel (before 5.15) keeps its own.
            let _ = submitter.register_iowq_max_workers(&mut [all, 0]);
        }
    }

    /// The kernel's name for an operation in flight.
    pub(super) fn name_of(&self, id: u32, tag: u64) -> Option<u64> {
        let own = |op: &Op| op.busy && op.client == id && op.tag == tag;
        let client = self.clients[id as usize].as_ref()?;
        let place = usize::try_from(tag).ok().and_then(|t| client.places.get(t));
        let index = match place {
            Some(&index) => Some(index).filter(|&index| own(&self.ops[index as usize])),
            None => (0..)
                .zip(&self.ops)
                .find_map(|(index, op)| own(op).then_some(index)),
        }?;
        Some(u64::from(self.ops[index as usize].generation) << 32 | u64::from(index))
    }

    /// Forgets a client that is gone and has nothing in flight.
    pub(super) fn collect(&mut self, id: u32) {
        let slot = &mut self.clients[id as usize];
        if !slot.as_ref().is_some_and(|c| c.gone && c.in_flight == 0) {
            return;
        }
        if let Some(place) = slot.take().and_then(|c| c.place) {
            // When this fails, the kernel keeps the file open until the place is used again.
            let _ = self.ring.submitter().register_files_update(place, &[-1]);
            self.file_table[place as usize] = false;
        }
    }

    /// Whether the kernel must be called for what is queued, deferred or did not fit.
    pub(super) fn wants_submit(&mut self) -> bool {
        let queue = self.ring.submission();
        if queue.taskrun() || queue.cq_overflow() {
            return true;
        }
        // An awake submission thread sees what is queued by itself. The question has the fence in it
        // between our writing the queue and reading whether it sleeps.
        !queue.is_empty() && (!self.has_sq_thread || queue.need_wakeup())
    }

    pub(super) fn submit(&mut self) -> io::Result<usize> {
        if self.wants_submit() {
            match self.ring.submit() {
                Ok(taken) if !self.has_sq_thread => {
                    self.unsubmitted = self.unsubmitted.saturating_sub(taken);
                    return Ok(taken);
                }
                Err(e)
                    if matches!(
                        e.raw_os_error(),
                        Some(libc::EAGAIN | libc::EBUSY | libc::EINTR)
                    ) =>
                {
                    return Ok(0);
                }
                Ok(_) => {}
                Err(e) => return Err(e),
            }
        }
        if !self.has_sq_thread {
            return Ok(0);
        }
        Ok(std::mem::take(&mut self.unsubmitted))
    }

    pub(super) fn reap(&mut self) -> usize {
        let mut count = 0;
        loop {
            let next: Option<cqueue::Entry> = self.ring.completion().next();
            let Some(entry) = next else { return count };
            count += usize::from(self.complete(entry.user_data(), entry.result()));
        }
    }

    pub(super) fn complete(&mut self, name: u64, result: i32) -> bool {
        if name == UNNAMED {
            return false;
        }
        let index = usize::try_from(name & u64::from(u32::MAX)).expect("32 bits");
        let op = &mut self.ops[index];
        debug_assert!(op.busy && u64::from(op.generation) == name >> 32);
        op.busy = false;
        op.generation = op.generation.wrapping_add(1) & 0x7fff_ffff;
        let completion = RingCompletion {
            tag: op.tag,
            result,
            loan: op.loan.take(),
        };
        let (id, event) = (op.client, op.event);
        self.free
            .push(u32::try_from(index).expect("an index of u32"));
        if let Some(recording) = &mut self.recording {
            note(
                recording,
                RingEvent {
                    result: Some(result),
                    ..event
                },
            );
        }
        let client = self.clients[id as usize]
            .as_mut()
            .expect("a client stays while it has operations in flight");
        client.in_flight -= 1;
        if client.gone {
            self.collect(id);
        } else {
            client.done.push_back(completion);
        }
        true
    }

    /// Puts an entry into the submission queue, making room once if there is none.
    pub(super) fn push(&mut self, entry: &squeue::Entry) -> bool {
        for attempt in 0..2 {
            // SAFETY: the caller's contract (see `start`): file and memory outlive the operation.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                self.unsubmitted += 1;
                return true;
            }
            if attempt == 0 && self.submit().is_err() {
                return false;
            }
        }
        false
    }

    /// Starts an operation whose memory, if any, is all inside `loan`, which stays in the table until the
    /// kernel has completed it, as does the client's file.
    pub(super) fn start(
        &mut self,
        id: u32,
        event: RingEvent,
        loan: Option<Loan>,
        build: impl FnOnce(&Self, Target, &mut RingEvent) -> squeue::Entry,
    ) -> Result<(), Option<Loan>> {
        let client = self.clients[id as usize].as_ref().expect("a live client");
        let Some(&index) = self.free.last() else {
            return Err(loan);
        };
        if client.in_flight + client.done.len() >= client.done.capacity() {
            return Err(loan);
        }
        let target = match client.place {
            Some(place) => Target::Place(types::Fixed(place)),
            None => Target::Fd(types::Fd(client.file.as_raw_fd())),
        };
        let generation = self.ops[index as usize].generation;
        let name = u64::from(generation) << 32 | u64::from(index);
        let mut event = RingEvent {
            registered_file: matches!(target, Target::Place(_)),
            ..event
        };
        let mut entry = build(self, target, &mut event).user_data(name);
        if client.blocks {
            entry = entry.flags(squeue::Flags::ASYNC);
        }
        if !self.push(&entry) {
            return Err(loan);
        }
        self.free.pop();
        let op = &mut self.ops[index as usize];
        op.client = id;
        op.tag = event.tag;
        op.loan = loan;
        op.busy = true;
        op.event = event;
        let client = self.clients[id as usize].as_mut().expect("a live client");
        client.in_flight += 1;
        let place = usize::try_from(event.tag).ok();
        if let Some(place) = place.and_then(|tag| client.places.get_mut(tag)) {
            *place = index;
        }
        if let Some(recording) = &mut self.recording {
            note(recording, event);
        }
        Ok(())
    }

    /// The registered area that holds `len` bytes from `start`.
    pub(super) fn area_of(&self, start: usize, len: u32) -> Option<u16> {
        self.areas
            .iter()
            .find(|(first, end, _)| start >= *first && start + len as usize <= *end)
            .map(|(_, _, index)| *index)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        for client in self.clients.iter().flatten().filter(|c| c.in_flight > 0) {
            // The kernel goes on with them after the ring is gone. A count that never ends tells whoever else has
            // the file that it is not his alone: its lock must stay as long as the operations.
            std::mem::forget(Arc::downgrade(&client.file));
        }
        if self.free.len() == self.ops.len() {
            // Else the kernel lets go of them some time after the process has ended, and whoever starts next finds its
            // huge pages and its limit of locked memory used. What was not registered, or cannot be given back, is left.
            let submitter = self.ring.submitter();
            if !self.mappings.is_empty() {
                let _ = submitter.unregister_buffers();
            }
            if !self.file_table.is_empty() {
                let _ = submitter.unregister_files();
            }
        }
    }
}

fn note(recording: &mut VecDeque<RingEvent>, event: RingEvent) {
    if recording.len() == recording.capacity() {
        recording.pop_front();
    }
    recording.push_back(event);
}

#[derive(Clone, Copy)]
pub(super) enum Target {
    Place(types::Fixed),
    Fd(types::Fd),
}
