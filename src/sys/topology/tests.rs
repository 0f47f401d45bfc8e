use std::path::Path;

use super::*;
use crate::sys::machine::Machine;

/// A machine of which only some files were kept.
fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a directory");
    for (place, text) in files {
        let place = root.path().join(place);
        std::fs::create_dir_all(place.parent().expect("below root")).expect("room");
        std::fs::write(place, text).expect("room");
    }
    root
}

const CPU: &str = "sys/devices/system/cpu";
const NODE: &str = "sys/devices/system/node";

#[test]
fn files_and_hwloc_agree_on_this_machine() {
    let read = Topology::read(Path::new("/"));
    let shape = crate::sys::numa::shape().expect("hwloc reads this machine");
    for core in &shape.cores {
        let same = read.core(core.id).expect("both see it");
        assert_eq!(
            (core.package, core.physical, core.node),
            (same.package, same.physical, same.node)
        );
    }
    // hwloc leaves out what a control group does not allow.
    assert!(shape.nodes.iter().all(|node| read.node(node.id).is_some()));
    let here = Machine::here();
    assert!(here.topology.cores.iter().any(|core| core.allowed));
    assert_eq!(here.topology.clone().shaped_by(&shape), here.topology);
}

#[test]
fn hwloc_describes_sockets_siblings_and_nodes() {
    let topology = Topology::synthetic("package:2 numa:1 core:2 pu:2").expect("a description");
    let of = |id| topology.core(id).expect("eight of them");
    assert_eq!(topology.cores.len(), 8);
    assert_eq!((of(5).package, of(5).physical, of(5).node), (1, 4, 1));
    assert_eq!((of(2).package, of(2).physical, of(2).node), (0, 2, 0));
    assert!(topology.is_numa());
    assert_eq!((topology.distance(0, 0), topology.distance(0, 1)), (10, 20));
    assert!(Topology::synthetic("seven dwarfs").is_err());
}

#[test]
fn a_machine_is_read_from_its_files() {
    let root = tree(&[
        (&format!("{CPU}/present"), "0-4\n"),
        (&format!("{CPU}/online"), "0-3\n"),
        (&format!("{CPU}/isolated"), "2-3\n"),
        (&format!("{CPU}/cpu2/topology/physical_package_id"), "1\n"),
        (&format!("{CPU}/cpu3/topology/physical_package_id"), "1\n"),
        (
            &format!("{CPU}/cpu3/topology/thread_siblings_list"),
            "2-3\n",
        ),
        (&format!("{NODE}/online"), "0-1\n"),
        (&format!("{NODE}/node0/cpulist"), "0-1\n"),
        (&format!("{NODE}/node1/cpulist"), "2-3\n"),
        (&format!("{NODE}/node1/distance"), "21 10\n"),
        (
            &format!("{NODE}/node1/meminfo"),
            "Node 1 MemTotal:  2048 kB\nNode 1 MemFree: 1024 kB\nNode 1 Inactive(file): 64 kB\n",
        ),
        (
            &format!("{NODE}/node1/hugepages/hugepages-2048kB/nr_hugepages"),
            "7\n",
        ),
        (
            &format!("{NODE}/node1/hugepages/hugepages-2048kB/free_hugepages"),
            "5\n",
        ),
        (
            "proc/self/status",
            "Name: x\nCpus_allowed_list:\t0-1\nCapEff:\t0000000000000000\n",
        ),
        (
            "proc/self/limits",
            "Max locked memory         8388608              8388608              bytes\nMax open files            1024                 4096                 files\n",
        ),
        ("proc/meminfo", "MemTotal: 4096 kB\nMemAvailable: 2048 kB\n"),
        ("sys/class/net/eth0/device/numa_node", "1\n"),
        ("sys/class/net/eth1/device/numa_node", "-1\n"),
        ("sys/class/net/lo/mtu", "65536\n"),
    ]);
    let Machine { topology, limits } = Machine::read(root.path());
    let of = |id| topology.core(id).expect("five of them");
    assert!(of(0).allowed && !of(0).isolated);
    assert!(
        !of(2).allowed && of(2).reachable && of(2).isolated,
        "{:?}",
        of(2)
    );
    assert!(!of(4).online && !of(4).reachable);
    assert_eq!((of(3).package, of(3).physical, of(3).node), (1, 2, 1));
    let node = topology.node(1).expect("two of them");
    assert_eq!(
        (node.memory, node.available),
        (2 << 20, (1 << 20) + (32 << 10))
    );
    assert_eq!((node.hugepages, node.free_hugepages), (7, 5));
    assert_eq!(topology.distance(1, 0), 21);
    let names: Vec<_> = topology
        .interfaces
        .iter()
        .map(|i| (i.name.as_str(), i.node))
        .collect();
    assert_eq!(names, [("eth0", Some(1)), ("eth1", None), ("lo", None)]);
    assert_eq!((limits.memlock, limits.nofile), (Some(8 << 20), 4096));
    assert_eq!(limits.memory.available, 2 << 20);
}

#[test]
fn a_kernel_without_nodes_has_one() {
    let root = tree(&[
        (&format!("{CPU}/online"), "0\n"),
        ("proc/meminfo", "MemTotal: 4096 kB\nMemAvailable: 2048 kB\n"),
        (
            "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
            "3\n",
        ),
        (
            "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
            "3\n",
        ),
    ]);
    let topology = Topology::read(root.path());
    assert_eq!((topology.cores.len(), topology.nodes.len()), (1, 1));
    assert!(!topology.is_numa());
    let node = &topology.nodes[0];
    assert_eq!(
        (node.id, node.memory, node.available),
        (0, 4 << 20, 2 << 20)
    );
    assert_eq!(node.free_hugepages, 3);
}

#[test]
fn memory_of_a_node_without_any_is_that_of_the_nearest() {
    let mut topology = Topology::synthetic("numa:3 core:1 pu:1").expect("a description");
    topology.nodes[0].memory = 0;
    topology.nodes[0].distances = vec![(0, 10), (1, 31), (2, 21)];
    let core = topology.cores[0].clone();
    assert_eq!(topology.memory_node(&core), 2);
}

#[test]
fn who_may_lock_memory_as_he_likes_has_no_limit() {
    let of = |capabilities: &str, map: &str| {
        let status = format!("CapEff:\t{capabilities}\n");
        let root = tree(&[
            ("proc/self/status", status.as_str()),
            ("proc/self/uid_map", map),
            (
                "proc/self/limits",
                "Max locked memory  65536  65536  bytes\n",
            ),
        ]);
        Machine::read(root.path()).limits.memlock
    };
    let first = "         0          0 4294967295\n";
    assert_eq!(of("000001ffffffffff", first), None);
    assert_eq!(of("000001ffffffbfff", first), Some(65536));
    assert_eq!(
        of("000001ffffffffff", "0 1000 1\n"),
        Some(65536),
        "root of its own"
    );
}
