//! A target that ended, however it did, can be started again at once on the same files.
#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, reason = "a test")]

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "tests' own numbers"
)]
mod common;

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::pair::BLOCK;
use common::wire::{Daemon, Peer, config};
use ringtgt::control::config::Storage;
use ringtgt::control::{BackendKind, PollPolicy, Settings};
use ringtgt::sys::file::lock;
use tempfile::TempDir;

const DISK: u64 = 1 << 20;

/// Directories on a disk and, where there is one, in memory.
fn places() -> Vec<TempDir> {
    let mut places = vec![tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()];
    places.extend(tempfile::tempdir_in("/dev/shm"));
    places
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

#[test]
fn a_file_is_free_when_the_stop_has_returned() {
    for place in places() {
        for kind in [BackendKind::IoUring, BackendKind::File] {
            let path = place.path().join(kind.name());
            for round in 0..10_u8 {
                let storage = Storage {
                    size: Some(DISK),
                    ..Storage::new(0, kind, path.clone())
                };
                let settings = Settings::default();
                let daemon = Daemon::start(storage, PollPolicy::Adaptive, 16 << 20, settings);
                let mut peer = Peer::log_in(daemon.address, config(1));
                peer.write(0, &[round; BLOCK]);
                assert_eq!(peer.read(0, BLOCK), [round; BLOCK]);
                assert!(!lock(&open(&path), true).unwrap(), "it is served");
                drop(peer);
                daemon.stop();
                let free = lock(&open(&path), true).unwrap();
                assert!(free, "{kind}, round {round}, in {:?}", place.path());
            }
        }
    }
}

/// Serves the file in another process, until that is ready.
fn serve(path: &Path) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ringtgt"))
        .arg("serve")
        .arg(path)
        .args(["--size", "1M", "--portal", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut lines = lines.map_while(Result::ok);
    assert!(lines.any(|line| line == "ready"), "see above");
    child
}

#[test]
fn a_killed_server_is_in_nobodys_way_and_a_living_one_is() {
    for place in places() {
        let path = place.path().join("disk");
        for _ in 0..5 {
            let mut child = serve(&path);
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let mut living = serve(&path);
        let other = Command::new(env!("CARGO_BIN_EXE_ringtgt"))
            .arg("serve")
            .arg(&path)
            .args(["--portal", "127.0.0.1:0"])
            .output()
            .unwrap();
        let said = String::from_utf8(other.stderr).unwrap();
        assert!(!other.status.success());
        assert!(
            said.contains("in use: another process has it locked"),
            "{said}"
        );
        living.kill().unwrap();
        living.wait().unwrap();
    }
}
