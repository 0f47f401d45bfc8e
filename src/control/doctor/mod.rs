//! `ringtgt doctor`: holds the machine against the configuration and says what is ok, what could be better and what is
//! wrong, with the command that mends it. It changes nothing.
//!
//! [`Facts`] are read from files below one root directory, [`Probed`] is what was tried out; a check is a pure function
//! of both and the configuration, and a row of `table::CHECKS`.

mod cores;
pub mod devices;
pub mod facts;
mod files;
mod interrupts;
mod limits;
mod memory;
mod network;
pub mod probe;
mod storage;
mod table;
mod time;

pub use self::facts::Facts;
pub use self::probe::Probed;

use super::config::{Config, Storage};
use super::placement::{Placed, Placement, Refusal, place};
use super::plan::wishes;
use super::{PollPolicy, cores as core_lists};
use crate::backend::spec::BackendKind;
use crate::sys::hugepage::Pages;

/// What a finding comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works; it could be faster or steadier.
    Better,
    /// It does not work, or latency is bound to be bad.
    Wrong,
}

impl Verdict {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Better => "could be better",
            Self::Wrong => "wrong",
        }
    }
}

/// What a check is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Cores of the reactors, and who else runs there.
    Cores,
    /// Frequencies, idle states, clocks.
    Time,
    /// Interrupts of devices.
    Interrupts,
    /// Buffers.
    Memory,
    /// What the kernel offers and allows.
    Kernel,
    /// Portals, cards, TCP.
    Network,
    /// Files, block devices, disks.
    Storage,
}

impl Group {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cores => "cores",
            Self::Time => "time",
            Self::Interrupts => "interrupts",
            Self::Memory => "memory",
            Self::Kernel => "kernel",
            Self::Network => "network",
            Self::Storage => "storage",
        }
    }
}

/// How something is mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mend {
    /// A command, for root where it needs to be.
    Run(String),
    /// Parameters for the kernel's command line; they take a reboot.
    Boot(String),
    /// What to change elsewhere, as a sentence.
    Do(String),
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub group: Group,
    /// Name of the check.
    pub check: &'static str,
    /// What it comes to.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// Why it matters.
    pub why: &'static str,
    /// How it is mended; empty when it need not be, or cannot be from here.
    pub mend: Vec<Mend>,
}

/// What a check says of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    verdict: Verdict,
    found: String,
    mend: Vec<Mend>,
}

impl Outcome {
    fn new(verdict: Verdict, found: impl Into<String>) -> Self {
        Self {
            verdict,
            found: found.into(),
            mend: Vec::new(),
        }
    }

    fn ok(found: impl Into<String>) -> Self {
        Self::new(Verdict::Ok, found)
    }

    fn better(found: impl Into<String>) -> Self {
        Self::new(Verdict::Better, found)
    }

    fn wrong(found: impl Into<String>) -> Self {
        Self::new(Verdict::Wrong, found)
    }

    fn run(self, command: impl Into<String>) -> Self {
        self.mended(Mend::Run(command.into()))
    }

    fn boot(self, parameters: impl Into<String>) -> Self {
        self.mended(Mend::Boot(parameters.into()))
    }

    fn advise(self, sentence: impl Into<String>) -> Self {
        self.mended(Mend::Do(sentence.into()))
    }

    fn mended(mut self, mend: Mend) -> Self {
        self.mend.push(mend);
        self
    }
}

/// One row of the table.
struct Check {
    group: Group,
    name: &'static str,
    why: &'static str,
    /// One outcome for each thing it applies to; none where it applies to nothing.
    run: fn(&Case<'_>) -> Vec<Outcome>,
}

/// The configuration and the machine, side by side.
struct Case<'a> {
    config: &'a Config,
    facts: &'a Facts,
    probed: &'a Probed,
    /// Where the daemon would put reactors and memory; nothing where it would not start.
    placement: Placement,
    /// Why it would not.
    refusal: Option<Refusal>,
    /// Cores of the reactors.
    cores: Vec<u32>,
}

impl<'a> Case<'a> {
    fn new(config: &'a Config, facts: &'a Facts, probed: &'a Probed) -> Self {
        let machine = &facts.machine;
        let has_ring = !matches!(probed.io_uring, Some(Err(_)));
        let near = probed.near.clone();
        let wishes = wishes(config, near, has_ring, &mut Vec::new());
        let (placement, refusal) = match place(&machine.topology, &machine.limits, &wishes) {
            Ok(placement) => (placement, None),
            Err(refusal) => (nothing(), Some(refusal)),
        };
        Self {
            config,
            facts,
            probed,
            cores: placement.cores(),
            placement,
            refusal,
        }
    }

    fn spins(&self) -> bool {
        self.config.reactors.poll == PollPolicy::Busy
    }

    /// The cores that had better belong to the reactors alone: theirs and the siblings of theirs, but for one that is
    /// left to the rest of the machine.
    fn quiet_cores(&self) -> Vec<u32> {
        let topology = &self.facts.machine.topology;
        let physical = |id: &u32| topology.core(*id).map(|core| core.physical);
        let ours: Vec<_> = self.cores.iter().filter_map(physical).collect();
        let online = || topology.cores.iter().filter(|core| core.online);
        let mut quiet: Vec<u32> = online()
            .filter(|core| ours.contains(&core.physical))
            .map(|core| core.id)
            .collect();
        if quiet.len() == online().count() {
            let first = online().next().map(|core| core.physical);
            quiet.retain(|id| physical(id) != first);
        }
        quiet
    }

    /// Storages that are some target's LUN.
    fn storages(&self) -> impl Iterator<Item = &Storage> {
        self.config.storages.iter().filter(|storage| {
            let mut luns = self.config.targets.iter().flat_map(|target| &target.luns);
            luns.any(|(_, device)| *device == storage.device_id)
        })
    }

    /// What keeps the scheduler off those, and off what it is kept off already; `None` where there are none.
    fn isolcpus(&self) -> Option<String> {
        let quiet = self.quiet_cores();
        if quiet.is_empty() {
            return None;
        }
        let topology = &self.facts.machine.topology;
        let already = topology.cores.iter().filter(|core| core.isolated);
        let mut all: Vec<u32> = already.map(|core| core.id).chain(quiet).collect();
        all.sort_unstable();
        all.dedup();
        Some(format!("isolcpus=managed_irq,domain,{}", list(&all)))
    }

    /// The cores for everybody else; none where the reactors have all.
    fn other_cores(&self) -> Vec<u32> {
        let quiet = self.quiet_cores();
        let topology = &self.facts.machine.topology;
        let online = topology.cores.iter().filter(|core| core.online);
        let rest = online.map(|core| core.id);
        if quiet.is_empty() {
            return Vec::new();
        }
        rest.filter(|id| !quiet.contains(id)).collect()
    }

    /// There is nothing to serve yet: the advice is for whatever this machine may serve.
    fn is_general(&self) -> bool {
        self.config.storages.is_empty()
    }

    /// Some storage wants io_uring.
    fn wants_ring(&self) -> bool {
        if self.is_general() {
            return true;
        }
        self.storages()
            .any(|storage| storage.kind == BackendKind::IoUring)
    }

    /// Nodes that the reactors' cores are on.
    fn nodes(&self) -> Vec<u32> {
        let topology = &self.facts.machine.topology;
        let node = |id: &u32| topology.core(*id).map(|core| core.node);
        let mut nodes: Vec<u32> = self.cores.iter().filter_map(node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }
}

/// The placement of a daemon that does not start.
fn nothing() -> Placement {
    Placement {
        reactors: Vec::new(),
        is_numa: false,
        worker_cores: Vec::new(),
        shares_cores: true,
        notes: Vec::new(),
    }
}

/// Cores as the kernel and `--cores` write them.
fn list(cores: &[u32]) -> String {
    core_lists::show(cores)
}

/// `core 3`, `cores 2-5`.
fn named(cores: &[u32]) -> String {
    let s = if cores.len() == 1 { "" } else { "s" };
    format!("core{s} {}", list(cores))
}

/// Cores that bash multiplies a path by: `{2,3}`, or one.
fn braces(cores: &[u32]) -> String {
    match cores {
        [one] => one.to_string(),
        // A run is shorter, and bash counts it.
        [first, .., last] if usize::try_from(last - first) == Ok(cores.len() - 1) => {
            format!("{{{first}..{last}}}")
        }
        _ => {
            let all: Vec<String> = cores.iter().map(ToString::to_string).collect();
            format!("{{{}}}", all.join(","))
        }
    }
}

/// The whole report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The reactors that the daemon would start: their cores, and what memory each gets.
    pub reactors: Vec<Placed>,
    /// How they wait.
    pub poll: PollPolicy,
    /// The kinds of pages that their buffers would be in.
    pub pages: Pages,
    /// Whether io_uring would have the buffers registered; `None` without io_uring.
    pub registered: Option<bool>,
    /// Line by line, by group.
    pub findings: Vec<Finding>,
}

/// Holds the machine against the configuration.
#[must_use]
pub fn examine(config: &Config, facts: &Facts, probed: &Probed) -> Report {
    let case = Case::new(config, facts, probed);
    let mut findings = Vec::new();
    for check in table::CHECKS {
        for outcome in (check.run)(&case) {
            findings.push(Finding {
                group: check.group,
                check: check.name,
                verdict: outcome.verdict,
                found: outcome.found,
                why: check.why,
                mend: outcome.mend,
            });
        }
    }
    Report {
        poll: config.reactors.poll,
        pages: memory::pages(&case),
        registered: memory::registered(&case),
        reactors: case.placement.reactors,
        findings,
    }
}

impl Report {
    /// The pages for people, like `in 4 KiB pages`.
    #[must_use]
    pub fn backing(&self) -> String {
        let kinds = [
            (self.pages.reserved, "reserved 2 MiB huge pages"),
            (self.pages.transparent, "transparent huge pages"),
            (self.pages.small, "4 KiB pages"),
        ];
        let used: Vec<_> = kinds.iter().filter(|(bytes, _)| *bytes > 0).collect();
        if let [(_, kind)] = used.as_slice() {
            return format!("in {kind}");
        }
        let part = |(bytes, kind): &&(usize, &str)| format!("{} MiB in {kind}", bytes >> 20);
        format!("({})", used.iter().map(part).collect::<Vec<_>>().join(", "))
    }

    /// How many findings come to that.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        let same = self.findings.iter().filter(|f| f.verdict == verdict);
        same.count()
    }

    /// All that is to be added to the kernel's command line.
    #[must_use]
    pub fn boot_parameters(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for mend in self.findings.iter().flat_map(|finding| &finding.mend) {
            if let Mend::Boot(parameters) = mend
                && !all.contains(parameters)
            {
                all.push(parameters.clone());
            }
        }
        all
    }
}

#[cfg(test)]
pub(crate) mod tests;
