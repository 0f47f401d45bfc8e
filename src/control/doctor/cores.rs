//! Checks of the reactors' cores, and of who else runs there.

use super::files::mask_of;
use super::{Case, Outcome, list, named};
use crate::control::placement::Refusal;
use crate::sys::cpu::parse_list;

/// Stolen time that is felt in the tail, and that ruins it, in thousandths.
const STOLEN: (u64, u64) = (10, 100);

pub(super) fn reactors(case: &Case<'_>) -> Vec<Outcome> {
    if let Some(refusal) = &case.refusal {
        let outcome = Outcome::wrong(refusal.to_string());
        return vec![match refusal {
            Refusal::NotReachable { .. } | Refusal::NoCore => outcome.advise(
                "name cores that this process may use (--cores, \"reactors\": {\"cores\"}), or widen its cpuset \
                 (systemd: AllowedCPUs=, containers: --cpuset-cpus)",
            ),
            // It says itself what to do.
            Refusal::NoSpareCore { .. } | Refusal::NoTime { .. } => outcome,
        }];
    }
    let online = case.facts.machine.topology.cores.iter();
    let online = online.filter(|core| core.online).count();
    let found = format!(
        "{} on {} of {online}",
        count(case.cores.len(), "reactor"),
        named(&case.cores)
    );
    if case.spins() && case.cores.len() == online {
        let outcome = Outcome::better(format!(
            "{found}: none is left to the kernel, interrupts and what blocks"
        ));
        return vec![if online > 1 {
            let rest: Vec<u32> = case.cores.iter().copied().skip(1).collect();
            outcome.advise(format!(
                "--cores {} (\"reactors\": {{\"cores\"}})",
                list(&rest)
            ))
        } else {
            outcome.advise("on one core use --poll adaptive")
        }];
    }
    vec![Outcome::ok(found)]
}

/// `1 reactor`, `2 reactors`.
pub(super) fn count(number: usize, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {what}{s}")
}

pub(super) fn quota(case: &Case<'_>) -> Vec<Outcome> {
    let Some(quota) = case.facts.quota else {
        return vec![Outcome::ok("no limit on processor time")];
    };
    let cores = quota.millicores / 1000;
    let tenths = quota.millicores % 1000 / 100;
    let mut found = format!("the control group has time for {cores}.{tenths} cores");
    if quota.throttled > 0 {
        found = format!("{found}, and was stopped {} times for it", quota.throttled);
    }
    let outcome = if case.spins() {
        Outcome::wrong(found)
    } else {
        Outcome::better(found)
    };
    let outcome = outcome.advise(
        "give it cores instead of time (docker: --cpuset-cpus in place of --cpus; Kubernetes: whole cores, static CPU \
         manager; systemd: AllowedCPUs= in place of CPUQuota=)",
    );
    vec![if case.spins() {
        outcome.advise("or use --poll adaptive")
    } else {
        outcome
    }]
}

/// Cores of ours that the scheduler uses for others too.
fn shared(case: &Case<'_>) -> Vec<u32> {
    let topology = &case.facts.machine.topology;
    let is_shared = |id: &u32| topology.core(*id).is_some_and(|core| !core.isolated);
    case.cores.iter().copied().filter(is_shared).collect()
}

/// What `isolcpus=` and its kin should name: what they name, and ours.
fn wanted(case: &Case<'_>, named: &[u32]) -> Vec<u32> {
    let mut all = [named, &case.quiet_cores()].concat();
    all.sort_unstable();
    all.dedup();
    all
}

pub(super) fn isolation(case: &Case<'_>) -> Vec<Outcome> {
    let shared = shared(case);
    if case.cores.is_empty() {
        return Vec::new();
    }
    if shared.is_empty() {
        let found = format!("the scheduler leaves {} alone", named(&case.cores));
        return vec![Outcome::ok(found)];
    }
    let found = format!("the scheduler runs others on {} too", named(&shared));
    if !case.spins() {
        return vec![Outcome::ok(format!(
            "{found}; right for --poll adaptive and event"
        ))];
    }
    let outcome = Outcome::better(found);
    vec![match case.isolcpus() {
        Some(parameter) => outcome.boot(parameter),
        None => {
            outcome.advise("a machine with one core has none to set apart: use --poll adaptive")
        }
    }]
}

/// Cores that are set apart from the scheduler, or should be.
fn apart(case: &Case<'_>) -> Vec<u32> {
    let shared = shared(case);
    let ours = case.cores.iter().copied();
    if case.spins() {
        let quiet = case.quiet_cores();
        return ours.filter(|core| quiet.contains(core)).collect();
    }
    ours.filter(|core| !shared.contains(core)).collect()
}

pub(super) fn tick(case: &Case<'_>) -> Vec<Outcome> {
    let apart = apart(case);
    if apart.is_empty() {
        return Vec::new();
    }
    let ticking = without(&apart, &case.facts.tickless);
    if ticking.is_empty() {
        return vec![Outcome::ok(format!("no timer tick on {}", named(&apart)))];
    }
    let quiet = wanted(case, &case.facts.tickless);
    vec![
        Outcome::better(format!("the timer ticks on {}", named(&ticking)))
            .boot(format!("nohz_full={}", list(&quiet))),
    ]
}

pub(super) fn callbacks(case: &Case<'_>) -> Vec<Outcome> {
    let apart = apart(case);
    if apart.is_empty() {
        return Vec::new();
    }
    let listed = case.facts.parameter("rcu_nocbs");
    let listed = listed.and_then(parse_list).unwrap_or_default();
    let mut free = case.facts.tickless.clone();
    free.extend(&listed);
    let burdened = without(&apart, &free);
    if burdened.is_empty() {
        let found = format!("RCU callbacks run elsewhere than on {}", named(&apart));
        return vec![Outcome::ok(found)];
    }
    let found = format!("RCU callbacks run on {}", named(&burdened));
    vec![Outcome::better(found).boot(format!("rcu_nocbs={}", list(&wanted(case, &listed))))]
}

pub(super) fn kernel_work(case: &Case<'_>) -> Vec<Outcome> {
    let apart = apart(case);
    if apart.is_empty() {
        return Vec::new();
    }
    let Some(work) = &case.facts.work else {
        return Vec::new();
    };
    let burdened: Vec<u32> = apart.iter().copied().filter(|c| work.contains(c)).collect();
    if burdened.is_empty() {
        let found = format!("the kernel's own work stays off {}", named(&apart));
        return vec![Outcome::ok(found)];
    }
    vec![
        Outcome::better(format!(
            "the kernel may put its own work on {}",
            named(&burdened)
        ))
        .run(format!(
            "echo {} > /sys/devices/virtual/workqueue/cpumask",
            mask_of(&case.other_cores())
        )),
    ]
}

pub(super) fn siblings(case: &Case<'_>) -> Vec<Outcome> {
    let topology = &case.facts.machine.topology;
    let ours: Vec<_> = case
        .cores
        .iter()
        .filter_map(|id| topology.core(*id))
        .collect();
    let mut idle_halves = Vec::new();
    let mut doubled = Vec::new();
    for core in &ours {
        let siblings = topology
            .cores
            .iter()
            .filter(|other| other.online && other.physical == core.physical && other.id != core.id);
        for sibling in siblings {
            if case.cores.contains(&sibling.id) {
                doubled.push(core.id);
            } else if !sibling.isolated {
                idle_halves.push(sibling.id);
            }
        }
    }
    if !doubled.is_empty() {
        let mut physical = Vec::new();
        let one_each = ours.iter().filter(|core| {
            let is_new = !physical.contains(&core.physical);
            physical.push(core.physical);
            is_new
        });
        let one_each: Vec<u32> = one_each.map(|core| core.id).collect();
        let found = format!("reactors on {} share physical cores", named(&doubled));
        let advice = format!("--cores {} (\"reactors\": {{\"cores\"}})", list(&one_each));
        return vec![Outcome::better(found).advise(advice)];
    }
    if idle_halves.is_empty() {
        return vec![Outcome::ok("no reactor shares its physical core")];
    }
    idle_halves.sort_unstable();
    let found = format!(
        "others may run on {}, the other halves of the reactors' physical cores",
        named(&idle_halves)
    );
    if !case.spins() {
        return vec![Outcome::ok(found)];
    }
    let off = idle_halves.iter().map(ToString::to_string);
    let off = off.collect::<Vec<_>>().join(" ");
    vec![Outcome::better(found).run(format!(
        "for c in {off}; do echo 0 > /sys/devices/system/cpu/cpu$c/online; done"
    ))]
}

pub(super) fn stolen(case: &Case<'_>) -> Vec<Outcome> {
    if !case.facts.is_virtual {
        return vec![Outcome::ok(
            "no hypervisor below: nobody takes time from the cores",
        )];
    }
    let ours = case
        .facts
        .cores
        .iter()
        .filter(|core| case.cores.contains(&core.id));
    let (all, stolen) = ours.fold((0, 0), |(all, stolen), core| {
        (all + core.ticks.0, stolen + core.ticks.1)
    });
    let share = (stolen * 1000).checked_div(all).unwrap_or(0);
    let found = format!(
        "a virtual machine; its host took {}.{} % of the reactors' cores since the start",
        share / 10,
        share % 10
    );
    let outcome = match share {
        share if share >= STOLEN.1 => Outcome::wrong(found),
        share if share >= STOLEN.0 => Outcome::better(found),
        _ => return vec![Outcome::ok(found)],
    };
    vec![outcome.advise("have the host pin the virtual processors, or rent dedicated ones")]
}

/// Those of `all` that are not among `some`.
pub(super) fn without(all: &[u32], some: &[u32]) -> Vec<u32> {
    all.iter()
        .copied()
        .filter(|one| !some.contains(one))
        .collect()
}
