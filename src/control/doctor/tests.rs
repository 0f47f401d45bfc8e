//! The recorded machines, each with a configuration and what would have been found there by trying; and that every check
//! says ok of something and not ok of something.

use std::path::{Path, PathBuf};

use super::probe::{Place, Refusal, There};
use super::*;
use crate::sys::filesystem::FileSystem;
use crate::sys::ring::NoRing;

/// All of tests/data/machines.
pub(crate) const MACHINES: &[&str] = &[
    "container",
    "isolated",
    "no-numa",
    "one-core",
    "small-vm",
    "two-sockets",
];

pub(crate) fn directory(machine: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/machines")
        .join(machine)
}

/// What is to be served there, what its files say, and what trying would have shown.
pub(crate) fn recorded(machine: &str) -> (Config, Facts, Probed) {
    let text = std::fs::read_to_string(directory(machine).join("config.json"));
    let config = Config::parse(&text.expect("each has one"), None).expect("no mistakes");
    (config, Facts::read(&directory(machine)), probed(machine))
}

fn on(name: &str, gib: u64) -> FileSystem {
    FileSystem {
        name: name.to_owned(),
        free: gib << 30,
    }
}

fn file(gib: u64, on: FileSystem, disk: Option<&str>) -> Place {
    Place::There(There {
        bytes: gib << 30,
        allocated: 1 << 30,
        on,
        direct: Some(512),
        disk: disk.map(str::to_owned),
        ..There::default()
    })
}

fn device(gib: u64, unit: u32) -> Place {
    Place::There(There {
        is_device: true,
        bytes: gib << 30,
        allocated: gib << 30,
        on: on("tmpfs", 1),
        direct: Some(unit),
        disk: Some("nvme0n1".to_owned()),
        ..There::default()
    })
}

fn probed(machine: &str) -> Probed {
    let address = |name: &str, text: &str| (name.to_owned(), text.parse().expect("an address"));
    let denied = NoRing::Denied("Operation not permitted (os error 1)".to_owned());
    let usual = Probed {
        io_uring: Some(Ok(1024)),
        portals: vec![Ok(())],
        ..Probed::default()
    };
    match machine {
        "two-sockets" => Probed {
            addresses: vec![
                address("ens1f0", "192.0.2.10"),
                address("eno1", "198.51.100.7"),
            ],
            places: vec![
                (1, device(894, 512)),
                (2, file(100, on("ext4", 300), Some("sda"))),
            ],
            ..usual
        },
        "isolated" => Probed {
            addresses: vec![address("enp65s0", "192.0.2.10")],
            places: vec![(1, device(1788, 4096))],
            ..usual
        },
        "one-core" => Probed {
            places: vec![(1, Place::Missing(Some(on("ext4", 12))))],
            ..usual
        },
        "no-numa" => Probed {
            io_uring: Some(Err(denied)),
            portals: vec![Err(Refusal::Privileged)],
            addresses: vec![address("eth0", "192.0.2.20")],
            places: vec![(1, file(8, on("btrfs", 20), None))],
            ..usual
        },
        "container" => Probed {
            io_uring: Some(Err(denied)),
            places: vec![(1, file(4, on("overlay", 50), None))],
            ..usual
        },
        "small-vm" => Probed {
            portals: vec![Err(Refusal::Taken)],
            places: vec![(1, file(10, on("ext4", 100), Some("vda")))],
            ..usual
        },
        other => panic!("{other} is not described here"),
    }
}

/// Verdicts of one check.
fn verdicts(check: &str, case: &(Config, Facts, Probed)) -> Vec<Verdict> {
    let report = examine(&case.0, &case.1, &case.2);
    let of = report.findings.iter().filter(|f| f.check == check);
    of.map(|finding| finding.verdict).collect()
}

/// The one finding of a check.
fn finding(check: &str, case: &(Config, Facts, Probed)) -> Finding {
    let report = examine(&case.0, &case.1, &case.2);
    let mut of = report.findings.into_iter().filter(|f| f.check == check);
    let only = of.next().expect("it says something");
    assert_eq!(of.next(), None);
    only
}

/// A recording with something else about it.
fn changed(
    machine: &str,
    change: impl FnOnce(&mut Config, &mut Facts, &mut Probed),
) -> (Config, Facts, Probed) {
    let (mut config, mut facts, mut probed) = recorded(machine);
    change(&mut config, &mut facts, &mut probed);
    (config, facts, probed)
}

/// What the recordings as they are do not show.
fn variants() -> Vec<(Config, Facts, Probed)> {
    vec![
        changed("isolated", |config, facts, probed| {
            config.reactors.poll = PollPolicy::Event;
            config.reactors.cores = Some(vec![0, 1]);
            facts.clocks.0 = "hpet".to_owned();
            facts.set("net/ipv4/tcp_sack", "0");
            facts.set("net/core/busy_poll", "50");
            facts.set("net/ipv4/tcp_wmem", "4096\t16384\t1048576");
            facts.set("vm/overcommit_memory", "2");
            facts.commit_left = 1 << 20;
            facts.machine.limits.nofile = 256;
            facts.swap = 1 << 30;
            facts.machine.topology.set_hugepages(0, 0, 0);
            facts.machine.limits.memlock = Some(0);
            probed.portals = vec![Err(Refusal::Nowhere)];
        }),
        changed("two-sockets", |config, facts, _| {
            config.reactors.cores = Some(vec![4, 5, 12]);
            for irq in &mut facts.interrupts {
                irq.cores = vec![6];
            }
            facts.set("kernel/numa_balancing", "0");
            facts.disks.retain(|disk| disk.name == "nvme0n1");
            facts.disks[0].polls = true;
        }),
        changed("one-core", |_, facts, _| {
            facts.machine.limits.memory.available = 4 << 20;
        }),
        changed("isolated", |config, _, _| {
            config.reactors.cores = Some(vec![9]);
        }),
        changed("small-vm", |_, _, probed| {
            probed.places[0].1 = Place::Missing(None);
        }),
        changed("isolated", |config, _, _| {
            config.storages[0].block_size = crate::units::BlockSize::B512;
        }),
    ]
}

#[test]
fn every_check_says_ok_of_something_and_not_ok_of_something() {
    let mut cases: Vec<_> = MACHINES.iter().map(|machine| recorded(machine)).collect();
    cases.extend(variants());
    let mut one_sided = Vec::new();
    for check in table::CHECKS {
        let seen = cases.iter().flat_map(|case| verdicts(check.name, case));
        let seen: Vec<Verdict> = seen.collect();
        if !seen.contains(&Verdict::Ok) || seen.iter().all(|v| *v == Verdict::Ok) {
            one_sided.push((check.name, seen));
        }
    }
    assert!(one_sided.is_empty(), "{one_sided:?}");
}

#[test]
fn whatever_is_not_ok_says_what_to_do() {
    let mut cases: Vec<_> = MACHINES.iter().map(|machine| recorded(machine)).collect();
    cases.extend(variants());
    for (config, facts, probed) in cases {
        for finding in examine(&config, &facts, &probed).findings {
            let is_ok = finding.verdict == Verdict::Ok;
            assert_eq!(finding.mend.is_empty(), is_ok, "{finding:?}");
            assert!(!finding.why.is_empty() && !finding.found.is_empty());
        }
    }
}

#[test]
fn every_check_has_a_name_of_its_own_and_groups_are_together() {
    let mut groups: Vec<Group> = table::CHECKS.iter().map(|check| check.group).collect();
    groups.dedup();
    assert_eq!(groups.len(), 7, "each group once: {groups:?}");
    let mut names: Vec<&str> = table::CHECKS.iter().map(|check| check.name).collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
}

#[test]
fn a_machine_that_was_set_up_well_has_nothing_to_mend() {
    let (config, facts, probed) = recorded("isolated");
    let report = examine(&config, &facts, &probed);
    let bad: Vec<_> = report
        .findings
        .iter()
        .filter(|f| f.verdict != Verdict::Ok)
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(report.boot_parameters().is_empty());
}

#[test]
fn a_quota_is_wrong_for_spinning_reactors_and_a_pity_for_others() {
    assert_eq!(
        finding("quota", &recorded("container")).verdict,
        Verdict::Wrong
    );
    let patient = changed("container", |config, _, _| {
        config.reactors.poll = PollPolicy::Adaptive
    });
    assert_eq!(finding("quota", &patient).verdict, Verdict::Better);
}

#[test]
fn kernel_parameters_name_the_cores_of_this_machine_and_their_siblings() {
    let (config, facts, probed) = recorded("two-sockets");
    let parameters = examine(&config, &facts, &probed).boot_parameters();
    for want in [
        "isolcpus=managed_irq,domain,0-3,8-11",
        "nohz_full=0-3,8-11",
        "rcu_nocbs=0-3,8-11",
        "irqaffinity=4-7,12-15",
    ] {
        assert!(
            parameters.iter().any(|p| p == want),
            "{want}: {parameters:?}"
        );
    }
    let few = changed("isolated", |config, facts, _| {
        config.reactors.cores = Some(vec![1, 2]);
        facts.tickless = vec![2, 3];
    });
    let tick = finding("tick", &few);
    assert_eq!(tick.mend, [Mend::Boot("nohz_full=1-3".to_owned())]);
}

#[test]
fn the_last_core_is_never_taken_from_the_machine() {
    let all = changed("no-numa", |config, _, _| {
        config.reactors.cores = Some(vec![0, 1, 2, 3]);
        config.reactors.poll = PollPolicy::Busy;
    });
    let isolation = finding("isolation", &all);
    assert_eq!(
        isolation.mend,
        [Mend::Boot("isolcpus=managed_irq,domain,1-3".to_owned())]
    );
    assert_eq!(finding("reactors", &all).verdict, Verdict::Better);
    let one = changed("one-core", |config, _, _| {
        config.reactors.poll = PollPolicy::Busy
    });
    let report = examine(&one.0, &one.1, &one.2);
    assert!(
        report.boot_parameters().is_empty(),
        "{:?}",
        report.boot_parameters()
    );
}

#[test]
fn huge_pages_are_asked_for_where_the_reactors_are() {
    let case = recorded("two-sockets");
    let command =
        "echo 512 > /sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages";
    assert_eq!(
        finding("huge pages", &case).mend,
        [Mend::Run(command.to_owned())]
    );
    let small = recorded("no-numa");
    let pages = finding("huge pages", &small);
    assert_eq!(
        pages.mend,
        [Mend::Run("sysctl vm.nr_hugepages=384".to_owned())]
    );
    assert!(pages.found.contains("4 KiB pages"), "{}", pages.found);
}

#[test]
fn the_pages_that_the_pools_would_get_are_said_as_values() {
    let of = |case: (Config, Facts, Probed)| {
        let report = examine(&case.0, &case.1, &case.2);
        (report.backing(), report.registered)
    };
    let (pages, registered) = of(recorded("isolated"));
    assert_eq!(pages, "in reserved 2 MiB huge pages");
    assert_eq!(registered, Some(true));
    let (pages, registered) = of(recorded("two-sockets"));
    assert!(
        pages.contains("512 MiB in transparent huge pages"),
        "{pages}"
    );
    assert_eq!(registered, Some(false));
    let (pages, registered) = of(recorded("no-numa"));
    assert_eq!((pages.as_str(), registered), ("in 4 KiB pages", None));
}

#[test]
fn cores_that_cannot_be_had_are_wrong_and_nothing_else_is_said_of_them() {
    let case = changed("isolated", |config, _, _| {
        config.reactors.cores = Some(vec![2, 9])
    });
    let reactors = finding("reactors", &case);
    assert_eq!(reactors.verdict, Verdict::Wrong);
    assert!(
        reactors.found.contains("may not run on core 9"),
        "{}",
        reactors.found
    );
    assert!(verdicts("isolation", &case).is_empty());
}

#[test]
fn files_that_cannot_be_served_are_wrong() {
    let there = |change: fn(&mut There)| {
        changed("two-sockets", |_, _, probed| {
            let (_, place) = probed.places.last_mut().expect("the file");
            if let Place::There(there) = place {
                change(there);
            }
        })
    };
    for (case, want) in [
        (there(|file| file.is_used = true), "is in use"),
        (there(|file| file.is_read_only = true), "cannot be written"),
        (there(|file| file.bytes = 1000), "no whole blocks of 512"),
        (there(|file| file.bytes = 0), "no whole blocks"),
    ] {
        let report = examine(&case.0, &case.1, &case.2);
        let wrong = |f: &&Finding| f.verdict == Verdict::Wrong && f.found.contains(want);
        assert_eq!(report.findings.iter().filter(wrong).count(), 1, "{want}");
    }
    for (place, want) in [
        (Place::Missing(None), "its directory does not exist"),
        (Place::Missing(Some(on("ext4", 1))), "does not exist"),
        (
            Place::Unusable("Permission denied".to_owned()),
            "Permission denied",
        ),
    ] {
        let case = changed("small-vm", |_, _, probed| probed.places[0].1 = place);
        let found = finding("file", &case);
        assert_eq!(found.verdict, Verdict::Wrong);
        assert!(found.found.contains(want), "{}", found.found);
    }
}

#[test]
fn a_device_whose_blocks_are_larger_than_the_luns_goes_through_the_page_cache() {
    let case = changed("isolated", |config, _, _| {
        config.storages[0].block_size = crate::units::BlockSize::B512;
    });
    let cache = finding("page cache", &case);
    assert_eq!(cache.verdict, Verdict::Better);
    assert!(cache.found.contains("4096"), "{}", cache.found);
}

#[test]
fn disks_below_a_mapped_device_are_the_ones_that_count() {
    let case = changed("two-sockets", |_, facts, probed| {
        facts.disks.push(super::devices::Disk {
            name: "dm-0".to_owned(),
            below: vec!["sda".to_owned(), "nvme0n1".to_owned()],
            ..Default::default()
        });
        probed.places = vec![(2, file(100, on("ext4", 300), Some("dm-0")))];
    });
    let distance = finding_of("disk's distance", "nvme0n1", &case);
    assert_eq!(distance.verdict, Verdict::Better);
    assert_eq!(
        finding_of("disk's distance", "sda", &case).verdict,
        Verdict::Ok
    );
}

fn finding_of(check: &str, what: &str, case: &(Config, Facts, Probed)) -> Finding {
    let report = examine(&case.0, &case.1, &case.2);
    let found = |f: &Finding| f.check == check && f.found.contains(what);
    report
        .findings
        .into_iter()
        .find(found)
        .expect("it is spoken of")
}

#[test]
fn clocks_are_judged_by_what_reading_them_costs() {
    let with = |clock: &'static str, tsc: bool| {
        let case = changed("isolated", |_, facts, _| {
            facts.clocks.0 = clock.to_owned();
            facts.clocks.1.retain(|other| tsc || other != "tsc");
        });
        let finding = finding("clocksource", &case);
        (
            finding.verdict,
            matches!(finding.mend.first(), Some(Mend::Run(_))),
        )
    };
    assert_eq!(with("tsc", true), (Verdict::Ok, false));
    assert_eq!(with("kvm-clock", true), (Verdict::Better, true));
    assert_eq!(with("hpet", true), (Verdict::Wrong, true));
    assert_eq!(with("hpet", false), (Verdict::Wrong, false));
}

#[test]
fn general_advice_is_about_all_disks_and_the_fastest_card() {
    let (_, facts, _) = recorded("two-sockets");
    let report = examine(&Config::default(), &facts, &Probed::default());
    let of = |check: &str| {
        let all = report.findings.iter().filter(|f| f.check == check);
        all.map(|f| f.found.clone()).collect::<Vec<_>>()
    };
    assert_eq!(of("scheduler").len(), 2);
    assert_eq!(of("link").len(), 1);
    assert!(of("link")[0].starts_with("ens1f0"), "{:?}", of("link"));
}

#[test]
fn lists_of_cores_are_written_so_that_a_shell_takes_them_apart() {
    assert_eq!(braces(&[3]), "3");
    assert_eq!(braces(&[2, 3, 4]), "{2..4}");
    assert_eq!(braces(&[0, 2]), "{0,2}");
}

#[test]
fn a_ring_that_memlock_has_no_room_for_is_told_from_one_that_is_denied() {
    let with = |ring: Result<u32, NoRing>| {
        let case = changed("isolated", |_, _, probed| probed.io_uring = Some(ring));
        finding("io_uring", &case)
    };
    for short in [Ok(256), Err(NoRing::NoMemory)] {
        let found = with(short);
        assert_eq!(found.verdict, Verdict::Better, "{found:?}");
        assert!(found.found.contains("RLIMIT_MEMLOCK"), "{found:?}");
        assert!(
            found
                .mend
                .contains(&Mend::Run("ulimit -l unlimited".to_owned()))
        );
    }
    for other in [NoRing::Missing, NoRing::Denied("EPERM".to_owned())] {
        let found = with(Err(other));
        assert_eq!(found.verdict, Verdict::Better, "{found:?}");
        assert!(!format!("{found:?}").contains("memlock"), "{found:?}");
    }
    assert_eq!(with(Ok(1024)).verdict, Verdict::Ok);
}
