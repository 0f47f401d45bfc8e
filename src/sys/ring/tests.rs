//! Tests of the ring against the kernel.

use super::*;
use crate::sys::hugepage::{MapOptions, Slot, map};
use std::os::unix::fs::FileExt;
use std::time::Duration;

fn ring() -> Option<SharedRing> {
    SharedRing::new(&RingConfig::default()).ok().map(|r| r.0)
}

fn slot() -> Slot {
    let options = MapOptions {
        hugepages: false,
        reserved: false,
        numa_node: None,
        touch: false,
    };
    map(1, options).expect("memory").0
}

fn whole(loan: Loan, len: u32, offset: u64) -> Transfer {
    Transfer {
        loan,
        start: 0,
        len,
        offset,
        flags: 0,
    }
}

fn wait(ring: &SharedRing, client: &RingClient) -> RingCompletion {
    loop {
        ring.submit().expect("enter");
        let _ = ring.reap();
        if let Some(done) = client.poll() {
            return done;
        }
        std::thread::yield_now();
    }
}

#[test]
fn what_is_written_is_read_registered_or_not() {
    let Some(ring) = ring() else { return };
    let file = Arc::new(tempfile::tempfile().expect("a file"));
    let client = ring.client(Arc::clone(&file), 4);
    for round in 0..2u64 {
        let (mut slot, _rest) = slot().split_at(8192);
        if round == 1 {
            ring.register_memory(slot.mapping()).expect("allowed");
            assert!(ring.register_memory(slot.mapping()).is_err());
        }
        slot.as_mut_slice().fill(7);
        let (lent, loan) = slot.lend();
        client
            .write(1, whole(loan, 8192, round * 4096))
            .expect("room");
        let done = wait(&ring, &client);
        assert_eq!((done.tag, done.result), (1, 8192));
        let mut slot = lent.reclaim(done.loan.expect("its buffer"));
        slot.as_mut_slice().fill(0);
        let (lent, loan) = slot.lend();
        client
            .read(2, whole(loan, 8192, round * 4096))
            .expect("room");
        let done = wait(&ring, &client);
        assert_eq!((done.tag, done.result), (2, 8192));
        let slot = lent.reclaim(done.loan.expect("its buffer"));
        assert!(slot.as_slice().iter().all(|&b| b == 7));
    }
    assert!(client.data_sync(3));
    assert_eq!(wait(&ring, &client).result, 0);
    assert!(client.prefetch(4, 0, 4096));
    assert_eq!(wait(&ring, &client).result, 0);
    assert_eq!((client.in_flight(), ring.in_flight()), (0, 0));
    assert!(!ring.has_pending());
}

#[test]
fn files_and_memory_that_are_registered_are_used_so() {
    let Some(ring) = ring() else { return };
    let (whole_slot, _) = slot().split_at(8192);
    let (inside, outside) = (whole_slot, slot().split_at(8192).0);
    ring.register_memory(inside.mapping()).expect("allowed");
    ring.record(16);
    let file = Arc::new(tempfile::tempfile().expect("a file"));
    // One more than have a place in the table.
    let clients: Vec<_> = (0..=FILE_TABLE)
        .map(|_| ring.client(Arc::clone(&file), 4))
        .collect();
    let last = clients.len() - 1;
    for (mut slot, in_registered) in [(inside, true), (outside, false)] {
        for (which, in_table) in [(0, true), (last, false)] {
            let client = &clients[which];
            let (lent, loan) = slot.lend();
            client.write(1, whole(loan, 8192, 0)).expect("room");
            let written = wait(&ring, client);
            assert_eq!(written.result, 8192);
            client
                .read(2, whole(written.loan.expect("its buffer"), 8192, 0))
                .expect("room");
            let read = wait(&ring, client);
            assert_eq!(read.result, 8192);
            slot = lent.reclaim(read.loan.expect("its buffer"));
            assert!(client.data_sync(3));
            assert_eq!(wait(&ring, client).result, 0);
            let events = ring.recorded();
            assert_eq!(events.len(), 6, "begun and ended");
            for event in events {
                assert_eq!(event.registered_file, in_table, "{event:?}");
                let moves = event.op != RingOp::DataSync;
                assert_eq!(event.registered_memory, in_registered && moves, "{event:?}");
            }
        }
    }
    // And the kernel has a table of that size.
    let files = told_by_kernel(&ring, "UserFiles").expect("the kernel tells");
    assert_eq!(files, FILE_TABLE.to_string());
}

#[test]
fn a_sleeper_on_the_ring_is_woken_by_deferred_work() {
    let Some(ring) = ring() else { return };
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let file = Arc::new(File::from(std::os::fd::OwnedFd::from(reader)));
    let client = ring.client(file, 4);
    let mut poll = mio::Poll::new().expect("epoll");
    let fd = ring.as_raw_fd();
    let mut source = mio::unix::SourceFd(&fd);
    poll.registry()
        .register(&mut source, mio::Token(0), mio::Interest::READABLE)
        .expect("the ring can be polled");
    let mut events = mio::Events::with_capacity(4);
    for round in 0..3 {
        let (lent, loan) = slot().lend();
        client.read(1, whole(loan, 4096, 0)).expect("room");
        ring.submit().expect("enter");
        let _ = ring.reap();
        poll.poll(&mut events, Some(Duration::ZERO)).expect("epoll");
        assert!(client.poll().is_none());
        ring.set_wakeups(round != 1);
        std::io::Write::write_all(&mut writer, b"x").expect("the pipe has room");
        // In round 1 wake-ups are off, so there is nothing to wait for.
        let patience = Duration::from_secs(if round == 1 { 0 } else { 10 });
        poll.poll(&mut events, Some(patience)).expect("epoll");
        assert_eq!(events.is_empty(), round == 1, "round {round}");
        assert!(ring.has_pending());
        let done = wait(&ring, &client);
        assert_eq!(done.result, 1);
        drop(lent.reclaim(done.loan.expect("its buffer")));
    }
}

#[test]
fn a_hanging_operation_is_cancelled_by_its_tag() {
    let Some(ring) = ring() else { return };
    let (reader, _writer) = std::io::pipe().expect("a pipe");
    let client = ring.client(Arc::new(File::from(std::os::fd::OwnedFd::from(reader))), 4);
    let (_lent, loan) = slot().lend();
    client.read(9, whole(loan, 4096, 0)).expect("room");
    client.cancel(8);
    client.cancel(9);
    let done = wait(&ring, &client);
    assert_eq!((done.tag, done.result), (9, -libc::ECANCELED));
}

#[test]
fn a_file_with_operations_left_behind_is_never_taken_for_ones_own() {
    for left_behind in [false, true] {
        let Some(ring) = ring() else { return };
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        let mut file = Arc::new(File::from(std::os::fd::OwnedFd::from(reader)));
        let client = ring.client(Arc::clone(&file), 4);
        let (_lent, loan) = slot().lend();
        client.read(1, whole(loan, 4096, 0)).expect("room");
        ring.submit().expect("enter");
        if !left_behind {
            std::io::Write::write_all(&mut writer, b"x").expect("the pipe has room");
            assert_eq!(wait(&ring, &client).result, 1);
        }
        drop((client, ring));
        assert_eq!(Arc::get_mut(&mut file).is_none(), left_behind);
    }
}

#[test]
fn a_client_dropped_in_flight_frees_its_place_later() {
    let Some(ring) = ring() else { return };
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let client = ring.client(Arc::new(File::from(std::os::fd::OwnedFd::from(reader))), 4);
    let (_lent, loan) = slot().lend();
    client.read(1, whole(loan, 4096, 0)).expect("room");
    drop(client);
    drop(writer);
    while ring.in_flight() > 0 {
        ring.submit().expect("enter");
        let _ = ring.reap();
    }
    assert!(ring.0.borrow().clients.iter().all(Option::is_none));
    assert!(ring.0.borrow().file_table.iter().all(|taken| !taken));
}

#[test]
fn a_full_client_gives_the_loan_back() {
    let Some(ring) = ring() else { return };
    let file = tempfile::tempfile().expect("a file");
    file.write_all_at(&[1; 4096], 0).expect("room on disk");
    let client = ring.client(Arc::new(file), 2);
    let mut lents = Vec::new();
    let mut refused = 0;
    for tag in 0..40 {
        let (lent, loan) = slot().lend();
        match client.read(tag, whole(loan, 4096, 0)) {
            Ok(()) => lents.push(lent),
            Err(loan) => {
                refused += 1;
                drop(lent.reclaim(loan));
            }
        }
    }
    assert!(refused > 0 && client.in_flight() == lents.len());
}

#[test]
fn a_recording_keeps_the_order_of_submission_and_completion() {
    let Some(ring) = ring() else { return };
    ring.record(16);
    let client = ring.client(Arc::new(tempfile::tempfile().expect("a file")), 4);
    let (_lent, loan) = slot().lend();
    let transfer = Transfer {
        flags: libc::RWF_DSYNC,
        ..whole(loan, 512, 0)
    };
    client.write(1, transfer).expect("room");
    let _ = wait(&ring, &client);
    assert!(client.data_sync(2));
    let _ = wait(&ring, &client);
    let seen: Vec<_> = ring
        .recorded()
        .iter()
        .map(|e| (e.op, e.tag, e.result))
        .collect();
    assert_eq!(
        seen,
        [
            (RingOp::Write, 1, None),
            (RingOp::Write, 1, Some(512)),
            (RingOp::DataSync, 2, None),
            (RingOp::DataSync, 2, Some(0)),
        ]
    );
}

/// A ring whose submission thread has the last of the cores that this process may use, for a thread pinned to
/// the first; `None` where there is no second core or no such thread.
fn polled_ring() -> Option<(SharedRing, u32)> {
    let cores = crate::sys::cpu::allowed_cores();
    let (&own, &other) = (cores.first()?, cores.last()?);
    if own == other {
        eprintln!("skipped: a submission thread needs a second core");
        return None;
    }
    crate::sys::cpu::pin_current_thread(own).expect("an allowed core");
    let config = RingConfig {
        sqpoll: Some(other),
        ..RingConfig::default()
    };
    let (ring, notes) = SharedRing::new(&config).ok()?;
    if !ring.has_sq_thread() {
        eprintln!("skipped: {notes:?}");
        return None;
    }
    Some((ring, other))
}

/// What the kernel tells of the ring under this name.
fn told_by_kernel(ring: &SharedRing, name: &str) -> Option<String> {
    let fd = ring.0.borrow().ring.as_raw_fd();
    let told = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    let line = told.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim_start_matches(':').trim().to_owned())
}

#[test]
fn a_submission_thread_on_its_own_core_serves_without_a_call() {
    let Some((ring, core)) = polled_ring() else {
        return;
    };
    let file = Arc::new(tempfile::tempfile().expect("a file"));
    let client = ring.client(Arc::clone(&file), 8);
    for round in 0..200u64 {
        let (mut slot, _rest) = slot().split_at(4096);
        slot.as_mut_slice()
            .fill(u8::try_from(round).expect("small"));
        let (lent, loan) = slot.lend();
        client
            .write(round, whole(loan, 4096, round * 4096))
            .expect("room");
        let done = wait(&ring, &client);
        assert_eq!((done.tag, done.result), (round, 4096));
        drop(lent.reclaim(done.loan.expect("its buffer")));
    }
    let mut last = [0; 1];
    file.read_exact_at(&mut last, 199 * 4096).expect("written");
    assert_eq!(last, [199]);
    // The kernel knows it, and where it may run, once it has run.
    let thread = told_by_kernel(&ring, "SqThread").expect("the kernel tells");
    assert!(thread.parse::<i32>().is_ok_and(|pid| pid > 0), "{thread}");
    let path = format!("/proc/self/task/{thread}/status");
    let status = std::fs::read_to_string(path).expect("it is a thread of this process");
    let allowed = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    assert_eq!(allowed.map(str::trim), Some(core.to_string().as_str()));
    assert!(client.data_sync(1));
    assert_eq!(wait(&ring, &client).result, 0);
}

#[test]
fn a_submission_thread_that_sleeps_is_woken_and_wakes_a_sleeping_reactor() {
    let Some((ring, _)) = polled_ring() else {
        return;
    };
    let file = Arc::new(tempfile::tempfile().expect("a file"));
    let client = ring.client(file, 8);
    let mut poll = mio::Poll::new().expect("epoll");
    let fd = ring.as_raw_fd();
    poll.registry()
        .register(
            &mut mio::unix::SourceFd(&fd),
            mio::Token(0),
            mio::Interest::READABLE,
        )
        .expect("an eventfd can be polled");
    let mut events = mio::Events::with_capacity(4);
    ring.set_wakeups(true);
    for round in 0..3 {
        while !ring.0.borrow_mut().ring.submission().need_wakeup() {
            std::thread::yield_now();
        }
        assert!(!ring.has_pending(), "nothing is queued");
        assert!(client.data_sync(round));
        assert!(ring.has_pending(), "nobody takes it unless woken");
        assert_eq!(ring.submit().expect("enter"), 1);
        // From here on the kernel has it; nothing but the eventfd tells.
        while ring.reap() == 0 {
            poll.poll(&mut events, Some(Duration::from_secs(10)))
                .expect("epoll");
            assert!(!events.is_empty(), "round {round} was not told");
        }
        assert_eq!(
            client.poll().map(|done| (done.tag, done.result)),
            Some((round, 0))
        );
    }
}

#[test]
fn a_submission_thread_on_a_core_that_is_not_there_is_done_without() {
    let config = RingConfig {
        sqpoll: Some(100_000),
        ..RingConfig::default()
    };
    let Ok((ring, notes)) = SharedRing::new(&config) else {
        return;
    };
    assert!(!ring.has_sq_thread());
    assert!(notes[0].contains("core 100000"), "{notes:?}");
    let client = ring.client(Arc::new(tempfile::tempfile().expect("a file")), 4);
    assert!(client.data_sync(1));
    assert_eq!(wait(&ring, &client).result, 0);
}

#[test]
fn every_operation_may_have_a_thread_of_the_kernels() {
    let Some(ring) = ring() else { return };
    let clients: Vec<_> = (0..5)
        .map(|_| ring.client(Arc::new(tempfile::tempfile().expect("a file")), 32))
        .collect();
    let mut limits = [0, 0];
    let told = {
        let inner = ring.0.borrow();
        inner
            .ring
            .submitter()
            .register_iowq_max_workers(&mut limits)
    };
    if told.is_ok() {
        assert!(limits[0] >= 5 * 32, "{limits:?}");
    }
    assert!(clients[4].data_sync(1));
    assert_eq!(wait(&ring, &clients[4]).result, 0);
}

#[test]
fn what_has_no_name_of_its_own_is_cancelled_all_the_same() {
    let Some(ring) = ring() else { return };
    let (reader, _writer) = std::io::pipe().expect("a pipe");
    let client = ring.client(Arc::new(File::from(std::os::fd::OwnedFd::from(reader))), 4);
    for tag in [3, 4, 1 << 40] {
        let (_lent, loan) = slot().lend();
        client.read(tag, whole(loan, 4096, 0)).expect("room");
    }
    for tag in [1 << 40, 3, 4] {
        client.cancel(tag);
        let done = wait(&ring, &client);
        assert_eq!((done.tag, done.result), (tag, -libc::ECANCELED));
    }
    client.cancel(3);
    assert_eq!(client.in_flight(), 0);
}
