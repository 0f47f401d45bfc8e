//! Checks of where the devices' interrupts go.

use super::cores::without;
use super::devices::Interrupt;
use super::files::mask_of;
use super::{Case, Outcome, list, named};

/// Interrupts that are named in a line.
const NAMED: usize = 4;

fn hits(case: &Case<'_>, interrupt: &Interrupt) -> bool {
    interrupt.count > 0 && interrupt.cores.iter().any(|core| case.cores.contains(core))
}

/// `ens1f0-TxRx-4 (64), nvme0q5 (85) and 3 more`.
fn names(interrupts: &[&Interrupt]) -> String {
    let name = |irq: &&Interrupt| format!("{} ({})", irq.name, irq.number);
    let mut text: Vec<String> = interrupts.iter().take(NAMED).map(name).collect();
    if interrupts.len() > NAMED {
        text.push(format!("{} more", interrupts.len() - NAMED));
    }
    text.join(", ")
}

pub(super) fn affinity(case: &Case<'_>) -> Vec<Outcome> {
    if case.cores.is_empty() || case.facts.interrupts.is_empty() {
        return Vec::new();
    }
    let ours = case.facts.interrupts.iter().filter(|irq| hits(case, irq));
    let ours: Vec<&Interrupt> = ours.collect();
    if ours.is_empty() {
        let found = format!("no device interrupts {}", named(&case.cores));
        return vec![Outcome::ok(found)];
    }
    let found = format!("{} come to {}", names(&ours), named(&case.cores));
    let rest = case.other_cores();
    if !case.spins() || rest.is_empty() {
        return vec![Outcome::ok(found)];
    }
    // The kernel places those of an NVMe disk's queues by itself, and refuses others to.
    let (managed, free): (Vec<&Interrupt>, Vec<&Interrupt>) =
        ours.iter().partition(|irq| irq.name.starts_with("nvme"));
    let mut outcome = Outcome::better(found);
    if !free.is_empty() {
        let numbers: Vec<String> = free.iter().map(|irq| irq.number.to_string()).collect();
        outcome = outcome.run(format!(
            "for i in {}; do echo {} > /proc/irq/$i/smp_affinity_list; done",
            numbers.join(" "),
            list(&rest)
        ));
    }
    if !managed.is_empty() {
        outcome = case.isolcpus().into_iter().fold(outcome, Outcome::boot);
    }
    vec![outcome]
}

pub(super) fn newcomers(case: &Case<'_>) -> Vec<Outcome> {
    let new = &case.facts.new_interrupts;
    if new.is_empty() || case.cores.is_empty() {
        return Vec::new();
    }
    let hit: Vec<u32> = case
        .cores
        .iter()
        .copied()
        .filter(|core| new.contains(core))
        .collect();
    if hit.is_empty() {
        return vec![Outcome::ok("new interrupts go to other cores")];
    }
    let found = format!("new interrupts may go to {}", named(&hit));
    let rest = case.other_cores();
    if !case.spins() || rest.is_empty() {
        return vec![Outcome::ok(found)];
    }
    vec![
        Outcome::better(found)
            .run(format!(
                "echo {} > /proc/irq/default_smp_affinity",
                mask_of(&rest)
            ))
            .boot(format!("irqaffinity={}", list(&rest))),
    ]
}

pub(super) fn balancer(case: &Case<'_>) -> Vec<Outcome> {
    if !case.facts.is_balanced {
        return vec![Outcome::ok("irqbalance does not run")];
    }
    let topology = &case.facts.machine.topology;
    let is_shared = |id: &u32| topology.core(*id).is_some_and(|core| !core.isolated);
    if !case.spins() || !case.cores.iter().any(is_shared) {
        // It keeps off isolated cores by itself.
        return vec![Outcome::ok(
            "irqbalance runs, and will not touch the reactors' cores or may",
        )];
    }
    vec![
        Outcome::better("irqbalance moves interrupts onto the reactors' cores")
            .run(format!(
                "echo IRQBALANCE_BANNED_CPULIST={} >> /etc/default/irqbalance && systemctl restart irqbalance",
                list(&case.quiet_cores())
            )),
    ]
}

pub(super) fn cards(case: &Case<'_>) -> Vec<Outcome> {
    let topology = &case.facts.machine.topology;
    if !topology.is_numa() {
        return Vec::new();
    }
    let mut outcomes = Vec::new();
    for card in super::network::cards(case) {
        let Some(node) = card.node else { continue };
        let is_far = |core: &u32| topology.core(*core).is_some_and(|core| core.node != node);
        let own = case.facts.interrupts.iter();
        let own = own.filter(|irq| card.interrupts.contains(&irq.number) && irq.count > 0);
        let (far, near): (Vec<&Interrupt>, Vec<&Interrupt>) =
            own.partition(|irq| irq.cores.iter().any(is_far));
        if far.is_empty() && near.is_empty() {
            continue;
        }
        let name = &card.name;
        if far.is_empty() {
            outcomes.push(Outcome::ok(format!(
                "{name}: all on its own NUMA node {node}"
            )));
            continue;
        }
        let near_cores = topology.cores.iter().filter(|c| c.online && c.node == node);
        let near_cores: Vec<u32> = near_cores.map(|core| core.id).collect();
        let numbers: Vec<String> = far.iter().map(|irq| irq.number.to_string()).collect();
        let quiet = if case.spins() {
            case.quiet_cores()
        } else {
            Vec::new()
        };
        let mut to = without(&near_cores, &quiet);
        if to.is_empty() {
            to = near_cores;
        }
        outcomes.push(
            Outcome::better(format!(
                "{name} is on NUMA node {node}, {} of its {} interrupts are handled elsewhere",
                far.len(),
                far.len() + near.len()
            ))
            .run(format!(
                "for i in {}; do echo {} > /proc/irq/$i/smp_affinity_list; done",
                numbers.join(" "),
                list(&to)
            )),
        );
    }
    outcomes
}
