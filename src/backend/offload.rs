//! Threads off the reactors' cores, for what can run neither inline nor on a ring.
//!
//! One bounded queue for all; what is done goes back into the queue of the backend it came from, whose
//! reactor is woken. The two locks here are the only ones a data plane ever meets, and only on operations
//! that wait for a device anyway. Nothing is allocated per operation.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::{BlockError, BlockIo, Waker};
use crate::sys::hugepage::Loan;

/// What can be run on another thread: a medium's blocking side.
pub trait Offloaded: Send + Sync + Debug {
    /// Does all of `io`, however long it takes.
    ///
    /// # Errors
    /// What the medium says.
    fn run(&self, io: BlockIo, memory: &mut [u8]) -> Result<(), BlockError>;
}

/// A few threads with one queue. Dropped, it finishes what is queued and ends.
#[derive(Debug)]
pub struct OffloadPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    wanted: Condvar,
}

#[derive(Debug)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

#[derive(Debug)]
struct Job {
    client: Arc<ClientShared>,
    index: u32,
    io: BlockIo,
    loan: Option<Loan>,
}

/// An operation that came back.
#[derive(Debug)]
pub struct Offloads {
    /// The submitter's name for it.
    pub index: u32,
    /// What came of it.
    pub result: Result<(), BlockError>,
    /// Its buffer's bytes.
    pub loan: Option<Loan>,
}

#[derive(Debug)]
struct ClientShared {
    medium: Arc<dyn Offloaded>,
    done: Mutex<VecDeque<Offloads>>,
    ready: AtomicUsize,
    waker: Waker,
}

/// One backend's way to the pool. Not more than `depth` operations may be with it at a time.
#[derive(Debug)]
pub struct OffloadClient {
    pool: Arc<Shared>,
    shared: Arc<ClientShared>,
}

/// A panic in another thread leaves these queues whole: nothing is half done while the lock is held.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OffloadPool {
    /// Starts `threads` threads (at least one) on `cores` (empty: wherever the caller may run), with a queue
    /// of `queue` operations.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn new(threads: usize, queue: usize, cores: &[u32]) -> io::Result<Arc<Self>> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue {
                jobs: VecDeque::with_capacity(queue.max(1)),
                closed: false,
            }),
            wanted: Condvar::new(),
        });
        let threads = (0..threads.max(1))
            .map(|n| {
                let shared = Arc::clone(&shared);
                let cores = cores.to_vec();
                std::thread::Builder::new()
                    .name(format!("offload-{n}"))
                    .spawn(move || {
                        if !cores.is_empty() {
                            // Only a matter of speed: they work anywhere.
                            let _ = crate::sys::cpu::run_current_thread_on(&cores);
                        }
                        shared.work();
                    })
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Arc::new(Self { shared, threads }))
    }

    /// A client whose operations run on `medium`, `depth` at a time.
    #[must_use]
    pub fn client(&self, medium: Arc<dyn Offloaded>, depth: u32, waker: Waker) -> OffloadClient {
        OffloadClient {
            pool: Arc::clone(&self.shared),
            shared: Arc::new(ClientShared {
                medium,
                done: Mutex::new(VecDeque::with_capacity(depth as usize)),
                ready: AtomicUsize::new(0),
                waker,
            }),
        }
    }
}

impl Drop for OffloadPool {
    fn drop(&mut self) {
        locked(&self.shared.queue).closed = true;
        self.shared.wanted.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so itself.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn work(&self) {
        loop {
            let mut queue = locked(&self.queue);
            let job = loop {
                match queue.jobs.pop_front() {
                    Some(job) => break job,
                    None if queue.closed => return,
                    None => {
                        queue = self
                            .wanted
                            .wait(queue)
                            .unwrap_or_else(PoisonError::into_inner);
                    }
                }
            };
            drop(queue);
            job.run();
        }
    }
}

impl Job {
    fn run(mut self) {
        let memory = self.loan.as_mut().map_or(&mut [][..], Loan::as_mut_slice);
        let result = self.client.medium.run(self.io, memory);
        let mut done = locked(&self.client.done);
        done.push_back(Offloads {
            index: self.index,
            result,
            loan: self.loan,
        });
        drop(done);
        self.client.ready.fetch_add(1, Ordering::Release);
        self.client.waker.wake();
    }
}

impl OffloadClient {
    /// Queues `io` under the name `index`.
    ///
    /// # Errors
    /// The loan, when the queue is full.
    pub fn submit(&self, index: u32, io: BlockIo, loan: Option<Loan>) -> Result<(), Option<Loan>> {
        let mut queue = locked(&self.pool.queue);
        if queue.closed || queue.jobs.len() == queue.jobs.capacity() {
            return Err(loan);
        }
        queue.jobs.push_back(Job {
            client: Arc::clone(&self.shared),
            index,
            io,
            loan,
        });
        drop(queue);
        self.pool.wanted.notify_one();
        Ok(())
    }

    /// The next operation that came back; costs next to nothing when there is none.
    #[must_use]
    pub fn poll(&self) -> Option<Offloads> {
        if self.shared.ready.load(Ordering::Acquire) == 0 {
            return None;
        }
        let done = locked(&self.shared.done).pop_front();
        if done.is_some() {
            self.shared.ready.fetch_sub(1, Ordering::Relaxed);
        }
        done
    }

    /// Takes an operation back that no thread has begun; `None` when it is too late.
    #[must_use]
    pub fn withdraw(&self, index: u32) -> Option<Option<Loan>> {
        let mut queue = locked(&self.pool.queue);
        let place = queue
            .jobs
            .iter()
            .position(|job| job.index == index && Arc::ptr_eq(&job.client, &self.shared))?;
        queue.jobs.remove(place).map(|job| job.loan)
    }
}
