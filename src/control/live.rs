//! What can be asked of a target, and changed, while it runs.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::{Controller, PollPolicy, Unmoved, Whereabouts};
use crate::reactor::{Message, Request};
use crate::session::ReactorId;
use crate::stats::Cell;

/// One reactor, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReactorLoad {
    /// The core it stays on.
    pub core: u32,
    /// How it waits.
    pub poll: PollPolicy,
    /// Sessions on it.
    pub sessions: u64,
    /// SCSI commands begun so far.
    pub commands: u64,
    /// Time in turns that did something.
    pub busy: Duration,
    /// Time looking for something to do.
    pub idle: Duration,
    /// Time asleep in the kernel.
    pub asleep: Duration,
}

impl Controller {
    /// The reactors, in their order.
    #[must_use]
    pub fn reactors(&self) -> Vec<ReactorLoad> {
        let policies = self.policies();
        let cores = self.facts.cores.iter().zip(policies.iter());
        let facts = |((core, poll), cell): ((&u32, &PollPolicy), &Arc<Cell>)| ReactorLoad {
            core: *core,
            poll: *poll,
            sessions: sessions(cell),
            commands: cell.commands_started.value(),
            busy: Duration::from_nanos(cell.busy_nanos.value()),
            idle: Duration::from_nanos(cell.idle_nanos.value()),
            asleep: Duration::from_nanos(cell.asleep_nanos.value()),
        };
        cores.zip(&self.counters).map(facts).collect()
    }

    /// Lets one reactor wait like this from now on, counted from 0.
    ///
    /// # Errors
    /// When there is no such reactor.
    pub fn set_poll(&self, reactor: u16, poll: PollPolicy) -> Result<(), Unmoved> {
        let index = usize::from(reactor);
        let mailbox = self.mailboxes.get(index).ok_or(Unmoved::NoReactor)?;
        let mut policies = self.policies();
        let sent = mailbox.send(Message::Poll(poll));
        sent.map_err(|_| Unmoved::NoReactor)?;
        policies[index] = poll;
        Ok(())
    }

    fn policies(&self) -> std::sync::MutexGuard<'_, Vec<PollPolicy>> {
        // Nothing is done with it that could be left half done.
        let lock = self.policies.lock();
        lock.unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The sessions there are, and the logins under way, ordered by handle (TSIH).
    #[must_use]
    pub fn sessions(&self) -> Vec<Whereabouts> {
        let (answer, list) = channel();
        self.control.ask(Request::List { answer });
        list.recv().unwrap_or_default()
    }

    /// Moves a session to a reactor, counted from 0; returns when it is there or is known to stay where it is.
    /// Nothing of it is lost either way.
    ///
    /// # Errors
    /// Why it was not moved.
    pub fn move_session(&self, tsih: u16, reactor: u16) -> Result<(), Unmoved> {
        let (answer, result) = channel();
        let to = ReactorId(reactor);
        self.control.ask(Request::Move { tsih, to, answer });
        result.recv().unwrap_or(Err(Unmoved::Stopping))
    }
}

/// Sessions on a reactor.
pub(super) fn sessions(cell: &Cell) -> u64 {
    let came = cell.sessions_opened.value() + cell.sessions_moved_in.value();
    came.saturating_sub(cell.sessions_closed.value() + cell.sessions_moved_out.value())
}

/// A line for each reactor: what it did with its time.
#[must_use]
pub fn lines_of(counters: &[Arc<Cell>]) -> Vec<String> {
    let line = |(index, cell): (usize, &Arc<Cell>)| {
        let seconds = |nanos: u64| Duration::from_nanos(nanos).as_secs_f64();
        format!(
            "reactor {index}: {} sessions, {} commands, busy {:.3} s, idle {:.3} s, asleep {:.3} s",
            sessions(cell),
            cell.commands_started.value(),
            seconds(cell.busy_nanos.value()),
            seconds(cell.idle_nanos.value()),
            seconds(cell.asleep_nanos.value()),
        )
    };
    counters.iter().enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_where_the_time_went() {
        let cell = Arc::new(Cell::default());
        cell.sessions_opened.add(3);
        cell.sessions_moved_in.add(1);
        cell.sessions_closed.add(2);
        cell.busy_nanos.set(1_500_000_000);
        assert_eq!(
            lines_of(&[cell]),
            ["reactor 0: 2 sessions, 0 commands, busy 1.500 s, idle 0.000 s, asleep 0.000 s"]
        );
    }
}
