//! The suite on each kind of medium, and what only some of them do.

use std::path::Path;

use super::*;
use crate::backend::fault::FaultMedium;
use crate::backend::spec::{BackendKind, BackendSpec, open};
use crate::sys::file::WriteMode;
use crate::sys::ring::RingOp;

fn spec(kind: BackendKind, path: &Path, block_size: BlockSize) -> BackendSpec {
    BackendSpec {
        size: Some(CAPACITY << block_size.shift()),
        block_size,
        ..BackendSpec::new(kind, path)
    }
}

/// Fresh media of a kind, as files in `directory` where it needs some.
fn run_on(kind: BackendKind, directory: &Path, change: &dyn Fn(&mut BackendSpec)) {
    for block_size in [BlockSize::B512, BlockSize::B4096] {
        every_medium_must(&|| {
            let dir = tempfile::tempdir_in(directory).expect("a directory");
            let mut spec = spec(kind, &dir.path().join("disk"), block_size);
            change(&mut spec);
            open(&spec).expect("it opens").medium
        });
    }
}

/// A place on a disk: what must survive a reboot is not in memory.
pub(super) fn disk() -> &'static Path {
    Path::new("/var/tmp")
}

/// Whether the place that should be on a disk is in memory after all, so that nothing there uses a ring.
fn disk_is_in_memory() -> bool {
    tempfile::tempfile_in(disk()).is_ok_and(|f| crate::sys::file::in_memory(&f))
}

/// A place in memory, where there is one.
fn memory() -> Option<&'static Path> {
    Some(Path::new("/dev/shm")).filter(|p| p.is_dir())
}

#[test]
fn null_passes_the_suite() {
    run_on(BackendKind::Null, disk(), &|_| {});
}

#[test]
fn ram_passes_the_suite() {
    run_on(BackendKind::Ram, disk(), &|_| {});
}

#[test]
fn file_passes_the_suite() {
    run_on(BackendKind::File, disk(), &|_| {});
    run_on(BackendKind::File, disk(), &|s| s.write_cache = false);
    if let Some(memory) = memory() {
        run_on(BackendKind::File, memory, &|_| {});
    }
}

#[test]
fn iouring_passes_the_suite() {
    run_on(BackendKind::IoUring, disk(), &|_| {});
    run_on(BackendKind::IoUring, disk(), &|s| s.write_cache = false);
    if let Some(memory) = memory() {
        run_on(BackendKind::IoUring, memory, &|_| {});
    }
}

#[test]
fn direct_io_passes_the_suite_where_blocks_allow_it() {
    for kind in [BackendKind::IoUring, BackendKind::File] {
        let dir = tempfile::tempdir_in(disk()).expect("a directory");
        let mut first = spec(kind, &dir.path().join("disk"), BlockSize::B4096);
        first.direct = Some(true);
        if open(&first).is_err() {
            return; // this file system has none
        }
        every_medium_must(&|| {
            let dir = tempfile::tempdir_in(disk()).expect("a directory");
            let mut spec = spec(kind, &dir.path().join("disk"), BlockSize::B4096);
            spec.direct = Some(true);
            open(&spec).expect("it opens").medium
        });
    }
}

#[test]
fn fault_passes_the_suite_while_nothing_is_wrong() {
    every_medium_must(&|| FaultMedium::new(BlockSize::B512, Blocks(CAPACITY)));
}

#[test]
fn a_read_only_medium_takes_no_write() {
    for kind in [BackendKind::File, BackendKind::IoUring] {
        let dir = tempfile::tempdir_in(disk()).expect("a directory");
        let mut spec = spec(kind, &dir.path().join("disk"), BlockSize::B512);
        open(&spec).expect("created");
        spec.read_only = true;
        let mut bench = Bench::new(open(&spec).expect("it exists").medium);
        assert_eq!(bench.write(0, 1, 1, false), Err(BlockError::ReadOnly));
        bench.expect(0, 1, 0);
        assert_eq!(bench.run(BlockIo::Flush, None).0, Ok(()));
        bench.finish();
    }
}

#[test]
fn a_file_cut_short_is_a_medium_error_at_the_first_block_that_is_not_there() {
    for kind in [BackendKind::File, BackendKind::IoUring] {
        for place in [Some(disk()), memory()].into_iter().flatten() {
            let dir = tempfile::tempdir_in(place).expect("a directory");
            let path = dir.path().join("disk");
            let mut bench = Bench::new(
                open(&spec(kind, &path, BlockSize::B512))
                    .expect("ok")
                    .medium,
            );
            let file = std::fs::File::options()
                .write(true)
                .open(&path)
                .expect("it exists");
            file.set_len(100 * 512).expect("shorter");
            assert_eq!(bench.read(96, 8), Err(BlockError::Medium { at: Lba(100) }));
            assert_eq!(bench.read(200, 1), Err(BlockError::Medium { at: Lba(200) }));
            bench.expect(96, 4, 0);
            bench.finish();
        }
    }
}

#[test]
fn every_stable_answer_comes_after_its_own_write_or_flush() {
    let dir = tempfile::tempdir_in(disk()).expect("a directory");
    let spec = spec(
        BackendKind::IoUring,
        &dir.path().join("disk"),
        BlockSize::B4096,
    );
    let mut bench = Bench::new(open(&spec).expect("ok").medium);
    let Some(ring) = bench.context.ring.clone().filter(|_| !disk_is_in_memory()) else {
        return;
    };
    ring.record(4096);
    for n in 0..64u64 {
        let extent = bench.extent(n, 1);
        let buffer = bench.buffer(1, 1);
        let io = match n % 4 {
            0 => BlockIo::Flush,
            1 => BlockIo::Write { extent, fua: true },
            _ => BlockIo::Write { extent, fua: false },
        };
        let buffer = (n % 4 != 0).then_some(buffer);
        let answered = bench.run(io, buffer).0;
        assert_eq!(answered, Ok(()));
        // The answer is here; its own stable write or flush must have completed, with success, before.
        let events = ring.recorded();
        let stable = events.iter().any(|e| {
            let kind = match io {
                BlockIo::Flush => e.op == RingOp::DataSync,
                _ => {
                    e.op == RingOp::Write
                        && e.flags & WriteMode::Stable.flags() != 0
                        && e.offset == extent.byte_start(BlockSize::B4096)
                }
            };
            kind && e.result.is_some_and(|r| r >= 0)
        });
        assert_eq!(stable, n % 4 < 2, "operation {n}: {events:?}");
    }
    bench.finish();
}

#[test]
fn a_medium_without_a_write_cache_makes_every_write_stable() {
    let dir = tempfile::tempdir_in(disk()).expect("a directory");
    let mut spec = spec(
        BackendKind::IoUring,
        &dir.path().join("disk"),
        BlockSize::B512,
    );
    spec.write_cache = false;
    let mut bench = Bench::new(open(&spec).expect("ok").medium);
    let Some(ring) = bench.context.ring.clone().filter(|_| !disk_is_in_memory()) else {
        return;
    };
    ring.record(16);
    bench.write(5, 1, 1, false).expect("written");
    let events = ring.recorded();
    assert!(!events.is_empty() && events.iter().all(|e| e.flags == WriteMode::Stable.flags()));
    bench.finish();
}

#[test]
fn without_a_ring_iouring_media_are_served_by_system_calls() {
    let dir = tempfile::tempdir_in(disk()).expect("a directory");
    let spec = spec(
        BackendKind::IoUring,
        &dir.path().join("disk"),
        BlockSize::B512,
    );
    let medium = open(&spec).expect("ok").medium;
    let (mut context, pool) = context();
    context.ring = None;
    let backend = Arc::clone(&medium).attach(&context).expect("room");
    let mut bench = Bench {
        medium,
        backend,
        context,
        pool,
        done: Vec::new(),
        next: 0,
    };
    bench.write(7, 3, 1, true).expect("written");
    bench.expect(7, 3, 1);
    bench.finish();
}

#[test]
fn nothing_is_allocated_per_operation() {
    let dir = tempfile::tempdir_in(disk()).expect("a directory");
    for kind in BackendKind::ALL {
        let spec = spec(kind, &dir.path().join("disk"), BlockSize::B512);
        let mut bench = Bench::new(open(&spec).expect("ok").medium);
        let mut before = 0;
        for n in 0..400u64 {
            if n == 100 {
                before = crate::sys::allocations::so_far();
            }
            let extent = bench.extent(n % 64 * 8, 8);
            let io = match n % 5 {
                0 | 1 => BlockIo::Write {
                    extent,
                    fua: n % 50 == 0,
                },
                2 | 3 => BlockIo::Read(extent),
                _ if n % 50 == 4 => BlockIo::Flush,
                _ => BlockIo::Prefetch(extent),
            };
            let buffer = (n % 5 < 4).then(|| bench.pool.take(4096, 4096).expect("room"));
            assert_eq!(bench.run(io, buffer).0, Ok(()));
        }
        assert_eq!(crate::sys::allocations::so_far() - before, 0, "{kind}");
        bench.finish();
    }
}

#[test]
#[ignore = "needs a block device that may be overwritten: RINGTGT_TEST_DEVICE=/dev/..."]
fn a_block_device_passes_the_suite() {
    let device = std::env::var("RINGTGT_TEST_DEVICE").expect("RINGTGT_TEST_DEVICE names a device");
    for kind in [BackendKind::IoUring, BackendKind::File] {
        for block_size in [BlockSize::B512, BlockSize::B4096] {
            every_medium_must(&|| {
                let spec = BackendSpec {
                    block_size,
                    ..BackendSpec::new(kind, &device)
                };
                let medium = open(&spec).expect("it opens").medium;
                let again = open(&spec).expect_err("already served").to_string();
                assert!(again.contains("in use"), "{again}");
                let mut bench = Bench::new(Arc::clone(&medium));
                for n in (0..CAPACITY).step_by(128) {
                    bench.write(n, 128, 0, false).expect("zeroed");
                }
                drop(bench);
                medium
            });
        }
    }
}
