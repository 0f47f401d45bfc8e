//! What a test says to a pair, and of it.

use ringtgt::buffer::Pool;
use ringtgt::initiator::{Command, CommandDone, Event, Payload, wire_lun};
use ringtgt::session::params::OperationalParams;

use super::cdb::{self, Cdb};
use super::pair::{BLOCK, BLOCKS, Closed, Link, Pair, pool};

/// Free bytes of a pool of the same size that was never used.
fn pool_like(used: &Pool) -> usize {
    pool(used.total_bytes()).free_bytes()
}

impl Pair {
    /// Sessions of which something is left.
    pub fn open_sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Every connection breaks: then no session, no operation and no memory in use is left.
    #[track_caller]
    pub fn assert_all_comes_back(&mut self) {
        for link in 0..self.links.len() {
            self.cut(link);
        }
        self.run();
        assert_eq!(self.sessions.len(), 0, "sessions");
        for disk in &self.disks {
            assert_eq!(disk.in_flight(), 0, "operations");
        }
        for pool in &self.pools {
            let fresh = pool_like(pool);
            assert_eq!(pool.promised(), 0, "promises");
            assert_eq!(pool.free_bytes(), fresh, "memory");
        }
    }

    /// The next event of a link.
    pub fn event(&mut self, link: usize) -> Option<Event> {
        self.links[link].events.pop_front()
    }

    /// The initiator finds nothing wrong with the target, and the connection is open.
    #[track_caller]
    pub fn assert_well(&self, link: usize) {
        assert_eq!(self.links[link].error, None);
        assert_eq!(self.links[link].closed, None);
    }

    /// Both sides came out of the login with the same numbers.
    #[track_caller]
    pub fn assert_agreed(&self, link: usize) {
        let theirs = self.links[link].initiator.negotiated().expect("logged in");
        let ours = self.links[link].params.expect("logged in");
        let mut seen = OperationalParams {
            header_digest: theirs.header_digest,
            data_digest: theirs.data_digest,
            initial_r2t: theirs.initial_r2t,
            immediate_data: theirs.immediate_data,
            max_send_data_segment_length: theirs.max_recv_data_segment_length,
            max_recv_data_segment_length: theirs.max_send_data_segment_length,
            max_burst_length: theirs.max_burst_length,
            first_burst_length: theirs.first_burst_length,
            max_outstanding_r2t: theirs.max_outstanding_r2t,
            default_time2wait: theirs.default_time2wait,
            default_time2retain: theirs.default_time2retain,
            error_recovery_level: theirs.error_recovery_level,
        };
        if !seen.immediate_data && seen.initial_r2t {
            // FirstBurstLength means nothing then (section 13.14).
            seen.first_burst_length = ours.first_burst_length;
        }
        assert_eq!(seen, ours);
    }

    /// The target closed the connection for this reason.
    #[track_caller]
    pub fn assert_closed(&self, link: usize, why: Closed) {
        assert_eq!(self.links[link].closed.as_ref(), Some(&why));
    }

    /// Issues a command on LUN 0; its tag.
    pub fn submit(&mut self, link: usize, cdb: Cdb, payload: Payload) -> u32 {
        self.submit_on(link, 0, cdb, payload)
    }

    pub fn submit_on(&mut self, link: usize, lun: u16, cdb: Cdb, payload: Payload) -> u32 {
        let command = Command::new(0, wire_lun(lun), cdb, payload);
        self.links[link]
            .initiator
            .submit(command)
            .expect("there is room")
    }

    /// Issues a command on LUN 0 and waits for its end.
    pub fn command(&mut self, link: usize, cdb: Cdb, payload: Payload) -> CommandDone {
        self.command_on(link, 0, cdb, payload)
    }

    #[track_caller]
    pub fn command_on(&mut self, link: usize, lun: u16, cdb: Cdb, payload: Payload) -> CommandDone {
        let tag = self.submit_on(link, lun, cdb, payload);
        self.run();
        self.done(link, tag)
    }

    /// The end of the command with this tag, which has come.
    #[track_caller]
    pub fn done(&mut self, link: usize, tag: u32) -> CommandDone {
        let Link {
            events,
            error,
            closed,
            ..
        } = &mut self.links[link];
        let place = events.iter().position(
            |event| matches!(event, Event::Command(done) if done.initiator_task_tag == tag),
        );
        let Some(place) = place else {
            panic!("no end of {tag:#x}: {error:?} {closed:?} {events:?}");
        };
        match events.remove(place) {
            Some(Event::Command(done)) => done,
            _ => unreachable!(),
        }
    }

    /// Reads blocks of LUN 0 with READ(10); they must come.
    #[track_caller]
    pub fn read(&mut self, link: usize, lba: u32, blocks: u16) -> Vec<u8> {
        let buffer = vec![0; usize::from(blocks) * BLOCK];
        let done = self.command(link, cdb::read_10(lba, blocks), Payload::Read(buffer));
        assert!(done.is_good(), "{done:?}");
        match done.payload {
            Payload::Read(data) => data,
            _ => unreachable!(),
        }
    }

    /// Writes blocks of LUN 0 with WRITE(10); it must succeed.
    #[track_caller]
    pub fn write(&mut self, link: usize, lba: u32, data: &[u8]) {
        let blocks = u16::try_from(data.len() / BLOCK).unwrap();
        let done = self.command(
            link,
            cdb::write_10(lba, blocks),
            Payload::Write(data.to_vec()),
        );
        assert!(done.is_good(), "{done:?}");
    }

    /// Both sides are well, and reads and writes work.
    #[track_caller]
    pub fn assert_works(&mut self, link: usize) {
        self.assert_well(link);
        let data = self.random.bytes(4 * BLOCK);
        let lba = u32::try_from(self.random.below(BLOCKS - 4)).unwrap();
        self.write(link, lba, &data);
        assert_eq!(self.read(link, lba, 4), data);
        self.assert_well(link);
    }
}
