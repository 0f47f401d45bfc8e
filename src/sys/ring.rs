//! io_uring of one core.
//!
//! A [`SharedRing`] belongs to the thread that made it. Each file that is to be used through it gets a
//! [`RingClient`], with its own queue of completions. An operation owns the [`Loan`] of its buffer until
//! its completion, so the memory stays valid whatever becomes of the rest. Nothing is allocated per
//! operation. The thread's turn is: clients queue operations, [`SharedRing::submit`] (one system call,
//! or none when there is nothing to do), [`SharedRing::reap`] (none at all), clients take completions.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::hugepage::{Loan, Mapping};

/// How large, and how served.
#[derive(Clone, Debug)]
pub struct RingConfig {
    /// Operations that may be in flight, of all clients together; also the submission queue's length,
    /// up to 4096.
    pub entries: u32,
    /// Cores on which the kernel may run the workers of operations that block; empty: wherever the
    /// calling thread may run (its own core, when it is pinned).
    pub worker_cores: Vec<u32>,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self {
            entries: 1024,
            worker_cores: Vec::new(),
        }
    }
}

/// Files that can be in the kernel's table of one ring; more are used by their descriptor.
const FILE_TABLE: u32 = 64;
/// The kernel's limit on one registered buffer, in bytes.
const LONGEST_REGISTERED: usize = 1 << 30;
/// `user_data` of what nobody waits for.
const UNNAMED: u64 = u64::MAX;

/// Whether this process may use io_uring at all.
///
/// # Errors
/// As `io_uring_setup`: ENOSYS (no kernel support), EPERM (denied by sysctl or seccomp), ENOMEM.
pub fn probe() -> io::Result<()> {
    IoUring::new(2).map(drop)
}

/// What an operation is, for the recorder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingOp {
    /// Into memory.
    Read,
    /// From memory.
    Write,
    /// `fdatasync`.
    DataSync,
    /// `posix_fadvise(WILLNEED)`.
    Prefetch,
}

/// One line of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingEvent {
    /// Result of a completion (bytes, or a negative error number); `None` at submission.
    pub result: Option<i32>,
    /// Kind.
    pub op: RingOp,
    /// RWF_* flags.
    pub flags: i32,
    /// The client's name for the operation.
    pub tag: u64,
    /// Place in the file, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub len: u32,
}

/// A ring shared by the backends of one reactor. Clones are the same ring.
#[derive(Clone)]
pub struct SharedRing(Rc<RefCell<Ring>>);

impl std::fmt::Debug for SharedRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedRing")
    }
}

struct Ring {
    ring: IoUring,
    ops: Vec<Op>,
    free: Vec<u32>,
    clients: Vec<Option<Client>>,
    /// Which places of the kernel's file table are taken; empty when there is no table.
    file_table: Vec<bool>,
    /// Registered memory: first address, end, index.
    areas: Vec<(usize, usize, u16)>,
    /// The kernel writes to it when there is something to reap.
    event: OwnedFd,
    /// Keeps the registered memory mapped.
    mappings: Vec<Rc<Mapping>>,
    recording: Option<VecDeque<RingEvent>>,
}

struct Op {
    client: u32,
    generation: u32,
    tag: u64,
    loan: Option<Loan>,
    busy: bool,
    event: RingEvent,
}

struct Client {
    file: Arc<File>,
    place: Option<u32>,
    done: VecDeque<RingCompletion>,
    in_flight: usize,
    gone: bool,
}

/// The end of an operation.
#[derive(Debug)]
pub struct RingCompletion {
    /// The client's name for it.
    pub tag: u64,
    /// Bytes moved, or a negative error number.
    pub result: i32,
    /// The buffer, if it had one.
    pub loan: Option<Loan>,
}

impl SharedRing {
    /// A ring for the calling thread, with deferred task work where the kernel can do that (6.1), else
    /// a plain one; the notes say what could not be had.
    ///
    /// # Errors
    /// As `io_uring_setup`; EPERM and ENOSYS mean that it is denied here.
    pub fn new(config: &RingConfig) -> io::Result<(Self, Vec<String>)> {
        let entries = config.entries.clamp(2, 4096).next_power_of_two();
        let in_flight = config.entries.max(2);
        let completions = in_flight.next_power_of_two().saturating_mul(2);
        let mut notes = Vec::new();
        let ring = IoUring::builder()
            .setup_clamp()
            .setup_cqsize(completions)
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .build(entries)
            .or_else(|refused| {
                let ring = IoUring::builder()
                    .setup_clamp()
                    .setup_cqsize(completions)
                    .build(entries)?;
                notes.push(format!(
                    "io_uring without deferred task work ({refused}); a kernel from 6.1 on has it"
                ));
                Ok::<_, io::Error>(ring)
            })?;
        let table = ring.submitter().register_files_sparse(FILE_TABLE);
        if !config.worker_cores.is_empty() {
            let cores = super::cpu::set_of(&config.worker_cores);
            if let Err(error) = ring.submitter().register_iowq_aff(&cores) {
                notes.push(format!(
                    "io_uring workers stay on the reactor's core ({error})"
                ));
            }
        }
        let event = event_fd()?;
        ring.submitter().register_eventfd(event.as_raw_fd())?;
        let ring = Ring {
            ring,
            event,
            ops: (0..in_flight).map(|_| Op::unused()).collect(),
            free: (0..in_flight).rev().collect(),
            clients: Vec::new(),
            file_table: table.map_or(Vec::new(), |()| vec![false; FILE_TABLE as usize]),
            areas: Vec::new(),
            mappings: Vec::new(),
            recording: None,
        };
        Ok((Self(Rc::new(RefCell::new(ring))), notes))
    }

    /// Registers the memory of the core's buffers with the kernel, which then need not look up its pages
    /// for each operation. Without it everything works, a little slower.
    ///
    /// # Errors
    /// ENOMEM when RLIMIT_MEMLOCK does not allow it; EBUSY when memory is registered already.
    pub fn register_memory(&self, mapping: &Rc<Mapping>) -> io::Result<()> {
        self.0.borrow_mut().register_memory(mapping)
    }

    /// A client for `file`, with up to `depth` operations in flight.
    #[must_use]
    pub fn client(&self, file: Arc<File>, depth: u32) -> RingClient {
        let id = self.0.borrow_mut().add_client(file, depth);
        RingClient {
            ring: self.clone(),
            id,
        }
    }

    /// Hands what is queued to the kernel, and lets it finish its deferred work: one system call, or none
    /// when there is neither. Returns how many operations the kernel took.
    ///
    /// # Errors
    /// As `io_uring_enter`, but for the passing EAGAIN, EBUSY and EINTR (what is queued stays so).
    pub fn submit(&self) -> io::Result<usize> {
        self.0.borrow_mut().submit()
    }

    /// Moves completions to their clients' queues; returns how many. No system call.
    #[must_use = "how many there were says whether the turn was idle"]
    pub fn reap(&self) -> usize {
        self.0.borrow_mut().reap()
    }

    /// Whether [`Self::submit`] or [`Self::reap`] would find something to do. To be asked before sleeping.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        let ring = &mut *self.0.borrow_mut();
        let queue = ring.ring.submission();
        let waiting = !queue.is_empty() || queue.taskrun() || queue.cq_overflow();
        drop(queue);
        waiting || !ring.ring.completion().is_empty()
    }

    /// Operations not completed yet, of all clients.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        let ring = self.0.borrow();
        ring.ops.len() - ring.free.len()
    }

    /// Whether completions make the descriptor readable; at first they do. A reactor that polls turns it
    /// off (it costs the kernel something per completion); before it sleeps it turns it on, and only then
    /// asks [`Self::has_pending`]. No system call.
    pub fn set_wakeups(&self, on: bool) {
        let ring = &mut *self.0.borrow_mut();
        let queue = ring.ring.completion();
        if on {
            queue.enable_eventfd();
            // What the kernel completes from here on sees the flag, or is seen by `has_pending`.
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        } else {
            queue.disable_eventfd();
        }
    }

    /// Starts recording: the last `lines` submissions and completions. For tests that must see an order.
    pub fn record(&self, lines: usize) {
        self.0.borrow_mut().recording = Some(VecDeque::with_capacity(lines.max(1)));
    }

    /// What was recorded since the last call, oldest first.
    #[must_use]
    pub fn recorded(&self) -> Vec<RingEvent> {
        let mut ring = self.0.borrow_mut();
        ring.recording
            .as_mut()
            .map_or_else(Vec::new, |r| r.drain(..).collect())
    }
}

impl AsRawFd for SharedRing {
    /// An eventfd, not the ring itself: polling the ring does not see deferred task work arrive (tried on
    /// Linux 6.18), the eventfd does. To be polled edge-triggered; there is no need to read it.
    fn as_raw_fd(&self) -> RawFd {
        self.0.borrow().event.as_raw_fd()
    }
}

fn event_fd() -> io::Result<OwnedFd> {
    // SAFETY: makes a new descriptor; no memory is involved.
    let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor just made, that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl Op {
    fn unused() -> Self {
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
            },
        }
    }
}

impl Ring {
    fn register_memory(&mut self, mapping: &Rc<Mapping>) -> io::Result<()> {
        if !self.mappings.is_empty() {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        let base = mapping.base();
        let pieces: Vec<libc::iovec> = (0..mapping.len())
            .step_by(LONGEST_REGISTERED)
            .map(|at| libc::iovec {
                // SAFETY: `at < mapping.len()`.
                iov_base: unsafe { base.add(at) }.as_ptr().cast(),
                iov_len: LONGEST_REGISTERED.min(mapping.len() - at),
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

    fn add_client(&mut self, file: Arc<File>, depth: u32) -> u32 {
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
        };
        let id = match self.clients.iter().position(Option::is_none) {
            Some(id) => id,
            None => {
                self.clients.push(None);
                self.clients.len() - 1
            }
        };
        self.clients[id] = Some(client);
        u32::try_from(id).expect("a client is a file, of which a process has fewer than 2^32")
    }

    /// Forgets a client that is gone and has nothing in flight.
    fn collect(&mut self, id: u32) {
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

    fn submit(&mut self) -> io::Result<usize> {
        let queue = self.ring.submission();
        let idle = queue.is_empty() && !queue.taskrun() && !queue.cq_overflow();
        drop(queue);
        if idle {
            return Ok(0);
        }
        match self.ring.submit() {
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::EAGAIN | libc::EBUSY | libc::EINTR)
                ) =>
            {
                Ok(0)
            }
            other => other,
        }
    }

    fn reap(&mut self) -> usize {
        let mut count = 0;
        loop {
            let next: Option<cqueue::Entry> = self.ring.completion().next();
            let Some(entry) = next else { return count };
            count += usize::from(self.complete(entry.user_data(), entry.result()));
        }
    }

    fn complete(&mut self, name: u64, result: i32) -> bool {
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
    fn push(&mut self, entry: &squeue::Entry) -> bool {
        for attempt in 0..2 {
            // SAFETY: the caller's contract (see `start`): file and memory outlive the operation.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
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
    fn start(
        &mut self,
        id: u32,
        event: RingEvent,
        loan: Option<Loan>,
        build: impl FnOnce(&Self, Target) -> squeue::Entry,
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
        let entry = build(self, target).user_data(name);
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
        if let Some(recording) = &mut self.recording {
            note(recording, event);
        }
        Ok(())
    }

    /// The registered area that holds `len` bytes from `start`.
    fn area_of(&self, start: usize, len: u32) -> Option<u16> {
        self.areas
            .iter()
            .find(|(first, end, _)| start >= *first && start + len as usize <= *end)
            .map(|(_, _, index)| *index)
    }
}

fn note(recording: &mut VecDeque<RingEvent>, event: RingEvent) {
    if recording.len() == recording.capacity() {
        recording.pop_front();
    }
    recording.push_back(event);
}

#[derive(Clone, Copy)]
enum Target {
    Place(types::Fixed),
    Fd(types::Fd),
}

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
        }
    }
}

/// One file's place on a ring. Dropped with operations in flight, their buffers are lost to their pool.
#[derive(Debug)]
pub struct RingClient {
    ring: SharedRing,
    id: u32,
}

impl RingClient {
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
        let start = |ring: &Ring, target| match ring.area_of(address as usize, len) {
            Some(area) => on!(target, |fd| opcode::ReadFixed::new(fd, address, len, area)
                .offset(offset)
                .rw_flags(flags)
                .build()),
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
        let start = |ring: &Ring, target| match ring.area_of(address as usize, len) {
            Some(area) => on!(target, |fd| opcode::WriteFixed::new(fd, address, len, area)
                .offset(offset)
                .rw_flags(flags)
                .build()),
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
        let start = |_: &Ring, target| {
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
        let start = |_: &Ring, target| {
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
        let found = ring
            .ops
            .iter()
            .zip(0u64..)
            .find(|(op, _)| op.busy && op.client == self.id && op.tag == tag)
            .map(|(op, index)| u64::from(op.generation) << 32 | index);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::hugepage::{MapOptions, Slot, map};
    use std::os::unix::fs::FileExt;
    use std::time::Duration;

    fn ring() -> Option<SharedRing> {
        SharedRing::new(&RingConfig::default()).ok().map(|r| r.0)
    }

    fn slot() -> Slot {
        let options = MapOptions {
            hugepages: false,
            numa_node: None,
            touch: false,
        };
        map(1, options).expect("memory").0
    }

    fn whole(loan: Loan, len: u32, offset: u64) -> Transfer {
        Transfer {
            loan,
            start: 0,
            len,
            offset,
            flags: 0,
        }
    }

    fn wait(ring: &SharedRing, client: &RingClient) -> RingCompletion {
        loop {
            ring.submit().expect("enter");
            let _ = ring.reap();
            if let Some(done) = client.poll() {
                return done;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_is_written_is_read_registered_or_not() {
        let Some(ring) = ring() else { return };
        let file = Arc::new(tempfile::tempfile().expect("a file"));
        let client = ring.client(Arc::clone(&file), 4);
        for round in 0..2u64 {
            let (mut slot, _rest) = slot().split_at(8192);
            if round == 1 {
                ring.register_memory(slot.mapping()).expect("allowed");
                assert!(ring.register_memory(slot.mapping()).is_err());
            }
            slot.as_mut_slice().fill(7);
            let (lent, loan) = slot.lend();
            client
                .write(1, whole(loan, 8192, round * 4096))
                .expect("room");
            let done = wait(&ring, &client);
            assert_eq!((done.tag, done.result), (1, 8192));
            let mut slot = lent.reclaim(done.loan.expect("its buffer"));
            slot.as_mut_slice().fill(0);
            let (lent, loan) = slot.lend();
            client
                .read(2, whole(loan, 8192, round * 4096))
                .expect("room");
            let done = wait(&ring, &client);
            assert_eq!((done.tag, done.result), (2, 8192));
            let slot = lent.reclaim(done.loan.expect("its buffer"));
            assert!(slot.as_slice().iter().all(|&b| b == 7));
        }
        assert!(client.data_sync(3));
        assert_eq!(wait(&ring, &client).result, 0);
        assert!(client.prefetch(4, 0, 4096));
        assert_eq!(wait(&ring, &client).result, 0);
        assert_eq!((client.in_flight(), ring.in_flight()), (0, 0));
        assert!(!ring.has_pending());
    }

    #[test]
    fn a_sleeper_on_the_ring_is_woken_by_deferred_work() {
        let Some(ring) = ring() else { return };
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        let file = Arc::new(File::from(std::os::fd::OwnedFd::from(reader)));
        let client = ring.client(file, 4);
        let mut poll = mio::Poll::new().expect("epoll");
        let fd = ring.as_raw_fd();
        let mut source = mio::unix::SourceFd(&fd);
        poll.registry()
            .register(&mut source, mio::Token(0), mio::Interest::READABLE)
            .expect("the ring can be polled");
        let mut events = mio::Events::with_capacity(4);
        for round in 0..3 {
            let (lent, loan) = slot().lend();
            client.read(1, whole(loan, 4096, 0)).expect("room");
            ring.submit().expect("enter");
            let _ = ring.reap();
            poll.poll(&mut events, Some(Duration::ZERO)).expect("epoll");
            assert!(client.poll().is_none());
            ring.set_wakeups(round != 1);
            std::io::Write::write_all(&mut writer, b"x").expect("the pipe has room");
            // In round 1 wake-ups are off, so there is nothing to wait for.
            let patience = Duration::from_secs(if round == 1 { 0 } else { 10 });
            poll.poll(&mut events, Some(patience)).expect("epoll");
            assert_eq!(events.is_empty(), round == 1, "round {round}");
            assert!(ring.has_pending());
            let done = wait(&ring, &client);
            assert_eq!(done.result, 1);
            drop(lent.reclaim(done.loan.expect("its buffer")));
        }
    }

    #[test]
    fn a_hanging_operation_is_cancelled_by_its_tag() {
        let Some(ring) = ring() else { return };
        let (reader, _writer) = std::io::pipe().expect("a pipe");
        let client = ring.client(Arc::new(File::from(std::os::fd::OwnedFd::from(reader))), 4);
        let (_lent, loan) = slot().lend();
        client.read(9, whole(loan, 4096, 0)).expect("room");
        client.cancel(8);
        client.cancel(9);
        let done = wait(&ring, &client);
        assert_eq!((done.tag, done.result), (9, -libc::ECANCELED));
    }

    #[test]
    fn a_client_dropped_in_flight_frees_its_place_later() {
        let Some(ring) = ring() else { return };
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let client = ring.client(Arc::new(File::from(std::os::fd::OwnedFd::from(reader))), 4);
        let (_lent, loan) = slot().lend();
        client.read(1, whole(loan, 4096, 0)).expect("room");
        drop(client);
        drop(writer);
        while ring.in_flight() > 0 {
            ring.submit().expect("enter");
            let _ = ring.reap();
        }
        assert!(ring.0.borrow().clients.iter().all(Option::is_none));
        assert!(ring.0.borrow().file_table.iter().all(|taken| !taken));
    }

    #[test]
    fn a_full_client_gives_the_loan_back() {
        let Some(ring) = ring() else { return };
        let file = tempfile::tempfile().expect("a file");
        file.write_all_at(&[1; 4096], 0).expect("room on disk");
        let client = ring.client(Arc::new(file), 2);
        let mut lents = Vec::new();
        let mut refused = 0;
        for tag in 0..40 {
            let (lent, loan) = slot().lend();
            match client.read(tag, whole(loan, 4096, 0)) {
                Ok(()) => lents.push(lent),
                Err(loan) => {
                    refused += 1;
                    drop(lent.reclaim(loan));
                }
            }
        }
        assert!(refused > 0 && client.in_flight() == lents.len());
    }

    #[test]
    fn a_recording_keeps_the_order_of_submission_and_completion() {
        let Some(ring) = ring() else { return };
        ring.record(16);
        let client = ring.client(Arc::new(tempfile::tempfile().expect("a file")), 4);
        let (_lent, loan) = slot().lend();
        let transfer = Transfer {
            flags: libc::RWF_DSYNC,
            ..whole(loan, 512, 0)
        };
        client.write(1, transfer).expect("room");
        let _ = wait(&ring, &client);
        assert!(client.data_sync(2));
        let _ = wait(&ring, &client);
        let seen: Vec<_> = ring
            .recorded()
            .iter()
            .map(|e| (e.op, e.tag, e.result))
            .collect();
        assert_eq!(
            seen,
            [
                (RingOp::Write, 1, None),
                (RingOp::Write, 1, Some(512)),
                (RingOp::DataSync, 2, None),
                (RingOp::DataSync, 2, Some(0)),
            ]
        );
    }
}
