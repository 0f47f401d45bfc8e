//! io_uring of one core.
//!
//! A [`SharedRing`] belongs to the thread that made it. Each file that is to be used through it gets a
//! [`RingClient`], with its own queue of completions. An operation owns the [`Loan`] of its buffer until
//! its completion, so the memory stays valid whatever becomes of the rest. Nothing is allocated per
//! operation. The thread's turn is: clients queue operations, [`SharedRing::submit`] (one system call,
//! or none when there is nothing to do), [`SharedRing::reap`] (none at all), clients take completions.

mod client;
mod setup;
mod table;
#[cfg(test)]
mod tests;

pub use client::{RingClient, Transfer};

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;

use io_uring::IoUring;

use self::table::{Op, Ring};
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
    /// A core whose only work is to be a kernel thread that takes what is queued (SQPOLL), so that submitting
    /// needs no system call. Never a reactor's: each operation would wait for the scheduler. `None`: the
    /// reactor submits by itself. Whether there is a core to spare is for the control plane to decide.
    pub sqpoll: Option<u32>,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self {
            entries: 1024,
            worker_cores: Vec::new(),
            sqpoll: None,
        }
    }
}

/// Files that can be in the kernel's table of one ring; more are used by their descriptor.
const FILE_TABLE: u32 = 64;
/// The kernel's limit on one registered buffer, in bytes.
const LONGEST_REGISTERED: usize = 1 << 30;
/// `user_data` of what nobody waits for.
const UNNAMED: u64 = u64::MAX;

/// What gives a process more memory that may be locked.
pub const MORE_MEMLOCK: &str = "ulimit -l unlimited; systemd: LimitMEMLOCK=infinity";

/// Why this process gets no ring.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRing {
    /// The queues are locked memory.
    #[error("RLIMIT_MEMLOCK has no room for a ring: {MORE_MEMLOCK}")]
    NoMemory,
    /// The kernel was built without it.
    #[error("this kernel has none")]
    Missing,
    /// A sysctl or a seccomp filter is against it, or something else.
    #[error("{0}")]
    Denied(String),
}

impl From<&io::Error> for NoRing {
    fn from(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOMEM) => Self::NoMemory,
            Some(libc::ENOSYS) => Self::Missing,
            _ => Self::Denied(error.to_string()),
        }
    }
}

/// Whether this process may use io_uring at all.
///
/// # Errors
/// Why not.
pub fn probe() -> Result<(), NoRing> {
    IoUring::new(2).map(drop).map_err(|e| NoRing::from(&e))
}

/// How long a submission queue a ring gets for which `entries` are wished: less, where RLIMIT_MEMLOCK is short.
///
/// # Errors
/// Why there would be no ring.
pub fn probe_entries(entries: u32) -> Result<u32, NoRing> {
    let config = RingConfig {
        entries,
        ..RingConfig::default()
    };
    let ring = setup::build(&config, &mut Vec::new()).map_err(|e| NoRing::from(&e))?;
    Ok(ring.params().sq_entries())
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
    /// The file is named by its place in the kernel's table.
    pub registered_file: bool,
    /// The memory is named by its registration (READ_FIXED, WRITE_FIXED).
    pub registered_memory: bool,
}

/// A ring shared by the backends of one reactor. Clones are the same ring.
#[derive(Clone)]
pub struct SharedRing(Rc<RefCell<Ring>>);

impl std::fmt::Debug for SharedRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedRing")
    }
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
    /// A ring for the calling thread, with a submission thread of the kernel's where that is asked for, else
    /// with deferred task work where the kernel can do that (6.1), else a plain one; the notes say what could
    /// not be had.
    ///
    /// # Errors
    /// As `io_uring_setup`; EPERM and ENOSYS mean that it is denied here.
    pub fn new(config: &RingConfig) -> io::Result<(Self, Vec<String>)> {
        let mut notes = Vec::new();
        let ring = setup::build(config, &mut notes)?;
        // What completes must find its place.
        let in_flight = config.entries.clamp(2, ring.params().cq_entries());
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
            has_sq_thread: ring.params().is_setup_sqpoll(),
            unsubmitted: 0,
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
    /// when there is neither, nor when the submission thread is awake. Returns how many operations the kernel
    /// took, or its thread will take.
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
        ring.wants_submit() || !ring.ring.completion().is_empty()
    }

    /// Whether a kernel thread takes what is queued (SQPOLL).
    #[must_use]
    pub fn has_sq_thread(&self) -> bool {
        self.0.borrow().has_sq_thread
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
