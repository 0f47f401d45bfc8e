//! Making a reactor: its memory, its ring, its thread.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Waker};

use super::busy::Clock;
use super::idle::{Idle, PollPolicy};
use super::inbox::{Inbox, Mailbox, inbox};
use super::lingering::Lingering;
use super::message::{Event, Message, Request};
use super::slots::Slots;
use super::timer::Timer;
use super::{EVENTS, RING, Reactor, Stop, WAKER};
use crate::backend::offload::OffloadPool;
use crate::backend::{AttachContext, Medium};
use crate::buffer::{Pool, PoolConfig, PoolReport};
use crate::session::login::LoginLimits;
use crate::session::{LogicalUnit, ReactorId, SessionLimits, Shard, ShardConfig, UnitId};
use crate::stats::Cell;
use crate::sys::cpu::pin_current_thread;
use crate::sys::errno;
use crate::sys::ring::{NoRing, RingConfig, SharedRing};

/// What a reactor is made from.
#[derive(Debug)]
pub struct ReactorConfig {
    /// Which of them.
    pub id: ReactorId,
    /// How many there are.
    pub count: u16,
    /// The core it stays on.
    pub core: u32,
    /// How it waits.
    pub poll: PollPolicy,
    /// How long `adaptive` spins.
    pub spin: Duration,
    /// Whether what blocks runs on this core too: it is given way to then.
    pub shares_core: bool,
    /// Its memory.
    pub pool: PoolConfig,
    /// How many of its pages of 2 MiB are to be reserved huge pages, if it may have some.
    pub hugepages: usize,
    /// Its ring; `None` where io_uring is denied or nobody needs it.
    pub ring: Option<RingConfig>,
    /// Bounds of a login.
    pub login: LoginLimits,
    /// Bounds of a session.
    pub limits: SessionLimits,
    /// The logical units it serves.
    pub seats: Vec<Seat>,
    /// Threads for what blocks.
    pub offload: Arc<OffloadPool>,
}

/// A logical unit to attach.
#[derive(Clone, Debug)]
pub struct Seat {
    /// Its number.
    pub id: UnitId,
    /// What commands see of it.
    pub unit: Arc<LogicalUnit>,
    /// Where its blocks are.
    pub medium: Arc<dyn Medium>,
    /// Operations it may have in flight on this reactor.
    pub depth: u32,
}

/// Where a reactor will sleep; made before its thread, so that all can know each other's mailbox.
#[derive(Debug)]
pub struct Berth {
    poll: Poll,
    inbox: Inbox<Message>,
    mailbox: Mailbox<Message>,
}

impl Berth {
    /// An empty one.
    ///
    /// # Errors
    /// As `epoll_create1` and `eventfd`.
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let (mailbox, inbox) = inbox(waker);
        Ok(Self {
            poll,
            inbox,
            mailbox,
        })
    }

    /// For everybody who has something to say to it.
    #[must_use]
    pub fn mailbox(&self) -> Mailbox<Message> {
        self.mailbox.clone()
    }
}

/// Whom a reactor talks to.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// All reactors, itself included, by [`ReactorId`].
    pub peers: Vec<Mailbox<Message>>,
    /// The control thread.
    pub control: Mailbox<Request>,
    /// The log's queue; what does not fit is counted and forgotten.
    pub events: SyncSender<Event>,
    /// Where it counts.
    pub counters: Arc<Cell>,
}

/// Whether the kernel knows a reactor's buffers, so that it need not look them up for each operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registration {
    /// There is no ring to register them with.
    NoRing,
    /// It does.
    Registered,
    /// It does not, because of this.
    Refused(String),
}

/// What a reactor got when it started.
#[derive(Debug)]
pub struct Report {
    /// Its memory.
    pub pool: PoolReport,
    /// Whether that is registered with its ring.
    pub registration: Registration,
    /// Whether a kernel thread takes operations from its ring (SQPOLL).
    pub has_sq_thread: bool,
    /// Sessions there is memory for.
    pub sessions: usize,
    /// What was wished for and is not so, in sentences.
    pub notes: Vec<String>,
}

/// A reactor that is getting ready.
#[derive(Debug)]
pub struct Starting {
    thread: JoinHandle<()>,
    is_ready: Receiver<io::Result<Report>>,
}

impl Starting {
    /// Waits until it is ready.
    ///
    /// # Errors
    /// When it has no memory, no ring, or a medium cannot be attached.
    pub fn wait(self) -> io::Result<(JoinHandle<()>, Report)> {
        let report = self.is_ready.recv().unwrap_or_else(|_| {
            Err(io::Error::other(
                "the reactor's thread ended while it started",
            ))
        });
        report.map(|report| (self.thread, report))
    }
}

/// Starts a reactor in a thread of its own.
///
/// # Errors
/// When there is no thread to be had.
pub fn start(config: ReactorConfig, berth: Berth, around: Surroundings) -> io::Result<Starting> {
    let (ready, is_ready) = channel();
    let name = format!("reactor-{}", config.id.0);
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        let farewell = Farewell {
            reactor: config.id,
            control: around.control.clone(),
        };
        match Reactor::new(config, berth, around) {
            Ok((mut reactor, report)) => {
                // Whoever started it waits for this.
                let _ = ready.send(Ok(report));
                reactor.run();
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        }
        drop(farewell);
    })?;
    Ok(Starting { thread, is_ready })
}

/// Tells control when the thread ends, even by a panic.
#[derive(Debug)]
struct Farewell {
    reactor: ReactorId,
    control: Mailbox<Request>,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        let panicked = std::thread::panicking();
        // Control may be gone already.
        let _ = self.control.send(Request::Stopped {
            reactor: self.reactor,
            panicked,
        });
    }
}

impl Reactor {
    fn new(
        config: ReactorConfig,
        berth: Berth,
        around: Surroundings,
    ) -> io::Result<(Self, Report)> {
        let mut notes = Vec::new();
        // Before it is pinned: other cores help to make its pages present.
        let (pool, report) = Pool::with_reserved(config.pool, config.hugepages)?;
        if let Err(error) = pin_current_thread(config.core) {
            notes.push(format!("not pinned to core {}: {error}", config.core));
        }
        let (ring, registration) = ring_for(config.ring.as_ref(), &pool, &berth, &mut notes)?;
        let has_sq_thread = ring.as_ref().is_some_and(SharedRing::has_sq_thread);
        let mut shard = Shard::new(ShardConfig {
            reactor: config.id,
            reactors: config.count,
            pool,
            limits: config.limits,
        });
        let sessions = shard.most_sessions();
        let context = AttachContext {
            ring: ring.clone(),
            offload: config.offload,
            waker: crate::backend::Waker(berth.mailbox.bell()),
            depth: 0,
        };
        attach(&mut shard, config.seats, &context)?;
        let now = Instant::now();
        let reactor = Self {
            id: config.id,
            shard,
            ring,
            poll: berth.poll,
            events: Events::with_capacity(EVENTS),
            inbox: berth.inbox,
            around,
            connections: Slots::new(),
            lingering: Lingering::new(),
            sessions: HashMap::new(),
            nexuses: HashMap::new(),
            departures: Vec::new(),
            active: Vec::with_capacity(EVENTS),
            unsent: Vec::with_capacity(EVENTS),
            sending: Vec::with_capacity(EVENTS),
            is_blocked: false,
            login: config.login,
            idle: Idle::new(config.poll, config.spin, config.shares_core),
            clock: Clock::new(now),
            timer: Timer::new(now),
            now,
            stop: Stop::No,
        };
        Ok((
            reactor,
            Report {
                pool: report,
                registration,
                has_sq_thread,
                sessions,
                notes,
            },
        ))
    }
}

/// The ring, if there is to be one, which knows the pool's memory and wakes the reactor.
fn ring_for(
    wanted: Option<&RingConfig>,
    pool: &Pool,
    berth: &Berth,
    notes: &mut Vec<String>,
) -> io::Result<(Option<SharedRing>, Registration)> {
    let Some(wanted) = wanted else {
        return Ok((None, Registration::NoRing));
    };
    let (ring, more) = match SharedRing::new(wanted) {
        Ok(made) => made,
        Err(error) if error.raw_os_error() == Some(errno::ENOMEM) => {
            let why = NoRing::from(&error);
            notes.push(format!(
                "io_uring is not to be had ({why}): files are served by system calls and threads"
            ));
            return Ok((None, Registration::NoRing));
        }
        Err(error) => return Err(error),
    };
    notes.extend(more);
    let registration = match ring.register_memory(pool.mapping()) {
        Ok(()) => Registration::Registered,
        Err(error) => Registration::Refused(error.to_string()),
    };
    ring.set_wakeups(false);
    let fd = ring.as_raw_fd();
    berth
        .poll
        .registry()
        .register(&mut SourceFd(&fd), RING, Interest::READABLE)?;
    Ok((Some(ring), registration))
}

/// Gives every logical unit a backend of this core.
fn attach(shard: &mut Shard, seats: Vec<Seat>, context: &AttachContext) -> io::Result<()> {
    for seat in seats {
        let context = AttachContext {
            depth: seat.depth,
            ..context.clone()
        };
        let named = |error: io::Error| {
            let what = seat.medium.describe();
            io::Error::new(error.kind(), format!("{what}: {error}"))
        };
        let backend = Arc::clone(&seat.medium).attach(&context).map_err(named)?;
        shard.attach_unit(seat.id, seat.unit, backend);
    }
    Ok(())
}
