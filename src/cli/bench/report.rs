//! The results of `ringtgt bench`: for people, and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::initiator::driver::Measured;
use crate::initiator::latency::{Progress, Results, Side};
use crate::initiator::plan::{Access, Operation, Plan, Work};

#[allow(clippy::cast_precision_loss, reason = "for people to read")]
fn per_second(count: u64, results: &Results) -> f64 {
    let elapsed = results.elapsed.as_secs_f64();
    if elapsed > 0.0 {
        count as f64 / elapsed
    } else {
        0.0
    }
}

/// The sides that had commands, and their sum if there are two.
pub(super) fn sides(results: &Results) -> Vec<(&'static str, Side)> {
    let mut sides = Vec::new();
    for (name, side) in [("read", &results.read), ("write", &results.write)] {
        if side.commands > 0 {
            sides.push((name, side.clone()));
        }
    }
    if sides.len() != 1 {
        sides.push(("total", results.total()));
    }
    sides
}

/// How it goes, as a line.
#[allow(clippy::cast_precision_loss, reason = "for people to read")]
pub(super) fn line_of(progress: &Progress) -> String {
    let step = progress.step.as_secs_f64().max(1e-9);
    format!(
        "{:>8.1} s {:>12.0} commands/s {:>9.1} MB/s, longest {:.1} µs\n",
        progress.elapsed.as_secs_f64(),
        progress.commands as f64 / step,
        progress.bytes as f64 / step / 1e6,
        progress.longest_ns as f64 / 1e3
    )
}

/// A stream of commands in words.
pub(super) fn describe(work: &Work) -> String {
    let rate = work.rate.map_or_else(String::new, |rate| {
        format!(", {rate} commands per second due")
    });
    format!(
        "{}, {} order, {} bytes per command, {} outstanding on each of {} connection(s){rate}",
        operation_name(work.operation),
        access_name(work.access),
        work.block_size,
        work.depth,
        work.connections,
    )
}

/// The results as a table.
pub(super) fn text_of(plan: &Plan, measured: &Measured) -> String {
    let (facts, outcome) = (&measured.facts, &measured.outcome);
    let mut out = String::new();
    let negotiated = &facts.negotiated;
    let digests = match (negotiated.header_digest, negotiated.data_digest) {
        (false, false) => "none",
        (true, false) => "header",
        (false, true) => "data",
        (true, true) => "header and data",
    };
    let mut line = |text: String| {
        out += &text;
        out.push('\n');
    };
    line(format!("target       {}", plan.url));
    line(format!(
        "capacity     {} blocks of {} bytes",
        facts.blocks, facts.logical_block_size
    ));
    line(format!(
        "session      digests: {digests}; InitialR2T {}; ImmediateData {}; burst {} / {}; segment out {} in {}",
        if negotiated.initial_r2t { "yes" } else { "no" },
        if negotiated.immediate_data {
            "yes"
        } else {
            "no"
        },
        negotiated.first_burst_length,
        negotiated.max_burst_length,
        negotiated.max_send_data_segment_length,
        negotiated.max_recv_data_segment_length,
    ));
    if let Some(results) = outcome.works.first() {
        line(format!(
            "measured     {:.3} s",
            results.elapsed.as_secs_f64()
        ));
    }
    if let Some(error) = &measured.ended_early {
        line(format!("ended early  {error}"));
    }
    for (work, results) in plan.works().zip(&outcome.works) {
        out += &table_of(plan, work, results);
    }
    out
}

fn table_of(plan: &Plan, work: &Work, results: &Results) -> String {
    let mut lines = vec![format!("load         {}", describe(work))];
    lines.push(format!(
        "{:<10} {:>12} {:>11} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "", "commands/s", "MB/s", "mean µs", "min", "p50", "p90", "p99", "p99.9", "p99.99", "max"
    ));
    for (name, side) in sides(results) {
        lines.push(row_of(name, &side, results));
    }
    if plan.verify {
        lines.push(format!(
            "verified     {} reads, {} with wrong data",
            results.verified, results.mismatches
        ));
    }
    if results.refused > 0 {
        lines.push(format!(
            "refused      {} commands ended in BUSY or TASK SET FULL",
            results.refused
        ));
    }
    if results.unissued > 0 {
        lines.push(format!(
            "not issued   {} commands were due, but the depth was reached; they count with the time they waited",
            results.unissued
        ));
    }
    if results.errors > 0 {
        lines.push(format!("errors       {}", results.errors));
    }
    lines.push(String::new());
    lines.join("\n")
}

#[allow(clippy::cast_precision_loss, reason = "for people to read")]
fn row_of(name: &str, side: &Side, results: &Results) -> String {
    let p = side.percentiles();
    let mut row = format!(
        "{name:<10} {:>12.0} {:>11.1} {:>9.1}",
        per_second(side.commands, results),
        per_second(side.bytes, results) / 1e6,
        p.mean / 1e3
    );
    for ns in [p.min, p.p50, p.p90, p.p99, p.p999, p.p9999, p.max] {
        let _ = write!(row, " {:>9.1}", ns as f64 / 1e3);
    }
    row
}

const fn access_name(access: Access) -> &'static str {
    match access {
        Access::Sequential => "sequential",
        Access::Random => "random",
    }
}

const fn operation_name(operation: Operation) -> &'static str {
    match operation {
        Operation::Read => "read",
        Operation::Write => "write",
        Operation::Mixed { .. } => "mixed",
    }
}

fn side_json(side: &Side, results: &Results) -> Value {
    let p = side.percentiles();
    json!({
        "commands": side.commands,
        "bytes": side.bytes,
        "iops": per_second(side.commands, results),
        "bytes_per_second": per_second(side.bytes, results),
        "latency_ns": {
            "mean": p.mean, "min": p.min, "p50": p.p50, "p90": p.p90, "p99": p.p99, "p99_9": p.p999,
            "p99_99": p.p9999, "max": p.max,
        },
    })
}

/// One stream of commands, and what came of it.
fn job_json(work: &Work, results: &Results) -> Value {
    json!({
        "op": operation_name(work.operation),
        "read_percent": match work.operation {
            Operation::Read => 100,
            Operation::Write => 0,
            Operation::Mixed { read_percent } => read_percent,
        },
        "pattern": access_name(work.access),
        "block_size": work.block_size,
        "depth": work.depth,
        "connections": work.connections,
        "rate": work.rate,
        "read": side_json(&results.read, results),
        "write": side_json(&results.write, results),
        "total": side_json(&results.total(), results),
        "errors": results.errors,
        "first_error": results.first_error,
        "refused": results.refused,
        "unissued": results.unissued,
        "verified": results.verified,
        "mismatches": results.mismatches,
        "first_mismatch": results.first_mismatch,
    })
}

/// The results as one JSON object.
pub(super) fn json_of(plan: &Plan, measured: &Measured) -> Value {
    let (facts, outcome) = (&measured.facts, &measured.outcome);
    let negotiated = &facts.negotiated;
    let jobs: Vec<Value> = plan
        .works()
        .zip(&outcome.works)
        .map(|(work, results)| job_json(work, results))
        .collect();
    // The first stream's keys are the object's own too: most runs have no other.
    let mut object = jobs.first().cloned().unwrap_or_else(|| json!({}));
    object["url"] = json!(plan.url.to_string());
    object["seed"] = json!(plan.seed);
    object["capacity_blocks"] = json!(facts.blocks);
    object["logical_block_size"] = json!(facts.logical_block_size);
    object["negotiated"] = json!({
        "header_digest": negotiated.header_digest,
        "data_digest": negotiated.data_digest,
        "initial_r2t": negotiated.initial_r2t,
        "immediate_data": negotiated.immediate_data,
        "max_burst_length": negotiated.max_burst_length,
        "first_burst_length": negotiated.first_burst_length,
        "max_outstanding_r2t": negotiated.max_outstanding_r2t,
        "max_send_data_segment_length": negotiated.max_send_data_segment_length,
        "max_recv_data_segment_length": negotiated.max_recv_data_segment_length,
    });
    let elapsed = outcome
        .works
        .first()
        .map_or(0.0, |results| results.elapsed.as_secs_f64());
    object["elapsed_seconds"] = json!(elapsed);
    object["client"] = outcome.client.map_or(
        Value::Null,
        |time| json!({ "ran_ns": time.ran, "waited_ns": time.waited }),
    );
    object["ended_early"] = json!(measured.ended_early.as_ref().map(ToString::to_string));
    object["jobs"] = Value::Array(jobs);
    object
}
