//! Files that fail, and files that nothing is known of.

use super::kinds::disk;
use super::*;
use crate::backend::Geometry;
use crate::backend::disk::Disk;
use crate::backend::file::FileMedium;
use crate::backend::iouring::RingMedium;

/// A medium on `file`; nothing is known of it.
fn disk_on(file: std::fs::File, nowait: bool) -> Arc<Disk> {
    let size = BlockSize::B512;
    Arc::new(Disk {
        file: Arc::new(file),
        path: "test".into(),
        geometry: Geometry {
            block_size: size,
            capacity: Blocks(CAPACITY),
            physical_block_exponent: 0,
            read_only: false,
            write_cache: true,
            forgets: false,
        },
        in_memory: false,
        direct: false,
        threads_write: false,
        blocks: false,
        nowait_reads: nowait.into(),
        nowait_writes: nowait.into(),
        poisoned: false.into(),
    })
}

/// A fresh file whose every operation goes to threads or ring.
fn slow_file() -> Arc<Disk> {
    let file = tempfile::tempfile_in(disk()).expect("a file");
    file.set_len(CAPACITY * 512).expect("sparse");
    disk_on(file, false)
}

#[test]
fn file_and_iouring_pass_the_suite_with_nothing_done_inline() {
    every_medium_must(&|| Arc::new(RingMedium::new(slow_file())));
    every_medium_must(&|| Arc::new(FileMedium::new(slow_file())));
}

#[test]
fn backends_share_a_ring_that_is_too_small_for_them() {
    let (mut context, pool) = context();
    let config = RingConfig {
        entries: 4,
        ..RingConfig::default()
    };
    let Ok((ring, _)) = SharedRing::new(&config) else {
        return;
    };
    context.ring = Some(ring);
    let mut benches: Vec<_> = (0..3)
        .map(|_| {
            let medium: Arc<dyn Medium> = Arc::new(RingMedium::new(slow_file()));
            Bench {
                backend: Arc::clone(&medium).attach(&context).expect("room"),
                medium,
                context: context.clone(),
                pool: pool.clone(),
                done: Vec::new(),
                next: 0,
            }
        })
        .collect();
    let mut refused = 0;
    for n in 0..300 {
        let bench = &mut benches[n % 3];
        let extent = bench.extent(n as u64, 2);
        let buffer = bench.buffer(2, 3);
        let io = BlockIo::Write { extent, fua: false };
        if bench.submit(io, Some(buffer)).is_err() {
            refused += 1;
            for bench in &mut benches {
                bench.turn();
            }
        }
    }
    assert!(refused > 0);
    // All of them first: what one has in flight fills the others' ring.
    benches.iter_mut().for_each(Bench::drain);
    for bench in &mut benches {
        assert!(
            bench
                .done
                .drain(..)
                .all(|c| c.result == Ok(()) && c.buffer.is_some())
        );
        bench.write(7, 8, 9, true).expect("there is room again");
        bench.expect(7, 8, 9);
    }
    drop(benches);
    assert_eq!(pool.free_bytes(), pool.total_bytes());
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
    let pipe = || {
        let (reader, _) = std::io::pipe().expect("a pipe");
        disk_on(std::os::fd::OwnedFd::from(reader).into(), true)
    };
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
        disk_on(full.expect("there is one"), true)
    };
    for mut bench in both_ways(full) {
        assert_eq!(bench.write(3, 1, 1, false), Err(BlockError::NoSpace));
        assert_eq!(bench.write(3, 1, 1, true), Err(BlockError::NoSpace));
        assert_eq!(bench.write(3, 1, 1, false), Err(BlockError::NoSpace));
        bench.expect(0, 8, 0);
    }
}

/// A block device on a file that finds no room: what the cache writes back to it is lost. `None`: not here.
struct Losing {
    directory: tempfile::TempDir,
    device: String,
}

fn run(command: &str, arguments: &[&str]) -> Option<String> {
    let mut command = std::process::Command::new(command);
    let output = command.args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

impl Losing {
    fn new() -> Option<Self> {
        let directory = tempfile::tempdir().ok()?;
        let place = directory.path().to_str()?;
        run("mount", &["-t", "tmpfs", "-o", "size=64k", "none", place])?;
        let mut this = Self {
            device: String::new(),
            directory,
        };
        let file = this.directory.path().join("f");
        std::fs::File::create(&file)
            .and_then(|f| f.set_len(CAPACITY * 512))
            .ok()?;
        this.device = run("losetup", &["-f", "--show", file.to_str()?])?;
        Some(this)
    }
}

impl Drop for Losing {
    fn drop(&mut self) {
        if !self.device.is_empty() {
            let _ = run("losetup", &["-d", &self.device]);
        }
        let _ = run("umount", &["-l", &self.directory.path().to_string_lossy()]);
    }
}

#[test]
fn of_many_flushes_at_a_time_none_succeeds_when_what_was_written_is_lost() {
    for through_ring in [true, false] {
        let Some(losing) = Losing::new() else {
            return;
        };
        let device = std::fs::File::options()
            .read(true)
            .write(true)
            .open(&losing.device);
        let disk = disk_on(device.expect("made a moment ago"), true);
        let medium: Arc<dyn Medium> = if through_ring {
            Arc::new(RingMedium::new(disk))
        } else {
            Arc::new(FileMedium::new(disk))
        };
        let mut benches: Vec<_> = (0..8).map(|_| Bench::new(Arc::clone(&medium))).collect();
        for start in (0..CAPACITY).step_by(64) {
            let result = benches[0].write(start, 64, 7, false);
            assert_eq!(result, Ok(()), "it is in the cache");
        }
        for bench in &mut benches {
            bench.submit(BlockIo::Flush, None).expect("room");
            bench.turn();
        }
        for (n, bench) in benches.iter_mut().enumerate() {
            bench.drain();
            let result = bench.done.pop().expect("one").result;
            assert_eq!(result, Err(BlockError::FlushFailed), "flush {n}");
        }
    }
}

#[test]
fn a_backend_whose_threads_are_gone_says_so_and_gives_the_buffer_back() {
    let (mut context, pool) = context();
    let medium: Arc<dyn Medium> = Arc::new(FileMedium::new(slow_file()));
    let mut backend = Arc::clone(&medium).attach(&context).expect("room");
    context.offload = OffloadPool::new(1, &[]).expect("threads");
    let buffer = pool.take(4096, 4096).expect("the pool is large enough");
    let extent = Extent::new(Lba(0), Blocks(8), medium.geometry().capacity).expect("in range");
    let io = BlockIo::Write { extent, fua: true };
    match backend.submit(IoTag(1), io, Some(buffer)) {
        Submit::Done(completion) => {
            assert_eq!(completion.result, Err(BlockError::Gone));
            assert!(completion.buffer.is_some());
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(backend.in_flight(), 0);
}
