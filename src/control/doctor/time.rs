//! Checks of what makes a core slow or late: frequencies, idle states, clocks, defences, watchdogs.

use super::facts::CoreFacts;
use super::{Case, Outcome, braces, named};

/// Microseconds to leave an idle state that a sleeping reactor's first command is to wait for at most.
const LATE: u64 = 20;

/// Defences that make every system call, or every indirect branch in the kernel, dear.
const DEAR: &[&str] = &[
    "PTI",
    "Retpoline",
    "IBRS",
    "Clear CPU buffers",
    "untrained",
    "Safe RET",
];
/// These are done by the processor and cost little.
const CHEAP: &str = "Enhanced / Automatic IBRS";

fn ours<'a>(case: &'a Case<'_>) -> impl Iterator<Item = &'a CoreFacts> {
    let cores = case.facts.cores.iter();
    cores.filter(|core| case.cores.contains(&core.id))
}

pub(super) fn governor(case: &Case<'_>) -> Vec<Outcome> {
    let mut slow = Vec::new();
    let mut seen = None;
    for core in ours(case) {
        let Some((driver, governor)) = &core.frequency else {
            continue;
        };
        if governor != "performance" {
            slow.push(core.id);
        }
        if seen.is_none() || governor != "performance" {
            seen = Some((driver, governor));
        }
    }
    let Some((driver, governor)) = seen else {
        return vec![Outcome::ok(
            "frequencies are not this kernel's to choose (firmware or host does)",
        )];
    };
    let found = format!("{governor} ({driver})");
    if slow.is_empty() {
        return vec![Outcome::ok(found)];
    }
    let found = format!("{found} on {}", named(&slow));
    vec![Outcome::better(found).run(format!(
        "echo performance | tee /sys/devices/system/cpu/cpu{}/cpufreq/scaling_governor",
        braces(&slow)
    ))]
}

pub(super) fn idle_states(case: &Case<'_>) -> Vec<Outcome> {
    let states = ours(case).flat_map(|core| core.idle.iter().map(move |state| (core.id, state)));
    let enabled = states.filter(|(_, (_, _, off))| !off);
    let late: Vec<_> = enabled
        .filter(|(_, (_, latency, _))| *latency > LATE)
        .collect();
    let deepest = late.iter().max_by_key(|(_, (_, latency, _))| *latency);
    let Some((_, (name, latency, _))) = deepest else {
        return vec![Outcome::ok("the cores wake up at once")];
    };
    let found = format!("idle cores sleep in {name}, {latency} µs away");
    if case.spins() {
        return vec![Outcome::ok(format!(
            "{found}; a core that spins is never idle"
        ))];
    }
    let mut cores: Vec<u32> = late.iter().map(|(core, _)| *core).collect();
    cores.dedup();
    // All states of a machine are alike on all its cores.
    let first = ours(case).find(|core| cores.first() == Some(&core.id));
    let numbers: Vec<u32> = first
        .into_iter()
        .flat_map(|core| (0..).zip(&core.idle))
        .filter(|(_, (_, latency, off))| *latency > LATE && !off)
        .map(|(number, _)| number)
        .collect();
    vec![Outcome::better(found).run(format!(
        "echo 1 | tee /sys/devices/system/cpu/cpu{}/cpuidle/state{}/disable",
        braces(&cores),
        braces(&numbers)
    ))]
}

pub(super) fn clock(case: &Case<'_>) -> Vec<Outcome> {
    let (current, available) = &case.facts.clocks;
    let found = current.clone();
    match current.as_str() {
        "" => Vec::new(),
        // Read without entering the kernel.
        "tsc" | "arch_sys_counter" | "riscv_clocksource" | "timebase" => vec![Outcome::ok(found)],
        "kvm-clock" | "hyperv_clocksource_tsc_page" => {
            let outcome = Outcome::better(format!("{found}: reading it costs more than tsc"));
            vec![if available.iter().any(|clock| clock == "tsc") {
                outcome.run(
                    "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource",
                )
            } else {
                outcome.advise("have the host give the machine an invariant tsc")
            }]
        }
        _ => {
            let outcome = Outcome::wrong(format!("{found}: each reading is a system call"));
            vec![if available.iter().any(|clock| clock == "tsc") {
                outcome.run(
                    "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource",
                )
            } else {
                outcome.advise(
                    "the kernel gave tsc up; `dmesg | grep -i -e tsc -e clocksource` says why",
                )
            }]
        }
    }
}

pub(super) fn defences(case: &Case<'_>) -> Vec<Outcome> {
    let is_dear = |what: &str| {
        let costly = what.replace(CHEAP, "");
        what.starts_with("Mitigation") && DEAR.iter().any(|word| costly.contains(word))
    };
    let dear: Vec<&str> = case
        .facts
        .mitigations
        .iter()
        .filter(|(_, what)| is_dear(what))
        .map(|(flaw, _)| flaw.as_str())
        .collect();
    if dear.is_empty() {
        return vec![Outcome::ok("none that makes system calls dear")];
    }
    let found = format!("system calls are dearer for {}", dear.join(", "));
    if !case.spins() {
        return vec![Outcome::ok(found)];
    }
    vec![
        Outcome::better(found)
            .advise("kernel command line (reboot): mitigations=off, but only where nothing runs that is not trusted"),
    ]
}

pub(super) fn watchdog(case: &Case<'_>) -> Vec<Outcome> {
    match case.facts.number("kernel/nmi_watchdog") {
        Some(1) if case.spins() => {
            vec![Outcome::better("the NMI watchdog is on").run("sysctl kernel.nmi_watchdog=0")]
        }
        Some(1) => vec![Outcome::ok("the NMI watchdog is on")],
        Some(_) => vec![Outcome::ok("the NMI watchdog is off")],
        None => Vec::new(),
    }
}
