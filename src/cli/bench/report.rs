//! The results of `ringtgt bench`: for people, and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::initiator::latency::{Results, Side};
use crate::initiator::plan::{Access, Facts, Operation, Plan};

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
fn sides(results: &Results) -> Vec<(&'static str, Side)> {
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

/// The results as a table.
pub(super) fn text_of(plan: &Plan, facts: &Facts, results: &Results) -> String {
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
        "load         {}, {} order, {} bytes per command, {} outstanding on each of {} connection(s)",
        operation_name(plan.operation),
        access_name(plan.access),
        plan.block_size,
        plan.depth,
        plan.connections,
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
    line(format!(
        "measured     {:.3} s",
        results.elapsed.as_secs_f64()
    ));
    line(format!(
        "{:<10} {:>12} {:>11} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "", "commands/s", "MB/s", "mean µs", "min", "p50", "p99", "p99.9", "max"
    ));
    for (name, side) in sides(results) {
        line(row_of(name, &side, results));
    }
    if plan.verify {
        line(format!(
            "verified     {} reads, {} with wrong data",
            results.verified, results.mismatches
        ));
    }
    if results.refused > 0 {
        line(format!(
            "refused      {} commands ended in BUSY or TASK SET FULL",
            results.refused
        ));
    }
    if results.errors > 0 {
        line(format!("errors       {}", results.errors));
    }
    out
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
    for ns in [p.min, p.p50, p.p99, p.p999, p.max] {
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

/// The results as one JSON object.
pub(super) fn json_of(plan: &Plan, facts: &Facts, results: &Results) -> Value {
    let side = |side: &Side| {
        let p = side.percentiles();
        json!({
            "commands": side.commands,
            "bytes": side.bytes,
            "iops": per_second(side.commands, results),
            "bytes_per_second": per_second(side.bytes, results),
            "latency_ns": {
                "mean": p.mean, "min": p.min, "p50": p.p50, "p99": p.p99, "p99_9": p.p999, "max": p.max,
            },
        })
    };
    let negotiated = &facts.negotiated;
    json!({
        "url": plan.url.to_string(),
        "op": operation_name(plan.operation),
        "read_percent": match plan.operation {
            Operation::Read => 100,
            Operation::Write => 0,
            Operation::Mixed { read_percent } => read_percent,
        },
        "pattern": access_name(plan.access),
        "block_size": plan.block_size,
        "depth": plan.depth,
        "connections": plan.connections,
        "seed": plan.seed,
        "capacity_blocks": facts.blocks,
        "logical_block_size": facts.logical_block_size,
        "negotiated": {
            "header_digest": negotiated.header_digest,
            "data_digest": negotiated.data_digest,
            "initial_r2t": negotiated.initial_r2t,
            "immediate_data": negotiated.immediate_data,
            "max_burst_length": negotiated.max_burst_length,
            "first_burst_length": negotiated.first_burst_length,
            "max_outstanding_r2t": negotiated.max_outstanding_r2t,
            "max_send_data_segment_length": negotiated.max_send_data_segment_length,
            "max_recv_data_segment_length": negotiated.max_recv_data_segment_length,
        },
        "elapsed_seconds": results.elapsed.as_secs_f64(),
        "read": side(&results.read),
        "write": side(&results.write),
        "total": side(&results.total()),
        "errors": results.errors,
        "first_error": results.first_error,
        "refused": results.refused,
        "verified": results.verified,
        "mismatches": results.mismatches,
        "first_mismatch": results.first_mismatch,
    })
}
