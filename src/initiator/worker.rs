//! One connection of the load generator, and the commands it has outstanding.

use std::time::Instant;

use super::latency::Results;
use super::pattern;
use super::plan::Plan;
use super::socket::Link;
use super::task::Payload;

/// One outstanding command, or a place for one.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) started: Instant,
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
    pub(super) link: Link,
    pub(super) jobs: Vec<Job>,
    pub(super) idle: Vec<usize>,
    /// Own part of the slots, for sequential access.
    first: u64,
    end: u64,
    next: u64,
}

impl Worker {
    pub(super) fn new(link: Link, plan: &Plan, now: Instant, first: u64, slots: u64) -> Self {
        let jobs: Vec<Job> = (0..plan.depth)
            .map(|_| Job {
                started: now,
                slot: 0,
                writes: false,
                compares: false,
                counts: false,
                buffer: vec![0x5a; plan.block_size as usize],
            })
            .collect();
        let idle = (0..jobs.len()).rev().collect();
        Self {
            link,
            jobs,
            idle,
            first,
            end: first + slots.max(1),
            next: first,
        }
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
    pub(super) fn payload(&mut self, plan: &Plan) -> Payload {
        if self.writes {
            let mut buffer = std::mem::take(&mut self.buffer);
            if plan.verify {
                pattern::fill(
                    &mut buffer,
                    self.slot * u64::from(plan.block_size),
                    plan.seed,
                );
            }
            Payload::Write(buffer)
        } else if self.compares {
            Payload::Read(std::mem::take(&mut self.buffer))
        } else {
            Payload::Discard(plan.block_size)
        }
    }
}

pub(super) fn compare(results: &mut Results, job: &Job, bytes: u64, seed: u64) {
    results.verified += 1;
    let at = job.slot * bytes;
    if let Some(difference) = pattern::first_difference(&job.buffer, at, seed) {
        results.mismatches += 1;
        results.first_mismatch.get_or_insert_with(|| {
            format!(
                "byte {} of the logical unit is not what was written (seen first in a read of {bytes} bytes at {at})",
                at + difference as u64
            )
        });
    }
}
