//! The house rules that a compiler does not check: who may import whom, and which words stay where.

use std::fs;
use std::path::{Path, PathBuf};

/// Module of the crate, and the modules of ours that it may import (besides itself).
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("cli", &["control", "initiator", "units"]),
    ("initiator", &["pdu", "buffer", "stats", "sys", "units"]),
    (
        "control",
        &[
            "reactor", "session", "scsi", "backend", "buffer", "stats", "sys", "units",
        ],
    ),
    (
        "reactor",
        &["session", "backend", "buffer", "stats", "sys", "units"],
    ),
    (
        "session",
        &["pdu", "scsi", "backend", "buffer", "stats", "units"],
    ),
    ("scsi", &["backend", "units"]),
    ("backend", &["buffer", "sys", "units"]),
    ("buffer", &["sys", "units"]),
    ("pdu", &[]),
    ("stats", &[]),
    ("units", &[]),
    ("sys", &[]),
];

/// A word, the places that may say it (module or module/file), and why nobody else may.
const WORDS: &[(&str, &[&str], &str)] = &[
    ("unsafe ", &["sys"], "unsafe lives in sys"),
    (
        "Instant::now",
        &["reactor", "control", "cli", "initiator"],
        "time is a parameter",
    ),
    (
        "SystemTime::now",
        &["control", "cli", "initiator"],
        "time is a parameter",
    ),
    (
        "mio::",
        &["reactor", "control", "initiator"],
        "sockets belong to the shell",
    ),
    ("io_uring::", &["sys"], "the ring is driven from sys"),
    ("libc::", &["sys"], "system calls live in sys"),
    (
        "serde",
        &["control", "cli"],
        "the data plane parses no JSON",
    ),
    (
        "Mutex",
        &["control", "backend/offload.rs", "backend/fault.rs"],
        "the data plane takes no lock",
    ),
    ("RwLock", &["control"], "the data plane takes no lock"),
    (
        "Condvar",
        &["control", "backend/offload.rs", "backend/fault.rs"],
        "the data plane takes no lock",
    ),
    (
        "tracing::",
        &["control", "cli", "initiator"],
        "the data plane logs nothing",
    ),
    (
        "println!",
        &["cli", "control"],
        "only the command line talks",
    ),
    ("dbg!", &[], "left over"),
    ("todo!", &[], "not done is not merged"),
    ("unimplemented!", &[], "not done is not merged"),
    ("super::super", &[], "the shared type belongs lower"),
    ("prelude::*", &[], "names are imported where they are used"),
];

fn sources() -> Vec<PathBuf> {
    fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("src is readable") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                out.push(path);
            }
        }
    }
    let mut out = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut out);
    out.sort();
    assert!(out.len() > 20, "the walk finds the sources");
    out
}

/// The file's path below `src`, and its lines before its tests, without comments.
fn code_of(path: &Path) -> (String, Vec<(usize, String)>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let name = path
        .strip_prefix(&root)
        .expect("below src")
        .to_string_lossy()
        .into_owned();
    let text = fs::read_to_string(path).expect("readable");
    let lines = text
        .lines()
        .enumerate()
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
        .map(|(i, line)| (i + 1, line.split("//").next().unwrap_or("").to_owned()))
        .collect();
    (name, lines)
}

fn module_of(name: &str) -> &str {
    name.split('/')
        .next()
        .unwrap_or(name)
        .trim_end_matches(".rs")
}

fn is_test_file(name: &str) -> bool {
    name.ends_with("tests.rs") || name.contains("/tests/")
}

/// The names after each `crate::` in a line, with `crate::{a, b}` taken apart.
fn crate_imports(line: &str) -> Vec<String> {
    let mut out = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let before = line[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &line[at + "crate::".len()..];
        let names: Vec<&str> = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or("").split(',').collect(),
            None => vec![rest],
        };
        for name in names {
            let name: String = name
                .trim()
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            if !name.is_empty() {
                out.push(name);
            }
        }
    }
    out
}

#[test]
fn imports_point_down() {
    let mut wrong = Vec::new();
    for path in sources() {
        let (name, lines) = code_of(&path);
        let module = module_of(&name);
        if module == "lib" || module == "main" || is_test_file(&name) {
            continue;
        }
        let (_, allowed) = MAY_IMPORT
            .iter()
            .find(|(m, _)| *m == module)
            .unwrap_or_else(|| panic!("module {module} has no row in MAY_IMPORT"));
        for (number, line) in lines {
            for import in crate_imports(&line) {
                let ours = MAY_IMPORT.iter().any(|(m, _)| *m == import);
                if ours && import != module && !allowed.contains(&import.as_str()) {
                    wrong.push(format!(
                        "src/{name}:{number}: {module} may not import {import}"
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn words_stay_where_they_belong() {
    let mut wrong = Vec::new();
    for path in sources() {
        let (name, lines) = code_of(&path);
        if is_test_file(&name) {
            continue;
        }
        for (number, line) in lines {
            for (word, places, why) in WORDS {
                let at_home = places.iter().any(|p| *p == module_of(&name) || *p == name);
                if line.contains(word) && !at_home {
                    wrong.push(format!("src/{name}:{number}: `{}`: {why}", word.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn a_file_is_a_sitting() {
    let long: Vec<String> = sources()
        .iter()
        .map(|path| code_of(path))
        .filter(|(name, lines)| !is_test_file(name) && name != "pdu/bhs.rs" && lines.len() > 520)
        .map(|(name, lines)| format!("src/{name}: {} lines before its tests", lines.len()))
        .collect();
    assert!(long.is_empty(), "split it:\n{}", long.join("\n"));
}

#[test]
fn every_dependency_says_why() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .expect("manifest");
    let mut inside = false;
    let mut previous = "";
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.contains("dependencies]");
        } else if inside && line.contains('=') {
            assert!(previous.starts_with('#'), "no reason above: {line}");
        }
        previous = line;
    }
}

#[test]
fn tests_wait_for_conditions_and_not_for_time() {
    let mut wrong = Vec::new();
    for path in sources() {
        let text = fs::read_to_string(&path).expect("readable");
        for (i, line) in text.lines().enumerate() {
            // Control asks every few milliseconds for a lock, or huge pages, that nothing announces.
            let may =
                path.ends_with("src/backend/claim.rs") || path.ends_with("src/control/plan.rs");
            if line.contains("thread::sleep") && !may {
                wrong.push(format!("{}:{}", path.display(), i + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "thread::sleep in:\n{}", wrong.join("\n"));
}

#[test]
fn the_import_scanner_sees_lists_and_paths() {
    assert_eq!(
        crate_imports("use crate::{pdu::x, units};"),
        ["pdu", "units"]
    );
    assert_eq!(crate_imports("let x = crate::sys::cpu::pin();"), ["sys"]);
    assert_eq!(crate_imports("$crate::foo mycrate::bar"), [] as [&str; 0]);
}
