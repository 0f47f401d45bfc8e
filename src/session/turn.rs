//! What a turn of the shard tries again: PDUs left over, and tasks that wait.

use super::shard::session_mut;
use super::{Phase, Shard};

impl Shard {
    pub(super) fn run_backlog(&mut self) -> usize {
        let count = self.home.backlog.len();
        for _ in 0..count {
            let Some(key) = self.home.backlog.pop_front() else {
                break;
            };
            if let Some(session) = session_mut(&mut self.sessions, key) {
                session.in_backlog = false;
                if let Err(error) = session.run_received(&mut self.home) {
                    session.phase = Phase::Ending;
                    session.fault = Some(error);
                    session.request_close(&mut self.home);
                }
            }
        }
        count
    }

    pub(super) fn retry_waiting(&mut self) -> usize {
        let mut work = 0;
        for _ in 0..self.home.turn_line.len() {
            let Some(waiter) = self.home.turn_line.pop_front() else {
                break;
            };
            let before = self.home.turn_line.len();
            let done = self.home.done_at_once;
            if let Some(session) = session_mut(&mut self.sessions, waiter.session) {
                session.retry(&mut self.home, waiter);
                // Who stands in line again and has done nothing found the queue as full as before.
                let waits = self.home.turn_line.len() > before;
                work += usize::from(!waits || self.home.done_at_once != done);
            }
        }
        work += self.retry_queued();
        self.retry_memory();
        for _ in 0..self.home.starved.len() {
            let Some(key) = self.home.starved.pop_front() else {
                break;
            };
            if let Some(session) = session_mut(&mut self.sessions, key) {
                session.in_starved = false;
                session.open_window(&mut self.home);
            }
        }
        work
    }

    /// The line for memory, in order. Who is held up by its own session's share does not hold up others.
    fn retry_memory(&mut self) {
        let waiting = self.home.memory_line.len();
        self.home.retrying = true;
        for _ in 0..waiting {
            let Some(waiter) = self.home.memory_line.pop_front() else {
                break;
            };
            let before = self.home.memory_line.len();
            let Some(session) = session_mut(&mut self.sessions, waiter.session) else {
                continue;
            };
            session.retry(&mut self.home, waiter);
            if self.home.memory_line.len() == before {
                continue;
            }
            // It (or what came of it) waits again.
            if session.memory == 0 {
                // Nobody behind it has more right to what there is not.
                break;
            }
            if let Some(same) = self.home.memory_line.pop_front() {
                self.home.memory_line.push_back(same);
            }
        }
        self.home.retrying = false;
        self.home.free_when_tried = self.home.unpromised();
    }
}
