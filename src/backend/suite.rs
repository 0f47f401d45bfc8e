//! The shared backend test suite: what every medium must do, run on each kind.

use std::path::Path;
use std::sync::Arc;

use super::disk::Disk;
use super::fault::{Fault, FaultMedium};
use super::file::FileMedium;
use super::iouring::RingMedium;
use super::offload::OffloadPool;
use super::spec::{BackendKind, BackendSpec, open};
use super::{
    AttachContext, Backend, BlockError, BlockIo, Completion, IoTag, Medium, Submit, Waker,
};
use crate::buffer::{Buffer, Pool, PoolConfig};
use crate::sys::ring::{RingConfig, RingOp, SharedRing};
use crate::units::{BlockSize, Blocks, Extent, Lba};

const CAPACITY: u64 = 2048;
const DEPTH: u32 = 16;

/// A reactor's worth of surroundings for one backend.
struct Bench {
    medium: Arc<dyn Medium>,
    backend: Box<dyn Backend>,
    context: AttachContext,
    pool: Pool,
    done: Vec<Completion>,
    next: u64,
}

fn context() -> (AttachContext, Pool) {
    let config = PoolConfig {
        bytes: 4 << 20,
        numa_node: None,
        hugepages: false,
    };
    let pool = Pool::new(config).expect("memory").0;
    let ring = SharedRing::new(&RingConfig::default()).ok().map(|r| r.0);
    let thread = std::thread::current();
    let context = AttachContext {
        ring,
        offload: OffloadPool::new(2, 64, &[]).expect("threads"),
        waker: Waker(Arc::new(move || thread.unpark())),
        depth: DEPTH,
    };
    (context, pool)
}

impl Bench {
    fn new(medium: Arc<dyn Medium>) -> Self {
        let (context, pool) = context();
        let backend = Arc::clone(&medium).attach(&context).expect("room");
        Self {
            medium,
            backend,
            context,
            pool,
            done: Vec::new(),
            next: 0,
        }
    }

    fn size(&self) -> BlockSize {
        self.medium.geometry().block_size
    }

    fn extent(&self, start: u64, len: u64) -> Extent {
        Extent::new(Lba(start), Blocks(len), self.medium.geometry().capacity).expect("in range")
    }

    /// A buffer for `blocks`, every byte `fill`.
    fn buffer(&self, blocks: u64, fill: u8) -> Buffer {
        let len = usize::try_from(blocks).expect("few") << self.size().shift();
        let mut buffer = self.pool.take(len, len).expect("the pool is large enough");
        buffer.as_mut_slice().fill(fill);
        buffer
    }

    /// Submits; whatever is done at once goes to `done`.
    fn submit(&mut self, io: BlockIo, buffer: Option<Buffer>) -> Result<IoTag, Option<Buffer>> {
        let tag = IoTag(self.next);
        match self.backend.submit(tag, io, buffer) {
            Submit::Done(completion) => self.done.push(completion),
            Submit::Pending => {}
            Submit::Full(buffer) => return Err(buffer),
        }
        self.next += 1;
        Ok(tag)
    }

    /// One turn: the ring, then the backend. Says whether anything came.
    fn turn(&mut self) -> bool {
        if let Some(ring) = &self.context.ring {
            ring.submit().expect("enter");
            let _ = ring.reap();
        }
        let done = &mut self.done;
        self.backend.poll(&mut |completion| done.push(completion)) > 0
    }

    fn drain(&mut self) {
        while self.backend.in_flight() > 0 {
            if !self.turn() {
                std::thread::yield_now();
            }
        }
    }

    /// Does one operation to its end.
    fn run(
        &mut self,
        io: BlockIo,
        buffer: Option<Buffer>,
    ) -> (Result<(), BlockError>, Option<Buffer>) {
        let tag = self.submit(io, buffer).expect("there is room");
        self.drain();
        let place = self
            .done
            .iter()
            .position(|c| c.tag == tag)
            .expect("it came back");
        let completion = self.done.swap_remove(place);
        (completion.result, completion.buffer)
    }

    fn write(&mut self, start: u64, len: u64, fill: u8, fua: bool) -> Result<(), BlockError> {
        let extent = self.extent(start, len);
        let buffer = self.buffer(len, fill);
        let (result, buffer) = self.run(BlockIo::Write { extent, fua }, Some(buffer));
        assert!(buffer.is_some(), "the buffer comes back");
        result
    }

    fn read(&mut self, start: u64, len: u64) -> Result<Vec<u8>, BlockError> {
        let extent = self.extent(start, len);
        let buffer = self.buffer(len, 0xee);
        let (result, buffer) = self.run(BlockIo::Read(extent), Some(buffer));
        let buffer = buffer.expect("the buffer comes back");
        let bytes = usize::try_from(extent.byte_len(self.size())).expect("few");
        assert!(
            buffer.as_slice()[bytes..].iter().all(|&b| b == 0xee),
            "no byte too many"
        );
        result.map(|()| buffer.as_slice()[..bytes].to_vec())
    }

    fn expect(&mut self, start: u64, len: u64, fill: u8) {
        let fill = if self.medium.geometry().forgets {
            0
        } else {
            fill
        };
        let bytes = self.read(start, len).expect("readable");
        assert!(
            bytes.iter().all(|&b| b == fill),
            "{len} blocks from {start}"
        );
    }

    /// Nothing may be missing at the end.
    fn finish(mut self) {
        self.drain();
        self.done.clear();
        assert_eq!(self.backend.in_flight(), 0);
        assert_eq!(self.pool.free_bytes(), self.pool.total_bytes());
        self.medium.flush().expect("it can be flushed");
    }
}

/// The suite: `make` gives a fresh, zeroed medium of [`CAPACITY`] blocks.
fn every_medium_must(make: &dyn Fn() -> Arc<dyn Medium>) {
    what_is_written_is_read(make());
    many_are_in_flight(make());
    a_full_backend_gives_the_buffer_back(make());
    cancel_ends_once(make());
}

fn what_is_written_is_read(medium: Arc<dyn Medium>) {
    let mut bench = Bench::new(medium);
    bench.expect(0, 8, 0);
    bench.write(0, 1, 1, false).expect("first block");
    bench.write(CAPACITY - 1, 1, 2, true).expect("last block");
    bench.write(10, 100, 3, false).expect("many blocks");
    bench.write(50, 1, 4, false).expect("overwritten");
    assert_eq!(bench.run(BlockIo::Flush, None).0, Ok(()));
    bench.expect(0, 1, 1);
    bench.expect(1, 9, 0);
    bench.expect(10, 40, 3);
    bench.expect(50, 1, 4);
    bench.expect(51, 59, 3);
    bench.expect(CAPACITY - 1, 1, 2);
    let (prefetch, nothing) = (bench.extent(0, CAPACITY), bench.extent(CAPACITY, 0));
    assert_eq!(bench.run(BlockIo::Prefetch(prefetch), None).0, Ok(()));
    assert_eq!(bench.run(BlockIo::Prefetch(nothing), None).0, Ok(()));
    assert_eq!(bench.run(BlockIo::Read(nothing), None).0, Ok(()));
    let write = BlockIo::Write {
        extent: nothing,
        fua: true,
    };
    assert_eq!(bench.run(write, None).0, Ok(()));
    bench.finish();
}

fn many_are_in_flight(medium: Arc<dyn Medium>) {
    let mut bench = Bench::new(medium);
    for round in 0..8u64 {
        let mut tags = Vec::new();
        for n in 0..u64::from(DEPTH) {
            let extent = bench.extent((round * 16 + n) * 8, 8);
            let fill = u8::try_from(round * 16 + n + 1).expect("small");
            let buffer = bench.buffer(8, fill);
            let io = BlockIo::Write {
                extent,
                fua: n == 3,
            };
            tags.push(bench.submit(io, Some(buffer)).expect("as deep as promised"));
        }
        assert_eq!(bench.backend.in_flight() + bench.done.len(), tags.len());
        bench.drain();
        let mut seen: Vec<_> = bench
            .done
            .drain(..)
            .map(|c| {
                assert_eq!(c.result, Ok(()));
                c.tag.0
            })
            .collect();
        seen.sort_unstable();
        assert_eq!(
            seen,
            tags.iter().map(|t| t.0).collect::<Vec<_>>(),
            "each once"
        );
    }
    for n in 0..128 {
        bench.expect(n * 8, 8, u8::try_from(n + 1).expect("small"));
    }
    bench.finish();
}

fn a_full_backend_gives_the_buffer_back(medium: Arc<dyn Medium>) {
    let mut bench = Bench::new(medium);
    let mut accepted = 0;
    for n in 0..u64::from(4 * DEPTH) {
        let extent = bench.extent(n, 1);
        let buffer = bench.buffer(1, 9);
        match bench.submit(BlockIo::Write { extent, fua: true }, Some(buffer)) {
            Ok(_) => accepted += 1,
            Err(buffer) => {
                assert!(buffer.is_some(), "the buffer comes back");
                assert!(bench.backend.in_flight() >= DEPTH as usize);
                break;
            }
        }
    }
    bench.drain();
    assert_eq!(bench.done.len(), accepted);
    bench.write(0, 1, 7, false).expect("there is room again");
    bench.finish();
}

fn cancel_ends_once(medium: Arc<dyn Medium>) {
    let mut bench = Bench::new(medium);
    bench.backend.cancel(IoTag(99));
    for n in 0..u64::from(DEPTH) {
        let extent = bench.extent(n, 1);
        let buffer = bench.buffer(1, 5);
        bench
            .submit(BlockIo::Write { extent, fua: true }, Some(buffer))
            .expect("room");
    }
    for n in (0..u64::from(DEPTH)).rev() {
        bench.backend.cancel(IoTag(n));
        bench.backend.cancel(IoTag(n));
    }
    bench.drain();
    assert_eq!(bench.done.len(), DEPTH as usize);
    let ended = |c: &Completion| matches!(c.result, Ok(()) | Err(BlockError::Cancelled));
    assert!(bench.done.iter().all(|c| ended(c) && c.buffer.is_some()));
    bench.done.clear();
    assert_eq!(bench.run(BlockIo::Flush, None).0, Ok(()));
    bench.finish();
}

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
fn disk() -> &'static Path {
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
                        && e.flags & libc::RWF_DSYNC != 0
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
    assert!(!events.is_empty() && events.iter().all(|e| e.flags == libc::RWF_DSYNC));
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
fn a_crash_loses_what_was_not_stable_and_nothing_else() {
    let medium = FaultMedium::new(BlockSize::B512, Blocks(CAPACITY));
    let mut bench = Bench::new(Arc::<FaultMedium>::clone(&medium));
    bench.write(0, 2, 1, false).expect("cached");
    assert_eq!(bench.run(BlockIo::Flush, None).0, Ok(()));
    bench.write(1, 2, 2, false).expect("cached");
    bench.write(4, 1, 3, true).expect("stable");
    bench.expect(1, 2, 2);
    medium.crash();
    assert_eq!(bench.read(0, 1), Err(BlockError::Gone));
    medium.reopen();
    bench.expect(0, 2, 1);
    bench.expect(2, 1, 0);
    bench.expect(4, 1, 3);
    assert_eq!(medium.stable_block(Lba(4)), [3; 512]);
    bench.finish();
}

#[test]
fn faults_are_told_with_their_block() {
    let medium = FaultMedium::new(BlockSize::B512, Blocks(CAPACITY));
    let mut bench = Bench::new(Arc::<FaultMedium>::clone(&medium));
    for (fault, lba) in [
        (Fault::Read, 5),
        (Fault::Short, 15),
        (Fault::Write, 25),
        (Fault::NoSpace, 35),
    ] {
        medium.set_fault(Lba(lba), fault);
    }
    assert_eq!(bench.read(0, 8), Err(BlockError::Medium { at: Lba(5) }));
    assert_eq!(bench.read(10, 8), Err(BlockError::Medium { at: Lba(15) }));
    assert_eq!(
        bench.write(20, 8, 1, false),
        Err(BlockError::Medium { at: Lba(25) })
    );
    assert_eq!(bench.write(30, 8, 1, false), Err(BlockError::NoSpace));
    bench.expect(20, 20, 0);
    medium.set_fault(Lba(5), Fault::None);
    bench.expect(0, 8, 0);
    bench.finish();
}

#[test]
fn a_failed_flush_fails_what_is_written_until_reopened() {
    let medium = FaultMedium::new(BlockSize::B512, Blocks(CAPACITY));
    let mut bench = Bench::new(Arc::<FaultMedium>::clone(&medium));
    bench.write(0, 1, 1, false).expect("cached");
    medium.fail_flushes(1);
    assert_eq!(
        bench.run(BlockIo::Flush, None).0,
        Err(BlockError::FlushFailed)
    );
    assert_eq!(
        bench.run(BlockIo::Flush, None).0,
        Err(BlockError::FlushFailed)
    );
    assert_eq!(bench.write(0, 1, 2, false), Err(BlockError::FlushFailed));
    bench.expect(0, 1, 1);
    medium.reopen();
    assert_eq!(bench.run(BlockIo::Flush, None).0, Ok(()));
    bench.finish();
}

#[test]
fn what_hangs_ends_when_released_or_cancelled() {
    let medium = FaultMedium::new(BlockSize::B512, Blocks(CAPACITY));
    let mut bench = Bench::new(Arc::<FaultMedium>::clone(&medium));
    medium.hang_next(2);
    for n in 0..3 {
        let (extent, buffer) = (bench.extent(n, 1), bench.buffer(1, 1));
        let io = BlockIo::Write { extent, fua: false };
        bench.submit(io, Some(buffer)).expect("room");
    }
    assert!(bench.turn() && !bench.turn());
    assert_eq!((bench.done.len(), bench.backend.in_flight()), (1, 2));
    medium.ignore_cancel(true);
    bench.backend.cancel(IoTag(0));
    assert!(!bench.turn());
    medium.ignore_cancel(false);
    bench.backend.cancel(IoTag(0));
    assert!(bench.turn());
    assert_eq!(bench.done[1].result, Err(BlockError::Cancelled));
    medium.release();
    bench.finish();
}

/// A medium on a descriptor that only fails.
fn broken(file: std::fs::File) -> Arc<Disk> {
    let size = BlockSize::B512;
    Arc::new(Disk {
        file: Arc::new(file),
        path: "broken".into(),
        geometry: super::Geometry {
            block_size: size,
            capacity: Blocks(CAPACITY),
            physical_block_exponent: 0,
            read_only: false,
            write_cache: true,
            forgets: false,
        },
        in_memory: false,
        direct: false,
        nowait_reads: true.into(),
        nowait_writes: true.into(),
        poisoned: false.into(),
    })
}

/// It through system calls, and through the ring.
fn both_ways(disk: impl Fn() -> Arc<Disk>) -> [Bench; 2] {
    [
        Bench::new(Arc::new(FileMedium::new(disk()))),
        Bench::new(Arc::new(RingMedium::new(disk()))),
    ]
}

#[test]
fn a_failed_fdatasync_poisons_file_and_iouring() {
    let pipe = || broken(std::os::fd::OwnedFd::from(std::io::pipe().expect("a pipe").0).into());
    for mut bench in both_ways(pipe) {
        assert_eq!(
            bench.run(BlockIo::Flush, None).0,
            Err(BlockError::FlushFailed)
        );
        assert_eq!(bench.write(0, 1, 1, false), Err(BlockError::FlushFailed));
        assert_eq!(
            bench.run(BlockIo::Flush, None).0,
            Err(BlockError::FlushFailed)
        );
        // Reading is tried all the same; from a pipe at an offset it fails for itself.
        assert_eq!(bench.read(3, 1), Err(BlockError::Medium { at: Lba(3) }));
        assert!(bench.medium.flush().is_err());
    }
}

#[test]
fn no_room_is_told_as_such_and_is_no_reason_to_distrust_the_medium() {
    let full = || {
        let full = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/full");
        broken(full.expect("there is one"))
    };
    for mut bench in both_ways(full) {
        assert_eq!(bench.write(3, 1, 1, false), Err(BlockError::NoSpace));
        assert_eq!(bench.write(3, 1, 1, true), Err(BlockError::NoSpace));
        assert_eq!(bench.write(3, 1, 1, false), Err(BlockError::NoSpace));
        bench.expect(0, 8, 0);
    }
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
