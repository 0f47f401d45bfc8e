//! The program itself: exit codes, what it prints, and how it ends.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

fn ringtgt() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ringtgt"))
}

fn output(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = ringtgt().args(arguments).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

/// Starts `serve` and waits until it is ready; gives what it printed.
fn serve(path: &Path, arguments: &[&str]) -> (Child, String) {
    let mut child = ringtgt()
        .arg("serve")
        .arg(path)
        .args(["--portal", "127.0.0.1:0"])
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut printed = String::new();
    let mut lines = BufReader::new(child.stdout.take().expect("piped"));
    while !printed.ends_with("\nready\n") {
        if lines.read_line(&mut printed).expect("text") == 0 {
            let mut errors = String::new();
            let _ = child
                .stderr
                .take()
                .expect("piped")
                .read_to_string(&mut errors);
            panic!("it ended before it was ready: {printed}{errors}");
        }
    }
    (child, printed)
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill")
        .args([name, &child.id().to_string()])
        .status();
    assert!(status.expect("kill runs").success());
}

#[test]
fn help_is_no_mistake_and_nonsense_is() {
    let (code, stdout, _) = output(&["--help"]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("Examples:") && stdout.contains("serve") && stdout.contains("daemon"));
    for nonsense in [
        &[][..],
        &["frobnicate"],
        &["serve"],
        &["serve", "x", "--size", "1Q"],
    ] {
        assert_eq!(output(nonsense).0, Some(2), "{nonsense:?}");
    }
}

#[test]
fn every_mistake_of_a_configuration_gets_a_line_and_nothing_starts() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("bad.json");
    let text = r#"{"storages": [{"deviceID": 1, "path": "/a"}, {"deviceID": 1, "path": "/b"}],
        "iscsiportals": [{"id": 0, "portal": "127.0.0.1:0"}],
        "iscsitargets": {"iqn.2026-11.com.example:a": {"tpgts": {"1": [4]}, "luns": {"0": 7}}}}"#;
    std::fs::write(&path, text).expect("room");
    let (code, _, stderr) = output(&["daemon", "--config", path.to_str().expect("a path")]);
    assert_eq!(code, Some(2), "{stderr}");
    assert_eq!(stderr.lines().count(), 3, "{stderr}");
    for want in [
        "storages[1].deviceID: 1 is the number of another storage too",
        r#"iscsitargets."iqn.2026-11.com.example:a".tpgts."1"[0]: no portal has id 4"#,
        r#"iscsitargets."iqn.2026-11.com.example:a".luns."0": no storage has deviceID 7"#,
    ] {
        assert!(stderr.contains(want), "{want}\n{stderr}");
    }
}

#[test]
fn both_signals_end_it_with_status_0() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("disk.img");
    for name in ["-TERM", "-INT"] {
        let (mut child, printed) = serve(
            &path,
            &["--size", "1M", "--iqn", "iqn.2026-11.com.example:d"],
        );
        assert!(
            printed.contains("target     iqn.2026-11.com.example:d\n"),
            "{printed}"
        );
        assert!(printed.contains(", 1 MiB, "), "{printed}");
        // There is nothing to reload yet, and nothing ends.
        signal(&child, "-HUP");
        signal(&child, "-USR1");
        signal(&child, name);
        assert_eq!(child.wait().expect("it ends").code(), Some(0), "{name}");
        assert_eq!(
            std::fs::metadata(&path).expect("it was made").len(),
            1 << 20
        );
    }
}

/// Who reads the log may go away, and the disk it is on may fill up.
#[test]
fn a_log_that_nobody_can_write_ends_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, log) in [("full", Some("/dev/full")), ("gone", None)] {
        let path = dir.path().join(name);
        let stderr = match log {
            Some(log) => std::fs::File::options()
                .write(true)
                .open(log)
                .expect("a device")
                .into(),
            None => Stdio::from(std::io::pipe().expect("a pipe").1),
        };
        let mut child = ringtgt()
            .arg("serve")
            .arg(&path)
            .args(["--portal", "127.0.0.1:0", "--size", "1M", "--log", "debug"])
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("it runs");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let portal = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| Some(line.strip_prefix("portal     ")?.to_owned()))
            .expect("it says where it listens");
        assert!(lines.map_while(Result::ok).any(|line| line == "ready"));
        for _ in 0..3 {
            // Each ends with a line in the log.
            let mut stream = std::net::TcpStream::connect(&portal).expect("it listens");
            stream.write_all(&[0xff; 48]).expect("sent");
            let _ = stream.read_to_end(&mut Vec::new());
        }
        signal(&child, "-USR1");
        std::net::TcpStream::connect(&portal).expect("it still listens");
        signal(&child, "-TERM");
        assert_eq!(child.wait().expect("it ends").code(), Some(0), "{name}");
    }
}

#[test]
fn what_cannot_be_served_is_said_in_one_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("disk.img");
    let name = path.to_str().expect("a path");
    let refused = |arguments: &[&str], want: &str| {
        let line = [&["serve", name, "--portal", "127.0.0.1:0"], arguments].concat();
        let (code, _, stderr) = output(&line);
        assert_eq!((code, stderr.lines().count()), (Some(1), 1), "{stderr}");
        assert!(stderr.contains(want), "{stderr}");
    };
    refused(&[], "does not exist; give a size (--size)");
    let (mut child, _) = serve(&path, &["--size", "1M"]);
    refused(&[], "already served");
    signal(&child, "-TERM");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    refused(&["--size", "2M"], "it has 1048576 bytes, not 2097152");
    refused(&["--cores", "4000"], "may not run on core 4000");
}
