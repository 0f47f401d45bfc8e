//! How much memory there is: what the kernel says, and what the control group allows.

use std::path::Path;

/// What the machine has, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// In all, or what the control group may use if that is less.
    pub total: u64,
    /// Free, or easily freed.
    pub available: u64,
}

impl Machine {
    /// This machine, now.
    #[must_use]
    pub fn read() -> Self {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = field(&text, "MemTotal:").unwrap_or(1 << 30);
        let available = field(&text, "MemAvailable:").unwrap_or(total / 2);
        Self { total, available }.within(control_group())
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

/// A line of /proc/meminfo, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Limit and use of this process's control group (version 2), the nearest that has a limit.
fn control_group() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    limit_of(Path::new("/sys/fs/cgroup"), Path::new(path))
}

fn limit_of(root: &Path, group: &Path) -> Option<(u64, u64)> {
    let number = |file: &Path| {
        std::fs::read_to_string(file)
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    };
    let mut place = Some(group);
    while let Some(group) = place {
        let directory = root.join(group);
        if let Some(limit) = number(&directory.join("memory.max")) {
            return Some((
                limit,
                number(&directory.join("memory.current")).unwrap_or(0),
            ));
        }
        place = group.parent();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory() {
        let machine = Machine::read();
        assert!(machine.total >= 1 << 20);
        assert_eq!(
            field("MemTotal:       16 kB\n", "MemTotal:"),
            Some(16 << 10)
        );
    }

    #[test]
    fn a_control_group_allows_what_its_nearest_limit_leaves() {
        let root = tempfile::tempdir().expect("a directory");
        let group = root.path().join("a/b");
        std::fs::create_dir_all(&group).expect("room");
        let write = |place: &str, text: &str| {
            std::fs::write(root.path().join(place), text).expect("room");
        };
        assert_eq!(limit_of(root.path(), Path::new("a/b")), None);
        write("a/memory.max", "1048576\n");
        write("a/memory.current", "48576\n");
        write("a/b/memory.max", "max\n");
        let limit = limit_of(root.path(), Path::new("a/b"));
        assert_eq!(limit, Some((1_048_576, 48_576)));
        let machine = Machine {
            total: 1 << 30,
            available: 1 << 29,
        };
        let within = Machine {
            total: 1_048_576,
            available: 1_000_000,
        };
        assert_eq!(machine.within(limit), within);
        assert_eq!(machine.within(None), machine);
    }
}
