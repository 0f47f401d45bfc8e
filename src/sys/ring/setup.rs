//! Making a ring: what was asked for, and what the kernel gives instead.

use std::io;

use io_uring::{Builder, IoUring, cqueue, squeue};

use super::RingConfig;

/// How long the kernel's submission thread spins without work before it sleeps, in milliseconds. Its core is its
/// own, but an idle machine should be idle; waking it costs one system call.
const SQ_THREAD_IDLE_MS: u32 = 20;

fn plain(completions: u32) -> Builder<squeue::Entry, cqueue::Entry> {
    let mut builder = IoUring::builder();
    builder.setup_clamp().setup_cqsize(completions);
    builder
}

/// A ring for the calling thread, as near to `config` as the kernel can; each step back is one note.
pub(super) fn build(config: &RingConfig, notes: &mut Vec<String>) -> io::Result<IoUring> {
    let entries = config.entries.clamp(2, 4096).next_power_of_two();
    let completions = config.entries.max(2).next_power_of_two().saturating_mul(2);
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
            let ring = plain(completions).build(entries)?;
            notes.push(format!(
                "io_uring without deferred task work ({refused}); a kernel from 6.1 on has it"
            ));
            Ok(ring)
        })
}
