//! The load generator: a closed loop over a number of connections, each with its own session.
//!
//! One thread does everything. Per turn and connection: one receive, every answer in it, as many new
//! commands, one send. It never sleeps unless asked to, so that what is measured is the target.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use super::event::{CommandDone, Event};
use super::latency::{Results, Side};
use super::pattern::{Random, Slots};
use super::plan::{Access, DriverError, Facts, Length, Operation, Plan, slots_of, transfer_cdb};
use super::socket::{Link, LinkError, PATIENCE, describe};
use super::task::{Command, Payload, wire_lun};
use super::worker::{Worker, compare};
use super::{Config, Negotiated};

/// Runs `plan` from login to logout.
///
/// # Errors
/// [`DriverError`]; commands that end in an error are counted in the results instead.
pub fn run(plan: &Plan) -> Result<(Facts, Results), DriverError> {
    if let Some(core) = plan.core {
        crate::sys::cpu::pin_current_thread(core).map_err(|error| DriverError::System {
            what: format!("cannot stay on core {core}"),
            error,
        })?;
    }
    let mut links = connect(plan)?;
    let facts = inspect(plan, &mut links)?;
    let mut run = Run::new(plan, &facts, links)?;
    let outcome = run.run();
    for worker in &mut run.workers {
        if outcome.is_ok() {
            worker.link.close();
        }
    }
    outcome.map(|()| (facts, run.results))
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
    let mut links = Vec::with_capacity(plan.connections.into());
    for number in 0..plan.connections {
        let mut config = Config::normal(&plan.initiator_name, &plan.url.target);
        config.offers = plan.offers;
        config.strict = !plan.lenient;
        config.max_outstanding = plan.depth.saturating_add(4);
        // Type "random" (RFC 7143, section 11.12.5): a session per process and connection.
        let [high, low] = number.to_be_bytes();
        config.isid = [0x80, process[1], process[2], process[3], high, low];
        let link = Link::open(address, config).map_err(link_error(number.into()))?;
        links.push(link);
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

/// What the loop is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Warmup,
    Measure,
    /// Reads back what was written.
    ReadBack,
    /// Waits for what is outstanding, then goes on to the next stage.
    Drain {
        then_read_back: bool,
    },
}

struct Run<'a> {
    plan: &'a Plan,
    lun: u64,
    logical_block_size: u32,
    slots: u64,
    workers: Vec<Worker>,
    written: Slots,
    random: Random,
    stage: Stage,
    stage_start: Instant,
    issued: u64,
    read_back_next: u64,
    results: Results,
    sleep: Option<(mio::Poll, mio::Events)>,
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan, facts: &Facts, links: Vec<Link>) -> Result<Self, DriverError> {
        let slots = slots_of(plan, facts)?;
        let now = Instant::now();
        let per_worker = slots / u64::from(plan.connections.max(1));
        let workers = links
            .into_iter()
            .zip(0u64..)
            .map(|(link, number)| Worker::new(link, plan, now, number * per_worker, per_worker))
            .collect();
        Ok(Self {
            plan,
            lun: wire_lun(plan.url.lun),
            logical_block_size: facts.logical_block_size,
            slots,
            workers,
            written: Slots::new(if plan.verify { slots } else { 0 }),
            random: Random::new(plan.seed),
            stage: Stage::Warmup,
            stage_start: now,
            issued: 0,
            read_back_next: 0,
            results: Results::default(),
            sleep: None,
        })
    }

    fn run(&mut self) -> Result<(), DriverError> {
        if !self.plan.busy {
            let poll = self.make_poll().map_err(|error| DriverError::System {
                what: "cannot wait for sockets".to_owned(),
                error,
            })?;
            self.sleep = Some((poll, mio::Events::with_capacity(64)));
        }
        let mut last_progress = Instant::now();
        loop {
            let now = Instant::now();
            self.advance(now);
            let mut progress = false;
            for number in 0..self.workers.len() {
                progress |= self.turn(number).map_err(link_error(number))?;
            }
            if progress {
                last_progress = now;
            } else {
                if now.duration_since(last_progress) > PATIENCE {
                    return Err(DriverError::Plan(format!(
                        "no answer for {} seconds; {} commands are outstanding",
                        PATIENCE.as_secs(),
                        self.outstanding()
                    )));
                }
                self.wait();
            }
            if self.outstanding() == 0 {
                match self.stage {
                    Stage::Drain {
                        then_read_back: true,
                    } => self.enter(Stage::ReadBack, Instant::now()),
                    Stage::Drain {
                        then_read_back: false,
                    } => return Ok(()),
                    _ => {}
                }
            }
        }
    }

    fn outstanding(&self) -> usize {
        self.workers
            .iter()
            .map(|worker| worker.jobs.len() - worker.idle.len())
            .sum()
    }

    /// Goes on to the next stage when it is time.
    fn advance(&mut self, now: Instant) {
        let elapsed = now.duration_since(self.stage_start);
        match self.stage {
            Stage::Warmup if elapsed >= self.plan.warmup => self.enter(Stage::Measure, now),
            Stage::Measure => {
                let over = match self.plan.length {
                    Length::Time(time) => elapsed >= time,
                    Length::Commands(count) => self.issued >= count && self.outstanding() == 0,
                };
                if over {
                    self.results.elapsed = elapsed;
                    let wrote = self.plan.operation != Operation::Read;
                    let then_read_back = self.plan.verify && wrote;
                    self.enter(Stage::Drain { then_read_back }, now);
                }
            }
            Stage::ReadBack if self.written.next_from(self.read_back_next).is_none() => {
                self.enter(
                    Stage::Drain {
                        then_read_back: false,
                    },
                    now,
                );
            }
            _ => {}
        }
    }

    fn enter(&mut self, stage: Stage, now: Instant) {
        (self.stage, self.stage_start) = (stage, now);
    }

    /// One receive, all answers, new commands, one send.
    fn turn(&mut self, number: usize) -> Result<bool, LinkError> {
        let received = self.workers[number].link.receive()?;
        if received {
            let now = Instant::now();
            while let Some(event) = self.workers[number].link.initiator.poll_event() {
                self.handle_event(number, event, now)?;
            }
        }
        if !self.workers[number].idle.is_empty() {
            self.issue(number);
        }
        let sent = self.workers[number].link.transmit()?;
        Ok(received || sent)
    }

    fn handle_event(&mut self, number: usize, event: Event, now: Instant) -> Result<(), LinkError> {
        match event {
            Event::Command(done) => self.complete(number, done, now),
            Event::Pinged { .. } => {}
            Event::Rejected { reason, .. } => {
                return Err(LinkError::Unexpected(format!(
                    "the target rejected a PDU: {reason}"
                )));
            }
            Event::Asynchronous { code, .. } => {
                return Err(LinkError::Unexpected(format!(
                    "the target sent an asynchronous message, event {code}"
                )));
            }
            other => {
                return Err(LinkError::Unexpected(format!(
                    "an answer to nothing: {other:?}"
                )));
            }
        }
        Ok(())
    }

    fn complete(&mut self, number: usize, done: CommandDone, now: Instant) {
        let bytes = u64::from(self.plan.block_size);
        let worker = &mut self.workers[number];
        let index = usize::try_from(done.cookie).unwrap_or(usize::MAX);
        let Some(job) = worker.jobs.get_mut(index) else {
            return;
        };
        worker.idle.push(index);
        let whole = job.writes || u64::from(done.received) == bytes;
        let good = done.is_good() && whole;
        let (status, words) = (done.status, if good { None } else { Some(describe(&done)) });
        if let Payload::Read(buffer) | Payload::Write(buffer) = done.payload {
            job.buffer = buffer;
        }
        if let Some(words) = words {
            if matches!(status, 0x08 | 0x28) && done.response == 0 {
                self.results.refused += 1;
            } else {
                self.results.errors += 1;
                self.results.first_error.get_or_insert_with(|| {
                    format!(
                        "{} at byte {}: {words}",
                        if job.writes { "write" } else { "read" },
                        job.slot * bytes
                    )
                });
            }
            return;
        }
        if job.counts {
            let side: &mut Side = if job.writes {
                &mut self.results.write
            } else {
                &mut self.results.read
            };
            side.record(bytes, now.duration_since(job.started));
        }
        if job.writes && self.plan.verify {
            self.written.insert(job.slot);
        }
        if job.compares {
            compare(&mut self.results, job, bytes, self.plan.seed);
        }
    }

    /// Submits commands until the depth is reached, the window is closed or there is nothing to do.
    fn issue(&mut self, number: usize) {
        if matches!(self.stage, Stage::Drain { .. }) {
            return;
        }
        let now = Instant::now();
        while self.workers[number].link.initiator.room() > 0 {
            let Some(&index) = self.workers[number].idle.last() else {
                return;
            };
            let Some((slot, writes)) = self.choose(number) else {
                return;
            };
            let compares = !writes && self.plan.verify && {
                let before_us = self.plan.operation == Operation::Read;
                before_us || self.written.contains(slot)
            };
            let worker = &mut self.workers[number];
            worker.idle.pop();
            let job = &mut worker.jobs[index];
            (job.started, job.slot, job.writes, job.compares) = (now, slot, writes, compares);
            job.counts = self.stage == Stage::Measure;
            if job.counts {
                self.issued += 1;
            }
            let payload = job.payload(self.plan);
            let cdb = transfer_cdb(self.plan.block_size / self.logical_block_size, slot, writes);
            let command = Command::new(index as u64, self.lun, cdb, payload);
            if worker.link.initiator.submit(command).is_err() {
                // Cannot be: there was room. The job would be lost, which the deadline would notice.
                debug_assert!(false, "a command was refused although there was room");
            }
        }
    }

    /// The next slot, and whether it is written.
    fn choose(&mut self, number: usize) -> Option<(u64, bool)> {
        if self.stage == Stage::ReadBack {
            let slot = self.written.next_from(self.read_back_next)?;
            self.read_back_next = slot + 1;
            return Some((slot, false));
        }
        if let (Stage::Measure, Length::Commands(count)) = (self.stage, self.plan.length)
            && self.issued >= count
        {
            return None;
        }
        let writes = match self.plan.operation {
            Operation::Read => false,
            Operation::Write => true,
            Operation::Mixed { read_percent } => self.random.below(100) >= u64::from(read_percent),
        };
        let slot = match self.plan.access {
            Access::Random => self.random.below(self.slots),
            Access::Sequential => self.workers[number].next_in_order(),
        };
        Some((slot, writes))
    }

    fn make_poll(&self) -> std::io::Result<mio::Poll> {
        let poll = mio::Poll::new()?;
        for (number, worker) in self.workers.iter().enumerate() {
            let fd = worker.link.stream.as_raw_fd();
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

#[cfg(test)]
mod tests;
