//! Coarse time: deadlines of logins and sessions are looked at a few times a second, not every turn.

use std::time::{Duration, Instant};

/// How late a deadline may be noticed.
pub(super) const GRAIN: Duration = Duration::from_millis(20);

/// When to look at the deadlines again.
#[derive(Debug)]
pub(super) struct Timer {
    next: Instant,
}

impl Timer {
    pub(super) fn new(now: Instant) -> Self {
        Self { next: now + GRAIN }
    }

    /// Whether it is time to look. Then it is again after a grain.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let due = now >= self.next;
        if due {
            self.next = now + GRAIN;
        }
        due
    }

    /// How long to sleep for a deadline at `earliest`: never less than what makes the next look due.
    pub(super) fn sleep(&self, now: Instant, earliest: Option<Instant>) -> Option<Duration> {
        // mio counts whole milliseconds and rounds up, so waking is never early by that.
        earliest.map(|at| at.max(self.next).saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_looked_at_once_per_grain() {
        let start = Instant::now();
        let mut timer = Timer::new(start);
        assert!(!timer.is_due(start));
        assert!(timer.is_due(start + GRAIN));
        assert!(!timer.is_due(start + GRAIN));
        assert!(timer.is_due(start + GRAIN * 2));
    }

    #[test]
    fn a_sleep_ends_when_the_deadline_can_be_noticed() {
        let start = Instant::now();
        let timer = Timer::new(start);
        assert_eq!(timer.sleep(start, None), None);
        assert_eq!(
            timer.sleep(start, Some(start)),
            Some(GRAIN),
            "due, but looked at only then"
        );
        assert_eq!(timer.sleep(start, Some(start + GRAIN * 3)), Some(GRAIN * 3));
        assert_eq!(
            timer.sleep(start + GRAIN * 4, Some(start)),
            Some(Duration::ZERO)
        );
    }
}
