//! What was answered as stable is stable: each FUA write and each SYNCHRONIZE CACHE is answered after its own RWF_DSYNC
//! write or fdatasync has completed in the kernel, seen by the recorder of the ring at submission and completion.
//! (For the `file` backend a system call trace shows the same: `tests/peers/stability`.)

use std::path::Path;
use std::sync::Arc;

use ringtgt::backend::offload::OffloadPool;
use ringtgt::backend::spec::{self, BackendKind, BackendSpec};
use ringtgt::backend::{AttachContext, Waker};
use ringtgt::initiator::{Event, Payload};
use ringtgt::session::{LogicalUnit, UnitId};
use ringtgt::sys::ring::{self, RingConfig, RingEvent, RingOp, SharedRing};

use crate::common::cdb;
use crate::common::pair::{BLOCK, BLOCKS, Pair};

/// A pair whose LUN 0 is a file on disk, through a ring that is recorded.
fn on_a_ring(dir: &Path) -> (Pair, SharedRing) {
    let (ring, _) = SharedRing::new(&RingConfig::default()).unwrap();
    ring.record(64);
    let opened = spec::open(&BackendSpec {
        size: Some(BLOCKS * BLOCK as u64),
        create: true,
        ..BackendSpec::new(BackendKind::IoUring, dir.join("disk.img"))
    })
    .unwrap();
    let geometry = opened.medium.geometry();
    let context = AttachContext {
        ring: Some(ring.clone()),
        offload: OffloadPool::new(1, &[]).unwrap(),
        waker: Waker(Arc::new(|| ())),
        depth: 64,
    };
    let backend = opened.medium.attach(&context).unwrap();
    let mut pair = Pair::new();
    pair.shards[0].detach_unit(UnitId(0)).unwrap();
    let unit = LogicalUnit {
        geometry,
        ..LogicalUnit::clone(&Pair::unit_of(pair.disk()))
    };
    pair.shards[0].attach_unit(UnitId(0), Arc::new(unit), backend);
    (pair, ring)
}

fn is_answered(pair: &Pair, link: usize, tag: u32) -> bool {
    pair.links[link]
        .events
        .iter()
        .any(|event| matches!(event, Event::Command(done) if done.initiator_task_tag == tag))
}

/// Lets a command run to its end. What the kernel finished is looked at only by `reap`, so before each `reap` the
/// recording holds what the target can know; nothing may have been answered on less.
fn recording_at_the_answer(
    pair: &mut Pair,
    ring: &SharedRing,
    link: usize,
    tag: u32,
) -> Vec<RingEvent> {
    let mut recorded = Vec::new();
    loop {
        while pair.turn() {}
        recorded.extend(ring.recorded());
        if is_answered(pair, link, tag) {
            return recorded;
        }
        ring.submit().unwrap();
        let _ = ring.reap();
        recorded.extend(ring.recorded());
    }
}

fn completed(recorded: &[RingEvent], is_it: impl Fn(&RingEvent) -> bool) -> usize {
    recorded
        .iter()
        .filter(|event| event.result.is_some_and(|result| result >= 0) && is_it(event))
        .count()
}

#[test]
fn fua_and_synchronize_cache_are_answered_after_the_kernel_made_them_stable() {
    if let Err(denied) = ring::probe() {
        assert!(
            std::env::var_os("CI").is_none(),
            "io_uring is denied: {denied}"
        );
        eprintln!("skipped: io_uring is denied here ({denied})");
        return;
    }
    const RWF_DSYNC: i32 = 2;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (mut pair, ring) = on_a_ring(dir.path());
    let link = pair.quiet_session();
    let block = |n: u32| vec![u8::try_from(n).unwrap(); 8 * BLOCK];
    for n in 0..50 {
        let lba = n * 8;
        let fua = pair.submit(link, cdb::write_10_fua(lba, 8), Payload::Write(block(n)));
        let recorded = recording_at_the_answer(&mut pair, &ring, link, fua);
        let place = u64::from(lba) * BLOCK as u64;
        let stable = completed(&recorded, |e| {
            e.op == RingOp::Write && e.flags & RWF_DSYNC != 0 && e.offset == place
        });
        assert_eq!(stable, 1, "FUA write {n}: {recorded:?}");
        assert!(pair.done(link, fua).is_good());

        let plain = pair.submit(link, cdb::write_10(2048 + lba, 8), Payload::Write(block(n)));
        let recorded = recording_at_the_answer(&mut pair, &ring, link, plain);
        assert_eq!(
            completed(&recorded, |e| e.flags & RWF_DSYNC != 0),
            0,
            "cached: {recorded:?}"
        );
        assert!(pair.done(link, plain).is_good());

        let flush = pair.submit(link, cdb::synchronize_cache_10(), Payload::None);
        let recorded = recording_at_the_answer(&mut pair, &ring, link, flush);
        assert_eq!(
            completed(&recorded, |e| e.op == RingOp::DataSync),
            1,
            "flush {n}: {recorded:?}"
        );
        assert!(pair.done(link, flush).is_good());
    }
}
