//! `ringtgt bench` and its ceiling, as programs.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
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

/// A run that would take ten minutes, and measures already.
struct Endless {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Endless {
    fn start(ceiling: &Ceiling, options: &[&str]) -> Self {
        let mut child = ringtgt()
            .args(["bench", &ceiling.url, "--warmup", "0", "--seconds", "600"])
            .args(["--interval", "0.02"])
            .args(options)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
        let mut line = String::new();
        stderr.read_line(&mut line).expect("text");
        assert!(line.contains("commands/s"), "{line}");
        Self { child, stderr }
    }

    fn signal(&self, signal: &str) {
        send(signal, &self.child);
    }

    /// Its exit status, what it printed, and the last line of its standard error.
    fn ended(mut self) -> (Option<i32>, String, String) {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        // All of standard error first: the results are short enough to wait in their pipe.
        self.stderr.read_to_string(&mut stderr).expect("text");
        let mut results = self.child.stdout.take().expect("piped");
        results.read_to_string(&mut stdout).expect("text");
        let status = self.child.wait().expect("it ends");
        let last = stderr.lines().last().unwrap_or_default().to_owned();
        (status.code(), stdout, last)
    }
}

fn send(signal: &str, child: &Child) {
    let status = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status();
    assert!(status.expect("kill runs").success());
}

/// What was measured until `reason` ended it.
fn assert_partial(json: &str, reason: &str) {
    let found: Value = serde_json::from_str(json).expect("JSON");
    let why = found["ended_early"].as_str().expect("a reason");
    assert!(why.contains(reason), "{why}");
    assert!(found["total"]["commands"].as_u64() > Some(0), "{found}");
    assert!(found["total"]["latency_ns"]["p50"].as_u64() > Some(0));
    let elapsed = found["elapsed_seconds"].as_f64().expect("a number");
    assert!((0.02..600.0).contains(&elapsed), "{elapsed}");
}

#[test]
fn what_was_measured_until_the_target_died_is_not_lost() {
    for json in [true, false] {
        let mut ceiling = Ceiling::start(&[]);
        let run = Endless::start(&ceiling, if json { &["--json"] } else { &["--picture"] });
        ceiling.child.kill().expect("it runs");
        let (code, stdout, error) = run.ended();
        assert_eq!(code, Some(1), "{error}");
        assert!(error.starts_with("ringtgt: connection 0: "), "{error}");
        if json {
            assert_partial(&stdout, "connection 0: ");
        } else {
            assert!(stdout.contains("ended early  connection 0: "), "{stdout}");
            assert!(stdout.contains("latency, µs"), "{stdout}");
        }
    }
}

#[test]
fn a_signal_ends_the_run_with_what_was_measured() {
    let ceiling = Ceiling::start(&[]);
    for (signal, options) in [
        ("-INT", &["--json"][..]),
        ("-TERM", &["--json", "--op", "mixed", "--verify"]),
        ("-INT", &["--json", "--rate", "1000"]),
        ("-INT", &["--json", "--busy", "no"]),
    ] {
        let run = Endless::start(&ceiling, options);
        run.signal(signal);
        let (code, stdout, error) = run.ended();
        assert_eq!(code, Some(1), "{options:?}: {error}");
        assert_eq!(error, "ringtgt: stopped by a signal");
        assert_partial(&stdout, "stopped by a signal");
    }
    ceiling.ends_well();
}

#[test]
fn a_target_that_hangs_does_not_keep_what_was_measured() {
    let ceiling = Ceiling::start(&[]);
    let run = Endless::start(&ceiling, &["--json"]);
    send("-STOP", &ceiling.child);
    run.signal("-INT");
    let (code, stdout, error) = run.ended();
    assert_eq!(code, Some(1), "{error}");
    assert_partial(&stdout, "stopped by a signal");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let ceiling = Ceiling::start(&[]);
    let dir = tempfile::tempdir().expect("a directory");
    let fifo = dir.path().join("nobody-reads-it");
    let made = Command::new("mkfifo").arg(&fifo).status();
    assert!(made.expect("mkfifo runs").success());
    let fifo = fifo.to_str().expect("a path");
    let mut run = Endless::start(&ceiling, &["--json", "--svg", fifo]);
    run.signal("-INT");
    let mut results = String::new();
    let mut stdout = BufReader::new(run.child.stdout.take().expect("piped"));
    stdout.read_line(&mut results).expect("text");
    assert_partial(&results, "stopped by a signal");
    // It waits for a reader of its drawing, and would for ever.
    while run.child.try_wait().expect("a child").is_none() {
        run.signal("-INT");
    }
    let mut stderr = String::new();
    run.stderr.read_to_string(&mut stderr).expect("text");
    assert!(stderr.ends_with("ringtgt: ended at once\n"), "{stderr}");
    assert_eq!(run.child.wait().expect("it ended").code(), Some(1));
    ceiling.ends_well();
}

#[test]
fn results_that_nobody_reads_are_no_failure() {
    let ceiling = Ceiling::start(&[]);
    for option in ["--json", "--picture"] {
        let mut run = ringtgt()
            .args(["bench", &ceiling.url, "--warmup", "0", "--count", "100"])
            .arg(option)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        drop(run.stdout.take());
        let done = run.wait_with_output().expect("it ends");
        assert_eq!(done.status.code(), Some(0), "{done:?}");
        assert!(done.stderr.is_empty(), "{done:?}");
    }
    ceiling.ends_well();
}

#[test]
fn options_that_do_not_fit_the_target_or_the_machine_are_a_mistake() {
    let ceiling = Ceiling::start(&[]);
    for (options, want) in [
        (["--span", "512"], "too few"),
        (["--core", "1000"], "core 1000"),
    ] {
        let done = ringtgt()
            .args(["bench", &ceiling.url])
            .args(options)
            .output()
            .expect("it runs");
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(want), "{stderr}");
    }
    ceiling.ends_well();
}

/// A login to a target that wants no digests.
fn agree_to_no_digests(mut stream: TcpStream) {
    loop {
        let mut request = [0; 48];
        if stream.read_exact(&mut request).is_err() {
            return;
        }
        let len = u32::from_be_bytes([0, request[5], request[6], request[7]]) as usize;
        let mut text = vec![0; len.next_multiple_of(4)];
        stream.read_exact(&mut text).expect("its text");
        // A Login Response (RFC 7143, section 11.13) that goes where the request wants to go.
        let mut answer = [0; 48];
        (answer[0], answer[1]) = (0x23, request[1]);
        answer[8..14].copy_from_slice(&request[8..14]);
        answer[15] = 1;
        answer[16..20].copy_from_slice(&request[16..20]);
        answer[24..28].copy_from_slice(&request[28..32]);
        answer[28..32].copy_from_slice(&request[24..28]);
        answer[32..36].copy_from_slice(&request[24..28]);
        let keys = b"HeaderDigest=None\0DataDigest=None\0\0\0";
        answer[7] = 34;
        let answer = [&answer[..], keys].concat();
        stream.write_all(&answer).expect("it listens");
    }
}

#[test]
fn a_target_without_digests_is_told_from_one_that_is_broken() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("iscsi://{}/iqn.x", listener.local_addr().expect("bound"));
    let serving = std::thread::spawn(move || {
        for _ in 0..2 {
            agree_to_no_digests(listener.accept().expect("a client").0);
        }
    });
    for option in ["--header-digest", "--data-digest"] {
        let done = ringtgt()
            .args(["bench", &url, option])
            .output()
            .expect("it runs");
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{stderr}");
        let hint = format!("Digest=None, which cannot be accepted (leave out {option})\n");
        assert!(stderr.ends_with(&hint), "{stderr}");
    }
    serving.join().expect("it served");
}

#[test]
fn help_says_what_the_exit_statuses_are() {
    for help in ["-h", "--help"] {
        let done = ringtgt().args(["bench", help]).output().expect("it runs");
        let text = String::from_utf8_lossy(&done.stdout);
        for want in ["Exit status:", "0  every", "1  some", "2  the options"] {
            assert!(text.contains(want), "{help}: {text}");
        }
    }
}

#[test]
fn options_that_do_not_go_together_are_a_mistake() {
    for options in [
        &[][..],
        &["iscsi://127.0.0.1/iqn.x", "--rate", "1000", "--busy", "no"],
        &["iscsi://127.0.0.1/iqn.x", "--also", "depth=8,deep"],
        &["iscsi://127.0.0.1/iqn.x", "--ceiling-loop", "naive"],
        &["--ceiling=nowhere"],
        &["--ceiling", "--core", "1000"],
        &["iscsi://127.0.0.1/iqn.x", "--seconds", "0"],
        &["iscsi://127.0.0.1/iqn.x", "--interval", "0"],
    ] {
        let done = ringtgt()
            .arg("bench")
            .args(options)
            .output()
            .expect("it runs");
        assert_eq!(done.status.code(), Some(2), "{options:?}");
    }
}
