use std::path::{Path, PathBuf};

use super::*;
use crate::sys::machine::Machine;
use crate::sys::memory::Memory;

const PLENTY: Limits = Limits {
    memlock: None,
    nofile: 1 << 20,
    cpu_time: None,
    memory: Memory {
        total: 64 << 30,
        available: 60 << 30,
    },
};

fn machine(description: &str) -> Topology {
    Topology::synthetic(description).expect("hwloc understands it")
}

fn recorded(name: &str) -> Machine {
    let root: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/data/machines", name]
        .iter()
        .collect();
    let machine = Machine::read(&root);
    assert!(
        !machine.topology.cores.is_empty(),
        "{} is recorded",
        root.display()
    );
    machine
}

fn placed(topology: &Topology, wishes: &Wishes) -> Placement {
    place(topology, &PLENTY, wishes).expect("there is room")
}

fn wishes() -> Wishes {
    Wishes::default()
}

fn asked(cores: &[u32]) -> Wishes {
    Wishes {
        cores: Some(cores.to_vec()),
        ..wishes()
    }
}

fn with_sqpoll(wishes: Wishes, sqpoll: Sqpoll) -> Wishes {
    Wishes { sqpoll, ..wishes }
}

fn threads(placement: &Placement) -> Vec<Option<u32>> {
    placement
        .reactors
        .iter()
        .map(|placed| placed.sqpoll)
        .collect()
}

#[test]
fn one_core_is_left_to_the_machine_when_there_are_more_than_two() {
    for (description, cores) in [
        ("core:1 pu:1", vec![0]),
        ("core:2 pu:1", vec![0, 1]),
        ("core:3 pu:1", vec![1, 2]),
        ("core:4 pu:1", vec![1, 2, 3]),
    ] {
        assert_eq!(
            placed(&machine(description), &wishes()).cores(),
            cores,
            "{description}"
        );
    }
}

#[test]
fn of_siblings_one_gets_a_reactor() {
    // Threads 0 and 1 are one physical core, and so on.
    assert_eq!(
        placed(&machine("core:4 pu:2"), &wishes()).cores(),
        [2, 4, 6]
    );
    assert_eq!(placed(&machine("core:2 pu:2"), &wishes()).cores(), [0, 2]);
    assert_eq!(
        placed(&machine("core:1 pu:2"), &wishes()).cores(),
        [0, 1],
        "all there is"
    );
    let placement = placed(&machine("core:2 pu:2"), &asked(&[0, 1, 2]));
    assert_eq!(placement.cores(), [0, 1, 2], "who asks gets");
    assert!(
        placement
            .notes
            .iter()
            .any(|n| n.starts_with("cores 0-1 are hardware threads"))
    );
}

#[test]
fn isolated_cores_come_first_and_all_of_them() {
    let mut four = machine("core:4 pu:1");
    four.set_isolated(&[2, 3]);
    // The kernel starts every process on the others.
    four.set_allowed(&[0, 1], &[0, 1, 2, 3]);
    let placement = placed(&four, &wishes());
    assert_eq!(placement.cores(), [2, 3]);
    assert_eq!(placement.reactors[0].why, "isolated");
    assert_eq!(
        (placement.worker_cores, placement.shares_cores),
        (vec![0, 1], false)
    );
    // taskset, or a cpuset with some of them: somebody chose.
    four.set_allowed(&[1], &[0, 1, 2, 3]);
    assert_eq!(placed(&four, &wishes()).cores(), [1]);
    four.set_allowed(&[2], &[0, 1, 2, 3]);
    assert_eq!(placed(&four, &wishes()).cores(), [2]);
    assert_eq!(
        placed(&four, &asked(&[0, 3])).cores(),
        [0, 3],
        "but it can be reached"
    );
}

#[test]
fn a_core_that_is_off_or_not_allowed_is_refused_by_name() {
    let mut four = machine("core:4 pu:1");
    four.set_allowed(&[0, 1], &[0, 1, 3]);
    four.cores[1].online = false;
    let refusal = place(&four, &PLENTY, &asked(&[0, 1, 2])).expect_err("two are not there");
    let sentence = "this process may not run on core 1-2; it may on 0,3";
    assert_eq!(refusal.to_string(), sentence);
    assert_eq!(
        place(&four, &PLENTY, &asked(&[9])).map_err(|r| r.to_string().contains("core 9;")),
        Err(true)
    );
    four.set_allowed(&[], &[]);
    assert_eq!(place(&four, &PLENTY, &wishes()), Err(Refusal::NoCore));
}

#[test]
fn memory_comes_from_the_node_of_the_core() {
    let two = machine("package:2 numa:1(memory=32GB) core:4 pu:1");
    let placement = placed(&two, &wishes());
    assert!(placement.is_numa);
    let at: Vec<_> = placement
        .reactors
        .iter()
        .map(|p| (p.core, p.node))
        .collect();
    assert_eq!(at, [(1, 0), (2, 0), (3, 0), (4, 1), (5, 1), (6, 1), (7, 1)]);
    assert!(placement.reactors.iter().all(|p| p.bytes == 256 << 20));
    assert_eq!(placement.bytes(), 7 * (256 << 20));
}

#[test]
fn reactors_near_the_interface_come_first() {
    let two = machine("package:2 numa:1(memory=32GB) core:2 pu:1");
    let near = Wishes {
        near: vec![Hint {
            node: 1,
            what: "eth0".to_owned(),
        }],
        ..wishes()
    };
    let placement = placed(&two, &near);
    assert_eq!(placement.cores(), [2, 3, 1]);
    assert_eq!(placement.reactors[0].why, "allowed, near eth0");
    assert_eq!(placement.reactors[2].why, "allowed");
    // Where there is no room for all, those far away are left out.
    let limits = Limits {
        cpu_time: Some(2),
        ..PLENTY
    };
    let fewer = place(&two, &limits, &near).expect("room");
    assert_eq!(fewer.cores(), [2, 3]);
    assert!(fewer.notes.iter().any(|n| n.contains("time for 2 cores")));
}

#[test]
fn a_wished_for_node_is_kept_to_if_it_is_there() {
    let two = machine("package:2 numa:1(memory=32GB) core:2 pu:1");
    let on = |node| Wishes {
        node: Some(node),
        ..wishes()
    };
    assert_eq!(placed(&two, &on(1)).cores(), [2, 3]);
    let placement = placed(&two, &on(5));
    assert_eq!(placement.cores(), [1, 2, 3]);
    assert_eq!(
        placement.notes[0],
        "NUMA node 5 has no core this process may use"
    );
}

#[test]
fn a_control_group_bounds_reactors_and_their_memory() {
    let eight = machine("core:8 pu:1");
    let limits = |cpu_time, total, available| Limits {
        cpu_time,
        memory: Memory { total, available },
        ..PLENTY
    };
    let small = limits(None, 256 << 20, 240 << 20);
    let placement = place(&eight, &small, &wishes()).expect("room");
    assert_eq!(placement.reactors.len(), 7);
    assert!(placement.bytes() <= (240 << 20) / 2 + 7 * (2 << 20));
    let tiny = limits(None, 64 << 20, 0);
    let placement = place(&eight, &tiny, &wishes()).expect("one always");
    assert_eq!(
        (placement.reactors.len(), placement.reactors[0].bytes),
        (1, 16 << 20)
    );
    assert_eq!(
        placement.notes[0],
        "there is memory for 1 reactors, not for 7"
    );
    let half = limits(Some(1), 8 << 30, 8 << 30);
    assert_eq!(place(&eight, &half, &wishes()).expect("room").cores(), [1]);
    let placement = place(&eight, &half, &asked(&[1, 2])).expect("who asks gets");
    assert_eq!(placement.cores(), [1, 2]);
    assert!(placement.notes[0].contains("has time for 1 of the 2 cores"));
}

#[test]
fn a_pool_is_256_mib_an_eighth_or_what_was_asked_for() {
    let one = machine("core:1 pu:1");
    let of = |total: u64, available: u64, asked: Option<u64>| {
        let limits = Limits {
            memory: Memory { total, available },
            ..PLENTY
        };
        let wishes = Wishes {
            bytes_per_node: asked,
            ..wishes()
        };
        let placement = place(&one, &limits, &wishes).expect("room");
        let about = |note: &&String| note.contains("per reactor");
        let note = placement.notes.iter().find(about).cloned();
        (placement.reactors[0].bytes >> 20, note)
    };
    assert_eq!(of(64 << 30, 60 << 30, None), (256, None));
    assert_eq!(of(1 << 30, 900 << 20, None), (128, None));
    assert_eq!(of(64 << 30, 60 << 30, Some(1 << 30)), (1024, None));
    let (bytes, note) = of(64 << 30, 60 << 30, Some(1 << 20));
    assert_eq!(bytes, 16);
    assert!(note.expect("a note").contains("too few: raised to 16 MiB"));
    let (bytes, note) = of(8 << 30, 64 << 20, None);
    assert_eq!(bytes, 32);
    assert!(
        note.expect("a note")
            .contains("32 MiB of buffers per reactor instead of 256 MiB")
    );
}

#[test]
fn buffers_of_a_node_are_shared_by_its_reactors() {
    let two = machine("package:2 numa:1(memory=32GB) core:2 pu:1");
    let wishes = Wishes {
        bytes_per_node: Some(256 << 20),
        ..wishes()
    };
    let mib: Vec<_> = placed(&two, &wishes)
        .reactors
        .iter()
        .map(|p| p.bytes >> 20)
        .collect();
    assert_eq!(mib, [256, 128, 128], "core 1 is alone on its node");
}

#[test]
fn huge_pages_are_counted_per_node_and_shared_evenly() {
    let mut two = machine("package:2 numa:1(memory=32GB) core:2 pu:1");
    two.set_hugepages(1, 200, 150);
    let placement = placed(&two, &asked(&[0, 2, 3]));
    let pages: Vec<_> = placement.reactors.iter().map(|p| p.hugepages).collect();
    assert_eq!(pages, [0, 75, 75]);
    let [first, second] = &placement.notes[..] else {
        panic!("a note for each node: {:?}", placement.notes);
    };
    assert!(
        first.contains("no reserved huge pages on NUMA node 0 (0 free, 128 wanted)"),
        "{first}"
    );
    assert!(first.ends_with(
        "echo 128 > /sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages"
    ));
    assert!(
        second.contains("on NUMA node 1: 106 of 256 are missing"),
        "{second}"
    );
    // The 50 that somebody else uses stay his.
    assert!(
        second.contains("echo 306 > /sys/devices/system/node/node1/"),
        "{second}"
    );
    two.set_hugepages(0, 128, 128);
    two.set_hugepages(1, 256, 256);
    let placement = placed(&two, &asked(&[0, 2, 3]));
    assert!(placement.reactors.iter().all(|p| p.hugepages == 128));
    assert_eq!(placement.notes, [] as [&str; 0]);
}

#[test]
fn one_node_is_told_by_sysctl_and_pages_on_demand_count() {
    let mut one = machine("core:1 pu:1");
    let placement = placed(&one, &wishes());
    assert!(placement.notes[0].ends_with("to reserve them: sysctl vm.nr_hugepages=128"));
    one.surplus_hugepages = 128;
    let placement = placed(&one, &wishes());
    assert_eq!(
        (placement.reactors[0].hugepages, placement.notes.len()),
        (128, 0)
    );
}

#[test]
fn reserved_huge_pages_are_memory_too() {
    // A machine that has reserved nearly all it has.
    let mut one = machine("core:1 pu:1");
    one.set_hugepages(0, 256, 256);
    let limits = Limits {
        memory: Memory {
            total: 4 << 30,
            available: 64 << 20,
        },
        ..PLENTY
    };
    let placement = place(&one, &limits, &wishes()).expect("room");
    assert_eq!(placement.reactors[0].bytes, 256 << 20);
    assert_eq!(placement.notes, [] as [&str; 0]);
}

#[test]
fn a_submission_thread_gets_a_core_of_its_own_or_is_refused() {
    let two = machine("core:2 pu:1");
    let yes = |wishes| with_sqpoll(wishes, Sqpoll::Yes);
    assert_eq!(threads(&placed(&two, &yes(asked(&[0])))), [Some(1)]);
    let refusal = place(&two, &PLENTY, &yes(asked(&[0, 1]))).expect_err("no core is free");
    let sentence = refusal.to_string();
    assert!(sentence.starts_with("sqpoll is refused: "), "{sentence}");
    assert!(
        sentence.contains("reactors on core 0-1, cores left for the threads: none;"),
        "{sentence}"
    );
    let one = machine("core:1 pu:1");
    assert!(place(&one, &PLENTY, &yes(wishes())).is_err());
    // Half of a physical core is none.
    assert!(place(&machine("core:1 pu:2"), &PLENTY, &yes(asked(&[0]))).is_err());
}

#[test]
fn with_submission_threads_half_of_the_cores_are_for_them() {
    let yes = with_sqpoll(wishes(), Sqpoll::Yes);
    for (description, reactors, cores) in [
        ("core:2 pu:1", vec![0], vec![Some(1)]),
        ("core:4 pu:1", vec![1], vec![Some(0)]),
        ("core:5 pu:1", vec![1, 2], vec![Some(0), Some(3)]),
        ("core:4 pu:2", vec![2], vec![Some(0)]),
    ] {
        let placement = placed(&machine(description), &yes);
        assert_eq!(
            (placement.cores(), threads(&placement)),
            (reactors, cores),
            "{description}"
        );
    }
    let mut six = machine("core:6 pu:1");
    six.set_isolated(&[2, 3, 4, 5]);
    six.set_allowed(&[0, 1], &[0, 1, 2, 3, 4, 5]);
    let placement = placed(&six, &yes);
    assert_eq!(placement.cores(), [2, 3]);
    assert_eq!(
        threads(&placement),
        [Some(4), Some(5)],
        "isolated, as the reactors"
    );
    assert_eq!(placement.worker_cores, [0, 1]);
}

#[test]
fn a_submission_thread_is_near_its_reactor() {
    let two = machine("package:2 numa:1(memory=32GB) core:3 pu:1");
    let yes = with_sqpoll(asked(&[4, 1]), Sqpoll::Yes);
    assert_eq!(threads(&placed(&two, &yes)), [Some(3), Some(0)]);
}

#[test]
fn force_makes_do_and_warns() {
    let two = machine("core:2 pu:1");
    let force = |wishes| with_sqpoll(wishes, Sqpoll::Force);
    let placement = placed(&two, &force(asked(&[0, 1])));
    assert_eq!(threads(&placement), [Some(0), Some(1)]);
    assert!(
        placement
            .notes
            .iter()
            .any(|n| n.starts_with("sqpoll is forced: ")),
        "{:?}",
        placement.notes
    );
    let siblings = placed(&machine("core:1 pu:2"), &force(asked(&[0])));
    assert_eq!(threads(&siblings), [Some(1)]);
    let three = placed(&machine("core:3 pu:1"), &force(asked(&[0, 1])));
    assert_eq!(
        threads(&three),
        [Some(2), Some(2)],
        "one has it to itself, then both"
    );
}

#[test]
fn a_control_group_without_time_for_a_thread_refuses_it() {
    let four = machine("core:4 pu:1");
    let limits = Limits {
        cpu_time: Some(1),
        ..PLENTY
    };
    let yes = with_sqpoll(wishes(), Sqpoll::Yes);
    let refusal = place(&four, &limits, &yes).expect_err("it would be stopped");
    assert_eq!(
        refusal,
        Refusal::NoTime {
            time: 1,
            reactors: 1
        }
    );
    let forced = place(&four, &limits, &with_sqpoll(wishes(), Sqpoll::Force)).expect("forced");
    assert!(
        forced
            .notes
            .iter()
            .any(|n| n.contains("time for 1 cores, 2 will spin"))
    );
}

#[test]
fn what_blocks_runs_where_it_slows_nobody_down() {
    let workers = |description: &str, wishes: &Wishes| {
        let placement = placed(&machine(description), wishes);
        (placement.worker_cores, placement.shares_cores)
    };
    // One spare core is not enough.
    assert_eq!(workers("core:2 pu:1", &asked(&[0])), (vec![0, 1], true));
    assert_eq!(workers("core:2 pu:1", &asked(&[0, 1])), (vec![0, 1], true));
    assert_eq!(workers("core:4 pu:1", &asked(&[1, 2])), (vec![0, 3], false));
    // Rather no siblings of reactors; rather those than reactors.
    assert_eq!(workers("core:3 pu:2", &asked(&[0, 2])), (vec![4, 5], false));
    assert_eq!(workers("core:2 pu:2", &asked(&[0, 2])), (vec![1, 3], false));
    let yes = with_sqpoll(asked(&[0]), Sqpoll::Yes);
    assert_eq!(workers("core:4 pu:1", &yes), (vec![2, 3], false));
    assert_eq!(
        workers("core:2 pu:1", &yes),
        (vec![0], true),
        "not where the thread spins"
    );
}

#[test]
fn a_machine_of_two_sockets_that_was_recorded() {
    let Machine { topology, limits } = recorded("two-sockets");
    let placement = place(&topology, &limits, &wishes()).expect("room");
    assert!(placement.is_numa);
    for placed in &placement.reactors {
        let core = topology.core(placed.core).expect("it is there");
        assert_eq!(placed.node, core.node);
        assert_eq!(core.physical, core.id, "one thread of each physical core");
        let node = topology.node(placed.node).expect("it is there");
        assert!(placed.hugepages <= node.free_hugepages);
    }
    let physical = topology
        .cores
        .iter()
        .filter(|core| core.physical == core.id);
    assert_eq!(placement.reactors.len(), physical.count() - 1);
    // The interface's node first.
    let interface = topology
        .interfaces
        .iter()
        .find(|i| i.node == Some(1))
        .expect("one is there");
    let near = Wishes {
        near: vec![Hint {
            node: 1,
            what: interface.name.clone(),
        }],
        ..wishes()
    };
    let placement = place(&topology, &limits, &near).expect("room");
    assert_eq!(placement.reactors[0].node, 1);
    assert!(
        placement
            .reactors
            .iter()
            .is_sorted_by_key(|placed| 1 - placed.node)
    );
}

#[test]
fn a_machine_with_isolated_cores_that_was_recorded() {
    let Machine { topology, limits } = recorded("isolated");
    let placement = place(&topology, &limits, &wishes()).expect("room");
    assert_eq!(placement.cores(), [2, 3, 4, 5, 6, 7]);
    assert_eq!(
        (placement.worker_cores.clone(), placement.shares_cores),
        (vec![0, 1], false)
    );
    assert!(
        placement
            .reactors
            .iter()
            .all(|placed| placed.why == "isolated")
    );
    let placement = place(&topology, &limits, &with_sqpoll(wishes(), Sqpoll::Yes)).expect("room");
    assert_eq!(placement.cores(), [2, 3, 4]);
    assert_eq!(threads(&placement), [Some(5), Some(6), Some(7)]);
}

#[test]
fn a_machine_with_one_core_that_was_recorded() {
    let Machine { topology, limits } = recorded("one-core");
    let placement = place(&topology, &limits, &wishes()).expect("room");
    assert_eq!((placement.cores(), placement.shares_cores), (vec![0], true));
    assert!(placement.bytes() <= limits.memory.available / 2 + (2 << 20));
    let yes = with_sqpoll(wishes(), Sqpoll::Yes);
    assert!(matches!(
        place(&topology, &limits, &yes),
        Err(Refusal::NoSpareCore { .. })
    ));
}

#[test]
fn a_machine_without_numa_that_was_recorded() {
    let Machine { topology, limits } = recorded("no-numa");
    assert_eq!(topology.nodes.len(), 1);
    let placement = place(&topology, &limits, &wishes()).expect("room");
    assert!(!placement.is_numa);
    assert_eq!(placement.cores(), [1, 2, 3]);
    assert!(placement.reactors.iter().all(|placed| placed.node == 0));
}

#[test]
fn a_container_that_was_recorded_keeps_within_its_control_group() {
    let Machine { topology, limits } = recorded("container");
    let placement = place(&topology, &limits, &wishes()).expect("room");
    if let Some(time) = limits.cpu_time {
        assert!(u32::try_from(placement.reactors.len()).expect("few") <= time);
    }
    assert!(placement.bytes() <= limits.memory.available / 2 + (2 << 20));
    assert!(
        limits
            .memlock
            .is_some_and(|bytes| bytes < placement.bytes())
    );
}

#[test]
fn every_recorded_machine_is_placed_the_same_twice_and_within_its_bounds() {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/machines");
    let names = std::fs::read_dir(all)
        .expect("recordings")
        .filter_map(|entry| {
            let entry = entry.expect("an entry");
            entry.path().join("sys").is_dir().then(|| entry.file_name())
        });
    let mut count = 0;
    for name in names {
        let Machine { topology, limits } = recorded(&name.to_string_lossy());
        for sqpoll in [Sqpoll::No, Sqpoll::Yes, Sqpoll::Force] {
            let wishes = with_sqpoll(wishes(), sqpoll);
            let once = place(&topology, &limits, &wishes);
            assert_eq!(once, place(&topology, &limits, &wishes));
            let Ok(placement) = once else {
                assert_eq!(sqpoll, Sqpoll::Yes, "{name:?}: only that may be refused");
                continue;
            };
            let cores = placement.cores();
            for (index, core) in cores.iter().enumerate() {
                assert!(
                    !cores[..index].contains(core),
                    "{name:?}: one reactor per core"
                );
                assert!(
                    topology
                        .core(*core)
                        .is_some_and(|c| c.online && c.reachable)
                );
            }
            if sqpoll == Sqpoll::Yes {
                let own = threads(&placement);
                assert!(
                    own.iter().flatten().all(|core| !cores.contains(core)),
                    "{name:?}"
                );
            }
        }
        count += 1;
    }
    assert!(count >= 4, "two sockets, isolated cores, one core, no NUMA");
}
