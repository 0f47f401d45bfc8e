//! The loop of one core: the only data-plane I/O.
//!
//! ```text
//!  turn:  messages -> receive (one recv per connection) -> storage (one io_uring_enter, completions)
//!         -> send (one gathered send per connection) -> deadlines
//!  then:  spin, look at cold sockets, or sleep in the kernel (see `idle`)
//! ```
//!
//! Each step is bounded, and a whole command usually takes one turn: its bytes come in with the receive, its answer
//! leaves with the send. Follow one: `traffic.rs` (`receive_on`) -> `session::shard` -> `traffic.rs` (`send_on`).
//! Sockets start in `arrival.rs`, where their login is; `seating.rs` makes it a session.

mod arrival;
mod busy;
mod idle;
mod inbox;
mod lingering;
mod message;
mod moving;
mod seating;
mod slots;
mod socket;
mod start;
mod timer;
mod traffic;

pub use idle::{PollPolicy, SPIN};
pub use inbox::{Inbox, Mailbox, inbox};
pub use message::{
    Arrival, Census, Event, Load, Message, Permit, Place, Reason, Request, Ticket, Unmoved, What,
    Whereabouts,
};
pub use moving::Traveller;
pub use start::{Berth, ReactorConfig, Registration, Report, Seat, Starting, Surroundings, start};

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use self::arrival::Connection;
use self::busy::Clock;
use self::idle::{Idle, Next};
use self::lingering::Lingering;
use self::message::Nexus;
use self::moving::Departure;
use self::slots::Slots;
use self::timer::Timer;
use crate::session::login::LoginLimits;
use crate::session::{Event as Counted, ReactorId, SessionKey, Shard};
use crate::sys::ring::SharedRing;

/// The waker's place in the registry; connections count up from 0.
const WAKER: Token = Token(usize::MAX);
/// The ring's.
const RING: Token = Token(usize::MAX - 1);
/// Readiness events taken per look.
const EVENTS: usize = 256;
/// Messages taken per turn.
const MESSAGES_PER_TURN: usize = 32;
/// How long to sleep at most while tasks wait for a queue that may get room without a word to this core.
const QUEUE_PATIENCE: Duration = Duration::from_millis(1);
/// After the deadline of a stop, what is in flight with the kernel has this long to come back.
const LAST_GRACE: Duration = Duration::from_secs(2);

/// A session as the reactor knows it.
#[derive(Debug)]
struct Seated {
    tsih: u16,
    nexus: Option<Nexus>,
    peer: std::net::SocketAddr,
    /// Its connection; `None` once that is gone.
    slot: Option<usize>,
    /// Why that is gone.
    reason: Reason,
}

/// How far a stop has come.
#[derive(Clone, Copy, Debug)]
enum Stop {
    /// Nobody asked.
    No,
    /// Commands that were begun may finish until then.
    Finishing(Instant),
    /// Every session was told to close; what the kernel holds has until then.
    Closing(Instant),
}

#[derive(Debug)]
struct Reactor {
    id: ReactorId,
    shard: Shard,
    ring: Option<SharedRing>,
    poll: Poll,
    events: Events,
    inbox: Inbox<Message>,
    around: Surroundings,
    connections: Slots<Connection>,
    /// Sockets of connections that we closed.
    lingering: Lingering,
    sessions: HashMap<SessionKey, Seated>,
    nexuses: HashMap<Nexus, SessionKey>,
    /// Sessions that are to move, or are on their way.
    departures: Vec<Departure>,
    /// Connections that may have something to receive.
    active: Vec<usize>,
    /// Connections that have more to send than one send took, or can send again.
    unsent: Vec<usize>,
    /// The same, while they are being sent to.
    sending: Vec<usize>,
    /// A socket took no more, and may not have recovered yet.
    is_blocked: bool,
    login: LoginLimits,
    idle: Idle,
    clock: Clock,
    timer: Timer,
    /// A recent time: read after a look or a sleep, not every turn.
    now: Instant,
    stop: Stop,
}

impl Reactor {
    fn run(&mut self) {
        while !self.is_finished() {
            let work = self.turn();
            self.clock.turned(work > 0);
            let next = if work > 0 {
                self.around.counters.turns.add(1);
                self.idle.worked()
            } else {
                self.around.counters.idle_turns.add(1);
                self.idle.idled(self.shard.has_in_flight(), Instant::now)
            };
            match next {
                Next::Spin if self.speculates() => {}
                Next::Look if self.speculates() && !self.has_cold_sockets() => {
                    self.now = Instant::now();
                }
                Next::Spin | Next::Look => self.look(),
                Next::GiveWay => self.give_way(),
                Next::Sleep => self.sleep(),
            }
        }
        self.publish();
    }

    /// One bounded round; returns how much there was to do.
    fn turn(&mut self) -> usize {
        let mut work = 0;
        if self.inbox.take_call() {
            work += self.take_messages();
        }
        work += self.receive();
        work += self.run_storage();
        work += self.send();
        if !self.departures.is_empty() {
            work += self.advance_departures();
        }
        if self.timer.is_due(self.now) {
            work += self.expire();
        }
        work
    }

    /// Whether busy connections are tried without asking the kernel: cheaper as long as they are few.
    fn speculates(&self) -> bool {
        const FEW: usize = 16;
        self.idle.speculates() && self.active.len() <= FEW
    }

    /// Whether there is a socket that only the kernel's edges bring back.
    fn has_cold_sockets(&self) -> bool {
        self.active.len() < self.connections.len() || self.is_blocked
    }

    fn take_messages(&mut self) -> usize {
        for n in 0..MESSAGES_PER_TURN {
            let Some(message) = self.inbox.take() else {
                return n + 1;
            };
            match message {
                Message::Accepted(arrival) => self.accept(arrival),
                Message::Placed { ticket, answer } => self.placed(ticket, answer),
                Message::Adopt(moving) => self.adopt(*moving),
                Message::Move { tsih, to } => self.begin_move(tsih, to),
                Message::Arrive(traveller) => self.arrive(traveller),
                Message::Departed { session } => self.departed(session),
                Message::TurnedBack(traveller) => self.turned_back(*traveller),
                Message::Lost { session } => self.lost(session),
                Message::Poll(policy) => self.idle.set_policy(policy),
                Message::Weigh { loads } => self.weigh(loads),
                Message::Shard(message) => self.shard.handle_message(self.now, message),
                Message::Stop { deadline } => self.begin_stop(deadline),
            }
        }
        self.inbox.call_again();
        MESSAGES_PER_TURN
    }

    /// Hands queued operations to the kernel, takes what it finished, and lets tasks go on with that.
    fn run_storage(&mut self) -> usize {
        if let Some(ring) = &self.ring {
            match ring.submit() {
                Ok(taken) => self.around.counters.ring_submissions.add(taken as u64),
                // What is queued stays queued; a ring that is broken for good completes nothing, and the
                // initiators' time-outs see to that.
                Err(_) => self.around.counters.ring_errors.add(1),
            }
            let completed = ring.reap();
            self.around.counters.ring_completions.add(completed as u64);
        }
        self.shard.poll_backends(self.now)
    }

    /// Asks the kernel which sockets are ready, without waiting.
    fn look(&mut self) {
        self.around.counters.looks.add(1);
        let polled = self.poll.poll(&mut self.events, Some(Duration::ZERO));
        self.take_readiness(polled);
    }

    /// Lets the threads that share the core do what blocks.
    fn give_way(&mut self) {
        let before = Instant::now();
        std::thread::yield_now();
        self.clock.turned(false);
        self.now = Instant::now();
        self.idle
            .gave_way(self.now.saturating_duration_since(before));
    }

    /// Sleeps until a socket, the ring, a message or a deadline.
    fn sleep(&mut self) {
        // Tasks wait for room in a queue.
        let waits = self.shard.has_work();
        if waits && !self.shard.has_in_flight() {
            // Others fill it, who need not tell when there is room, and may share this core.
            self.give_way();
            // What may end the wait comes in by a socket too: an abort, a ping, a peer that is gone.
            self.look();
            return;
        }
        if let Some(ring) = &self.ring {
            ring.set_wakeups(true);
            if ring.has_pending() {
                ring.set_wakeups(false);
                return;
            }
        }
        self.publish();
        let deadline = self.earliest_deadline();
        let mut timeout = self.timer.sleep(Instant::now(), deadline);
        if waits {
            // What is in flight here tells when it is done; that may be of another queue.
            timeout = Some(timeout.map_or(QUEUE_PATIENCE, |timeout| timeout.min(QUEUE_PATIENCE)));
        }
        self.around.counters.sleeps.add(1);
        let (poll, events) = (&mut self.poll, &mut self.events);
        let slept = self.inbox.sleep(|may_block| {
            poll.poll(
                events,
                if may_block {
                    timeout
                } else {
                    Some(Duration::ZERO)
                },
            )
        });
        if let Some(ring) = &self.ring {
            ring.set_wakeups(false);
        }
        self.clock.slept();
        self.take_readiness(slept);
    }

    fn take_readiness(&mut self, polled: io::Result<()>) {
        self.now = Instant::now();
        if polled.is_err() {
            // Only a signal interrupts it, and the next turn asks again.
            return;
        }
        self.is_blocked = self.is_blocked
            && self
                .connections
                .values()
                .any(|connection| !connection.socket.is_writable());
        for event in &self.events {
            let Some(connection) = self.connections.at(event.token().0) else {
                continue;
            };
            if connection.socket.note_edge(event)
                && !std::mem::replace(&mut connection.is_active, true)
            {
                self.active.push(event.token().0);
            }
            if event.is_writable() && !connection.socket.is_writable() {
                connection.socket.note_writable();
                self.unsent.push(event.token().0);
            }
        }
    }

    fn earliest_deadline(&self) -> Option<Instant> {
        let stop = match self.stop {
            Stop::No => None,
            Stop::Finishing(at) | Stop::Closing(at) => Some(at),
        };
        let lingering = (!self.lingering.is_empty()).then_some(self.now);
        let logins = self.connections.values().filter_map(Connection::deadline);
        let departures = self.departures.iter().filter_map(Departure::deadline);
        logins
            .chain(departures)
            .chain(self.shard.poll_timeout())
            .chain(stop)
            .chain(lingering)
            .min()
    }

    /// Copies what the shard counted to where others can read it.
    fn publish(&mut self) {
        self.clock.publish(&self.around.counters);
        let (from, to) = (self.shard.counters(), &self.around.counters);
        for (event, counter) in [
            (Counted::PduReceived, &to.pdus_received),
            (Counted::PduSent, &to.pdus_sent),
            (Counted::CommandStarted, &to.commands_started),
            (Counted::CommandEnded, &to.commands_ended),
            (Counted::BytesRead, &to.read_bytes),
            (Counted::BytesWritten, &to.written_bytes),
            (Counted::HeaderDigestError, &to.header_digest_errors),
            (Counted::DataDigestError, &to.data_digest_errors),
            (Counted::DataSegmentTooLong, &to.long_data_segments),
            (Counted::AhsTooLong, &to.long_ahs),
            (Counted::Rejected, &to.rejects),
            (Counted::OutsideWindow, &to.commands_outside_window),
            (Counted::StaleData, &to.stale_data),
            (Counted::BadDataOut, &to.bad_data_out),
            (Counted::TaskManagement, &to.task_management),
            (Counted::TaskAborted, &to.tasks_aborted),
            (Counted::MemoryWait, &to.memory_waits),
            (Counted::QueueWait, &to.queue_waits),
        ] {
            counter.set(from.of(event));
        }
    }

    fn expire(&mut self) -> usize {
        self.publish();
        self.expire_logins();
        // It counts as work: a stop that waited for this must not sleep now.
        let gone = self.lingering.look(self.now);
        self.shard.handle_timeout(self.now);
        gone + self.advance_stop()
    }

    fn begin_stop(&mut self, deadline: Instant) {
        self.stop = Stop::Finishing(deadline);
        self.end_logins();
        self.advance_stop();
    }

    /// From finishing to closing, once there is nothing to finish or no more time. Returns how much was done: what
    /// was closed has something to say yet, so that the reactor must not sleep now.
    fn advance_stop(&mut self) -> usize {
        let Stop::Finishing(deadline) = self.stop else {
            return 0;
        };
        if !self.is_quiet() && self.now < deadline {
            return 0;
        }
        self.stop = Stop::Closing(self.now + LAST_GRACE);
        let slots: Vec<usize> = self.connections.numbers().collect();
        let count = slots.len();
        for slot in slots {
            self.close(slot, Reason::Stopping);
        }
        count
    }

    /// Whether nothing that was begun is unfinished, as far as it does not wait for data of the initiator's.
    fn is_quiet(&self) -> bool {
        // A socket that took no more has answers waiting behind it.
        let all_sent = self.unsent.is_empty()
            && (self.connections.values()).all(|connection| connection.socket.is_writable());
        !self.shard.has_in_flight() && !self.shard.has_work() && all_sent
    }

    fn is_finished(&self) -> bool {
        match self.stop {
            Stop::No | Stop::Finishing(_) => false,
            Stop::Closing(grace) => {
                (self.sessions.is_empty() && self.lingering.is_empty()) || self.now >= grace
            }
        }
    }

    /// Whether nothing new may begin.
    fn is_stopping(&self) -> bool {
        !matches!(self.stop, Stop::No)
    }

    fn report(&self, peer: std::net::SocketAddr, what: What) {
        let event = Event {
            reactor: self.id,
            peer,
            what,
        };
        if self.around.events.try_send(event).is_err() {
            self.around.counters.events_lost.add(1);
        }
        self.around.control.wake();
    }

    /// Says something to control.
    fn request(&self, request: Request) {
        // Control outlives the reactors; should it not, nobody needs to know any more.
        let _ = self.around.control.send(request);
    }
}
