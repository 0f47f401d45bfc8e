use super::*;
use crate::control::doctor::tests::{MACHINES, directory, recorded};

fn report_of(machine: &str) -> Report {
    let (config, facts, probed) = recorded(machine);
    examine(&config, &facts, &probed)
}

/// `UPDATE=1` writes what it says now; the difference is to be read.
#[test]
fn what_it_says_of_each_recorded_machine_is_as_it_was() {
    for machine in MACHINES {
        let text = text_of("config.json", &report_of(machine), false);
        let place = directory(machine).join("doctor.txt");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&place, &text).expect("room");
        }
        let was = std::fs::read_to_string(&place).unwrap_or_default();
        assert!(text == was, "{}: now it is\n{text}", place.display());
    }
}

#[test]
fn every_recorded_machine_is_looked_at() {
    let all = std::fs::read_dir(directory("")).expect("there");
    let all = all.filter_map(|entry| Some(entry.ok()?.path()).filter(|path| path.is_dir()));
    assert_eq!(all.count(), MACHINES.len());
}

#[test]
fn json_says_the_same_as_the_text() {
    for machine in MACHINES {
        let report = report_of(machine);
        let json = json_of(&report);
        let findings = json["findings"].as_array().expect("an array");
        assert_eq!(findings.len(), report.findings.len());
        assert_eq!(json["wrong"], report.count(Verdict::Wrong));
        for (json, finding) in findings.iter().zip(&report.findings) {
            assert_eq!(json["verdict"], finding.verdict.name());
            assert_eq!(
                json["mend"].as_array().map(Vec::len),
                Some(finding.mend.len())
            );
        }
    }
    let json = json_of(&report_of("two-sockets"));
    assert!(
        json["kernelCommandLine"]
            .as_str()
            .is_some_and(|line| line.contains("nohz_full="))
    );
}

#[test]
fn colour_adds_escapes_and_changes_nothing_else() {
    let report = report_of("two-sockets");
    let plain = text_of("x", &report, false);
    let coloured = text_of("x", &report, true);
    assert!(!plain.contains('\x1b') && coloured.contains("\x1b[33m"));
    let mut bare = coloured.replace("\x1b[0m", "");
    for colour in ["32", "33", "31;1"] {
        bare = bare.replace(&format!("\x1b[{colour}m"), "");
    }
    assert_eq!(bare, plain);
}
