//! Checks of what the kernel offers this process and what it allows.

use super::{Case, Outcome};
use crate::control::listener::ConnectionLimits;
use crate::control::plan::RING_ENTRIES;
use crate::sys::ring::NoRing;

/// Lets a process lock what it likes.
pub(super) const UNLOCK: &str = "ulimit -l unlimited";
/// The same where no shell starts it.
pub(super) const UNLOCK_ELSEWHERE: &str = "systemd: LimitMEMLOCK=infinity; containers: --ulimit memlock=-1; logins: /etc/security/limits.conf";

/// With these the reactor's ring defers its work to the reactor (DEFER_TASKRUN, 6.1), and files tell what O_DIRECT demands.
const WANTED: (u32, u32) = (6, 1);
/// The first that pre-faults memory by one call (MADV_POPULATE_WRITE) and is said to have a dependable io_uring.
const OLDEST: (u32, u32) = (5, 14);
/// Descriptors for what is neither connection nor storage: ring, epoll, eventfd, listeners of each reactor, and the log.
const OTHERS: u64 = 64;
/// Of each reactor, and of each storage on it.
const PER_REACTOR: u64 = 8;

pub(super) fn kernel(case: &Case<'_>) -> Vec<Outcome> {
    let (text, version) = &case.facts.release;
    if text.is_empty() {
        return Vec::new();
    }
    let found = format!("Linux {text}");
    let advice = format!("a kernel from {}.{} on", WANTED.0, WANTED.1);
    vec![if *version >= WANTED {
        Outcome::ok(found)
    } else if *version >= OLDEST {
        Outcome::better(format!("{found}: io_uring without deferred task work")).advise(advice)
    } else {
        Outcome::better(format!(
            "{found}: io_uring without deferred task work, memory is made present page by page"
        ))
        .advise(advice)
    }]
}

pub(super) fn ring(case: &Case<'_>) -> Vec<Outcome> {
    if !case.wants_ring() {
        return vec![Outcome::ok("no storage uses it")];
    }
    let disabled = case.facts.number("kernel/io_uring_disabled").unwrap_or(0);
    let why = match &case.probed.io_uring {
        Some(Ok(entries)) if *entries < RING_ENTRIES => {
            let found = format!(
                "queues of {entries} entries instead of {RING_ENTRIES}: too little memory may be locked (RLIMIT_MEMLOCK)"
            );
            return vec![Outcome::better(found).run(UNLOCK).advise(UNLOCK_ELSEWHERE)];
        }
        Some(Ok(_)) => return vec![Outcome::ok("this process may use it")],
        Some(Err(why)) => why.clone(),
        None if disabled == 2 => NoRing::Denied("kernel.io_uring_disabled=2".to_owned()),
        // Tried out where it can be.
        None => return Vec::new(),
    };
    let instead = "files are served by system calls and threads";
    let denied = |why: &str| Outcome::better(format!("denied ({why}): {instead}"));
    vec![match why {
        NoRing::NoMemory => Outcome::better(format!(
            "no memory may be locked for a ring (RLIMIT_MEMLOCK): {instead}"
        ))
        .run(UNLOCK)
        .advise(UNLOCK_ELSEWHERE),
        NoRing::Missing => Outcome::better(format!("this kernel has none: {instead}"))
            .advise("use a kernel with CONFIG_IO_URING, or a seccomp filter that does not hide it"),
        NoRing::Denied(why) if disabled > 0 => denied(&why).run("sysctl kernel.io_uring_disabled=0"),
        NoRing::Denied(why) => denied(&why).advise(
            "a seccomp filter denies it: allow io_uring_setup, io_uring_enter and io_uring_register there (docker: \
             --security-opt seccomp=profile.json; systemd: SystemCallFilter=@aio)",
        ),
    }]
}

pub(super) fn files(case: &Case<'_>) -> Vec<Outcome> {
    let connections = u64::from(ConnectionLimits::default().open);
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let reactors = count(case.cores.len());
    let storages = count(case.storages().count());
    let needed = connections + reactors * (PER_REACTOR + storages) + OTHERS;
    let limit = case.facts.machine.limits.nofile;
    let shown = if limit == u64::MAX {
        "without limit".to_owned()
    } else {
        limit.to_string()
    };
    let found = format!(
        "{shown} (the hard limit; ringtgt raises its own to it), {needed} are used at most"
    );
    if limit >= needed {
        return vec![Outcome::ok(found)];
    }
    let outcome = if limit < needed - connections + 16 {
        Outcome::wrong(found)
    } else {
        Outcome::better(format!("{found}: later connections are refused"))
    };
    let want = needed.next_power_of_two().max(4096);
    vec![outcome.run(format!("ulimit -Hn {want}")).advise(format!(
        "systemd: LimitNOFILE={want}; containers: --ulimit nofile={want}"
    ))]
}
