//! How much memory the reactors' pools get, of which node, and of what pages.

use super::Wishes;
use crate::sys::machine::Limits;
use crate::sys::topology::{Core, HUGE_PAGE_BYTES, Node, Topology};

/// Most that one reactor takes when nobody says.
const DEFAULT_MOST: u64 = 256 << 20;
/// Least that a reactor can serve anybody with.
const LEAST: u64 = 16 << 20;

/// A reactor's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) node: u32,
    pub(super) bytes: u64,
    pub(super) hugepages: u64,
}

/// How many reactors there is memory for; at least one. Reserved huge pages are not in what is available otherwise.
pub(super) fn most_reactors(topology: &Topology, limits: &Limits) -> usize {
    let pages: u64 = topology.nodes.iter().map(|node| node.free_hugepages).sum();
    let bytes = limits.memory.available / 2 + pages * HUGE_PAGE_BYTES;
    usize::try_from(bytes / LEAST).unwrap_or(usize::MAX).max(1)
}

/// Each reactor's part.
pub(super) fn shares(
    topology: &Topology,
    limits: &Limits,
    wishes: &Wishes,
    cores: &[&Core],
    notes: &mut Vec<String>,
) -> Vec<Share> {
    let nodes: Vec<u32> = cores
        .iter()
        .map(|core| topology.memory_node(core))
        .collect();
    let mut shares = Vec::new();
    let mut used: Vec<u32> = nodes.clone();
    used.sort_unstable();
    used.dedup();
    for node in used.iter().filter_map(|&id| topology.node(id)) {
        let count = u64::try_from(nodes.iter().filter(|&&id| id == node.id).count()).unwrap_or(1);
        let all = Reactors {
            here: count,
            in_all: u64::try_from(cores.len()).unwrap_or(u64::MAX),
            is_numa: topology.is_numa(),
        };
        let (bytes, note) = per_reactor(limits, node, &all, wishes.bytes_per_node);
        add(notes, note);
        let pages = pages_for(topology, node, &all, bytes / HUGE_PAGE_BYTES);
        add(notes, lacking(topology, node, count, bytes, pages));
        shares.push((node.id, bytes, pages));
    }
    nodes
        .iter()
        .filter_map(|id| shares.iter().find(|share| share.0 == *id))
        .map(|&(node, bytes, hugepages)| Share {
            node,
            bytes,
            hugepages,
        })
        .collect()
}

/// How many there are to share with.
struct Reactors {
    /// On the same node; at least 1.
    here: u64,
    in_all: u64,
    is_numa: bool,
}

/// Bytes for each reactor of `node`, and a sentence when it is not what was wished for.
fn per_reactor(
    limits: &Limits,
    node: &Node,
    reactors: &Reactors,
    asked: Option<u64>,
) -> (u64, Option<String>) {
    let mib = |bytes: u64| bytes >> 20;
    let asked = asked.map(|bytes| bytes / reactors.here);
    let wanted = asked.unwrap_or(DEFAULT_MOST.min(limits.memory.total / 8));
    if wanted < LEAST {
        let note = asked.map(|bytes| {
            let (few, least) = (mib(bytes), mib(LEAST));
            format!("{few} MiB of buffers per reactor are too few: raised to {least} MiB")
        });
        return (LEAST, note);
    }
    let reserved = node.free_hugepages * HUGE_PAGE_BYTES / reactors.here;
    let mut available = limits.memory.available / reactors.in_all;
    if reactors.is_numa && node.memory > 0 {
        available = available.min(node.available / reactors.here);
    }
    let given = wanted
        .min((available / 2).saturating_add(reserved))
        .max(LEAST)
        .next_multiple_of(HUGE_PAGE_BYTES);
    let note = (given < wanted).then(|| {
        format!(
            "only {} MiB of memory are available: {} MiB of buffers per reactor instead of {} MiB",
            mib(limits.memory.available),
            mib(given),
            mib(wanted)
        )
    });
    (given, note)
}

/// Reserved pages for each reactor of `node`, of the `wanted`: what is free there, and of what the kernel would make on
/// demand a part.
fn pages_for(topology: &Topology, node: &Node, reactors: &Reactors, wanted: u64) -> u64 {
    let more = topology.surplus_hugepages / reactors.in_all;
    wanted.min(node.free_hugepages / reactors.here + more)
}

/// A sentence when not all of `count` pools are in reserved huge pages, with the command that changes that.
fn lacking(topology: &Topology, node: &Node, count: u64, bytes: u64, pages: u64) -> Option<String> {
    let wanted = bytes / HUGE_PAGE_BYTES * count;
    let missing = wanted.saturating_sub(pages * count);
    if missing == 0 {
        return None;
    }
    // What is reserved and used by others stays theirs.
    let reserve = node.hugepages - node.free_hugepages.min(node.hugepages) + wanted;
    let id = node.id;
    let (place, command) = if topology.is_numa() {
        let file =
            format!("/sys/devices/system/node/node{id}/hugepages/hugepages-2048kB/nr_hugepages");
        (
            format!(" on NUMA node {id}"),
            format!("echo {reserve} > {file}"),
        )
    } else {
        (String::new(), format!("sysctl vm.nr_hugepages={reserve}"))
    };
    let free = node.free_hugepages;
    Some(if pages == 0 {
        format!(
            "no reserved huge pages{place} ({free} free, {wanted} wanted): transparent huge pages or 4 KiB pages instead; \
             to reserve them: {command}"
        )
    } else {
        format!(
            "too few reserved huge pages{place}: {missing} of {wanted} are missing, the rest of the buffers is in \
             transparent huge pages or 4 KiB pages; to reserve them: {command}"
        )
    })
}

fn add(notes: &mut Vec<String>, note: Option<String>) {
    notes.extend(note.filter(|note| !notes.contains(note)));
}
