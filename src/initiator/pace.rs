//! When commands of a fixed rate are due. Times are nanoseconds since the run began.

/// A schedule that does not care how the target does: command `n` is due at `start + n / rate`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    start: u64,
    interval_ns: f64,
    issued: u64,
}

impl Pace {
    /// `rate` commands per second from `start` on.
    pub(super) fn new(rate: f64, start: u64) -> Self {
        Self {
            start,
            interval_ns: 1e9 / rate,
            issued: 0,
        }
    }

    /// When command `number`, counted from 0, is due.
    pub(super) fn due(&self, number: u64) -> u64 {
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "2^53 nanoseconds are three months; the product is not negative"
        )]
        let after = (number as f64 * self.interval_ns) as u64;
        self.start.saturating_add(after)
    }

    /// The time the next command was due, if that is not after `now`; the one after it is next.
    pub(super) fn take_due(&mut self, now: u64) -> Option<u64> {
        let due = self.due(self.issued);
        (due <= now).then(|| {
            self.issued += 1;
            due
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_due_at_their_times_however_late_they_are_asked_for() {
        let mut pace = Pace::new(1000.0, 500);
        assert_eq!(pace.take_due(499), None);
        assert_eq!(pace.take_due(500), Some(500));
        assert_eq!(pace.take_due(1_000_499), None);
        // A stall of ten milliseconds: ten commands are due, each at its own time.
        let due: Vec<_> = std::iter::from_fn(|| pace.take_due(10_000_500)).collect();
        assert_eq!(due.len(), 10);
        assert_eq!((due[0], due[9]), (1_000_500, 10_000_500));
    }

    #[test]
    fn a_rate_does_not_drift() {
        let mut pace = Pace::new(3.0, 0);
        let due = std::iter::from_fn(|| pace.take_due(1_000_000_000_000)).count();
        assert_eq!(due, 3001);
    }
}
