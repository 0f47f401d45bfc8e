//! One stream of commands, without sockets and without a clock: which command is next and when, and what came of it.
//!
//! Times are nanoseconds since the run began. A closed loop issues a command whenever one has ended; with a fixed
//! rate a command is due at its time whatever the target does, and its latency counts from then, so that a target
//! that stalls cannot hide it by holding up the commands that would have shown it.

use super::Initiator;
use super::event::CommandDone;
use super::latency::{Results, Side};
use super::pattern::{Random, Slots, first_difference};
use super::plan::{Access, Facts, Length, Operation, Plan, Work, transfer_cdb};
use super::socket::describe;
use super::task::{Command, Payload, wire_lun};
use super::worker::{Job, Worker};

/// What a run is about at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Warmup,
    Measure,
    /// Reads back what was written.
    ReadBack,
    /// Waits for what is outstanding, then goes on to the next stage.
    Drain {
        then_read_back: bool,
    },
}

/// One stream of commands.
#[derive(Debug)]
pub(super) struct Load<'a> {
    work: &'a Work,
    lun: u64,
    blocks_per_command: u32,
    /// How many commands lie side by side on the medium.
    slots: u64,
    /// Commands to issue while measuring, if that is what ends the run.
    count: Option<u64>,
    verify: Option<u64>,
    written: Slots,
    random: Random,
    issued: u64,
    read_back_next: u64,
    pub(super) results: Results,
    /// The longest latency since somebody took it away.
    pub(super) longest_ns: u64,
}

impl<'a> Load<'a> {
    /// Stream `number` of `plan`, which fits `slots` commands.
    pub(super) fn new(
        plan: &'a Plan,
        work: &'a Work,
        number: u64,
        facts: &Facts,
        slots: u64,
    ) -> Self {
        let count = match plan.length {
            Length::Commands(count) if number == 0 => Some(count),
            _ => None,
        };
        Self {
            work,
            lun: wire_lun(plan.url.lun),
            blocks_per_command: work.block_size / facts.logical_block_size.max(1),
            slots,
            count,
            verify: plan.verify.then_some(plan.seed),
            written: Slots::new(if plan.verify { slots } else { 0 }),
            random: Random::new(plan.seed.wrapping_add(number)),
            issued: 0,
            read_back_next: 0,
            results: Results::default(),
            longest_ns: 0,
        }
    }

    /// Whether all commands of a run of a given number were issued.
    pub(super) fn issued_all(&self) -> bool {
        self.count.is_some_and(|count| self.issued >= count)
    }

    /// Whether all that was written was asked for.
    pub(super) fn read_back_all(&self) -> bool {
        self.written.next_from(self.read_back_next).is_none()
    }

    /// Measuring begins at `now`: schedules start anew.
    pub(super) fn start(&self, worker: &mut Worker, now: u64) {
        worker.start_pace(self.work, now);
    }

    /// Measuring ends at `now`: commands that were due and never issued count with what they have waited so far.
    pub(super) fn end(&mut self, worker: &mut Worker, now: u64) {
        let Some(mut pace) = worker.pace.take() else {
            return;
        };
        while let Some(due) = pace.take_due(now) {
            if self.issued_all() {
                return;
            }
            self.issued += 1;
            self.results.unissued += 1;
            let writes = self.chooses_write();
            self.side(writes).record_unissued(now - due);
        }
    }

    /// Submits commands until the depth is reached, the window is closed, nothing is due or there is nothing to do.
    pub(super) fn issue(
        &mut self,
        worker: &mut Worker,
        initiator: &mut Initiator,
        stage: Stage,
        now: u64,
    ) {
        if matches!(stage, Stage::Drain { .. }) {
            return;
        }
        while initiator.room() > 0 {
            let Some(&index) = worker.idle.last() else {
                return;
            };
            if stage == Stage::Measure && self.issued_all() {
                return;
            }
            let started = match &mut worker.pace {
                Some(pace) if stage != Stage::ReadBack => match pace.take_due(now) {
                    Some(due) => due,
                    None => return,
                },
                _ => now,
            };
            let Some((slot, writes)) = self.choose(worker, stage) else {
                return;
            };
            let compares = !writes && self.verify.is_some() && {
                let before_us = self.work.operation == Operation::Read;
                before_us || self.written.contains(slot)
            };
            worker.idle.pop();
            let job = &mut worker.jobs[index];
            let counts = stage == Stage::Measure;
            self.issued += u64::from(counts);
            (job.started, job.slot, job.writes) = (started, slot, writes);
            (job.compares, job.counts) = (compares, counts);
            let payload = job.payload(self.work.block_size, self.verify);
            let cdb = transfer_cdb(self.blocks_per_command, slot, writes);
            let command = Command::new(index as u64, self.lun, cdb, payload);
            if initiator.submit(command).is_err() {
                // Cannot be: there was room. The job would be lost, which the deadline would notice.
                debug_assert!(false, "a command was refused although there was room");
            }
        }
    }

    fn chooses_write(&mut self) -> bool {
        match self.work.operation {
            Operation::Read => false,
            Operation::Write => true,
            Operation::Mixed { read_percent } => self.random.below(100) >= u64::from(read_percent),
        }
    }

    /// The next slot, and whether it is written.
    fn choose(&mut self, worker: &mut Worker, stage: Stage) -> Option<(u64, bool)> {
        if stage == Stage::ReadBack {
            let slot = self.written.next_from(self.read_back_next)?;
            self.read_back_next = slot + 1;
            return Some((slot, false));
        }
        let writes = self.chooses_write();
        let slot = match self.work.access {
            Access::Random => self.random.below(self.slots),
            Access::Sequential => worker.next_in_order(),
        };
        Some((slot, writes))
    }

    const fn side(&mut self, writes: bool) -> &mut Side {
        if writes {
            &mut self.results.write
        } else {
            &mut self.results.read
        }
    }

    /// A command of `worker` ended.
    pub(super) fn complete(&mut self, worker: &mut Worker, done: CommandDone, now: u64) {
        let bytes = u64::from(self.work.block_size);
        let index = usize::try_from(done.cookie).unwrap_or(usize::MAX);
        let Some(job) = worker.jobs.get_mut(index) else {
            return;
        };
        worker.idle.push(index);
        let whole = job.writes || u64::from(done.received) == bytes;
        if !(done.is_good() && whole) {
            self.fail(job, &done);
        } else if job.counts {
            let latency = now.saturating_sub(job.started);
            self.longest_ns = self.longest_ns.max(latency);
            self.side(job.writes).record(bytes, latency);
        }
        let good = done.is_good() && whole;
        if let Payload::Read(buffer) | Payload::Write(buffer) = done.payload {
            job.buffer = buffer;
        }
        if let (true, Some(seed)) = (good, self.verify) {
            if job.writes {
                self.written.insert(job.slot);
            }
            if job.compares {
                self.compare(job, seed);
            }
        }
    }

    #[cold]
    fn fail(&mut self, job: &Job, done: &CommandDone) {
        if matches!(done.status, 0x08 | 0x28) && done.response == 0 {
            self.results.refused += 1;
            return;
        }
        self.results.errors += 1;
        let at = job.slot * u64::from(self.work.block_size);
        self.results.first_error.get_or_insert_with(|| {
            let what = if job.writes { "write" } else { "read" };
            format!("{what} at byte {at}: {}", describe(done))
        });
    }

    fn compare(&mut self, job: &Job, seed: u64) {
        let bytes = u64::from(self.work.block_size);
        let at = job.slot * bytes;
        self.results.verified += 1;
        if let Some(difference) = first_difference(&job.buffer, at, seed) {
            self.results.mismatches += 1;
            self.results.first_mismatch.get_or_insert_with(|| {
                format!(
                    "byte {} of the logical unit is not what was written (seen first in a read of {bytes} bytes at {at})",
                    at + difference as u64
                )
            });
        }
    }
}

#[cfg(test)]
mod tests;
