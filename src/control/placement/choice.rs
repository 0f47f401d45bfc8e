//! Which cores get a reactor.

use super::{Refusal, Sqpoll, Wishes, memory};
use crate::control::cores::show;
use crate::sys::machine::Limits;
use crate::sys::topology::{Core, Topology};

/// Cores of the reactors, each with the reason.
pub(super) fn cores<'a>(
    topology: &'a Topology,
    limits: &Limits,
    wishes: &Wishes,
    notes: &mut Vec<String>,
) -> Result<Vec<(&'a Core, String)>, Refusal> {
    let asked = match &wishes.cores {
        Some(asked) => asked,
        None => return by_themselves(topology, limits, wishes, notes),
    };
    let of = |id: &u32| {
        topology
            .core(*id)
            .filter(|core| core.online && core.reachable)
    };
    let missing: Vec<u32> = asked
        .iter()
        .copied()
        .filter(|id| of(id).is_none())
        .collect();
    if !missing.is_empty() {
        let reachable = topology.cores.iter().filter(|c| c.online && c.reachable);
        return Err(Refusal::NotReachable {
            asked: missing,
            reachable: reachable.map(|core| core.id).collect(),
        });
    }
    let cores: Vec<&Core> = asked.iter().filter_map(of).collect();
    if cores.is_empty() {
        return Err(Refusal::NoCore);
    }
    notes.extend(shared_cores(&cores));
    let count = u32::try_from(cores.len()).unwrap_or(u32::MAX);
    if let Some(time) = limits.cpu_time.filter(|&time| time < count) {
        notes.push(format!(
            "the control group has time for {time} of the {count} cores: the reactors on them will be stopped now and then"
        ));
    }
    Ok(cores
        .into_iter()
        .map(|core| (core, "asked for".to_owned()))
        .collect())
}

/// A sentence for reactors that were put on siblings.
fn shared_cores(cores: &[&Core]) -> Option<String> {
    let shared: Vec<u32> = cores
        .iter()
        .filter(|core| {
            let same = |other: &&&Core| other.physical == core.physical;
            cores.iter().filter(same).count() > 1
        })
        .map(|core| core.id)
        .collect();
    (!shared.is_empty()).then(|| {
        format!(
            "cores {} are hardware threads of shared physical cores: a reactor that spins slows its sibling down",
            show(&shared)
        )
    })
}

fn by_themselves<'a>(
    topology: &'a Topology,
    limits: &Limits,
    wishes: &Wishes,
    notes: &mut Vec<String>,
) -> Result<Vec<(&'a Core, String)>, Refusal> {
    let mut all = candidates(topology);
    if let Some(node) = wishes.node {
        if all.iter().any(|core| core.node == node) {
            all.retain(|core| core.node == node);
        } else {
            notes.push(format!("NUMA node {node} has no core this process may use"));
        }
    }
    let isolated: Vec<&Core> = all.iter().copied().filter(|core| core.isolated).collect();
    let is_isolated = !isolated.is_empty();
    let mut kept = one_of_each(if is_isolated { isolated } else { all });
    if kept.len() > 2 && !is_isolated {
        kept.remove(0);
    }
    if kept.is_empty() {
        return Err(Refusal::NoCore);
    }
    let distance = |core: &Core| {
        let to = |hint: &super::Hint| topology.distance(core.node, hint.node);
        wishes.near.iter().map(to).min().unwrap_or(0)
    };
    if topology.is_numa() {
        kept.sort_by_key(|core| distance(core));
    }
    bound(topology, limits, wishes, &mut kept, notes);
    let reason = |core: &Core| {
        let mut why = if is_isolated { "isolated" } else { "allowed" }.to_owned();
        let here = |hint: &&super::Hint| topology.is_numa() && hint.node == core.node;
        if let Some(hint) = wishes.near.iter().find(here) {
            why = format!("{why}, near {}", hint.what);
        }
        why
    };
    Ok(kept.into_iter().map(|core| (core, reason(core))).collect())
}

/// The cores to choose from when nobody asked for any: what the process started with, and the isolated ones among those it
/// can reach, unless it was kept from others too: then somebody chose for it.
fn candidates(topology: &Topology) -> Vec<&Core> {
    let online = topology.cores.iter().filter(|core| core.online);
    let others = |core: &&Core| core.reachable && !core.allowed;
    let chosen_for = online.clone().filter(others).any(|core| !core.isolated);
    online
        .filter(|core| core.allowed || (core.reachable && !chosen_for))
        .collect()
}

/// One hardware thread of each physical core; all, where there is but one physical core.
fn one_of_each(threads: Vec<&Core>) -> Vec<&Core> {
    let mut firsts: Vec<&Core> = Vec::new();
    for core in &threads {
        if firsts.iter().all(|first| first.physical != core.physical) {
            firsts.push(core);
        }
    }
    if firsts.len() > 1 { firsts } else { threads }
}

/// Leaves as many as there are cores for submission threads, and time and memory for.
fn bound(
    topology: &Topology,
    limits: &Limits,
    wishes: &Wishes,
    kept: &mut Vec<&Core>,
    notes: &mut Vec<String>,
) {
    let threads = if wishes.sqpoll == Sqpoll::No { 1 } else { 2 };
    if threads > 1 && kept.len() > 1 {
        notes.push(format!(
            "sqpoll takes a core for each reactor: {} reactors instead of {}",
            kept.len() / 2,
            kept.len()
        ));
        kept.truncate(kept.len() / 2);
    }
    let time = limits
        .cpu_time
        .map(|time| usize::try_from(time).unwrap_or(usize::MAX));
    if let Some(time) = time.filter(|time| time / threads < kept.len()) {
        let most = (time / threads).max(1);
        if most < kept.len() {
            notes.push(format!(
                "the control group has time for {time} cores: {most} reactors instead of {}",
                kept.len()
            ));
        }
        kept.truncate(most);
    }
    let most = memory::most_reactors(topology, limits);
    if most < kept.len() {
        notes.push(format!(
            "there is memory for {most} reactors, not for {}",
            kept.len()
        ));
        kept.truncate(most);
    }
}
