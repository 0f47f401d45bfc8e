//! `ringtgt doctor` on the machine that runs the tests, and the script that records machines.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn machine(name: &str) -> PathBuf {
    root().join("tests/data/machines").join(name)
}

fn doctor(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringtgt"));
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .arg("doctor")
        .args(arguments)
        .output()
        .expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

fn json(arguments: &[&str]) -> (Option<i32>, Value) {
    let (code, stdout, stderr) = doctor(&[arguments, &["--json"]].concat());
    let value = serde_json::from_str(&stdout);
    (
        code,
        value.unwrap_or_else(|e| panic!("{e}: {stdout}{stderr}")),
    )
}

/// Settings of the kernel that its commands would change.
fn settings() -> BTreeMap<PathBuf, Option<String>> {
    [
        "/proc/sys/vm/nr_hugepages",
        "/proc/sys/kernel/io_uring_disabled",
        "/proc/sys/net/core/somaxconn",
        "/proc/sys/net/ipv4/tcp_rmem",
        "/proc/sys/net/ipv4/tcp_slow_start_after_idle",
        "/proc/irq/default_smp_affinity",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/devices/virtual/workqueue/cpumask",
    ]
    .iter()
    .map(|place| (PathBuf::from(place), fs::read_to_string(place).ok()))
    .collect()
}

#[test]
fn it_runs_here_and_changes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("disk.img");
    fs::write(&path, [7; 8192]).expect("room");
    let missing = dir.path().join("none.img");
    let name = |path: &Path| path.to_str().expect("a path").to_owned();
    let before = settings();
    for line in [
        vec![],
        vec!["--poll".to_owned(), "busy".to_owned()],
        vec![name(&path), "--portal".to_owned(), "127.0.0.1:0".to_owned()],
        vec![name(&missing), "--size".to_owned(), "1G".to_owned()],
    ] {
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        let (code, text, stderr) = doctor(&line);
        let last = text.lines().last().unwrap_or_default();
        assert!(last.ends_with(" ok; nothing was changed"), "{text}{stderr}");
        assert_eq!(
            code,
            Some(i32::from(!last.starts_with("0 wrong"))),
            "{text}"
        );
        assert!(!text.contains('\x1b'), "no colour into a pipe");
    }
    assert_eq!(settings(), before);
    assert_eq!(fs::read(&path).expect("still there"), [7; 8192]);
    assert!(!missing.exists());
}

#[test]
fn what_cannot_be_served_is_wrong_and_the_exit_status_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let missing = dir.path().join("none.img");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let portal = taken.local_addr().expect("bound").to_string();
    let (code, report) = json(&[missing.to_str().expect("a path"), "--portal", &portal]);
    assert_eq!(code, Some(1));
    let findings = report["findings"].as_array().expect("an array");
    for check in ["file", "portal"] {
        let of = |finding: &&Value| finding["check"] == check;
        let finding = findings.iter().find(of).expect("it is checked");
        assert_eq!(finding["verdict"], "wrong", "{finding}");
        assert_ne!(finding["mend"].as_array().map(Vec::len), Some(0));
    }
    assert_eq!(report["wrong"], 2, "{report}");
}

#[test]
fn a_configuration_file_is_taken_and_its_mistakes_are_usage() {
    let (code, report) = json(&[
        machine("isolated")
            .join("config.json")
            .to_str()
            .expect("a path"),
        "--root",
        machine("isolated").to_str().expect("a path"),
    ]);
    assert_eq!((code, &report["wrong"]), (Some(0), &Value::from(0)));
    assert_eq!(report["reactors"][0]["core"], 2);
    // As `daemon` takes it.
    let named = json(&[
        "--config",
        machine("isolated")
            .join("config.json")
            .to_str()
            .expect("a path"),
        "--root",
        machine("isolated").to_str().expect("a path"),
    ]);
    assert_eq!(named, (code, report));
    let dir = tempfile::tempdir().expect("a directory");
    let bad = dir.path().join("bad.json");
    fs::write(&bad, "{\"storages\": 3}").expect("room");
    let bad = bad.to_str().expect("a path");
    for line in [
        &[bad][..],
        &["/nonesuch.json"],
        &[bad, "--poll", "busy"],
        &["--root", "/nonesuch"],
        &["--frobnicate"],
    ] {
        let (code, stdout, stderr) = doctor(line);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{line:?}");
        assert!(!stderr.is_empty());
    }
}

#[test]
fn help_teaches() {
    let (code, text, _) = doctor(&["--help"]);
    assert_eq!(code, Some(0));
    for want in [
        "Examples:",
        "--json",
        "record-machine",
        "changes nothing",
        "Exit codes: 0 nothing is wrong",
    ] {
        assert!(text.contains(want), "{want}\n{text}");
    }
}

/// Files below a directory with their content.
fn tree(top: &Path) -> BTreeMap<String, String> {
    fn walk(top: &Path, at: &Path, out: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(at).expect("readable") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                walk(top, &path, out);
            } else {
                let place = path.strip_prefix(top).expect("below").display().to_string();
                out.insert(place, fs::read_to_string(&path).expect("text"));
            }
        }
    }
    let mut out = BTreeMap::new();
    for part in ["proc", "sys"] {
        walk(top, &top.join(part), &mut out);
    }
    // An empty file says as much as none.
    out.retain(|_, text| !text.trim().is_empty());
    for text in out.values_mut() {
        text.truncate(text.trim_end().len());
    }
    out
}

fn record(from: Option<&Path>, to: &Path) -> Output {
    let mut command = Command::new(root().join("scripts/record-machine"));
    if let Some(from) = from {
        command.arg("--from").arg(from);
    }
    command.arg(to).output().expect("bash runs")
}

#[test]
fn a_recording_of_a_recording_is_the_same() {
    let dir = tempfile::tempdir().expect("a directory");
    for name in ["two-sockets", "container", "small-vm"] {
        let to = dir.path().join(name);
        assert!(record(Some(&machine(name)), &to).status.success());
        assert_eq!(tree(&to), tree(&machine(name)), "{name}");
        assert_eq!(
            record(Some(&machine(name)), &to).status.code(),
            Some(1),
            "it overwrites nothing"
        );
    }
}

#[test]
fn a_recording_keeps_no_secrets() {
    let dir = tempfile::tempdir().expect("a directory");
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    for (place, text) in [
        (
            "proc/cmdline",
            "root=UUID=SECRET isolcpus=2-3 token=SECRET quiet -- --key SECRET nohz_full=9",
        ),
        ("proc/self/cgroup", "0::/SECRET.slice/SECRET.service"),
        ("sys/fs/cgroup/SECRET.slice/cpu.max", "150000 100000"),
        (
            "proc/self/status",
            "Name:\tSECRET\nCpus_allowed_list:\t0-3\n",
        ),
        ("proc/cpuinfo", "processor\t: 0\nSerial\t\t: SECRET\n"),
        ("proc/77/comm", "SECRET"),
        ("sys/class/net/eth0/device/numa_node", "0"),
        ("sys/class/net/eth0/mtu", "1500"),
        ("sys/class/net/eth0/address", "SECRET"),
        ("sys/block/sda/size", "2048"),
        ("sys/block/sda/serial", "SECRET"),
        ("sys/block/sda/device/serial", "SECRET"),
        ("proc/sys/kernel/hostname", "SECRET"),
    ] {
        let place = from.join(place);
        fs::create_dir_all(place.parent().expect("below")).expect("room");
        fs::write(place, text).expect("room");
    }
    let done = record(Some(&from), &to);
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let kept = tree(&to);
    let secret =
        |(place, text): &(&String, &String)| place.contains("SECRET") || text.contains("SECRET");
    assert_eq!(kept.iter().find(secret), None);
    assert_eq!(kept["proc/cmdline"], "isolcpus=2-3");
    assert_eq!(kept["proc/self/cgroup"], "0::/level1/level2");
    assert_eq!(kept["sys/fs/cgroup/level1/cpu.max"], "150000 100000");
    assert_eq!(kept["sys/class/net/eth0/device/numa_node"], "0");
}

#[test]
fn this_machine_can_be_recorded_and_examined_from_the_recording() {
    let dir = tempfile::tempdir().expect("a directory");
    let to = dir.path().join("here");
    let done = record(None, &to);
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let (_, recorded) = json(&["--root", to.to_str().expect("a path")]);
    let (_, live) = json(&[]);
    assert_eq!(
        recorded["reactors"].as_array().map(Vec::len),
        live["reactors"].as_array().map(Vec::len)
    );
    let found = |report: &Value, check: &str| {
        let all = report["findings"].as_array().expect("an array");
        let of = all.iter().filter(|finding| finding["check"] == check);
        of.map(|finding| finding["found"].clone())
            .collect::<Vec<_>>()
    };
    for check in [
        "clocksource",
        "release",
        "governor",
        "transparent",
        "quota",
        "scheduler",
        "link",
    ] {
        assert_eq!(found(&recorded, check), found(&live, check), "{check}");
    }
}

#[test]
fn the_constructed_recordings_are_what_their_script_makes() {
    let dir = tempfile::tempdir().expect("a directory");
    let made = Command::new("python3")
        .arg(machine("make"))
        .arg(dir.path())
        .output();
    // Whoever has no Python cannot make others either.
    let Ok(made) = made else { return };
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    for name in [
        "two-sockets",
        "isolated",
        "one-core",
        "no-numa",
        "container",
    ] {
        assert_eq!(tree(&dir.path().join(name)), tree(&machine(name)), "{name}");
    }
}

#[test]
fn what_serve_refuses_is_wrong_in_the_same_words() {
    let dir = tempfile::tempdir().expect("a directory");
    let new = dir.path().join("new.img");
    let new = new.to_str().expect("a path");
    for (line, words) in [
        (&["x", "--backend", "ram"][..], "no size of its own"),
        (
            &["x", "--backend", "ram", "--size", "4096T"],
            "bytes of memory there are",
        ),
        (
            &["x", "--backend", "null", "--size", "1000"],
            "is not a multiple",
        ),
        (&[new, "--size", "1000"], "is not a multiple"),
    ] {
        let (code, text, _) = doctor(&[line, &["--portal", "127.0.0.1:0"]].concat());
        assert_eq!(code, Some(1), "{line:?}: {text}");
        let served = Command::new(env!("CARGO_BIN_EXE_ringtgt"))
            .arg("serve")
            .args(line)
            .args(["--portal", "127.0.0.1:0"])
            .output()
            .expect("it runs");
        let said = String::from_utf8(served.stderr).expect("text");
        assert!(said.contains(words), "{said}");
        // It may have been folded.
        let report = json(&[line, &["--portal", "127.0.0.1:0"]].concat())
            .1
            .to_string();
        assert!(report.contains(words), "{report}");
    }
    let portal = "127.0.0.1:3999";
    let twice = [
        "x",
        "--backend",
        "null",
        "--portal",
        portal,
        "--portal",
        portal,
    ];
    let (code, report) = json(&twice);
    assert_eq!(code, Some(1));
    assert!(
        report
            .to_string()
            .contains("is the address of another portal too")
    );
    let config = dir.path().join("two.json");
    let text = format!(
        r#"{{"storages": [{{"deviceID": 1, "path": "{new}", "size": "1M"}}, {{"deviceID": 2, "path": "{new}", "size": "1M"}}],
        "iscsiportals": [{{"id": 0, "portal": "127.0.0.1:0"}}],
        "iscsitargets": {{"iqn.2026-11.com.example:a": {{"tpgts": {{"1": [0]}}, "luns": {{"0": 1, "1": 2}}}}}}}}"#
    );
    fs::write(&config, text).expect("room");
    let (code, report) = json(&[config.to_str().expect("a path")]);
    assert_eq!(code, Some(1), "{report}");
    assert!(
        report.to_string().contains("it is already served"),
        "{report}"
    );
}
