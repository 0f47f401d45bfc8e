//! What the fault medium is told to do, it does.

use super::*;
use crate::backend::fault::{Fault, FaultMedium};

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
