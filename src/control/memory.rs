//! How much memory the reactors' pools get.

use crate::sys::memory::Memory;

/// Most that one reactor takes when nobody says.
const DEFAULT_MOST: u64 = 256 << 20;
/// Least that a reactor can serve anybody with.
const LEAST: u64 = 16 << 20;

/// How many reactors there is memory for; at least one.
pub(super) fn most_reactors(machine: Memory) -> usize {
    usize::try_from(machine.available / 2 / LEAST)
        .unwrap_or(usize::MAX)
        .max(1)
}

/// Bytes for each of `reactors`, and a sentence when it is not what was wished for.
pub(super) fn per_reactor(
    machine: Memory,
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

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: Memory = Memory {
        total: 64 << 30,
        available: 60 << 30,
    };

    #[test]
    fn a_reactor_gets_256_mib_or_an_eighth_of_a_small_machine() {
        assert_eq!(per_reactor(LARGE, 2, None), (256 << 20, None));
        let small = Memory {
            total: 1 << 30,
            available: 900 << 20,
        };
        assert_eq!(per_reactor(small, 1, None), (128 << 20, None));
    }

    #[test]
    fn what_cannot_be_afforded_is_cut_and_said() {
        let full = Memory {
            total: 8 << 30,
            available: 256 << 20,
        };
        let (bytes, note) = per_reactor(full, 4, None);
        assert_eq!(bytes, 32 << 20);
        assert!(note.expect("a note").contains("32 MiB of buffers"));
    }

    #[test]
    fn a_small_container_on_a_large_machine_has_memory_for_few_reactors() {
        let small = Memory {
            total: 256 << 20,
            available: 240 << 20,
        };
        assert_eq!(most_reactors(small), 7);
        assert!(per_reactor(small, 7, None).0 * 7 <= small.available / 2);
        assert_eq!(
            most_reactors(Memory {
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
}
