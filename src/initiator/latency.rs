//! What a run measured.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Latencies up to here are told apart, in nanoseconds: one minute.
const LONGEST_NS: u64 = 60_000_000_000;

/// Commands of one direction.
#[derive(Clone, Debug)]
pub struct Side {
    /// Commands that ended in GOOD.
    pub commands: u64,
    /// Bytes they moved.
    pub bytes: u64,
    /// From submission, or with a fixed rate from the time it was due, to the receipt of the status; in nanoseconds.
    latency: Histogram<u64>,
}

impl Default for Side {
    fn default() -> Self {
        let latency = Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("bounds are in order");
        Self {
            commands: 0,
            bytes: 0,
            latency,
        }
    }
}

/// Latencies of one direction, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percentiles {
    /// Arithmetic mean.
    pub mean: f64,
    /// The least.
    pub min: u64,
    /// Half of all commands were at least this quick.
    pub p50: u64,
    /// 90 of 100 were.
    pub p90: u64,
    /// 99 of 100 were.
    pub p99: u64,
    /// 999 of 1000 were.
    pub p999: u64,
    /// 9999 of 10 000 were.
    pub p9999: u64,
    /// The greatest.
    pub max: u64,
}

impl Side {
    /// One command that moved `bytes` and took `latency`.
    pub fn record(&mut self, bytes: u64, latency_ns: u64) {
        self.commands += 1;
        self.bytes += bytes;
        self.latency
            .saturating_record(latency_ns.clamp(1, LONGEST_NS));
    }

    /// A command that has waited for `latency_ns` and was never issued: its latency would have been more.
    pub fn record_unissued(&mut self, latency_ns: u64) {
        self.latency
            .saturating_record(latency_ns.clamp(1, LONGEST_NS));
    }

    /// The latency, in nanoseconds, that a share of `quantile` (0 to 1) did not exceed.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> u64 {
        self.latency.value_at_quantile(quantile)
    }

    /// How many took at least `low` and less than `high` nanoseconds, to the histogram's precision.
    #[must_use]
    pub fn between(&self, low: u64, high: u64) -> u64 {
        self.latency
            .iter_recorded()
            .filter(|step| (low..high).contains(&step.value_iterated_to()))
            .map(|step| step.count_at_value())
            .sum()
    }

    /// Latencies recorded: the commands, and those that were never issued.
    #[must_use]
    pub fn latencies(&self) -> u64 {
        self.latency.len()
    }

    /// Adds what another side counted.
    pub fn add(&mut self, other: &Self) {
        self.commands += other.commands;
        self.bytes += other.bytes;
        self.latency
            .add(&other.latency)
            .expect("all sides have the same bounds");
    }

    /// Its latencies; all 0 when there was no command.
    #[must_use]
    pub fn percentiles(&self) -> Percentiles {
        Percentiles {
            mean: self.latency.mean(),
            min: if self.latency.is_empty() {
                0
            } else {
                self.latency.min()
            },
            p50: self.quantile(0.5),
            p90: self.quantile(0.9),
            p99: self.quantile(0.99),
            p999: self.quantile(0.999),
            p9999: self.quantile(0.9999),
            max: self.latency.max(),
        }
    }
}

/// What came of one stream of commands.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// How long was measured.
    pub elapsed: Duration,
    /// Reads.
    pub read: Side,
    /// Writes.
    pub write: Side,
    /// Commands that ended in anything but GOOD, BUSY or TASK SET FULL.
    pub errors: u64,
    /// Commands that ended in BUSY or TASK SET FULL and were issued anew.
    pub refused: u64,
    /// Commands of a fixed rate that were due but could not be issued before the end: the depth was reached.
    pub unissued: u64,
    /// Reads whose data was compared.
    pub verified: u64,
    /// Reads whose data was not what was written.
    pub mismatches: u64,
    /// The first error, in words.
    pub first_error: Option<String>,
    /// The first mismatch, in words.
    pub first_mismatch: Option<String>,
}

impl Results {
    /// Reads and writes together.
    #[must_use]
    pub fn total(&self) -> Side {
        let mut total = self.read.clone();
        total.add(&self.write);
        total
    }
}

/// The outcome of a run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Of every stream of commands, in the plan's order.
    pub works: Vec<Results>,
    /// What the generator's own thread got while it measured.
    pub client: Option<ClientTime>,
}

/// Time of the generator's own thread, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientTime {
    /// It ran.
    pub ran: u64,
    /// It could have run, but its core was given to somebody else.
    pub waited: u64,
}

/// How a run goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Since measuring began.
    pub elapsed: Duration,
    /// How long this step was.
    pub step: Duration,
    /// Commands of all streams that ended in it.
    pub commands: u64,
    /// Bytes they moved.
    pub bytes: u64,
    /// The longest of them took so many nanoseconds.
    pub longest_ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut side = Side::default();
        for micros in 1..=1000 {
            side.record(4096, micros * 1000);
        }
        let p = side.percentiles();
        assert_eq!((side.commands, side.bytes), (1000, 4_096_000));
        assert!(p.p50.abs_diff(500_000) < 1_000 && p.p99.abs_diff(990_000) < 2_000);
        assert!(p.p90.abs_diff(900_000) < 2_000 && p.p9999 >= 999_000);
        assert_eq!(side.between(0, 2_000_000), 1000);
        assert!(side.between(0, 500_000).abs_diff(500) <= 2);
        assert!(p.max >= 1_000_000 && p.mean > 499_000.0 && p.mean < 502_000.0);
    }

    #[test]
    fn an_empty_side_has_no_latency() {
        let p = Side::default().percentiles();
        assert_eq!((p.min, p.p50, p.p999, p.max), (0, 0, 0, 0));
    }
}
