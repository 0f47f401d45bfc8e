//! How much memory there is: what the kernel says, and what the control group allows.

use std::fs;
use std::path::{Path, PathBuf};

/// Memory of the machine, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// In all, or what the control group may use if that is less.
    pub total: u64,
    /// Free, or easily freed.
    pub available: u64,
}

impl Memory {
    /// What this process may use, now.
    #[must_use]
    pub fn here() -> Self {
        Self::read(Path::new("/"))
    }

    /// What the files below `root` say: the kernel's, and those of the control group.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        Self::of_machine(root).within(control_group(root))
    }

    /// What the kernel says of the whole machine.
    pub(super) fn of_machine(root: &Path) -> Self {
        let text = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
        let total = field(&text, "MemTotal:").unwrap_or(1 << 30);
        let available = field(&text, "MemAvailable:").unwrap_or(total / 2);
        Self { total, available }
    }

    /// What is left of it within a limit, of which so much is used.
    fn within(self, limit: Option<(u64, u64)>) -> Self {
        let (limit, used) = limit.unwrap_or((u64::MAX, 0));
        Self {
            total: self.total.min(limit),
            available: self.available.min(limit.saturating_sub(used)),
        }
    }
}

/// A line of a `meminfo`, in bytes.
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Directories of this process's control group for `controller`, the nearest first, then those above it.
pub fn control_groups(root: &Path, controller: &str) -> impl Iterator<Item = PathBuf> {
    let text = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut all = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else {
            continue;
        };
        // Version 2 has one tree for all; version 1 one for each, below its name.
        let base = if controllers.is_empty() {
            root.join("sys/fs/cgroup")
        } else if controllers.split(',').any(|c| c == controller) {
            root.join("sys/fs/cgroup").join(controller)
        } else {
            continue;
        };
        let group = Path::new(group.trim_start_matches('/')).to_path_buf();
        all.extend(group.ancestors().map(|group| base.join(group)));
    }
    all.into_iter()
}

/// Limit and use of this process's control group, the nearest that has a limit.
fn control_group(root: &Path) -> Option<(u64, u64)> {
    let number = |file: PathBuf| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    control_groups(root, "memory").find_map(|group| {
        [
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ]
        .into_iter()
        .find_map(|(limit, used)| {
            let limit = number(group.join(limit))?;
            Some((limit, number(group.join(used)).unwrap_or(0)))
        })
    })
}

/// How many cores' worth of time the control groups give this process, rounded down; `None`: no limit.
pub(super) fn cpu_time(root: &Path) -> Option<u32> {
    let text = |file: PathBuf| fs::read_to_string(file).ok();
    let quota = |group: PathBuf| {
        let (quota, period) = match text(group.join("cpu.max")) {
            Some(text) => {
                let mut words = text.split_whitespace();
                let quota: i64 = words.next()?.parse().ok()?;
                (quota, words.next()?.parse::<i64>().ok()?)
            }
            None => {
                let number = |file| text(group.join(file))?.trim().parse::<i64>().ok();
                (number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?)
            }
        };
        // -1 is no limit.
        let cores = quota.checked_div(period).filter(|_| quota >= 0)?;
        Some(u32::try_from(cores).unwrap_or(u32::MAX).max(1))
    };
    control_groups(root, "cpu").filter_map(quota).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory() {
        let machine = Memory::here();
        assert!(machine.total >= 1 << 20);
        assert_eq!(
            field("MemTotal:       16 kB\n", "MemTotal:"),
            Some(16 << 10)
        );
    }

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for (place, text) in files {
            let place = root.path().join(place);
            fs::create_dir_all(place.parent().expect("below root")).expect("room");
            fs::write(place, text).expect("room");
        }
        root
    }

    #[test]
    fn a_control_group_allows_what_its_nearest_limit_leaves() {
        let unlimited = [
            ("proc/self/cgroup", "0::/a/b\n"),
            (
                "proc/meminfo",
                "MemTotal: 1048576 kB\nMemAvailable: 524288 kB\n",
            ),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
        ];
        let machine = Memory {
            total: 1 << 30,
            available: 1 << 29,
        };
        assert_eq!(Memory::read(tree(&unlimited).path()), machine);
        let limited = [
            &unlimited[..],
            &[
                ("sys/fs/cgroup/a/memory.max", "1048576\n"),
                ("sys/fs/cgroup/a/memory.current", "48576\n"),
            ],
        ]
        .concat();
        let within = Memory {
            total: 1_048_576,
            available: 1_000_000,
        };
        assert_eq!(Memory::read(tree(&limited).path()), within);
    }

    #[test]
    fn control_groups_of_version_1_count_too() {
        let root = tree(&[
            (
                "proc/self/cgroup",
                "4:memory:/box\n3:cpu,cpuacct:/box\n0::/\n",
            ),
            (
                "proc/meminfo",
                "MemTotal: 1048576 kB\nMemAvailable: 524288 kB\n",
            ),
            (
                "sys/fs/cgroup/memory/box/memory.limit_in_bytes",
                "2097152\n",
            ),
            ("sys/fs/cgroup/memory/box/memory.usage_in_bytes", "97152\n"),
            ("sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "250000\n"),
            ("sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000\n"),
        ]);
        let within = Memory {
            total: 2_097_152,
            available: 2_000_000,
        };
        assert_eq!(Memory::read(root.path()), within);
        assert_eq!(cpu_time(root.path()), Some(2));
    }

    #[test]
    fn the_least_quota_on_the_way_up_is_the_time_there_is() {
        let of = |inner: &str, outer: &str| {
            let root = tree(&[
                ("proc/self/cgroup", "0::/a/b\n"),
                ("sys/fs/cgroup/a/b/cpu.max", inner),
                ("sys/fs/cgroup/a/cpu.max", outer),
            ]);
            cpu_time(root.path())
        };
        assert_eq!(of("max 100000\n", "max 100000\n"), None);
        assert_eq!(of("max 100000\n", "350000 100000\n"), Some(3));
        assert_eq!(of("50000 100000\n", "350000 100000\n"), Some(1));
    }
}
