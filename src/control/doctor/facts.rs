//! What the kernel's files say of a machine, read below one root directory: `/`, or a recording of another machine.

use std::fs;
use std::path::{Path, PathBuf};

use super::devices::{self, Card, Disk, Interrupt};
use super::files::{Root, cores_of_mask, selected, words};
use crate::sys::machine::Machine;
use crate::sys::memory::control_groups;

/// Settings of the kernel that a check asks for, below `proc/sys`.
const SETTINGS: &[&str] = &[
    "kernel/io_uring_disabled",
    "kernel/nmi_watchdog",
    "kernel/numa_balancing",
    "net/core/busy_poll",
    "net/core/somaxconn",
    "net/ipv4/ip_unprivileged_port_start",
    "net/ipv4/tcp_rmem",
    "net/ipv4/tcp_sack",
    "net/ipv4/tcp_slow_start_after_idle",
    "net/ipv4/tcp_window_scaling",
    "net/ipv4/tcp_wmem",
    "vm/overcommit_memory",
    "vm/swappiness",
];

/// A machine, as far as it can be read from files.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Its shape and the limits of this process: the same that reactors are placed by.
    pub machine: Machine,
    /// The kernel's release, as it is written, and its two first numbers.
    pub release: (String, (u32, u32)),
    /// Parameters of the kernel's command line.
    pub parameters: Vec<(String, String)>,
    /// Settings by their name below `proc/sys`.
    settings: Vec<(&'static str, String)>,
    /// Cores without a tick when one thread runs there (`nohz_full=`).
    pub tickless: Vec<u32>,
    /// Cores that run the kernel's unbound work; `None`: all.
    pub work: Option<Vec<u32>>,
    /// Frequencies and idle states by core.
    pub cores: Vec<CoreFacts>,
    /// The clock the kernel reads, and those it could.
    pub clocks: (String, Vec<String>),
    /// There is a hypervisor below.
    pub is_virtual: bool,
    /// What the kernel does against flaws of the processor, by flaw.
    pub mitigations: Vec<(String, String)>,
    /// Interrupts of devices.
    pub interrupts: Vec<Interrupt>,
    /// Cores that new interrupts go to; empty when unknown.
    pub new_interrupts: Vec<u32>,
    /// irqbalance moves interrupts about.
    pub is_balanced: bool,
    /// Mode of transparent huge pages: `always`, `madvise` or `never`; `None`: the kernel has none.
    pub transparent: Option<String>,
    /// Bytes that may still be committed where overcommitting is off, and bytes of swap.
    pub commit_left: u64,
    /// Bytes of swap.
    pub swap: u64,
    /// Time that the control groups grant.
    pub quota: Option<Quota>,
    /// Disks by name.
    pub disks: Vec<Disk>,
    /// Network cards by name; no virtual interfaces.
    pub cards: Vec<Card>,
}

/// What a core does when it works and when it does not.
#[derive(Clone, Debug, Default)]
pub struct CoreFacts {
    /// Its number.
    pub id: u32,
    /// Driver and governor of its frequency, where the kernel controls that.
    pub frequency: Option<(String, String)>,
    /// Idle states: name, microseconds to leave it, switched off.
    pub idle: Vec<(String, u64, bool)>,
    /// Ticks since the start: in all, and those that a hypervisor gave to others.
    pub ticks: (u64, u64),
}

/// Time of processors that a control group may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Thousandths of a core.
    pub millicores: u64,
    /// How often it was stopped for having used it up.
    pub throttled: u64,
}

impl Facts {
    /// Reads them below `root`, the shape of the machine included.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let machine = if root == Path::new("/") {
            Machine::here()
        } else {
            Machine::read(root)
        };
        Self::around(machine, &Root(root))
    }

    fn around(machine: Machine, root: &Root<'_>) -> Self {
        let release = root.text("proc/sys/kernel/osrelease").unwrap_or_default();
        let version = version_of(&release);
        let setting = |&name: &&'static str| Some((name, root.text(&format!("proc/sys/{name}"))?));
        let clock = "sys/devices/system/clocksource/clocksource0";
        let meminfo = root.text("proc/meminfo").unwrap_or_default();
        let bytes = |name: &str| kib_of(&meminfo, name).unwrap_or(0) << 10;
        Self {
            release: (release, version),
            parameters: parameters(&root.text("proc/cmdline").unwrap_or_default()),
            settings: SETTINGS.iter().filter_map(setting).collect(),
            tickless: root.cores("sys/devices/system/cpu/nohz_full"),
            work: root
                .text("sys/devices/virtual/workqueue/cpumask")
                .map(|mask| cores_of_mask(&mask)),
            cores: cores(root, &machine),
            clocks: (
                root.text(&format!("{clock}/current_clocksource"))
                    .unwrap_or_default(),
                words(root.text(&format!("{clock}/available_clocksource"))),
            ),
            is_virtual: is_virtual(&root.text("proc/cpuinfo").unwrap_or_default()),
            mitigations: root
                .names("sys/devices/system/cpu/vulnerabilities")
                .into_iter()
                .filter_map(|flaw| {
                    let place = format!("sys/devices/system/cpu/vulnerabilities/{flaw}");
                    let what = root.text(&place)?;
                    Some((flaw, what))
                })
                .collect(),
            interrupts: devices::interrupts(root),
            new_interrupts: root
                .text("proc/irq/default_smp_affinity")
                .map(|mask| cores_of_mask(&mask))
                .unwrap_or_default(),
            is_balanced: root.runs("irqbalance"),
            transparent: root
                .text("sys/kernel/mm/transparent_hugepage/enabled")
                .map(|modes| selected(&modes)),
            commit_left: bytes("CommitLimit").saturating_sub(bytes("Committed_AS")),
            swap: bytes("SwapTotal"),
            quota: quota(root.0),
            disks: devices::disks(root),
            cards: devices::cards(root),
            machine,
        }
    }

    /// A setting below `proc/sys`, as text.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<&str> {
        let found = self.settings.iter().find(|(known, _)| *known == name);
        debug_assert!(SETTINGS.contains(&name), "{name} is not read");
        found.map(|(_, text)| text.as_str())
    }

    /// A setting that is a number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        self.setting(name)?.parse().ok()
    }

    /// A parameter of the kernel's command line; empty text for one without a value.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().rfind(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Another value of a setting, for a test.
    #[cfg(test)]
    pub(super) fn set(&mut self, name: &'static str, text: &str) {
        self.settings.retain(|(known, _)| *known != name);
        self.settings.push((name, text.to_owned()));
    }
}

/// A line of /proc/meminfo, in KiB.
fn kib_of(meminfo: &str, name: &str) -> Option<u64> {
    let mut lines = meminfo.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// `6.1.0-25-cloud-amd64` is (6, 1).
fn version_of(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|part| part.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn parameters(line: &str) -> Vec<(String, String)> {
    line.split_whitespace()
        .map(|word| word.split_once('=').unwrap_or((word, "")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn is_virtual(cpuinfo: &str) -> bool {
    let mut flags = cpuinfo.lines().filter(|line| line.starts_with("flags"));
    flags.any(|line| line.split_whitespace().any(|flag| flag == "hypervisor"))
}

fn cores(root: &Root<'_>, machine: &Machine) -> Vec<CoreFacts> {
    let stat = root.text("proc/stat").unwrap_or_default();
    let core = |core: &crate::sys::topology::Core| {
        let at = format!("sys/devices/system/cpu/cpu{}", core.id);
        let frequency = root.text(&format!("{at}/cpufreq/scaling_governor"));
        let driver = root.text(&format!("{at}/cpufreq/scaling_driver"));
        let state = |state: String| {
            let at = format!("{at}/cpuidle/{state}");
            Some((
                root.text(&format!("{at}/name"))?,
                root.number(&format!("{at}/latency"))?,
                root.number(&format!("{at}/disable")) == Some(1),
            ))
        };
        CoreFacts {
            id: core.id,
            frequency: frequency.map(|governor| (driver.unwrap_or_default(), governor)),
            idle: root
                .names(&format!("{at}/cpuidle"))
                .into_iter()
                .filter_map(state)
                .collect(),
            ticks: ticks(&stat, core.id).unwrap_or_default(),
        }
    };
    machine.topology.cores.iter().map(core).collect()
}

/// In all, and stolen.
fn ticks(stat: &str, core: u32) -> Option<(u64, u64)> {
    let name = format!("cpu{core} ");
    let line = stat.lines().find_map(|line| line.strip_prefix(&name))?;
    // user nice system idle iowait irq softirq steal; guest times are counted in the first two already.
    let ticks: Vec<u64> = line
        .split_whitespace()
        .map_while(|n| n.parse().ok())
        .take(8)
        .collect();
    Some((ticks.iter().sum(), ticks.get(7).copied().unwrap_or(0)))
}

/// The tightest of the control groups.
fn quota(root: &Path) -> Option<Quota> {
    let text = |file: PathBuf| fs::read_to_string(file).ok();
    let quota = |group: PathBuf| {
        let (quota, period) = match text(group.join("cpu.max")) {
            Some(text) => {
                let (quota, period) = text.trim().split_once(' ')?;
                (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?)
            }
            None => {
                let number = |file| text(group.join(file))?.trim().parse().ok();
                // -1 is no limit, and no number of ours.
                (number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?)
            }
        };
        let stat = text(group.join("cpu.stat")).unwrap_or_default();
        let throttled = stat
            .lines()
            .find_map(|line| line.strip_prefix("nr_throttled "));
        Some(Quota {
            millicores: quota.checked_mul(1000)?.checked_div(period)?,
            throttled: throttled.and_then(|n| n.parse().ok()).unwrap_or(0),
        })
    };
    control_groups(root, "cpu")
        .filter_map(quota)
        .min_by_key(|quota| quota.millicores)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording(name: &str) -> Facts {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/machines");
        Facts::read(&root.join(name))
    }

    #[test]
    fn a_release_is_two_numbers() {
        assert_eq!(version_of("6.1.0-25-cloud-amd64"), (6, 1));
    }

    #[test]
    fn a_recording_says_what_the_machine_did() {
        let facts = recording("two-sockets");
        assert_eq!(facts.release.1, (6, 8));
        assert!(facts.is_balanced && !facts.is_virtual);
        assert_eq!(facts.cores.len(), 16);
        assert_eq!(
            facts.cores[3].frequency,
            Some(("intel_pstate".to_owned(), "powersave".to_owned()))
        );
        assert_eq!(facts.cores[3].idle[3], ("C6".to_owned(), 133, false));
        let card = &facts.cards[1];
        assert_eq!(
            (card.name.as_str(), card.node, card.speed),
            ("ens1f0", Some(1), Some(25000))
        );
        assert_eq!(card.interrupts, [60, 61, 62, 63, 64, 65, 66, 67]);
        let irq = facts
            .interrupts
            .iter()
            .find(|irq| irq.number == 82)
            .expect("there");
        assert_eq!(
            (irq.name.as_str(), irq.cores.as_slice()),
            ("nvme0q2", &[2][..])
        );
        assert!(irq.count > 0);
        let disk = facts
            .disks
            .iter()
            .find(|disk| disk.name == "sda")
            .expect("there");
        assert_eq!(
            (disk.scheduler.0.as_str(), disk.write_back, disk.node),
            ("mq-deadline", true, Some(0))
        );
        assert_eq!(facts.number("net/core/somaxconn"), Some(4096));
        assert_eq!(facts.quota, None);
    }

    #[test]
    fn what_keeps_cores_quiet_is_seen() {
        let facts = recording("isolated");
        let quiet: Vec<u32> = (2..8).collect();
        assert_eq!(facts.tickless, quiet);
        assert_eq!(facts.parameter("rcu_nocbs"), Some("2-7"));
        assert_eq!(facts.work, Some(vec![0, 1]));
        assert_eq!(facts.new_interrupts, [0, 1]);
        assert!(facts.cores[2].idle[2].2 && !facts.cores[0].idle[2].2);
    }

    #[test]
    fn a_container_has_a_quota_in_either_version() {
        let quota = recording("container").quota.expect("one");
        assert_eq!((quota.millicores, quota.throttled), (2000, 1234));
        let dir = tempfile::tempdir().expect("a directory");
        let write = |place: &str, text: &str| {
            let place = dir.path().join(place);
            fs::create_dir_all(place.parent().expect("below")).expect("room");
            fs::write(place, text).expect("room");
        };
        write("proc/self/cgroup", "1:cpu,cpuacct:/a\n0::/\n");
        write("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "150000\n");
        write("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n");
        assert_eq!(super::quota(dir.path()).map(|q| q.millicores), Some(1500));
        write("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "-1\n");
        assert_eq!(super::quota(dir.path()), None);
    }

    #[test]
    fn a_machine_of_which_nothing_is_known_is_read_without_complaint() {
        let dir = tempfile::tempdir().expect("a directory");
        let facts = Facts::read(dir.path());
        assert!(facts.disks.is_empty() && facts.cards.is_empty() && facts.quota.is_none());
        assert_eq!(facts.transparent, None);
    }
}
