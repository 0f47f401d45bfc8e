//! What a hanging unit costs the other units of its core: the 99th percentile of their reads, measured.

use std::time::{Duration, Instant};

use crate::common::wire::Peer;
use crate::{BLOCK, BackendKind, MANY, PollPolicy, Scene};

/// Reads of which one in a hundred may be slower.
const READS: u32 = 2000;
const ROUNDS: u8 = 7;
/// How much slower the other units' 99th percentile may be.
const BOUND: f64 = 1.5;

fn p99(peer: &mut Peer) -> Duration {
    let mut took: Vec<Duration> = (0..READS)
        .map(|n| {
            let began = Instant::now();
            peer.read(n * 8 % 8192, 8 * BLOCK);
            began.elapsed()
        })
        .collect();
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

/// The median, over rounds, of the 99th percentile beside a unit that hangs, by that of the moment before.
fn ratio(kind: BackendKind) -> Option<f64> {
    let scene = Scene::new(kind, PollPolicy::Adaptive)?;
    let mut good = scene.log_in(1, 1);
    p99(&mut good);
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let free = p99(&mut good);
        let mut stuck = scene.stuck(10 + round, false);
        let beside = p99(&mut good);
        assert!(scene.slow.held() >= 2, "it hung all the time");
        println!("{kind} round {round}: p99 {free:?} alone, {beside:?} beside a unit that hangs");
        scene.slow.release();
        for _ in 0..MANY {
            assert!(stuck.done().is_good());
        }
        ratios.push(beside.as_secs_f64() / free.as_secs_f64());
    }
    scene.daemon.stop();
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    println!("{kind}: {median:.2} times, the median of {ratios:.2?}");
    Some(median)
}

fn others_are_hardly_slower(kind: BackendKind) {
    // Once more, as the machine may have been busy with something else.
    let good = (0..2).any(|_| ratio(kind).is_none_or(|ratio| ratio <= BOUND));
    assert!(good, "{kind}: more than {BOUND} times, twice");
}

#[test]
#[ignore = "measures: for a machine that does nothing else (scripts/test runs it)"]
fn reads_of_other_units_are_hardly_slower_beside_one_that_hangs() {
    others_are_hardly_slower(BackendKind::IoUring);
    others_are_hardly_slower(BackendKind::File);
}
