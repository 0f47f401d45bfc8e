//! How much memory the reactors' pools get.

use std::path::Path;

/// Most that one reactor takes when nobody says.
const DEFAULT_MOST: u64 = 256 << 20;
/// Least that a reactor can serve anybody with.
const LEAST: u64 = 16 << 20;

/// What the machine has, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    /// In all, or what the control group may use if that is less.
    total: u64,
    /// Free, or easily freed.
    available: u64,
}

impl Machine {
    /// This machine.
    pub(super) fn read() -> Self {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = field(&text, "MemTotal:").unwrap_or(1 << 30);
        let available = field(&text, "MemAvailable:").unwrap_or(total / 2);
        let (limit, used) = control_group().unwrap_or((u64::MAX, 0));
        let free = limit.saturating_sub(used);
        Self {
            total: total.min(limit),
            available: available.min(free),
        }
    }
}

/// How many reactors there is memory for; at least one.
pub(super) fn most_reactors(machine: Machine) -> usize {
    usize::try_from(machine.available / 2 / LEAST)
        .unwrap_or(usize::MAX)
        .max(1)
}

/// Bytes for each of `reactors`, and a sentence when it is not what was wished for.
pub(super) fn per_reactor(
    machine: Machine,
    reactors: u64,
    asked: Option<u64>,
) -> (u64, Option<String>) {
    let reactors = reactors.max(1);
    let wanted = asked.unwrap_or_else(|| DEFAULT_MOST.min(machine.total / 8));
    let affordable = machine.available / 2 / reactors;
    let mib = |bytes: u64| bytes >> 20;
    if wanted < LEAST {
        let note = asked.map(|bytes| {
            format!(
                "{} MiB of buffers per reactor are too few: raised to {} MiB",
                mib(bytes),
                mib(LEAST)
            )
        });
        return (LEAST, note);
    }
    if wanted > affordable {
        let given = affordable.max(LEAST);
        let note = format!(
            "only {} MiB of memory are available: {} MiB of buffers per reactor instead of {} MiB",
            mib(machine.available),
            mib(given),
            mib(wanted)
        );
        return (given.min(wanted), Some(note));
    }
    (wanted, None)
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
    let number = |file: &Path| {
        std::fs::read_to_string(file)
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    };
    let mut place = Some(Path::new(path));
    while let Some(group) = place {
        let directory = Path::new("/sys/fs/cgroup").join(group);
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

    const LARGE: Machine = Machine {
        total: 64 << 30,
        available: 60 << 30,
    };

    #[test]
    fn a_reactor_gets_256_mib_or_an_eighth_of_a_small_machine() {
        assert_eq!(per_reactor(LARGE, 2, None), (256 << 20, None));
        let small = Machine {
            total: 1 << 30,
            available: 900 << 20,
        };
        assert_eq!(per_reactor(small, 1, None), (128 << 20, None));
    }

    #[test]
    fn what_cannot_be_afforded_is_cut_and_said() {
        let full = Machine {
            total: 8 << 30,
            available: 256 << 20,
        };
        let (bytes, note) = per_reactor(full, 4, None);
        assert_eq!(bytes, 32 << 20);
        assert!(note.expect("a note").contains("32 MiB of buffers"));
    }

    #[test]
    fn a_small_container_on_a_large_machine_has_memory_for_few_reactors() {
        let small = Machine {
            total: 256 << 20,
            available: 240 << 20,
        };
        assert_eq!(most_reactors(small), 7);
        assert!(per_reactor(small, 7, None).0 * 7 <= small.available / 2);
        assert_eq!(
            most_reactors(Machine {
                available: 0,
                ..small
            }),
            1
        );
    }

    #[test]
    fn what_is_too_little_is_raised_and_said() {
        let (bytes, note) = per_reactor(LARGE, 1, Some(1 << 20));
        assert_eq!(bytes, LEAST);
        assert!(note.is_some());
        assert_eq!(per_reactor(LARGE, 1, Some(64 << 20)), (64 << 20, None));
    }

    #[test]
    fn this_machine_has_memory() {
        let machine = Machine::read();
        assert!(machine.total >= 1 << 20);
        assert_eq!(
            field("MemTotal:       16 kB\n", "MemTotal:"),
            Some(16 << 10)
        );
    }
}
