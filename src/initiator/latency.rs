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
    /// From submission to the receipt of the status, in nanoseconds.
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
    /// 99 of 100 were.
    pub p99: u64,
    /// 999 of 1000 were.
    pub p999: u64,
    /// The greatest.
    pub max: u64,
}

impl Side {
    /// One command that moved `bytes` and took `latency`.
    pub fn record(&mut self, bytes: u64, latency: Duration) {
        self.commands += 1;
        self.bytes += bytes;
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latency.saturating_record(ns.clamp(1, LONGEST_NS));
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
            min: if self.commands == 0 {
                0
            } else {
                self.latency.min()
            },
            p50: self.latency.value_at_quantile(0.5),
            p99: self.latency.value_at_quantile(0.99),
            p999: self.latency.value_at_quantile(0.999),
            max: self.latency.max(),
        }
    }
}

/// The outcome of a run.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut side = Side::default();
        for micros in 1..=1000 {
            side.record(4096, Duration::from_micros(micros));
        }
        let p = side.percentiles();
        assert_eq!((side.commands, side.bytes), (1000, 4_096_000));
        assert!(p.p50.abs_diff(500_000) < 1_000 && p.p99.abs_diff(990_000) < 2_000);
        assert!(p.max >= 1_000_000 && p.mean > 499_000.0 && p.mean < 502_000.0);
    }

    #[test]
    fn an_empty_side_has_no_latency() {
        let p = Side::default().percentiles();
        assert_eq!((p.min, p.p50, p.p999, p.max), (0, 0, 0, 0));
    }
}
