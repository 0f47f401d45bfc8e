//! What a machine offers this process: its shape, and the limits set on it.

use std::fs;
use std::path::{Path, PathBuf};

use super::memory::{Memory, cpu_time};
use super::topology::Topology;
use super::{cpu, numa};

/// What was set on this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes it may keep from being paged out (RLIMIT_MEMLOCK), which is what memory registered with io_uring counts
    /// as; `None`: as many as it likes.
    pub memlock: Option<u64>,
    /// Descriptors it may raise its limit to (RLIMIT_NOFILE, hard).
    pub nofile: u64,
    /// Cores' worth of time that its control group gives it, rounded down; `None`: no limit.
    pub cpu_time: Option<u32>,
    /// Memory it may use.
    pub memory: Memory,
}

/// A machine as one process sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its shape.
    pub topology: Topology,
    /// What was set on the process.
    pub limits: Limits,
}

impl Machine {
    /// This one, now. It takes some 60 ms the first time.
    #[must_use]
    pub fn here() -> Self {
        let mut machine = Self::read(Path::new("/"));
        if let Some(shape) = numa::shape() {
            machine.topology = machine.topology.shaped_by(&shape);
        }
        // /proc/self is the first thread; this one may have been kept from more.
        let (allowed, reachable) = (cpu::allowed_cores(), cpu::reachable_cores());
        machine.topology.set_allowed(&allowed, &reachable);
        machine
    }

    /// The one whose files are below `root` (`root/sys`, `root/proc`): a recording.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        Self {
            topology: Topology::read(root),
            limits: Limits::read(root),
        }
    }
}

impl Limits {
    fn read(root: &Path) -> Self {
        let text = fs::read_to_string(root.join("proc/self/limits")).unwrap_or_default();
        let memlock = limit(&text, "Max locked memory").and_then(|(soft, _)| soft);
        let nofile = limit(&text, "Max open files").and_then(|(_, hard)| hard);
        Self {
            memlock: memlock.filter(|_| !locks_freely(root)),
            nofile: nofile.unwrap_or(u64::MAX),
            cpu_time: cpu_time(root),
            memory: Memory::read(root),
        }
    }
}

/// Soft and hard limit of a line of /proc/self/limits; `None` inside: unlimited.
fn limit(text: &str, name: &str) -> Option<(Option<u64>, Option<u64>)> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let mut words = line.split_whitespace().map(|word| word.parse().ok());
    Some((words.next()?, words.next()?))
}

/// Whether the process may lock memory as it likes: CAP_IPC_LOCK, and not of a user namespace's own making.
fn locks_freely(root: &Path) -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let status = fs::read_to_string(root.join("proc/self/status")).unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let map = fs::read_to_string(root.join("proc/self/uid_map")).unwrap_or_default();
    let everybody = ["0", "0", "4294967295"];
    let is_first = map.is_empty() || map.split_whitespace().eq(everybody);
    is_first && effective.is_some_and(|mask| mask >> CAP_IPC_LOCK & 1 == 1)
}

/// The NUMA node that a block device is near to; `None`: none, or nobody knows.
#[must_use]
pub fn node_of_block_device(root: &Path, major: u32, minor: u32) -> Option<u32> {
    let link = root.join(format!("sys/dev/block/{major}:{minor}"));
    let top = root.join("sys").canonicalize().ok()?;
    let mut place: PathBuf = link.canonicalize().ok()?;
    // A partition is inside its disk, that inside its controller.
    while place.starts_with(&top) {
        if let Ok(text) = fs::read_to_string(place.join("numa_node")) {
            return text.trim().parse().ok();
        }
        place.pop();
    }
    None
}

/// The two halves of a device number.
#[must_use]
pub fn major_minor(device: u64) -> (u32, u32) {
    (libc::major(device), libc::minor(device))
}
