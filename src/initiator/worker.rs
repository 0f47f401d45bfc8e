//! One connection of the load generator without its socket: the commands it has outstanding.

use super::pace::Pace;
use super::pattern;
use super::plan::Work;
use super::task::Payload;

/// One outstanding command, or a place for one.
#[derive(Debug)]
pub(super) struct Job {
    /// When its latency starts to count: when it was submitted, or was due. Nanoseconds since the run began.
    pub(super) started: u64,
    pub(super) slot: u64,
    pub(super) writes: bool,
    /// What is read is compared.
    pub(super) compares: bool,
    /// Submitted while measuring.
    pub(super) counts: bool,
    pub(super) buffer: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) jobs: Vec<Job>,
    pub(super) idle: Vec<usize>,
    /// When the next commands are due; `None` when they follow those that ended.
    pub(super) pace: Option<Pace>,
    /// Which of the connections of its stream it is.
    number: u16,
    /// Own part of the slots, for sequential access.
    first: u64,
    end: u64,
    next: u64,
}

impl Worker {
    /// Connection `number` of `work`, on a logical unit that has room for `slots` commands.
    pub(super) fn new(work: &Work, number: u16, slots: u64) -> Self {
        let jobs: Vec<Job> = (0..work.depth)
            .map(|_| Job {
                started: 0,
                slot: 0,
                writes: false,
                compares: false,
                counts: false,
                buffer: vec![0x5a; work.block_size as usize],
            })
            .collect();
        let own = slots / u64::from(work.connections.max(1));
        let first = own * u64::from(number);
        Self {
            idle: (0..jobs.len()).rev().collect(),
            jobs,
            pace: None,
            number,
            first,
            end: first + own.max(1),
            next: first,
        }
    }

    /// Starts the schedule anew: each connection has its part of the rate, and they take turns.
    pub(super) fn start_pace(&mut self, work: &Work, now: u64) {
        self.pace = work.rate.map(|rate| {
            let turns = Pace::new(rate, now);
            let share = rate / f64::from(work.connections.max(1));
            Pace::new(share, turns.due(u64::from(self.number)))
        });
    }

    pub(super) fn outstanding(&self) -> usize {
        self.jobs.len() - self.idle.len()
    }

    pub(super) fn next_in_order(&mut self) -> u64 {
        let slot = self.next;
        self.next = if slot + 1 < self.end {
            slot + 1
        } else {
            self.first
        };
        slot
    }
}

impl Job {
    /// Its data: with `pattern_seed`, what is written can be told from anything else.
    pub(super) fn payload(&mut self, block_size: u32, pattern_seed: Option<u64>) -> Payload {
        if self.writes {
            let mut buffer = std::mem::take(&mut self.buffer);
            if let Some(seed) = pattern_seed {
                pattern::fill(&mut buffer, self.slot * u64::from(block_size), seed);
            }
            Payload::Write(buffer)
        } else if self.compares {
            Payload::Read(std::mem::take(&mut self.buffer))
        } else {
            Payload::Discard(block_size)
        }
    }
}
