//! The load generator over sockets: a number of connections, each with its own session.
//!
//! One thread does everything. Per turn and connection: one receive, every answer in it, as many new
//! commands, one send. It never sleeps unless asked to, so that what is measured is the target.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::event::Event;
use super::latency::{ClientTime, Outcome, Progress};
use super::load::{Load, Stage};
use super::plan::{DriverError, Facts, Length, Operation, Plan, slots_of};
use super::socket::{Link, LinkError, PATIENCE};
use super::task::wire_lun;
use super::worker::Worker;
use super::{Config, Negotiated};

/// How long commands may take to end once somebody wants the run to stop.
const SHORT_PATIENCE: Duration = Duration::from_secs(1);

/// What a run measured, whether it came to its end or not.
#[derive(Debug)]
pub struct Measured {
    /// What was found out about the target.
    pub facts: Facts,
    /// What was measured until the end, or until it ended early.
    pub outcome: Outcome,
    /// Why it ended before its time.
    pub ended_early: Option<DriverError>,
}

/// Runs `plan` from login to logout; `tell` hears how it goes, if [`Plan::interval`] says so.
///
/// # Errors
/// [`DriverError`], also when the run ended early; commands that end in an error are counted in the results instead.
pub fn run(plan: &Plan, tell: &mut dyn FnMut(&Progress)) -> Result<(Facts, Outcome), DriverError> {
    let measured = Run::connect(plan)?.run_until(&AtomicBool::new(false), tell)?;
    match measured.ended_early {
        Some(error) => Err(error),
        None => Ok((measured.facts, measured.outcome)),
    }
}

fn link_error(number: usize) -> impl FnOnce(LinkError) -> DriverError {
    let number = u16::try_from(number).unwrap_or(u16::MAX);
    move |error| DriverError::Link { number, error }
}

fn connect(plan: &Plan) -> Result<Vec<Link>, DriverError> {
    let address = plan.url.resolve().map_err(|error| DriverError::Resolve {
        host: plan.url.host.clone(),
        error,
    })?;
    let process = std::process::id().to_be_bytes();
    let mut links = Vec::new();
    for work in plan.works() {
        for _ in 0..work.connections {
            let number = links.len();
            let mut config = Config::normal(&plan.initiator_name, &plan.url.target);
            config.offers = plan.offers;
            config.strict = !plan.lenient;
            config.max_outstanding = work.depth.saturating_add(4);
            // Type "random" (RFC 7143, section 11.12.5): a session per process and connection.
            let [high, low] = u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes();
            config.isid = [0x80, process[1], process[2], process[3], high, low];
            links.push(Link::open(address, config).map_err(link_error(number))?);
        }
    }
    Ok(links)
}

fn inspect(plan: &Plan, links: &mut [Link]) -> Result<Facts, DriverError> {
    let lun = wire_lun(plan.url.lun);
    let mut facts = None;
    for (number, link) in links.iter_mut().enumerate() {
        link.wait_until_ready(lun).map_err(link_error(number))?;
        if facts.is_none() {
            let (blocks, logical_block_size) = link.capacity(lun).map_err(link_error(number))?;
            let negotiated = link
                .initiator
                .negotiated()
                .cloned()
                .unwrap_or_else(Negotiated::defaults);
            facts = Some(Facts {
                blocks,
                logical_block_size,
                negotiated,
            });
        }
    }
    facts.ok_or_else(|| DriverError::Plan("no connections were asked for".to_owned()))
}

/// Nanoseconds since the run began.
#[derive(Clone, Copy, Debug)]
struct Clock(Instant);

impl Clock {
    fn now(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// One connection, and the stream of commands it belongs to.
struct Lane {
    link: Link,
    worker: Worker,
    load: usize,
}

/// A run: its connections are logged in, and the target is known.
pub struct Run<'a> {
    plan: &'a Plan,
    facts: Facts,
    clock: Clock,
    lanes: Vec<Lane>,
    loads: Vec<Load<'a>>,
    stage: Stage,
    stage_start: u64,
    /// When progress was told last, and the commands and bytes until then.
    told: (u64, u64, u64),
    client: Option<ClientTime>,
    sleep: Option<(mio::Poll, mio::Events)>,
    /// When somebody wanted it to stop.
    stopped: Option<u64>,
    /// How long the target may be silent.
    patience: Duration,
}

impl<'a> Run<'a> {
    /// Connects, logs in and asks for the capacity.
    ///
    /// # Errors
    /// [`DriverError`]: the target cannot be reached, or the plan does not fit it.
    pub fn connect(plan: &'a Plan) -> Result<Self, DriverError> {
        if let Some(core) = plan.core {
            crate::sys::cpu::pin_current_thread(core).map_err(|error| DriverError::System {
                what: format!("cannot stay on core {core}"),
                error,
            })?;
        }
        let mut links = connect(plan)?;
        let facts = inspect(plan, &mut links)?;
        Self::new(plan, facts, links)
    }

    /// Runs from the warm-up to logout, or until `stop` is set. What was measured by then is kept when something ends
    /// the run early.
    ///
    /// # Errors
    /// [`DriverError`]: it ended before anything was measured.
    pub fn run_until(
        mut self,
        stop: &AtomicBool,
        tell: &mut dyn FnMut(&Progress),
    ) -> Result<Measured, DriverError> {
        let ended_early = self.work_through(stop, tell).err();
        match ended_early {
            Some(error) if self.stage == Stage::Warmup => return Err(error),
            Some(_) if self.stage == Stage::Measure => self.end_measuring(self.clock.now()),
            // No logout: whatever ended it could keep the answer back.
            Some(_) => {}
            None => self.lanes.iter_mut().for_each(|lane| lane.link.close()),
        }
        let works = self.loads.into_iter().map(|load| load.results).collect();
        let client = self.client;
        Ok(Measured {
            facts: self.facts,
            outcome: Outcome { works, client },
            ended_early,
        })
    }

    fn new(plan: &'a Plan, facts: Facts, links: Vec<Link>) -> Result<Self, DriverError> {
        let (mut lanes, mut loads) = (Vec::with_capacity(links.len()), Vec::new());
        let mut links = links.into_iter();
        for (index, work) in plan.works().enumerate() {
            let slots = slots_of(plan, work, &facts)?;
            for (number, link) in (0..work.connections).zip(&mut links) {
                lanes.push(Lane {
                    link,
                    worker: Worker::new(work, number, slots),
                    load: index,
                });
            }
            loads.push(Load::new(plan, work, index as u64, &facts, slots));
        }
        Ok(Self {
            plan,
            facts,
            clock: Clock(Instant::now()),
            lanes,
            loads,
            stage: Stage::Warmup,
            stage_start: 0,
            told: (0, 0, 0),
            client: None,
            sleep: None,
            stopped: None,
            patience: PATIENCE,
        })
    }

    fn work_through(
        &mut self,
        stop: &AtomicBool,
        tell: &mut dyn FnMut(&Progress),
    ) -> Result<(), DriverError> {
        if !self.plan.busy {
            let poll = self.make_poll().map_err(|error| DriverError::System {
                what: "cannot wait for sockets".to_owned(),
                error,
            })?;
            self.sleep = Some((poll, mio::Events::with_capacity(64)));
        }
        self.enter(Stage::Warmup, self.clock.now());
        let mut last_progress = 0;
        loop {
            let now = self.clock.now();
            if stop.load(Ordering::Relaxed) {
                self.wind_up(now)?;
            }
            self.advance(now);
            if let (Some(interval), Stage::Measure) = (self.plan.interval, self.stage) {
                self.tell(interval, now, tell);
            }
            let mut progress = false;
            for number in 0..self.lanes.len() {
                progress |= self.turn(number, now).map_err(link_error(number))?;
            }
            if progress {
                last_progress = now;
            } else {
                let outstanding = self.outstanding();
                if Duration::from_nanos(now - last_progress) > self.patience && outstanding > 0 {
                    return Err(DriverError::Silence {
                        patience: self.patience,
                        outstanding,
                    });
                }
                self.wait();
            }
            if let Stage::Drain { then_read_back } = self.stage
                && self.outstanding() == 0
            {
                if self.stopped.is_some() {
                    return Err(DriverError::Stopped);
                }
                if !then_read_back {
                    return Ok(());
                }
                self.enter(Stage::ReadBack, now);
            }
        }
    }

    /// Somebody wants it to stop: waits for what is outstanding, but not for long.
    fn wind_up(&mut self, now: u64) -> Result<(), DriverError> {
        match self.stopped {
            None if self.stage == Stage::Warmup => return Err(DriverError::Stopped),
            None => {
                if self.stage == Stage::Measure {
                    self.issue_due(now);
                    self.end_measuring(now);
                }
                self.stopped = Some(now);
                let then_read_back = false;
                self.enter(Stage::Drain { then_read_back }, now);
            }
            Some(since) if Duration::from_nanos(now - since) > SHORT_PATIENCE => {
                return Err(DriverError::Stopped);
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn outstanding(&self) -> usize {
        self.lanes
            .iter()
            .map(|lane| lane.worker.outstanding())
            .sum()
    }

    /// Goes on to the next stage when it is time.
    fn advance(&mut self, now: u64) {
        let elapsed = Duration::from_nanos(now - self.stage_start);
        match self.stage {
            Stage::Warmup if elapsed >= self.plan.warmup => self.enter(Stage::Measure, now),
            Stage::Measure => {
                let over = match self.plan.length {
                    Length::Time(time) => elapsed >= time,
                    Length::Commands(_) => self.loads[0].issued_all() && self.first_is_idle(),
                };
                if over {
                    self.issue_due(now);
                    self.end_measuring(now);
                }
            }
            Stage::ReadBack if self.loads.iter().all(Load::read_back_all) => {
                let then_read_back = false;
                self.enter(Stage::Drain { then_read_back }, now);
            }
            _ => {}
        }
    }

    fn first_is_idle(&self) -> bool {
        let mut first = self.lanes.iter().filter(|lane| lane.load == 0);
        first.all(|lane| lane.worker.outstanding() == 0)
    }

    /// What became due since the last turn is not late.
    fn issue_due(&mut self, now: u64) {
        for lane in &mut self.lanes {
            if !lane.worker.idle.is_empty() {
                let load = &mut self.loads[lane.load];
                load.issue(&mut lane.worker, &mut lane.link.initiator, self.stage, now);
            }
        }
    }

    fn end_measuring(&mut self, now: u64) {
        let elapsed = Duration::from_nanos(now - self.stage_start);
        for lane in &mut self.lanes {
            self.loads[lane.load].end(&mut lane.worker, now);
        }
        for load in &mut self.loads {
            load.results.elapsed = elapsed;
        }
        self.client = match (self.client, own_time()) {
            (Some(before), Some(after)) => Some(ClientTime {
                ran: after.ran.saturating_sub(before.ran),
                waited: after.waited.saturating_sub(before.waited),
            }),
            _ => None,
        };
        let wrote = self.plan.work.operation != Operation::Read;
        let then_read_back = self.plan.verify && wrote;
        self.enter(Stage::Drain { then_read_back }, now);
    }

    fn enter(&mut self, stage: Stage, now: u64) {
        (self.stage, self.stage_start) = (stage, now);
        if matches!(stage, Stage::Warmup | Stage::Measure) {
            for lane in &mut self.lanes {
                self.loads[lane.load].start(&mut lane.worker, now);
            }
        }
        if stage == Stage::Measure {
            self.told = (now, 0, 0);
            self.client = own_time();
        }
    }

    fn tell(&mut self, interval: Duration, now: u64, tell: &mut dyn FnMut(&Progress)) {
        let (last, commands_before, bytes_before) = self.told;
        let step = Duration::from_nanos(now - last);
        if step < interval {
            return;
        }
        let (mut commands, mut bytes, mut longest_ns) = (0, 0, 0);
        for load in &mut self.loads {
            for side in [&load.results.read, &load.results.write] {
                (commands, bytes) = (commands + side.commands, bytes + side.bytes);
            }
            longest_ns = longest_ns.max(std::mem::take(&mut load.longest_ns));
        }
        self.told = (now, commands, bytes);
        tell(&Progress {
            elapsed: Duration::from_nanos(now - self.stage_start),
            step,
            commands: commands - commands_before,
            bytes: bytes - bytes_before,
            longest_ns,
        });
    }

    /// One receive, all answers, new commands, one send.
    fn turn(&mut self, number: usize, mut now: u64) -> Result<bool, LinkError> {
        let Lane { link, worker, load } = &mut self.lanes[number];
        let load = &mut self.loads[*load];
        let received = link.receive()?;
        if received {
            // One look at the clock for all that came together.
            now = self.clock.now();
            while let Some(event) = link.initiator.poll_event() {
                match event {
                    Event::Command(done) => load.complete(worker, done, now),
                    Event::Pinged { .. } => {}
                    other => return Err(unexpected(&other)),
                }
            }
        }
        if !worker.idle.is_empty() {
            load.issue(worker, &mut link.initiator, self.stage, now);
        }
        let sent = link.transmit()?;
        Ok(received || sent)
    }

    fn make_poll(&self) -> std::io::Result<mio::Poll> {
        let poll = mio::Poll::new()?;
        for (number, lane) in self.lanes.iter().enumerate() {
            let fd = lane.link.stream.as_raw_fd();
            let interest = mio::Interest::READABLE | mio::Interest::WRITABLE;
            poll.registry().register(
                &mut mio::unix::SourceFd(&fd),
                mio::Token(number),
                interest,
            )?;
        }
        Ok(poll)
    }

    /// Nothing to do: sleeps until a socket has something, or spins on.
    fn wait(&mut self) {
        if let Some((poll, events)) = &mut self.sleep {
            // An error is an interruption; the next turn finds out what there is.
            let _ = poll.poll(events, Some(Duration::from_millis(20)));
        } else {
            std::hint::spin_loop();
        }
    }
}

#[cold]
fn unexpected(event: &Event) -> LinkError {
    LinkError::Unexpected(match event {
        Event::Rejected { reason, .. } => format!("the target rejected a PDU: {reason}"),
        Event::Asynchronous { code, .. } => {
            format!("the target sent an asynchronous message, event {code}")
        }
        other => format!("an answer to nothing: {other:?}"),
    })
}

/// What this thread has had of its core since it began; `None` where the kernel does not say.
fn own_time() -> Option<ClientTime> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let mut numbers = text.split_whitespace().map(str::parse);
    Some(ClientTime {
        ran: numbers.next()?.ok()?,
        waited: numbers.next()?.ok()?,
    })
}

#[cfg(test)]
mod tests;
