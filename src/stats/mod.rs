//! Counted by one core, read by anyone.
//!
//! A counter has one writer, its reactor: adding is a plain load and store, no locked instruction. Readers
//! see some recent value. One line in the table below makes a counter, its name and its help.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_utils::CachePadded;

/// A number that one thread adds to and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the thread that owns the counter may call it.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Replaces the value, for what is counted elsewhere. Only the thread that owns the counter may call it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// A recent value.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! counters {
    ($($field:ident $name:literal $help:literal;)*) => {
        /// What one reactor counts.
        #[derive(Debug, Default)]
        pub struct ReactorCounters {
            $(#[doc = $help] pub $field: Counter,)*
        }

        /// Name and help of every counter, in the order of the table.
        pub const TABLE: &[(&str, &str)] = &[$(($name, $help),)*];

        impl ReactorCounters {
            /// Recent values, in the order of [`TABLE`].
            #[must_use]
            pub fn values(&self) -> Vec<u64> {
                vec![$(self.$field.value(),)*]
            }
        }
    };
}

counters! {
    turns "ringtgt_reactor_turns_total" "Turns of the loop that did something.";
    idle_turns "ringtgt_reactor_idle_turns_total" "Turns of the loop that found nothing to do.";
    sleeps "ringtgt_reactor_sleeps_total" "Times the reactor slept in the kernel.";
    busy_nanos "ringtgt_reactor_busy_nanoseconds_total" "Time spent in turns that did something.";
    idle_nanos "ringtgt_reactor_idle_nanoseconds_total" "Time spent looking for something to do.";
    asleep_nanos "ringtgt_reactor_asleep_nanoseconds_total" "Time spent asleep in the kernel.";
    receives "ringtgt_receives_total" "Receive calls that brought bytes.";
    received_bytes "ringtgt_received_bytes_total" "Bytes received from initiators.";
    sends "ringtgt_sends_total" "Send calls.";
    sent_bytes "ringtgt_sent_bytes_total" "Bytes sent to initiators.";
    connections "ringtgt_connections_total" "Connections accepted.";
    logins_failed "ringtgt_logins_failed_total" "Connections that ended before they were logged in.";
    logins_foreign "ringtgt_logins_foreign_total" "Connections that began with something else than a Login Request.";
    logins_refused "ringtgt_logins_refused_total" "Logins that a Login Response refused.";
    logins_late "ringtgt_logins_late_total" "Logins that were not finished in time.";
    logins_flooded "ringtgt_logins_flooded_total" "Logins that sent more than they were asked for.";
    sessions_opened "ringtgt_sessions_opened_total" "Sessions that reached the full feature phase.";
    sessions_closed "ringtgt_sessions_closed_total" "Sessions that ended, for whatever reason.";
    sessions_reinstated "ringtgt_sessions_reinstated_total" "Sessions that ended because their initiator logged in anew.";
    sessions_moved_in "ringtgt_sessions_moved_in_total" "Sessions that came from another reactor.";
    sessions_moved_out "ringtgt_sessions_moved_out_total" "Sessions that went to another reactor.";
    pdus_received "ringtgt_pdus_received_total" "PDUs decoded, of any opcode, after login.";
    pdus_sent "ringtgt_pdus_sent_total" "PDUs sent after login.";
    commands_started "ringtgt_commands_started_total" "SCSI commands begun.";
    commands_ended "ringtgt_commands_ended_total" "SCSI commands answered.";
    read_bytes "ringtgt_read_bytes_total" "Bytes of Data-In.";
    written_bytes "ringtgt_written_bytes_total" "Bytes of data-out that were accepted.";
    header_digest_errors "ringtgt_header_digest_errors_total" "Connections dropped for a wrong header digest.";
    data_digest_errors "ringtgt_data_digest_errors_total" "Data segments with a wrong digest.";
    long_data_segments "ringtgt_long_data_segments_total" "Connections dropped for a data segment longer than declared.";
    long_ahs "ringtgt_long_ahs_total" "Connections dropped for too many additional header segments.";
    rejects "ringtgt_rejects_total" "Reject PDUs sent.";
    commands_outside_window "ringtgt_commands_outside_window_total" "Commands ignored for their CmdSN.";
    stale_data "ringtgt_stale_data_total" "Data-Out PDUs of no task.";
    bad_data_out "ringtgt_bad_data_out_total" "Tasks ended for what their data-out was.";
    task_management "ringtgt_task_management_total" "Task management functions asked for.";
    tasks_aborted "ringtgt_tasks_aborted_total" "Tasks aborted.";
    memory_waits "ringtgt_memory_waits_total" "Times a task waited for memory.";
    queue_waits "ringtgt_queue_waits_total" "Times a task waited for room in a backend's queue.";
    protocol_errors "ringtgt_protocol_errors_total" "Connections dropped for what the initiator sent.";
    ring_submissions "ringtgt_ring_submissions_total" "Block operations that the kernel took from the ring.";
    ring_completions "ringtgt_ring_completions_total" "Block operations that the kernel completed.";
    ring_errors "ringtgt_ring_errors_total" "Calls of io_uring_enter that failed.";
    events_lost "ringtgt_events_lost_total" "Events that the log had no room for.";
}

/// The counters of one reactor, alone on their cache lines.
pub type Cell = CachePadded<ReactorCounters>;

/// A table for people: one row per counter, one column per reactor, and the sum.
#[must_use]
pub fn summary<'a>(cells: impl Iterator<Item = &'a Cell>) -> String {
    let columns: Vec<Vec<u64>> = cells.map(|cell| cell.values()).collect();
    let mut text = String::new();
    for (row, (name, _)) in TABLE.iter().enumerate() {
        let sum = columns
            .iter()
            .fold(0_u64, |sum, column| sum.wrapping_add(column[row]));
        // Writing to a String cannot fail.
        let _ = write!(text, "{name:<42} {sum:>16}");
        for column in columns.iter().filter(|_| columns.len() > 1) {
            let _ = write!(text, " {:>16}", column[row]);
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_has_every_counter_and_its_sum() {
        let (a, b) = (Cell::default(), Cell::default());
        a.sends.add(2);
        b.sends.add(3);
        b.sends.add(1);
        let text = summary([&a, &b].into_iter());
        assert_eq!(text.lines().count(), TABLE.len());
        let line = text
            .lines()
            .find(|l| l.starts_with("ringtgt_sends_total"))
            .expect("there");
        let numbers: Vec<_> = line.split_whitespace().skip(1).collect();
        assert_eq!(numbers, ["6", "2", "4"]);
    }

    #[test]
    fn names_are_unique() {
        for (i, (name, help)) in TABLE.iter().enumerate() {
            assert!(
                name.starts_with("ringtgt_") && name.ends_with("_total") && help.ends_with('.')
            );
            assert!(TABLE[..i].iter().all(|(other, _)| other != name), "{name}");
        }
    }
}
