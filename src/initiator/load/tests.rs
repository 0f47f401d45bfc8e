//! The load generator in virtual time, against the ceiling's answers.

use std::io::IoSlice;

use super::*;
use crate::initiator::ceiling::Answerer;
use crate::initiator::{Config, Event, Negotiated, Offers};

const BLOCKS: u64 = 1 << 20;
/// How long the target takes for what it was sent: one turn.
const TURN_NS: u64 = 10_000;
const MILLISECOND: u64 = 1_000_000;

fn plan(work: Work) -> Plan {
    Plan {
        url: "iscsi://h/iqn.x/0".parse().unwrap(),
        initiator_name: String::new(),
        offers: Offers::DEFAULT,
        work,
        also: Vec::new(),
        length: Length::Commands(u64::MAX),
        warmup: std::time::Duration::ZERO,
        span: None,
        verify: false,
        seed: 1,
        lenient: false,
        busy: true,
        core: None,
        interval: None,
    }
}

fn work(depth: u16, rate: Option<f64>) -> Work {
    Work {
        operation: Operation::Mixed { read_percent: 70 },
        access: Access::Random,
        block_size: 4096,
        depth,
        connections: 1,
        rate,
    }
}

/// A generator and a target that answers every turn, but for a time in which it stalls.
struct Virtual {
    initiator: Initiator,
    answerer: Answerer,
}

impl Virtual {
    fn new() -> Self {
        let mut pair = Self {
            initiator: Initiator::new(Config::normal("iqn.i", "iqn.t")),
            answerer: Answerer::new(BLOCKS, 512, Offers::DEFAULT, String::new(), 1),
        };
        while pair.initiator.negotiated().is_none() {
            pair.exchange();
        }
        assert!(matches!(pair.initiator.poll_event(), Some(Event::LoggedIn)));
        pair
    }

    fn exchange(&mut self) {
        let sent = self.initiator.poll_transmit().to_vec();
        self.initiator.transmitted(sent.len());
        assert_eq!(self.answerer.take(&sent), Ok(sent.len()));
        while !self.answerer.answers.is_empty() {
            let mut slices = [IoSlice::new(&[]); 64];
            let count = self.answerer.answers.gather(&mut slices);
            let mut bytes = Vec::new();
            for slice in &slices[..count] {
                bytes.extend_from_slice(slice);
            }
            self.answerer.answers.sent(bytes.len());
            self.initiator.handle_bytes(&bytes).unwrap();
        }
    }

    /// Measures for `length`, with a target that says nothing during `stall`.
    fn measure(&mut self, plan: &Plan, length: u64, stall: std::ops::Range<u64>) -> Results {
        let facts = Facts {
            blocks: BLOCKS,
            logical_block_size: 512,
            negotiated: Negotiated::defaults(),
        };
        let mut load = Load::new(plan, &plan.work, 0, &facts, BLOCKS / 8);
        let mut worker = Worker::new(&plan.work, 0, BLOCKS / 8);
        load.start(&mut worker, 0);
        let (mut now, mut stage) = (0, Stage::Measure);
        loop {
            load.issue(&mut worker, &mut self.initiator, stage, now);
            now += TURN_NS;
            if stage == Stage::Measure && now >= length {
                load.issue(&mut worker, &mut self.initiator, stage, now);
                load.end(&mut worker, now);
                stage = Stage::Drain {
                    then_read_back: false,
                };
            }
            if !stall.contains(&now) {
                self.exchange();
            }
            while let Some(event) = self.initiator.poll_event() {
                let Event::Command(done) = event else {
                    panic!("{event:?}")
                };
                load.complete(&mut worker, done, now);
            }
            if stage != Stage::Measure && worker.outstanding() == 0 {
                return load.results;
            }
        }
    }
}

#[test]
fn a_closed_loop_keeps_its_depth_and_counts_from_submission() {
    let plan = plan(work(4, None));
    let results = Virtual::new().measure(&plan, 100 * MILLISECOND, 0..0);
    let total = results.total();
    assert_eq!(total.commands, 4 * 100 * MILLISECOND / TURN_NS);
    let p = total.percentiles();
    assert!(p.min >= TURN_NS - 10 && p.max <= TURN_NS + 10, "{p:?}");
    assert!(results.read.commands > 2 * results.write.commands);
}

#[test]
fn a_fixed_rate_is_kept_where_the_target_keeps_up() {
    let plan = plan(work(8, Some(50_000.0)));
    let results = Virtual::new().measure(&plan, 200 * MILLISECOND, 0..0);
    assert!(results.total().commands.abs_diff(10_000) <= 1);
    assert_eq!(results.unissued, 0);
    // Due between two turns, issued in the next, answered in the one after.
    assert!(results.total().percentiles().max <= 2 * TURN_NS + 20);
}

/// Coordinated omission: a target that stalls for a hundredth of a second holds up one command in a closed loop of
/// depth 1, but a hundred of those that were due.
#[test]
fn a_stall_shows_in_the_percentiles_of_a_fixed_rate_and_hides_from_those_of_a_closed_loop() {
    let (length, stall) = (10_000 * MILLISECOND, 3000 * MILLISECOND..3100 * MILLISECOND);
    let closed = Virtual::new().measure(&plan(work(1, None)), length, stall.clone());
    let open = Virtual::new().measure(&plan(work(1, Some(10_000.0))), length, stall);
    let (closed, open) = (closed.total().percentiles(), open.total().percentiles());
    // Both saw it ...
    assert!(closed.max >= 9 * MILLISECOND && open.max >= 9 * MILLISECOND);
    // ... but only where commands are due at their times it weighs what it weighed: 1 % of the time, and then some
    // until the backlog was worked off.
    assert!(closed.p9999 <= 2 * TURN_NS, "{closed:?}");
    assert!(open.p99 >= MILLISECOND, "{open:?}");
    assert!(open.p999 >= 8 * MILLISECOND, "{open:?}");
    assert!(open.p90 <= 3 * TURN_NS, "{open:?}");
}

#[test]
fn commands_that_were_due_and_never_issued_are_counted_with_the_time_they_waited() {
    let plan = plan(work(1, Some(10_000.0)));
    let results = Virtual::new().measure(&plan, 1000 * MILLISECOND, 0..2000 * MILLISECOND);
    // One was outstanding all the time; all others were due and could not be issued.
    assert_eq!(results.total().commands, 1);
    assert!(results.unissued.abs_diff(10_000) <= 1);
    assert!(
        results
            .total()
            .percentiles()
            .p50
            .abs_diff(500 * MILLISECOND)
            < MILLISECOND
    );
}

#[test]
fn connections_take_turns_in_a_fixed_rate() {
    let mut work = work(1, Some(1000.0));
    work.connections = 4;
    let due: Vec<u64> = (0..4)
        .map(|number| {
            let mut worker = Worker::new(&work, number, 100);
            worker.start_pace(&work, 500);
            let mut pace = worker.pace.unwrap();
            let first = pace.take_due(u64::MAX).unwrap();
            assert_eq!(pace.take_due(u64::MAX), Some(first + 4 * MILLISECOND));
            first
        })
        .collect();
    assert_eq!(
        due,
        [
            500,
            MILLISECOND + 500,
            2 * MILLISECOND + 500,
            3 * MILLISECOND + 500
        ]
    );
}
