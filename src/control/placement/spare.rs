//! What runs beside the reactors: the kernel's submission threads, and threads that may block.

use super::{Refusal, Sqpoll, Wishes};
use crate::control::cores::show;
use crate::sys::machine::Limits;
use crate::sys::topology::{Core, Topology};

/// With so many cores to spare, one of them is idle when a worker wants it.
///
/// A single one is where everything else of the machine runs, often a client that polls: an operation that
/// waits there for the scheduler takes milliseconds. Then a worker may run anywhere, the reactor's own core included,
/// and the reactor gives way (measured on 2 cores, 4 KiB buffered writes on ext4, interleaved on a loaded machine:
/// 2.1 k/s on the one spare core against 8.5 k/s anywhere at depth 1, 4.1 k/s against 61 k/s at depth 32).
const PLENTY: usize = 2;

/// The core of each reactor's submission thread.
pub(super) fn submission_cores(
    topology: &Topology,
    limits: &Limits,
    wishes: &Wishes,
    reactors: &[&Core],
    notes: &mut Vec<String>,
) -> Result<Vec<Option<u32>>, Refusal> {
    if wishes.sqpoll == Sqpoll::No {
        return Ok(vec![None; reactors.len()]);
    }
    let is_forced = wishes.sqpoll == Sqpoll::Force;
    let ids = |cores: &[&Core]| cores.iter().map(|core| core.id).collect::<Vec<_>>();
    let mut free: Vec<&Core> = Vec::new();
    for core in topology.cores.iter().filter(|c| c.online && c.reachable) {
        let same = |other: &&Core| other.physical == core.physical;
        // Half of a physical core is no core of its own.
        if !reactors.iter().any(same) && !free.iter().any(same) {
            free.push(core);
        }
    }
    if free.len() < reactors.len() && !is_forced {
        return Err(Refusal::NoSpareCore {
            reactors: ids(reactors),
            free: ids(&free),
        });
    }
    let spinning = u32::try_from(reactors.len() * 2).unwrap_or(u32::MAX);
    if let Some(time) = limits.cpu_time.filter(|&time| time < spinning) {
        if !is_forced {
            return Err(Refusal::NoTime {
                time,
                reactors: reactors.len(),
            });
        }
        notes.push(format!(
            "sqpoll is forced: the control group has time for {time} cores, {spinning} will spin"
        ));
    }
    let mut left = free.clone();
    let mut threads = Vec::new();
    let mut shared = Vec::new();
    for reactor in reactors {
        let near = |core: &&Core| {
            let distance = topology.distance(reactor.node, core.node);
            (distance, !core.isolated, core.id)
        };
        let own = (0..left.len()).min_by_key(|&index| near(&left[index]));
        threads.push(Some(match own {
            Some(index) => left.remove(index).id,
            None => {
                let other = next_best(topology, reactor, reactors, &free);
                shared.push(other);
                other
            }
        }));
    }
    if !shared.is_empty() {
        notes.push(format!(
            "sqpoll is forced: submission threads share core {} with others that spin; expect operations that take milliseconds",
            show(&shared)
        ));
    }
    Ok(threads)
}

/// Where a thread runs that has no core of its own: on a sibling that has no reactor, with another thread, at last with
/// the reactor.
fn next_best(topology: &Topology, reactor: &Core, reactors: &[&Core], free: &[&Core]) -> u32 {
    let usable = |core: &&Core| core.online && core.reachable;
    let is_idle = |core: &&Core| !reactors.iter().any(|other| other.id == core.id);
    let sibling = |core: &&Core| core.physical == reactor.physical;
    let mut all = topology.cores.iter().filter(usable).filter(is_idle);
    all.find(sibling)
        .or_else(|| free.first().copied())
        .map_or(reactor.id, |core| core.id)
}

/// Cores for what blocks, and whether reactors have to give way there.
pub(super) fn worker_cores(
    topology: &Topology,
    reactors: &[&Core],
    threads: &[Option<u32>],
) -> (Vec<u32>, bool) {
    let allowed = topology
        .cores
        .iter()
        .filter(|core| core.online && core.allowed);
    let idle: Vec<&Core> = allowed
        .clone()
        .filter(|core| !threads.contains(&Some(core.id)))
        .filter(|core| !reactors.iter().any(|other| other.id == core.id))
        .collect();
    // Rather where they slow nobody down.
    let apart: Vec<&Core> = idle
        .iter()
        .copied()
        .filter(|core| !reactors.iter().any(|other| other.physical == core.physical))
        .collect();
    let ids = |cores: &[&Core]| cores.iter().map(|core| core.id).collect::<Vec<_>>();
    for spare in [&apart, &idle] {
        if spare.len() >= PLENTY {
            return (ids(spare), false);
        }
    }
    let all: Vec<&Core> = allowed.collect();
    let quiet: Vec<&Core> = all
        .iter()
        .copied()
        .filter(|core| !threads.contains(&Some(core.id)))
        .collect();
    (ids(if quiet.is_empty() { &all } else { &quiet }), true)
}
