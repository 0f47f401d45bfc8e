//! What a reactor spends its time on: one reading of the time-stamp counter per turn, not per command.

use std::time::{Duration, Instant};

use crate::stats::{Counter, ReactorCounters};
use crate::sys::ticks::ticks;

/// Ticks between two looks at how long a tick is: some milliseconds to some ten, by the clock of the machine.
const CALIBRATE_EVERY: u64 = 1 << 26;
/// Binary places of the length of a tick.
const PLACES: u32 = 32;

/// Adds up busy, idle and sleeping time.
#[derive(Debug)]
pub(super) struct Clock {
    start: Instant,
    first: u64,
    /// The last reading: what comes after it belongs to the turn that ends next.
    last: u64,
    busy: u64,
    idle: u64,
    asleep: u64,
    calibrated: u64,
    /// Nanoseconds in a tick, times 2^[`PLACES`].
    length: u64,
}

impl Clock {
    pub(super) fn new(now: Instant) -> Self {
        Self::at(now, ticks())
    }

    const fn at(now: Instant, ticks: u64) -> Self {
        Self {
            start: now,
            first: ticks,
            last: ticks,
            busy: 0,
            idle: 0,
            asleep: 0,
            calibrated: ticks,
            length: 0,
        }
    }

    /// A turn has ended.
    pub(super) fn turned(&mut self, worked: bool) {
        let passed = self.pass(ticks());
        if worked {
            self.busy += passed;
        } else {
            self.idle += passed;
        }
    }

    /// A sleep has ended.
    pub(super) fn slept(&mut self) {
        self.asleep += self.pass(ticks());
    }

    fn pass(&mut self, now: u64) -> u64 {
        let passed = now.wrapping_sub(self.last);
        self.last = now;
        // A core whose counter was set back, as after a suspend, has lost that turn's time.
        if passed > u64::MAX / 2 { 0 } else { passed }
    }

    /// Copies the sums to where others read them.
    pub(super) fn publish(&mut self, to: &ReactorCounters) {
        if self.length == 0 || self.last.wrapping_sub(self.calibrated) >= CALIBRATE_EVERY {
            let (now, ticks) = (Instant::now(), ticks());
            self.calibrate(now.saturating_duration_since(self.start), ticks);
        }
        let set = |counter: &Counter, ticks: u64| {
            let nanos = (u128::from(ticks) * u128::from(self.length)) >> PLACES;
            // It never goes back, though a tick may turn out to be shorter than it seemed.
            counter.set(u64::try_from(nanos).unwrap_or(0).max(counter.value()));
        };
        set(&to.busy_nanos, self.busy);
        set(&to.idle_nanos, self.idle);
        set(&to.asleep_nanos, self.asleep);
    }

    fn calibrate(&mut self, since: Duration, ticks: u64) {
        self.calibrated = ticks;
        let passed = u128::from(ticks.wrapping_sub(self.first)).max(1);
        let length = (since.as_nanos() << PLACES) / passed;
        self.length = u64::try_from(length).unwrap_or(u64::MAX).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_become_nanoseconds_by_what_the_wall_clock_says() {
        let mut clock = Clock::at(Instant::now(), 1000);
        clock.busy = clock.pass(4000);
        clock.idle = clock.pass(5000);
        clock.asleep = clock.pass(11_000);
        // 10 000 ticks in 2 500 ns.
        clock.calibrate(Duration::from_nanos(2500), 11_000);
        let counters = ReactorCounters::default();
        clock.publish(&counters);
        let values = [
            &counters.busy_nanos,
            &counters.idle_nanos,
            &counters.asleep_nanos,
        ];
        assert_eq!(values.map(Counter::value), [750, 250, 1500]);
    }

    #[test]
    fn a_counter_that_is_set_back_costs_one_turn() {
        let mut clock = Clock::at(Instant::now(), 1000);
        assert_eq!(clock.pass(500), 0);
        assert_eq!(clock.pass(700), 200);
    }
}
