//! Threads off the reactors' cores, for what can run neither inline nor on a ring.
//!
//! One queue per medium; what is done goes back into the queue of the backend it came from, whose reactor is
//! woken. The two locks here are the only ones a data plane ever meets, and only on operations that wait for a
//! device anyway. Nothing is allocated per operation: a medium's queue has room for all that its backends may
//! have in flight, so one that is stuck fills nobody else's.
//!
//! Each medium has one thread that nobody else can take from it; the others are shared. It gets another of the
//! shared ones only while more of them are idle than it has already: alone it has half of them, a second one that
//! is as busy a quarter, and so on. So however many devices hang, those that do not are served.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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

/// A few threads for all media. Dropped, it finishes what is queued and ends.
#[derive(Debug)]
pub struct OffloadPool {
    shared: Arc<Shared>,
    cores: Vec<u32>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    wanted: Condvar,
    /// A thread has ended.
    ended: Condvar,
}

#[derive(Debug)]
struct Queue {
    lanes: Vec<Lane>,
    /// The lanes that have jobs, the one whose turn it is first.
    waiting: VecDeque<usize>,
    /// Shared threads that run nothing.
    idle: usize,
    /// Threads that have not ended.
    threads: usize,
    closed: bool,
}

/// One medium's operations, of all its backends.
#[derive(Debug)]
struct Lane {
    /// The medium's address, which tells it from every other as long as anybody has it.
    medium: usize,
    clients: usize,
    /// Operations that all its clients may have in flight.
    depth: usize,
    jobs: VecDeque<Job>,
    /// Shared threads that run one of its operations.
    busy: usize,
    /// There is a thread for it alone.
    has_own: bool,
    /// That one is at work.
    own_busy: bool,
}

#[derive(Debug)]
struct Job {
    client: Arc<ClientShared>,
    index: u32,
    io: BlockIo,
    loan: Option<Loan>,
    /// Runs in its medium's own thread.
    own: bool,
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
    lane: usize,
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
    /// Starts `threads` threads (at least one) to be shared, on `cores` (empty: wherever the caller may run).
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn new(threads: usize, cores: &[u32]) -> io::Result<Arc<Self>> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue {
                lanes: Vec::new(),
                waiting: VecDeque::new(),
                idle: threads.max(1),
                threads: 0,
                closed: false,
            }),
            wanted: Condvar::new(),
            ended: Condvar::new(),
        });
        let pool = Self {
            shared,
            cores: cores.to_vec(),
        };
        for _ in 0..threads.max(1) {
            pool.start_thread()?;
        }
        Ok(Arc::new(pool))
    }

    fn start_thread(&self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let cores = self.cores.clone();
        let mut queue = locked(&self.shared.queue);
        std::thread::Builder::new()
            .name(format!("offload-{}", queue.threads))
            .spawn(move || {
                if !cores.is_empty() {
                    // Only a matter of speed: they work anywhere.
                    let _ = crate::sys::cpu::run_current_thread_on(&cores);
                }
                shared.work();
            })?;
        queue.threads += 1;
        Ok(())
    }

    /// A client whose operations run on `medium`, `depth` at a time.
    #[must_use]
    pub fn client(&self, medium: Arc<dyn Offloaded>, depth: u32, waker: Waker) -> OffloadClient {
        let address = Arc::as_ptr(&medium).cast::<()>().addr();
        let lane = locked(&self.shared.queue).enter(address, depth as usize);
        if !locked(&self.shared.queue).lanes[lane].has_own && self.start_thread().is_ok() {
            // Without one (no more threads to be had) it shares.
            locked(&self.shared.queue).lanes[lane].has_own = true;
        }
        OffloadClient {
            pool: Arc::clone(&self.shared),
            shared: Arc::new(ClientShared {
                medium,
                lane,
                done: Mutex::new(VecDeque::with_capacity(depth as usize)),
                ready: AtomicUsize::new(0),
                waker,
            }),
        }
    }
}

/// How long the end of a pool waits for what its threads are doing. Who hangs longer is left behind: its device
/// does not answer, and nobody waits for it any more.
const FAREWELL: Duration = Duration::from_secs(2);

impl Drop for OffloadPool {
    fn drop(&mut self) {
        let mut queue = locked(&self.shared.queue);
        queue.closed = true;
        self.shared.wanted.notify_all();
        let living = |queue: &mut Queue| queue.threads > 0;
        drop((self.shared.ended).wait_timeout_while(queue, FAREWELL, living));
    }
}

impl Queue {
    /// Makes room for `depth` more operations in the medium's lane; gives its number.
    fn enter(&mut self, medium: usize, depth: usize) -> usize {
        let own = |lane: &Lane| lane.clients > 0 && lane.medium == medium;
        let left = |lane: &Lane| lane.clients == 0 && lane.is_quiet();
        let place = (self.lanes.iter().position(own)).or_else(|| self.lanes.iter().position(left));
        let place = place.unwrap_or_else(|| {
            self.lanes.push(Lane {
                medium,
                clients: 0,
                depth: 0,
                jobs: VecDeque::new(),
                busy: 0,
                has_own: false,
                own_busy: false,
            });
            self.lanes.len() - 1
        });
        let lane = &mut self.lanes[place];
        if lane.clients == 0 {
            lane.medium = medium;
            lane.depth = 0;
        }
        lane.clients += 1;
        lane.depth += depth;
        lane.jobs.reserve_exact(lane.depth);
        self.waiting.reserve(self.lanes.len());
        place
    }

    fn put(&mut self, place: usize, job: Job) {
        let lane = &mut self.lanes[place];
        if lane.jobs.is_empty() {
            self.waiting.push_back(place);
        }
        lane.jobs.push_back(job);
    }

    /// Whether the lane may have another thread.
    fn may_run(&self, place: usize) -> bool {
        let lane = &self.lanes[place];
        (lane.has_own && !lane.own_busy) || lane.busy < self.idle
    }

    /// The next operation for a thread that is idle.
    fn take(&mut self) -> Option<Job> {
        let turn = (self.waiting.iter()).position(|&place| self.may_run(place))?;
        let place = self.waiting.remove(turn)?;
        let lane = &mut self.lanes[place];
        let mut job = lane.jobs.pop_front()?;
        if !lane.jobs.is_empty() {
            self.waiting.push_back(place);
        }
        job.own = lane.has_own && !lane.own_busy;
        if job.own {
            lane.own_busy = true;
        } else {
            lane.busy += 1;
            self.idle -= 1;
        }
        Some(job)
    }

    fn finished(&mut self, place: usize, own: bool) {
        if own {
            self.lanes[place].own_busy = false;
        } else {
            self.lanes[place].busy -= 1;
            self.idle += 1;
        }
    }

    fn withdraw(&mut self, client: &Arc<ClientShared>, index: u32) -> Option<Job> {
        let jobs = &mut self.lanes[client.lane].jobs;
        let own = |job: &Job| job.index == index && Arc::ptr_eq(&job.client, client);
        let place = jobs.iter().position(own)?;
        let job = jobs.remove(place);
        if jobs.is_empty() {
            self.waiting.retain(|&lane| lane != client.lane);
        }
        job
    }
}

impl Lane {
    fn is_quiet(&self) -> bool {
        self.busy == 0 && !self.own_busy && self.jobs.is_empty()
    }
}

impl Shared {
    fn work(&self) {
        let mut queue = locked(&self.queue);
        loop {
            let Some(job) = queue.take() else {
                if queue.closed {
                    // What still waits is for the threads that its medium has.
                    queue.threads -= 1;
                    self.ended.notify_all();
                    return;
                }
                queue = (self.wanted.wait(queue)).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            // One that finished may have made room for more than this.
            let more = (queue.waiting.iter()).any(|&place| queue.may_run(place));
            drop(queue);
            if more {
                self.wanted.notify_one();
            }
            let (lane, own) = (job.client.lane, job.own);
            job.run();
            queue = locked(&self.queue);
            queue.finished(lane, own);
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
    /// The loan, when the pool is gone: nothing will ever run again.
    pub fn submit(&self, index: u32, io: BlockIo, loan: Option<Loan>) -> Result<(), Option<Loan>> {
        let mut queue = locked(&self.pool.queue);
        if queue.closed {
            return Err(loan);
        }
        let job = Job {
            client: Arc::clone(&self.shared),
            index,
            io,
            loan,
            own: false,
        };
        queue.put(self.shared.lane, job);
        let wanted = queue.may_run(self.shared.lane);
        drop(queue);
        if wanted {
            self.pool.wanted.notify_one();
        }
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
        let job = locked(&self.pool.queue).withdraw(&self.shared, index);
        job.map(|job| job.loan)
    }
}

impl Drop for OffloadClient {
    fn drop(&mut self) {
        locked(&self.pool.queue).lanes[self.shared.lane].clients -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};

    /// A device that hangs until it is let go.
    #[derive(Debug, Default)]
    struct Device {
        free: Mutex<bool>,
        freed: Condvar,
    }

    impl Device {
        fn set_free(&self) {
            *locked(&self.free) = true;
            self.freed.notify_all();
        }
    }

    impl Offloaded for Device {
        fn run(&self, _: BlockIo, _: &mut [u8]) -> Result<(), BlockError> {
            let free = locked(&self.free);
            drop(self.freed.wait_while(free, |free| !*free));
            Ok(())
        }
    }

    fn client(pool: &OffloadPool, device: &Arc<Device>) -> (OffloadClient, Receiver<()>) {
        let (done, is_done) = channel();
        let waker = Waker(Arc::new(move || {
            let _ = done.send(());
        }));
        let medium: Arc<dyn Offloaded> = Arc::<Device>::clone(device);
        (pool.client(medium, 32, waker), is_done)
    }

    fn hang(client: &OffloadClient) {
        for index in 0..32 {
            client.submit(index, BlockIo::Flush, None).expect("open");
        }
    }

    #[test]
    fn however_many_devices_hang_they_do_not_stop_another_one() {
        let pool = OffloadPool::new(4, &[]).expect("threads");
        let hung: [Arc<Device>; 9] = Default::default();
        // Two cores' backends of the same medium count as one.
        let devices = std::iter::once(&hung[0]).chain(&hung);
        let stuck: Vec<_> = devices.map(|device| client(&pool, device)).collect();
        stuck.iter().for_each(|(client, _)| hang(client));
        let good = Arc::new(Device::default());
        good.set_free();
        let (client, is_done) = client(&pool, &good);
        for index in 0..100 {
            client.submit(index, BlockIo::Flush, None).expect("open");
            is_done
                .recv_timeout(Duration::from_secs(20))
                .expect("it is done although the others hang");
            assert_eq!(client.poll().map(|back| back.index), Some(index));
        }
        let job = stuck[0].0.withdraw(31);
        assert!(job.is_some(), "it never began");
        hung.iter().for_each(|device| device.set_free());
        drop(pool);
        let back: usize = (stuck.iter())
            .map(|(client, _)| std::iter::from_fn(|| client.poll()).count())
            .sum();
        assert_eq!(back, 10 * 32 - 1, "what is queued is finished");
    }

    #[test]
    fn a_medium_alone_has_its_own_thread_and_half_of_the_others() {
        let pool = OffloadPool::new(8, &[]).expect("threads");
        let device = Arc::new(Device::default());
        let (client, _) = client(&pool, &device);
        hang(&client);
        while locked(&pool.shared.queue).idle > 4 || !locked(&pool.shared.queue).lanes[0].own_busy {
            std::thread::yield_now();
        }
        assert_eq!(locked(&pool.shared.queue).lanes[0].busy, 4);
        assert!(locked(&pool.shared.queue).take().is_none());
        device.set_free();
    }

    #[test]
    fn a_lane_that_everybody_left_is_used_again() {
        let pool = OffloadPool::new(1, &[]).expect("threads");
        let devices: [Arc<Device>; 3] = Default::default();
        for device in &devices {
            device.set_free();
            let (client, is_done) = client(&pool, device);
            client.submit(0, BlockIo::Flush, None).expect("open");
            is_done.recv().expect("done");
            while !locked(&pool.shared.queue).lanes[0].is_quiet() {
                std::thread::yield_now();
            }
        }
        let queue = locked(&pool.shared.queue);
        assert_eq!((queue.lanes.len(), queue.threads), (1, 2));
    }

    #[test]
    fn the_end_of_a_pool_waits_for_no_device_that_hangs() {
        let pool = OffloadPool::new(2, &[]).expect("threads");
        let device = Arc::new(Device::default());
        let (client, is_done) = client(&pool, &device);
        hang(&client);
        drop(pool);
        assert!(client.poll().is_none(), "nothing of it has ended");
        device.set_free();
        is_done
            .recv_timeout(Duration::from_secs(20))
            .expect("who was left behind goes on when the device does");
    }

    #[test]
    fn a_pool_that_is_gone_takes_nothing() {
        let pool = OffloadPool::new(1, &[]).expect("threads");
        let (client, _) = client(&pool, &Arc::default());
        drop(pool);
        assert!(client.submit(0, BlockIo::Flush, None).is_err());
    }
}
