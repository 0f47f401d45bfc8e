//! The control thread: accepts, places sessions, and writes the log.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token, Waker};
use tracing::{debug, error, info, warn};

use super::balance::{Balancer, PERIOD};
use super::directory::Directory;
use super::listener::Acceptor;
use crate::reactor::{
    Event, Inbox, Load, Mailbox, Message, Reason, Request, Ticket, Unmoved, What, inbox,
};
use crate::session::ReactorId;
use crate::session::login::PlaceRequest;
use crate::stats::Cell;

/// The waker's place in the registry; portals count up from 0.
const WAKER: Token = Token(usize::MAX);
/// Lines a second that initiators can cause in the log.
const LINES_PER_SECOND: u32 = 20;
/// How soon accepting is tried again when the kernel had nothing to accept with.
const STARVED: Duration = Duration::from_millis(100);

/// What the control thread is made from.
#[derive(Debug)]
pub(super) struct Service {
    poll: Poll,
    inbox: Inbox<Request>,
    mailbox: Mailbox<Request>,
    stop: Arc<AtomicBool>,
}

/// A running control thread.
#[derive(Debug)]
pub(super) struct Running {
    thread: JoinHandle<()>,
    mailbox: Mailbox<Request>,
    stop: Arc<AtomicBool>,
}

impl Running {
    /// Stops accepting, lets the reactors finish and stop, and returns when they have. False: the control thread
    /// had failed.
    pub(super) fn stop(self) -> bool {
        self.stop.store(true, Ordering::SeqCst);
        self.mailbox.wake();
        self.thread.join().is_ok()
    }

    /// Asks something of the control thread. False: it is not there any more.
    pub(super) fn ask(&self, request: Request) -> bool {
        self.mailbox.send(request).is_ok()
    }
}

/// What the thread needs besides its inbox.
pub(super) struct Duty {
    pub(super) acceptor: Acceptor,
    pub(super) directory: Directory,
    pub(super) events: Receiver<Event>,
    /// What the reactors count, in their order.
    pub(super) counters: Vec<Arc<Cell>>,
    /// Whether sessions move when the load is lopsided.
    pub(super) balance: bool,
    /// How long commands may take to finish at a stop.
    pub(super) patience: Duration,
    /// Called once, with a sentence, when the data plane fails.
    pub(super) on_failure: Option<Box<dyn FnOnce(String) + Send>>,
}

impl Service {
    pub(super) fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let (mailbox, inbox) = inbox(Waker::new(poll.registry(), WAKER)?);
        Ok(Self {
            poll,
            inbox,
            mailbox,
            stop: Arc::new(AtomicBool::new(false)),
        })
    }

    pub(super) fn mailbox(&self) -> Mailbox<Request> {
        self.mailbox.clone()
    }

    /// Starts the thread.
    pub(super) fn start(self, mut duty: Duty) -> io::Result<Running> {
        duty.acceptor.listeners.register(self.poll.registry())?;
        let (mailbox, stop) = (self.mailbox.clone(), Arc::clone(&self.stop));
        let thread = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                let living = duty.acceptor.reactors.len();
                let lines = Lines {
                    until: Instant::now(),
                    left: 0,
                    dropped: 0,
                };
                Control {
                    service: self,
                    duty,
                    moves: Moves::default(),
                    living,
                    is_stopping: false,
                    lines,
                }
                .run();
            })?;
        Ok(Running {
            thread,
            mailbox,
            stop,
        })
    }
}

struct Control {
    service: Service,
    duty: Duty,
    moves: Moves,
    /// Reactors that run.
    living: usize,
    is_stopping: bool,
    lines: Lines,
}

/// Hears what came of a move.
type Answer = Sender<Result<(), Unmoved>>;

/// A move that was ordered.
#[derive(Debug)]
struct Order {
    to: ReactorId,
    /// None: the balancer's own idea.
    answer: Option<Answer>,
}

/// Sessions on their way, and what waits for them.
#[derive(Debug, Default)]
struct Moves {
    /// Moves that are not settled, by TSIH.
    orders: HashMap<u16, Order>,
    /// Logins that cannot be placed before it is known where a session is.
    held: Vec<(ReactorId, Ticket, PlaceRequest)>,
    balancer: Balancer,
    /// When the balancer looked last, and how long each reactor had been busy then, in nanoseconds.
    looked: Option<(Instant, Vec<u64>)>,
}

impl Control {
    fn run(&mut self) {
        let mut events = Events::with_capacity(64);
        let mut soon = Some(Duration::ZERO);
        while self.living > 0 {
            let poll = &mut self.service.poll;
            let slept = self.service.inbox.sleep(|may_block| {
                poll.poll(
                    &mut events,
                    if may_block {
                        soon
                    } else {
                        Some(Duration::ZERO)
                    },
                )
            });
            if let Err(problem) = slept
                && problem.kind() != io::ErrorKind::Interrupted
            {
                error!("the control thread cannot wait: {problem}");
                return;
            }
            if self.service.inbox.take_call() {
                self.take_requests();
            }
            if self.service.stop.load(Ordering::SeqCst) && !self.is_stopping {
                self.begin_stop();
            }
            soon = if self.is_stopping {
                None
            } else {
                let (again, look) = (self.accept(), self.balance());
                [again, look].into_iter().flatten().min()
            };
            self.take_events();
        }
    }

    /// Accepts what waits; returns how soon to try again.
    fn accept(&mut self) -> Option<Duration> {
        let round = self.duty.acceptor.accept();
        if round.refused > 0 {
            self.lines
                .write(|| warn!("{} connections refused: there are too many", round.refused));
        }
        if let Some(kind) = round.starved {
            self.lines
                .write(|| warn!("cannot accept connections now: {kind}"));
            return Some(STARVED);
        }
        round.again.then_some(Duration::ZERO)
    }

    fn take_requests(&mut self) {
        while let Some(request) = self.service.inbox.take() {
            match request {
                Request::Place {
                    from,
                    ticket,
                    request,
                } => self.place(from, ticket, request),
                Request::Move { tsih, to, answer } => self.order_move(tsih, to, Some(answer)),
                Request::Settled { tsih, reactor } => self.settled(tsih, reactor),
                Request::Loads { reactor, loads } => self.take_loads(reactor, &loads),
                Request::List { answer } => {
                    // Who asked may have gone.
                    let _ = answer.send(self.duty.directory.list());
                }
                Request::Ended { tsih } => self.duty.directory.ended(tsih),
                Request::Stopped { reactor, panicked } => {
                    self.living -= 1;
                    self.duty.directory.reactor_gone(reactor);
                    let directory = &self.duty.directory;
                    // Nobody will say any more what became of the moves from there: who waits is told so.
                    (self.moves.orders).retain(|tsih, _| directory.is_under_way(*tsih));
                    self.place_held();
                    if panicked || !self.is_stopping {
                        let sentence =
                            format!("reactor {} failed; its sessions are lost", reactor.0);
                        error!("{sentence}");
                        if let Some(tell) = self.duty.on_failure.take() {
                            tell(sentence);
                        }
                    }
                }
            }
        }
    }

    /// Says where a login goes on; later, when that is not certain now.
    fn place(&mut self, from: ReactorId, ticket: Ticket, request: PlaceRequest) {
        if self.duty.directory.must_wait(&request) {
            self.moves.held.push((from, ticket, request));
            return;
        }
        let answer = self.duty.directory.place(&request);
        if let Err(status) = answer {
            let who = request.initiator_name;
            self.lines
                .write(|| info!("login of {who} refused: {status}"));
        }
        let reactor = &self.duty.acceptor.reactors[usize::from(from.0)];
        if reactor.send(Message::Placed { ticket, answer }).is_err()
            && let Ok(place) = answer
        {
            self.duty.directory.ended(place.tsih);
        }
    }

    fn place_held(&mut self) {
        for (from, ticket, request) in std::mem::take(&mut self.moves.held) {
            self.place(from, ticket, request);
        }
    }

    fn order_move(&mut self, tsih: u16, to: ReactorId, answer: Option<Answer>) {
        let begun = if self.is_stopping {
            Err(Unmoved::Stopping)
        } else {
            self.duty.directory.begin_move(tsih, to)
        };
        match begun {
            Ok(from) if from != to => {
                self.moves.orders.insert(tsih, Order { to, answer });
                let reactor = &self.duty.acceptor.reactors[usize::from(from.0)];
                if reactor.send(Message::Move { tsih, to }).is_err() {
                    self.settled(tsih, from);
                }
            }
            // Who asked may have gone.
            done => drop(answer.map(|answer| answer.send(done.map(|_| ())))),
        }
    }

    /// A move is over, one way or the other.
    fn settled(&mut self, tsih: u16, reactor: ReactorId) {
        self.duty.directory.settled(tsih, reactor);
        if let Some(Order { to, answer }) = self.moves.orders.remove(&tsih) {
            let result = if to == reactor {
                Ok(())
            } else {
                debug!("session {tsih} stays on reactor {}", reactor.0);
                Err(Unmoved::Refused)
            };
            // Who asked may have gone.
            let _ = answer.map(|answer| answer.send(result));
        }
        self.place_held();
    }

    /// Looks at how busy the reactors are, when it is time; returns how soon it is again. With nobody to move there
    /// is nothing to look at, and nobody is woken.
    fn balance(&mut self) -> Option<Duration> {
        if !self.duty.balance || self.living < 2 || self.duty.directory.len() < 2 {
            self.moves.looked = None;
            return None;
        }
        let now = Instant::now();
        let since = match &self.moves.looked {
            Some((at, _)) => now.saturating_duration_since(*at),
            None => Duration::ZERO,
        };
        if self.moves.looked.is_some() && since < PERIOD {
            return Some(PERIOD - since);
        }
        let counters = &self.duty.counters;
        let nanos: Vec<u64> = counters.iter().map(|c| c.busy_nanos.value()).collect();
        if let Some((_, before)) = self.moves.looked.replace((now, nanos.clone())) {
            let part = |(index, (now, before)): (usize, (&u64, &u64))| {
                let busy = Duration::from_nanos(now.saturating_sub(*before));
                let index = ReactorId(u16::try_from(index).ok()?);
                let part = busy.as_secs_f64() / since.as_secs_f64();
                (!self.duty.directory.is_gone(index)).then_some(part.min(1.0))
            };
            let busy = nanos.iter().zip(&before).enumerate().map(part).collect();
            if let Some(hot) = self.moves.balancer.look(busy) {
                let index = usize::from(hot.0);
                let count = super::live::sessions(&counters[index]);
                let loads = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
                // One that is gone is not asked again.
                let _ = self.duty.acceptor.reactors[index].send(Message::Weigh { loads });
            }
        }
        Some(PERIOD)
    }

    fn take_loads(&mut self, reactor: ReactorId, loads: &[Load]) {
        if let Some((tsih, to)) = self.moves.balancer.advise(reactor, loads) {
            debug!(
                "reactor {} is too busy: session {tsih} is to move to {}",
                reactor.0, to.0
            );
            self.order_move(tsih, to, None);
        }
    }

    fn begin_stop(&mut self) {
        self.is_stopping = true;
        self.duty.acceptor.close();
        let deadline = Instant::now() + self.duty.patience;
        for reactor in &self.duty.acceptor.reactors {
            // One that failed is not there to be stopped.
            let _ = reactor.send(Message::Stop { deadline });
        }
    }

    fn take_events(&mut self) {
        while let Ok(event) = self.duty.events.try_recv() {
            self.lines.write(|| log(&event));
        }
    }
}

/// Reactors do not outlive it: a target that accepts and places nobody had better end, and be noticed.
impl Drop for Control {
    fn drop(&mut self) {
        if self.living == 0 {
            return;
        }
        self.begin_stop();
        if let Some(tell) = self.duty.on_failure.take() {
            tell("the control thread failed".to_owned());
        }
    }
}

/// One line for an event.
fn log(event: &Event) {
    let (peer, reactor) = (event.peer, event.reactor.0);
    match &event.what {
        What::SessionOpened {
            tsih,
            initiator_name,
            target,
        } => match target {
            Some(target) => {
                info!(
                    "session {tsih}: {initiator_name} at {peer} logged in to {} on reactor {reactor}",
                    target.name
                );
            }
            None => info!("session {tsih}: {initiator_name} at {peer} logged in for discovery"),
        },
        What::SessionMoved { tsih } => info!("session {tsih} of {peer} moved to reactor {reactor}"),
        What::SessionClosed {
            tsih,
            reason: reason @ (Reason::Protocol(_) | Reason::Socket(_)),
        } => {
            warn!("session {tsih} of {peer} ended: {reason}");
        }
        What::SessionClosed { tsih, reason } => info!("session {tsih} of {peer} ended: {reason}"),
        What::LoginFailed(Reason::PeerClosed) => debug!("{peer} went away before it logged in"),
        What::LoginFailed(reason) => info!("login from {peer} failed: {reason}"),
    }
}

/// What initiators may cause in the log.
#[derive(Debug)]
struct Lines {
    until: Instant,
    left: u32,
    dropped: u64,
}

impl Lines {
    fn write(&mut self, line: impl FnOnce()) {
        let now = Instant::now();
        if now >= self.until {
            if self.dropped > 0 {
                warn!("{} more lines like these were left out", self.dropped);
            }
            *self = Self {
                until: now + Duration::from_secs(1),
                left: LINES_PER_SECOND,
                dropped: 0,
            };
        }
        if self.left == 0 {
            self.dropped += 1;
        } else {
            self.left -= 1;
            line();
        }
    }
}
