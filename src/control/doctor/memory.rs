//! Checks of the buffers' memory: how much, of what pages, how fast it stays.

use super::limits::{UNLOCK, UNLOCK_ELSEWHERE};
use super::{Case, Outcome};
use crate::control::size;
use crate::sys::hugepage::Pages;
use crate::sys::topology::HUGE_PAGE_BYTES;

/// Bytes for people, in whole MiB.
fn mib(bytes: u64) -> String {
    size::show((bytes >> 20 << 20).max(1 << 20))
}

/// The kinds of pages that the pools would be made of, in the daemon's own words.
pub(super) fn pages(case: &Case<'_>) -> Pages {
    let bytes = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let reactors = case.placement.reactors.iter();
    let reserved = reactors
        .map(|placed| placed.hugepages * HUGE_PAGE_BYTES)
        .sum();
    let rest = case.placement.bytes().saturating_sub(reserved);
    let is_small = matches!(case.facts.transparent.as_deref(), None | Some("never"));
    let (transparent, small) = if is_small { (0, rest) } else { (rest, 0) };
    Pages {
        reserved: bytes(reserved),
        transparent: bytes(transparent),
        small: bytes(small),
    }
}

/// Whether the pools would be registered with io_uring; `None` where there would be no ring.
pub(super) fn registered(case: &Case<'_>) -> Option<bool> {
    let is_denied = matches!(case.probed.io_uring, Some(Err(_)));
    let has_ring = case.wants_ring() && !is_denied && !case.placement.reactors.is_empty();
    let limit = case.facts.machine.limits.memlock;
    has_ring.then(|| limit.is_none_or(|limit| limit >= case.placement.bytes()))
}

pub(super) fn pool(case: &Case<'_>) -> Vec<Outcome> {
    let reactors = &case.placement.reactors;
    if reactors.is_empty() {
        return Vec::new();
    }
    let bytes = case.placement.bytes();
    let limits = &case.facts.machine.limits;
    let found = format!(
        "{} for {}, of {} available",
        mib(bytes),
        super::cores::count(reactors.len(), "reactor"),
        mib(limits.memory.available)
    );
    let huge: u64 = reactors.iter().map(|berth| berth.hugepages).sum();
    let ordinary = bytes.saturating_sub(huge * HUGE_PAGE_BYTES);
    if ordinary > limits.memory.available {
        return vec![Outcome::wrong(format!("{found}: it will not start")).advise(
            "stop something else, raise the control group's memory.max, or use fewer cores (--cores)",
        )];
    }
    let cut = case
        .placement
        .notes
        .iter()
        .find(|note| note.contains("MiB of buffers per reactor"));
    vec![match cut {
        Some(note) => Outcome::better(note.clone()).advise(
            "stop something else, raise the control group's memory.max, or name fewer cores (--cores)",
        ),
        None => Outcome::ok(found),
    }]
}

pub(super) fn hugepages(case: &Case<'_>) -> Vec<Outcome> {
    let topology = &case.facts.machine.topology;
    let mut outcomes = Vec::new();
    for node in &topology.nodes {
        let here = case
            .placement
            .reactors
            .iter()
            .filter(|berth| berth.node == node.id);
        let (bytes, pages) = here.fold((0, 0), |(bytes, pages), berth| {
            (bytes + berth.bytes, pages + berth.hugepages)
        });
        let wanted = bytes / HUGE_PAGE_BYTES;
        if wanted == 0 {
            continue;
        }
        let place = if topology.is_numa() {
            format!(" on NUMA node {}", node.id)
        } else {
            String::new()
        };
        if pages >= wanted {
            outcomes.push(Outcome::ok(format!(
                "the pool's {wanted} pages of 2 MiB are reserved{place} ({} free)",
                node.free_hugepages
            )));
            continue;
        }
        let instead = match case.facts.transparent.as_deref() {
            None | Some("never") => "4 KiB pages",
            Some(_) => "transparent huge pages",
        };
        let found = format!(
            "{pages} of the pool's {wanted} pages of 2 MiB are reserved{place}; {instead} for the rest"
        );
        // What is reserved and used by others stays theirs.
        let reserve = node.hugepages - node.free_hugepages.min(node.hugepages) + wanted;
        let command = if topology.is_numa() {
            format!(
                "echo {reserve} > /sys/devices/system/node/node{}/hugepages/hugepages-2048kB/nr_hugepages",
                node.id
            )
        } else {
            format!("sysctl vm.nr_hugepages={reserve}")
        };
        outcomes.push(Outcome::better(found).run(command));
    }
    outcomes
}

/// Some of the pools are not in reserved pages.
fn is_ordinary(case: &Case<'_>) -> bool {
    let ordinary =
        |berth: &crate::control::placement::Placed| berth.hugepages * HUGE_PAGE_BYTES < berth.bytes;
    case.placement.reactors.iter().any(ordinary)
}

pub(super) fn transparent(case: &Case<'_>) -> Vec<Outcome> {
    let Some(mode) = case.facts.transparent.as_deref() else {
        return Vec::new();
    };
    let command = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled";
    vec![match mode {
        "never" if is_ordinary(case) => {
            Outcome::better("never: what is not reserved is in 4 KiB pages").run(command)
        }
        "always" if case.spins() => {
            Outcome::better("always: the kernel compacts memory for everybody").run(command)
        }
        mode => Outcome::ok(mode),
    }]
}

pub(super) fn locked(case: &Case<'_>) -> Vec<Outcome> {
    let bytes = mib(case.placement.bytes());
    match registered(case) {
        None => Vec::new(),
        Some(true) => vec![Outcome::ok(format!("{bytes} may be locked for io_uring"))],
        Some(false) => {
            let limit = case.facts.machine.limits.memlock.unwrap_or(u64::MAX);
            let limit = size::show(limit);
            let found = format!(
                "{limit} may be locked, the pools have {bytes}: buffers are not registered with io_uring"
            );
            vec![Outcome::better(found).run(UNLOCK).advise(UNLOCK_ELSEWHERE)]
        }
    }
}

pub(super) fn overcommit(case: &Case<'_>) -> Vec<Outcome> {
    match case.facts.number("vm/overcommit_memory") {
        None => Vec::new(),
        Some(2) => {
            let left = case.facts.commit_left;
            let found = format!(
                "overcommitting is off, {} may still be committed",
                mib(left)
            );
            let bytes = case.placement.bytes();
            vec![if left < bytes {
                Outcome::wrong(format!("{found}, the pools need {}", mib(bytes)))
                    .run("sysctl vm.overcommit_memory=0")
            } else {
                Outcome::ok(found)
            }]
        }
        Some(mode) => vec![Outcome::ok(format!("vm.overcommit_memory={mode}"))],
    }
}

pub(super) fn swap(case: &Case<'_>) -> Vec<Outcome> {
    if case.facts.swap == 0 {
        return vec![Outcome::ok("there is none")];
    }
    let found = format!("{} of swap", mib(case.facts.swap));
    let registered = registered(case) == Some(true);
    if !is_ordinary(case) || registered {
        return vec![Outcome::ok(format!("{found}; the buffers cannot go there"))];
    }
    let swappiness = case.facts.number("vm/swappiness").unwrap_or(60);
    if swappiness == 0 {
        return vec![Outcome::ok(format!("{found}, used last (vm.swappiness=0)"))];
    }
    vec![
        Outcome::better(format!("{found}, and the buffers may be put there"))
            .run("sysctl vm.swappiness=0"),
    ]
}

pub(super) fn balancing(case: &Case<'_>) -> Vec<Outcome> {
    if !case.facts.machine.topology.is_numa() {
        return Vec::new();
    }
    match case.facts.number("kernel/numa_balancing") {
        Some(0) => vec![Outcome::ok("off")],
        Some(_) => vec![
            Outcome::better("on: the kernel unmaps pages to see who uses them")
                .run("sysctl kernel.numa_balancing=0"),
        ],
        None => Vec::new(),
    }
}
