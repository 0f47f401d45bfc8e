//! A topology from the kernel's files, or from a copy of them.

use std::fs;
use std::path::Path;

use super::{Core, Interface, Node, Topology};
use crate::sys::cpu::parse_list;
use crate::sys::memory::{Memory, field};

impl Topology {
    /// What the files below `root` say: `/` for this machine, or a directory with `sys` and `proc` of another.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let cpu = root.join("sys/devices/system/cpu");
        let nodes = root.join("sys/devices/system/node");
        let list = |file: &Path| parse_list(&text(file)?);
        let online = list(&cpu.join("online"));
        let present = list(&cpu.join("present"))
            .or_else(|| online.clone())
            .unwrap_or_else(|| numbered(&cpu, "cpu"));
        let online = online.unwrap_or_else(|| present.clone());
        let isolated = list(&cpu.join("isolated")).unwrap_or_default();
        let ids = list(&nodes.join("online")).unwrap_or_else(|| numbered(&nodes, "node"));
        let near: Vec<(u32, Vec<u32>)> = ids
            .iter()
            .map(|&id| {
                let file = nodes.join(format!("node{id}/cpulist"));
                (id, list(&file).unwrap_or_default())
            })
            .collect();
        let (allowed, reachable) = permitted(root, &online, &isolated);
        let core = |&id: &u32| {
            let of = cpu.join(format!("cpu{id}/topology"));
            let siblings =
                list(&of.join("core_cpus_list")).or_else(|| list(&of.join("thread_siblings_list")));
            let package = text(&of.join("physical_package_id"));
            Core {
                id,
                online: online.contains(&id),
                allowed: allowed.contains(&id),
                reachable: reachable.contains(&id),
                isolated: isolated.contains(&id),
                // -1 where nobody knows.
                package: package.and_then(|n| n.parse().ok()).unwrap_or(0),
                physical: siblings.and_then(|s| s.first().copied()).unwrap_or(id),
                node: near
                    .iter()
                    .find(|(_, cores)| cores.contains(&id))
                    .map_or(0, |(node, _)| *node),
            }
        };
        let mut all: Vec<Node> = ids.iter().map(|&id| node(&nodes, id, &ids)).collect();
        if all.is_empty() {
            all.push(only_node(root));
        }
        Self {
            cores: present.iter().map(core).collect(),
            nodes: all,
            interfaces: interfaces(root),
            surplus_hugepages: surplus(root),
        }
    }
}

/// The cores the process started with, and those its cpuset lets it go to.
fn permitted(root: &Path, online: &[u32], isolated: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let status = text(&root.join("proc/self/status")).unwrap_or_default();
    let started = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .and_then(|list| parse_list(list.trim()));
    let allowed = started.unwrap_or_else(|| {
        let usual = online.iter().filter(|core| !isolated.contains(core));
        usual.copied().collect()
    });
    let mut reachable = cpuset(root).unwrap_or_else(|| online.to_vec());
    reachable.extend(&allowed);
    (allowed, reachable)
}

/// Cores of the process's control group, the nearest that says.
fn cpuset(root: &Path) -> Option<Vec<u32>> {
    crate::sys::memory::control_groups(root, "cpuset").find_map(|group| {
        [
            "cpuset.cpus.effective",
            "cpuset.effective_cpus",
            "cpuset.cpus",
        ]
        .iter()
        .find_map(|file| parse_list(&text(&group.join(file))?))
        .filter(|cores| !cores.is_empty())
    })
}

fn node(nodes: &Path, id: u32, ids: &[u32]) -> Node {
    let of = nodes.join(format!("node{id}"));
    let meminfo = text(&of.join("meminfo")).unwrap_or_default();
    let prefix = format!("Node {id} ");
    let bytes = |name: &str| field(&meminfo, &format!("{prefix}{name}:")).unwrap_or(0);
    let (hugepages, free_hugepages) = hugepages(&of.join("hugepages"));
    let distances = text(&of.join("distance")).unwrap_or_default();
    Node {
        id,
        memory: bytes("MemTotal"),
        // As MemAvailable, which nodes do not have, of what can be given back half.
        available: bytes("MemFree")
            + (bytes("Active(file)") + bytes("Inactive(file)") + bytes("SReclaimable")) / 2,
        hugepages,
        free_hugepages,
        distances: ids
            .iter()
            .copied()
            .zip(distances.split_whitespace().map_while(|n| n.parse().ok()))
            .collect(),
    }
}

/// All memory, where the kernel knows no nodes.
fn only_node(root: &Path) -> Node {
    let memory = Memory::of_machine(root);
    let (hugepages, free_hugepages) = hugepages(&root.join("sys/kernel/mm/hugepages"));
    Node {
        id: 0,
        memory: memory.total,
        available: memory.available,
        hugepages,
        free_hugepages,
        distances: vec![(0, 10)],
    }
}

/// Reserved huge pages of 2 MiB, and free ones.
fn hugepages(of: &Path) -> (u64, u64) {
    let number = |file: &str| {
        let text = text(&of.join("hugepages-2048kB").join(file));
        text.and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    (number("nr_hugepages"), number("free_hugepages"))
}

/// Huge pages of 2 MiB that the kernel would still make on demand.
fn surplus(root: &Path) -> u64 {
    let pages = root.join("sys/kernel/mm/hugepages/hugepages-2048kB");
    let number = |file: &str| text(&pages.join(file)).and_then(|n| n.parse::<u64>().ok());
    let most = number("nr_overcommit_hugepages").unwrap_or(0);
    most.saturating_sub(number("surplus_hugepages").unwrap_or(0))
}

fn interfaces(root: &Path) -> Vec<Interface> {
    let mut all: Vec<Interface> = fs::read_dir(root.join("sys/class/net"))
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| Interface {
            node: text(&entry.path().join("device/numa_node")).and_then(|node| node.parse().ok()),
            name: entry.file_name().to_string_lossy().into_owned(),
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Numbers of the entries that are called `word` and a number.
fn numbered(directory: &Path, word: &str) -> Vec<u32> {
    let mut numbers: Vec<u32> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            name.to_str()?.strip_prefix(word)?.parse().ok()
        })
        .collect();
    numbers.sort_unstable();
    numbers
}

fn text(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    Some(text.trim().to_owned())
}
