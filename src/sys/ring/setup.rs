//! Making a ring: what was asked for, and what the kernel gives instead.

use std::io;

use io_uring::{Builder, IoUring, cqueue, squeue};

use super::{MORE_MEMLOCK, RingConfig};

/// How long the kernel's submission thread spins without work before it sleeps, in milliseconds. Its core is its
/// own, but an idle machine should be idle; waking it costs one system call.
const SQ_THREAD_IDLE_MS: u32 = 20;

/// Shorter queues are no use: a few pages of memory are all they take.
const LEAST: u32 = 64;

fn plain(completions: u32) -> Builder<squeue::Entry, cqueue::Entry> {
    let mut builder = IoUring::builder();
    builder.setup_clamp().setup_cqsize(completions);
    builder
}

/// A ring for the calling thread, as near to `config` as the kernel can; each step back is one note.
///
/// The queues count as locked memory of the user's, whoever else of his processes has some: where RLIMIT_MEMLOCK leaves
/// too little, they become shorter, which only means more system calls when much is in flight.
pub(super) fn build(config: &RingConfig, notes: &mut Vec<String>) -> io::Result<IoUring> {
    let wanted = config.entries.clamp(2, 4096).next_power_of_two();
    let mut entries = wanted;
    let mut completions = config.entries.max(2).next_power_of_two().saturating_mul(2);
    loop {
        let mut steps = Vec::new();
        match attempt(config, entries, completions, &mut steps) {
            Err(error) if is_memory(&error) && entries > LEAST => {
                entries /= 2;
                completions = completions.min(entries * 4) / 2;
            }
            Err(error) => return Err(error),
            Ok(ring) => {
                notes.append(&mut steps);
                if entries < wanted {
                    notes.push(format!(
                        "io_uring with queues of {entries} entries instead of {wanted}: RLIMIT_MEMLOCK has no room for more \
                         ({MORE_MEMLOCK})"
                    ));
                }
                return Ok(ring);
            }
        }
    }
}

/// Whether it is RLIMIT_MEMLOCK (or the machine) that has no room.
pub(super) fn is_memory(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOMEM)
}

/// A ring with queues of exactly these lengths, if there is memory for them.
fn attempt(
    config: &RingConfig,
    entries: u32,
    completions: u32,
    notes: &mut Vec<String>,
) -> io::Result<IoUring> {
    if let Some(core) = config.sqpoll {
        // It excludes deferred task work: nothing is left to defer to the calling thread.
        let polled = plain(completions)
            .setup_single_issuer()
            .setup_sqpoll(SQ_THREAD_IDLE_MS)
            .setup_sqpoll_cpu(core)
            .build(entries)
            .or_else(|_| {
                // Kernels before 6.0 know no single issuer.
                plain(completions)
                    .setup_sqpoll(SQ_THREAD_IDLE_MS)
                    .setup_sqpoll_cpu(core)
                    .build(entries)
            });
        match polled {
            Ok(ring) if ring.params().is_feature_sqpoll_nonfixed() => return Ok(ring),
            Ok(_) => notes.push(
                "io_uring without a submission thread: this kernel's takes registered files only (5.11 is the \
                 first whose takes all)"
                    .to_owned(),
            ),
            Err(refused) if is_memory(&refused) && entries > LEAST => return Err(refused),
            Err(refused) => notes.push(format!(
                "io_uring without a submission thread on core {core} ({refused}); the reactor submits itself"
            )),
        }
    }
    plain(completions)
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(entries)
        .or_else(|refused| {
            if is_memory(&refused) {
                return Err(refused);
            }
            let ring = plain(completions).build(entries)?;
            notes.push(format!(
                "io_uring without deferred task work ({refused}); a kernel from 6.1 on has it"
            ));
            Ok(ring)
        })
}
