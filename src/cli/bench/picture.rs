//! Pictures of latencies: blocks for a terminal, and a drawing by percentile.

use std::fmt::Write as _;

use super::report::{describe, sides};
use crate::initiator::latency::{Outcome, Side};
use crate::initiator::plan::Plan;

/// Rows of a terminal picture, at most.
const ROWS: u32 = 18;
/// Columns of its longest bar.
const COLUMNS: f64 = 48.0;
/// Parts of a block, from an eighth up.
const EIGHTHS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];

/// Size of a drawing, in pixels.
const WIDTH: f64 = 820.0;
const HEIGHT: f64 = 440.0;
/// What is left free around its axes.
const MARGIN: f64 = 60.0;
/// Shares of the commands that the drawing's lower axis names.
const MARKS: [(f64, &str); 6] = [
    (0.0, "0"),
    (0.9, "p90"),
    (0.99, "p99"),
    (0.999, "p99.9"),
    (0.9999, "p99.99"),
    (0.99999, "p99.999"),
];
/// Colours of lines, in turn: told apart by people who see few of them.
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

#[allow(clippy::cast_precision_loss, reason = "for people to look at")]
const fn float(number: u64) -> f64 {
    number as f64
}

/// The name and latencies of everything that was measured.
fn curves(plan: &Plan, outcome: &Outcome) -> Vec<(String, Side)> {
    let mut curves = Vec::new();
    for (work, results) in plan.works().zip(&outcome.works) {
        for (name, side) in sides(results) {
            if side.latencies() > 0 && (name != "total" || curves.is_empty()) {
                curves.push((format!("{name} of: {}", describe(work)), side));
            }
        }
    }
    curves
}

/// How latencies are distributed: a row for each range, ranges that grow by a constant factor.
pub(super) fn text_of(plan: &Plan, outcome: &Outcome) -> String {
    let mut out = String::new();
    for (name, side) in curves(plan, outcome) {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "latency, µs  {name}");
        out += &rows_of(&side);
    }
    out
}

fn rows_of(side: &Side) -> String {
    let p = side.percentiles();
    let (min, max) = (float(p.min.max(1)), float(p.max.max(2)));
    // The smallest of a few factors that gets by with the rows there are.
    let factor = [1.1, 1.25, 1.5, 2.0, 4.0]
        .into_iter()
        .find(|factor| (max / min).log(*factor) < f64::from(ROWS))
        .unwrap_or(10.0);
    let mut ranges = Vec::new();
    let mut low = min;
    while low <= max {
        let high = low * factor;
        ranges.push((low, high, side.between(whole(low), whole(high))));
        low = high;
    }
    let most = ranges.iter().map(|range| range.2).max().unwrap_or(1).max(1);
    let (mut so_far, mut out) = (0, String::new());
    for (low, high, count) in ranges {
        so_far += count;
        let share = |part: u64| 100.0 * float(part) / float(side.latencies().max(1));
        let _ = writeln!(
            out,
            "{:>9.1} – {:<9.1} {:>8.4} % {:>9.4} %  {}",
            low / 1e3,
            high / 1e3,
            share(count),
            share(so_far),
            bar(float(count) / float(most))
        );
    }
    out
}

/// A bar for a part (0 to 1) of the longest; whatever is not nothing can be seen.
fn bar(part: f64) -> String {
    let eighths = whole((part * COLUMNS * 8.0).ceil());
    let mut bar: String = (0..eighths / 8).map(|_| EIGHTHS[7]).collect();
    bar.extend((eighths % 8).checked_sub(1).and_then(|rest| {
        let index = usize::try_from(rest).ok()?;
        EIGHTHS.get(index)
    }));
    bar
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "latencies and lengths: not negative, far below 2^64"
)]
const fn whole(number: f64) -> u64 {
    number as u64
}

/// Latency (logarithmic) by percentile (each nine as wide as the one before), as SVG.
pub(super) fn svg_of(plan: &Plan, outcome: &Outcome) -> String {
    let curves = curves(plan, outcome);
    let bounds = curves.iter().map(|(_, side)| side.percentiles());
    let (low, high) = bounds.fold((f64::MAX, 1.0_f64), |(low, high), p| {
        (low.min(float(p.min.max(1))), high.max(float(p.max)))
    });
    let low = if curves.is_empty() { 1.0 } else { low };
    let (first, last) = (low.log10().floor(), high.log10().ceil());
    let axes = Axes {
        first,
        decades: (last - first).max(1.0),
    };
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    axes.draw(&mut out);
    for (number, (name, side)) in (0u32..).zip(&curves) {
        let colour = COLOURS[number as usize % COLOURS.len()];
        let points: String = (0..=500)
            .map(|step| 1.0 - 10f64.powf(-f64::from(step) / 100.0))
            .map(|quantile| {
                let (x, y) = (
                    axes.x(quantile),
                    axes.y(float(side.quantile(quantile).max(1))),
                );
                format!("{x:.1},{y:.1} ")
            })
            .collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n\
             <text x=\"{}\" y=\"{}\" fill=\"{colour}\">{name}</text>",
            MARGIN + 8.0,
            18.0 + 15.0 * f64::from(number)
        );
    }
    out + "</svg>\n"
}

/// Where values lie on the drawing.
struct Axes {
    /// Decimal exponent of the lowest latency, in nanoseconds.
    first: f64,
    decades: f64,
}

impl Axes {
    fn x(&self, quantile: f64) -> f64 {
        let nines = -(1.0 - quantile).max(1e-5).log10();
        MARGIN + nines / 5.0 * (WIDTH - 2.0 * MARGIN)
    }

    fn y(&self, ns: f64) -> f64 {
        let up = (ns.log10() - self.first) / self.decades;
        HEIGHT - MARGIN - up * (HEIGHT - 2.0 * MARGIN)
    }

    fn draw(&self, out: &mut String) {
        let (left, right, floor) = (MARGIN, WIDTH - MARGIN, HEIGHT - MARGIN);
        let mut exponent = self.first;
        while exponent <= self.first + self.decades {
            let y = self.y(10f64.powf(exponent));
            let _ = writeln!(
                out,
                "<line x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\n\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{} µs</text>",
                left - 4.0,
                y + 4.0,
                10f64.powf(exponent - 3.0)
            );
            exponent += 1.0;
        }
        for (quantile, name) in MARKS {
            let x = self.x(quantile);
            let _ = writeln!(
                out,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{MARGIN}\" y2=\"{floor}\" stroke=\"#ddd\"/>\n\
                 <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{name}</text>",
                floor + 16.0
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::initiator::latency::Results;

    fn side() -> Side {
        let mut side = Side::default();
        for micros in 1..=1000 {
            side.record(4096, 10_000 + micros * 10);
        }
        side.record(4096, 9_000_000);
        side
    }

    fn plan() -> Plan {
        let args = crate::cli::bench::tests::parse(&[]).unwrap();
        crate::cli::bench::plan(&args).unwrap()
    }

    #[test]
    fn every_latency_is_in_one_row() {
        let rows = rows_of(&side());
        assert!(rows.lines().count() <= 20, "{rows}");
        let shares: f64 = rows
            .lines()
            .map(|row| {
                row.split_whitespace()
                    .nth(3)
                    .unwrap()
                    .parse::<f64>()
                    .unwrap()
            })
            .sum();
        assert!((shares - 100.0).abs() < 0.01, "{rows}");
        assert!(rows.lines().last().unwrap().ends_with("▏"), "{rows}");
        assert!(rows.contains("100.0000 %"), "{rows}");
    }

    #[test]
    fn a_drawing_has_a_line_for_each_stream_and_grows_to_the_right() {
        let results = Results {
            read: side(),
            ..Results::default()
        };
        let outcome = Outcome {
            works: vec![results],
            client: None,
        };
        let svg = svg_of(&plan(), &outcome);
        assert_eq!(svg.matches("<polyline").count(), 1);
        let points = svg
            .split("points=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap();
        let points: Vec<(f64, f64)> = points
            .split_whitespace()
            .map(|point| point.split_once(',').unwrap())
            .map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()))
            .collect();
        assert!(
            points
                .windows(2)
                .all(|two| two[0].0 <= two[1].0 && two[0].1 >= two[1].1)
        );
        assert!(svg.ends_with("</svg>\n"));
    }

    #[test]
    fn nothing_measured_is_no_picture_and_no_panic() {
        let outcome = Outcome {
            works: vec![Results::default()],
            client: None,
        };
        assert_eq!(text_of(&plan(), &outcome), "");
        assert!(!svg_of(&plan(), &outcome).contains("polyline"));
    }
}
