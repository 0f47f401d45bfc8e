//! Cores: which there are, which are set apart, and staying on one.

use std::io;

/// Highest core number that can be named, plus one.
const CORES: u32 = libc::CPU_SETSIZE as u32;

/// The cores this process may run on, in order.
#[must_use]
pub fn allowed_cores() -> Vec<u32> {
    let mut set = set_of(&[]);
    // SAFETY: the kernel writes at most `size_of::<cpu_set_t>()` bytes into a set of that size.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) };
    if result != 0 {
        // More cores than a set can name: say what std knows.
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        return (0..CORES).take(count).collect();
    }
    (0..CORES)
        .filter(|&core| {
            // SAFETY: reads one bit of the set; `core` is below its size.
            unsafe { libc::CPU_ISSET(core as usize, &set) }
        })
        .collect()
}

/// The cores a thread of this process may choose to run on, in order: what its cpuset allows, whether it started with
/// them or not. No process starts with cores that the kernel keeps apart (`isolcpus=`).
#[must_use]
pub fn reachable_cores() -> Vec<u32> {
    let all: Vec<u32> = (0..CORES).collect();
    let try_all = move || run_current_thread_on(&all).map(|()| allowed_cores());
    // In a thread of its own, which ends with it.
    let reached = std::thread::Builder::new().spawn(try_all);
    match reached.map(std::thread::JoinHandle::join) {
        Ok(Ok(Ok(cores))) => cores,
        _ => allowed_cores(),
    }
}

/// How many cores' worth of time this process gets: less than it may run on where its control group has a quota.
#[must_use]
pub fn parallelism() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The cores that the kernel's scheduler leaves alone (`isolcpus=`); usually none.
#[must_use]
pub fn isolated_cores() -> Vec<u32> {
    std::fs::read_to_string("/sys/devices/system/cpu/isolated")
        .ok()
        .and_then(|text| parse_list(text.trim()))
        .unwrap_or_default()
}

/// Cores of a list as the kernel writes it: `0-3,8,10-11`. Empty text is an empty list; `None` when it is
/// no such list.
#[must_use]
pub fn parse_list(text: &str) -> Option<Vec<u32>> {
    let mut cores = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= CORES {
            return None;
        }
        cores.extend(first..=last);
    }
    cores.sort_unstable();
    cores.dedup();
    Some(cores)
}

/// Keeps the calling thread on `core` from now on.
///
/// # Errors
/// EINVAL when there is no such core, or this process may not use it.
pub fn pin_current_thread(core: u32) -> io::Result<()> {
    if core >= CORES {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    run_current_thread_on(&[core])
}

/// Keeps the calling thread on `cores` from now on.
///
/// # Errors
/// EINVAL when this process may use none of them.
pub fn run_current_thread_on(cores: &[u32]) -> io::Result<()> {
    let set = set_of(cores);
    // SAFETY: the kernel reads `size_of::<cpu_set_t>()` bytes of a set of that size; 0 is this thread.
    match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets the calling thread run only when nobody else wants its core.
///
/// # Errors
/// As `sched_setscheduler`.
pub fn run_current_thread_last() -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads a parameter of that size; 0 is this thread.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &parameter) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Bytes of memory that are free right now.
#[must_use]
pub fn free_memory() -> u64 {
    // SAFETY: asks for two numbers; no memory is involved.
    let (pages, size) = unsafe {
        (
            libc::sysconf(libc::_SC_AVPHYS_PAGES),
            libc::sysconf(libc::_SC_PAGESIZE),
        )
    };
    u64::try_from(pages).unwrap_or(0) * u64::try_from(size).unwrap_or(0)
}

/// The kernel's form of a list of cores; those it cannot name are left out.
pub(super) fn set_of(cores: &[u32]) -> libc::cpu_set_t {
    // SAFETY: a set is an array of bits; all zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &core in cores.iter().filter(|&&core| core < CORES) {
        // SAFETY: sets one bit of the set; `core` is below its size.
        unsafe { libc::CPU_SET(core as usize, &mut set) };
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_list("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(parse_list("5,0-2,1"), Some(vec![0, 1, 2, 5]));
        assert_eq!(parse_list(""), Some(vec![]));
        for bad in ["3-1", "x", "1,,2", "0-99999", "-"] {
            assert_eq!(parse_list(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_a_thread_was_kept_from_can_be_reached_all_the_same() {
        let all = allowed_cores();
        let core = *all.last().expect("we run on one");
        let seen = std::thread::spawn(move || {
            pin_current_thread(core).expect("allowed");
            (reachable_cores(), allowed_cores())
        });
        let (reachable, allowed) = seen.join().expect("no panic");
        assert!(all.iter().all(|core| reachable.contains(core)));
        assert_eq!(allowed, [core], "the asking thread stays where it was");
    }

    #[test]
    fn a_pinned_thread_may_run_on_its_core_alone() {
        let core = *allowed_cores().last().expect("we run on one");
        let seen = std::thread::spawn(move || pin_current_thread(core).map(|()| allowed_cores()));
        assert_eq!(seen.join().expect("no panic").expect("allowed"), [core]);
        assert!(pin_current_thread(u32::MAX).is_err());
    }
}
