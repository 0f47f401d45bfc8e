//! A clock that is cheap enough to be read every turn of a loop.

/// A number that grows evenly; how fast is for the caller to find out. Two threads' numbers are not to be compared.
#[cfg(target_arch = "x86_64")]
#[must_use]
pub fn ticks() -> u64 {
    // SAFETY: every x86_64 has the instruction, and it touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// A number that grows evenly; how fast is for the caller to find out. Two threads' numbers are not to be compared.
#[cfg(not(target_arch = "x86_64"))]
#[must_use]
pub fn ticks() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for the answer, which this clock always gives.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.wrapping_mul(1_000_000_000).wrapping_add(nanos)
}
