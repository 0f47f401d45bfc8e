//! A topology from hwloc: this machine's, or one that is only described.

use hwlocality::Topology as Hwloc;
use hwlocality::object::TopologyObject;
use hwlocality::object::types::ObjectType;
use hwlocality::topology::builder::TopologyBuilder;

use super::{Core, Node, Topology};

/// Why a description is no machine.
#[derive(Debug, thiserror::Error)]
#[error("\"{0}\" is not a topology as hwloc describes one: {1}")]
pub struct SyntheticError(String, String);

impl Topology {
    /// A machine described as hwloc does it, like `numa:2 core:4 pu:2`: everything is online and allowed.
    ///
    /// # Errors
    /// When hwloc does not understand it.
    pub fn synthetic(description: &str) -> Result<Self, SyntheticError> {
        let wrong = |why: String| SyntheticError(description.to_owned(), why);
        let builder = TopologyBuilder::new().from_synthetic(description);
        let topology = builder.map_err(|e| wrong(e.to_string()))?.build();
        Ok(Self::of_hwloc(&topology.map_err(|e| wrong(e.to_string()))?))
    }

    /// What hwloc knows: packages, physical cores, nodes and distances; nothing of huge pages, isolation or interfaces.
    pub(in crate::sys) fn of_hwloc(hwloc: &Hwloc) -> Self {
        let number = |object: &TopologyObject| u32::try_from(object.os_index()?).ok();
        let nodes: Vec<&TopologyObject> = hwloc.objects_with_type(ObjectType::NUMANode).collect();
        let cores = hwloc.objects_with_type(ObjectType::PU).filter_map(|unit| {
            let id = number(unit)?;
            let package = unit.first_ancestor_with_type(ObjectType::Package);
            let physical = unit.first_ancestor_with_type(ObjectType::Core);
            let first = physical.and_then(|core| {
                let first = core.cpuset()?.iter_set().next()?;
                u32::try_from(usize::from(first)).ok()
            });
            let node = nodes.iter().find(|node| {
                let index = usize::try_from(id).unwrap_or(usize::MAX);
                node.cpuset()
                    .is_some_and(|set| set.iter_set().any(|i| usize::from(i) == index))
            });
            Some(Core {
                id,
                online: true,
                allowed: true,
                reachable: true,
                isolated: false,
                package: package.and_then(number).unwrap_or(0),
                physical: first.unwrap_or(id),
                node: node.and_then(|node| number(node)).unwrap_or(0),
            })
        });
        let mut topology = Self {
            cores: cores.collect(),
            nodes: nodes
                .iter()
                .filter_map(|node| {
                    Some(Node {
                        id: number(node)?,
                        memory: node.total_memory(),
                        available: node.total_memory(),
                        hugepages: 0,
                        free_hugepages: 0,
                        distances: distances(hwloc, node, &nodes),
                    })
                })
                .collect(),
            interfaces: Vec::new(),
            surplus_hugepages: 0,
        };
        topology.cores.sort_by_key(|core| core.id);
        topology.nodes.sort_by_key(|node| node.id);
        topology
    }
}

/// From `node` to all of `nodes`; empty when hwloc was not told.
fn distances(hwloc: &Hwloc, node: &TopologyObject, nodes: &[&TopologyObject]) -> Vec<(u32, u32)> {
    let matrices = hwloc.distances_with_type(None, ObjectType::NUMANode);
    let matrices = matrices.unwrap_or_default();
    let Some(matrix) = matrices.first() else {
        return Vec::new();
    };
    let pair = |to: &&TopologyObject| {
        let (distance, _) = matrix.object_pair_distance((node, to))?;
        let id = u32::try_from(to.os_index()?).ok()?;
        Some((id, u32::try_from(distance).ok()?))
    };
    nodes.iter().filter_map(pair).collect()
}
