//! The shared backend test suite: what every medium must do, run on each kind.

mod broken;
mod faults;
mod kinds;

use std::sync::Arc;

use super::offload::OffloadPool;
use super::{
    AttachContext, Backend, BlockError, BlockIo, Completion, IoTag, Medium, Submit, Waker,
};
use crate::buffer::{Buffer, Pool, PoolConfig};
use crate::sys::ring::{RingConfig, SharedRing};
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
        offload: OffloadPool::new(2, &[]).expect("threads"),
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
