//! `ringtgt bench` and its ceiling, as programs.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

fn ringtgt() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ringtgt"))
}

/// A ceiling that ends with the test.
struct Ceiling {
    child: Child,
    url: String,
}

impl Ceiling {
    fn start(options: &[&str]) -> Self {
        let mut child = ringtgt()
            .args(["bench", "--ceiling"])
            .args(options)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut url = String::new();
        BufReader::new(child.stdout.take().expect("piped"))
            .read_line(&mut url)
            .expect("text");
        let url = url.trim().to_owned();
        assert!(url.starts_with("iscsi://127.0.0.1:"), "{url}");
        Self { child, url }
    }

    /// Runs the load generator against it; gives its JSON.
    fn measured(&self, options: &[&str]) -> Value {
        let done = ringtgt()
            .args(["bench", &self.url, "--warmup", "0", "--json"])
            .args(options)
            .output()
            .expect("it runs");
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{options:?}: {stderr}");
        serde_json::from_slice(&done.stdout).expect("JSON")
    }

    fn ends_well(mut self) {
        let status = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status();
        assert!(status.expect("kill runs").success());
        assert_eq!(self.child.wait().expect("it ends").code(), Some(0));
    }
}

impl Drop for Ceiling {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_ceiling_answers_every_shape_in_both_ways() {
    for way in ["best", "naive"] {
        let ceiling = Ceiling::start(&["--ceiling-loop", way, "--first-burst", "64k"]);
        for shape in [
            &["--op", "mixed", "--connections", "3"][..],
            &["--op", "mixed", "--header-digest", "--data-digest"],
            &["--op", "write", "--block-size", "256k", "--depth", "4"],
            &[
                "--op",
                "read",
                "--block-size",
                "1m",
                "--depth",
                "2",
                "--max-recv",
                "64k",
            ],
            &[
                "--op",
                "write",
                "--immediate",
                "no",
                "--initial-r2t",
                "yes",
                "--busy",
                "no",
            ],
        ] {
            let options = [shape, &["--count", "500"]].concat();
            let found = ceiling.measured(&options);
            assert_eq!(found["total"]["commands"], 500, "{way} {options:?}");
            assert_eq!(found["errors"], 0, "{way} {options:?}");
            assert_eq!(found["negotiated"]["first_burst_length"], 65_536);
        }
        ceiling.ends_well();
    }
}

#[test]
fn a_second_stream_and_a_fixed_rate_are_reported() {
    let ceiling = Ceiling::start(&[]);
    let dir = tempfile::tempdir().expect("a directory");
    let svg = dir.path().join("latency.svg");
    let found = ceiling.measured(&[
        "--rate",
        "5000",
        "--depth",
        "8",
        "--count",
        "1000",
        "--also",
        "op=write,block-size=64k,depth=2,connections=2",
        "--svg",
        svg.to_str().expect("a path"),
    ]);
    assert_eq!(found["rate"], 5000.0);
    let jobs = found["jobs"].as_array().expect("streams");
    assert_eq!((jobs.len(), &jobs[1]["block_size"]), (2, &65_536.into()));
    assert!(jobs[1]["write"]["commands"].as_u64() > Some(0));
    assert_eq!(jobs[0]["total"], found["total"]);
    // All commands of a fixed rate are accounted for, whether the machine kept up or not.
    let sum = |key: &str| found[key].as_u64().expect("a number");
    assert_eq!(
        found["total"]["commands"].as_u64().expect("a number") + sum("unissued"),
        1000
    );
    assert!(found["elapsed_seconds"].as_f64() > Some(0.199));
    let latency = &found["total"]["latency_ns"];
    for (lower, higher) in [
        ("min", "p50"),
        ("p50", "p90"),
        ("p90", "p99"),
        ("p99", "p99_9"),
        ("p99_9", "p99_99"),
        ("p99_99", "max"),
    ] {
        assert!(
            latency[lower].as_u64() <= latency[higher].as_u64(),
            "{latency}"
        );
    }
    assert!(
        std::fs::read_to_string(svg)
            .expect("drawn")
            .contains("<polyline")
    );
    ceiling.ends_well();
}

#[test]
fn people_get_a_table_and_a_picture() {
    let ceiling = Ceiling::start(&[]);
    let done = ringtgt()
        .args([
            "bench",
            &ceiling.url,
            "--seconds",
            "0.2",
            "--warmup",
            "0",
            "--picture",
            "--interval",
            "0.05",
        ])
        .output()
        .expect("it runs");
    let (stdout, stderr) = (
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr),
    );
    assert!(done.status.success(), "{stderr}");
    for want in ["p99.99", "latency, µs", "█", " % "] {
        assert!(stdout.contains(want), "{want}\n{stdout}");
    }
    assert!(stderr.contains("commands/s"), "{stderr}");
    ceiling.ends_well();
}

/// What others make of it, where they are installed.
#[test]
fn libiscsi_finds_the_ceiling() {
    let ceiling = Ceiling::start(&[]);
    let portal = ceiling
        .url
        .splitn(4, '/')
        .take(3)
        .collect::<Vec<_>>()
        .join("/");
    for (program, argument, want) in [
        (
            "iscsi-ls",
            portal.as_str(),
            "iqn.2026-11.io.ringtgt:ceiling",
        ),
        ("iscsi-inq", ceiling.url.as_str(), "ringtgt"),
        ("iscsi-readcapacity16", ceiling.url.as_str(), "1073741824"),
    ] {
        let Ok(done) = Command::new(program).arg(argument).output() else {
            // Not installed.
            continue;
        };
        let stdout = String::from_utf8_lossy(&done.stdout);
        assert!(
            done.status.success() && stdout.contains(want),
            "{program}: {done:?}"
        );
    }
    ceiling.ends_well();
}

#[test]
fn options_that_do_not_go_together_are_a_mistake() {
    for options in [
        &[][..],
        &["iscsi://127.0.0.1/iqn.x", "--rate", "1000", "--busy", "no"],
        &["iscsi://127.0.0.1/iqn.x", "--also", "depth=8,deep"],
        &["iscsi://127.0.0.1/iqn.x", "--ceiling-loop", "naive"],
        &["--ceiling=nowhere"],
    ] {
        let done = ringtgt()
            .arg("bench")
            .args(options)
            .output()
            .expect("it runs");
        assert_eq!(done.status.code(), Some(2), "{options:?}");
    }
}
