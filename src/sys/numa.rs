//! Which cores and NUMA nodes there are, and where memory is put.
//!
//! The topology is read once per process (it takes some 60 ms) and never changes afterwards.

use std::sync::OnceLock;

use hwlocality::Topology;
use hwlocality::memory::binding::{MemoryBindingFlags, MemoryBindingPolicy};
use hwlocality::memory::nodeset::NodeSet;
use hwlocality::object::types::ObjectType;

static TOPOLOGY: OnceLock<Result<Topology, String>> = OnceLock::new();

fn topology() -> Result<&'static Topology, &'static str> {
    TOPOLOGY
        .get_or_init(|| Topology::new().map_err(|e| e.to_string()))
        .as_ref()
        .map_err(String::as_str)
}

/// The NUMA node nearest to `core` (the kernel's number); `None` when there is no telling.
#[must_use]
pub fn node_of_core(core: u32) -> Option<u32> {
    let core = usize::try_from(core).ok()?;
    topology()
        .ok()?
        .objects_with_type(ObjectType::NUMANode)
        .find(|node| {
            node.cpuset()
                .is_some_and(|set| set.iter_set().any(|i| usize::from(i) == core))
        })
        .and_then(|node| u32::try_from(node.os_index()?).ok())
}

/// How many NUMA nodes with memory there are; at least 1.
#[must_use]
pub fn nodes() -> usize {
    topology().map_or(1, |t| {
        t.objects_with_type(ObjectType::NUMANode).count().max(1)
    })
}

/// The physical core that `core` (a hardware thread) is part of, as a number that its siblings share.
#[must_use]
pub fn physical_core(core: u32) -> Option<usize> {
    let core = usize::try_from(core).ok()?;
    topology()
        .ok()?
        .objects_with_type(ObjectType::Core)
        .find(|object| {
            object
                .cpuset()
                .is_some_and(|set| set.iter_set().any(|i| usize::from(i) == core))
        })
        .map(|object| object.logical_index())
}

/// Asks that the pages of `area`, not touched yet, come from `node`. Neither strict nor migrating: the
/// kernel refuses those here.
pub(super) fn bind_area(area: &[u8], node: u32) -> Result<(), String> {
    let topology = topology()?;
    let known = topology
        .objects_with_type(ObjectType::NUMANode)
        .find(|n| n.os_index().is_some_and(|i| u32::try_from(i) == Ok(node)))
        .ok_or("there is no such node")?;
    let set = known.nodeset().ok_or("the node has no number")?;
    let set: NodeSet = set.clone_target();
    topology
        .bind_memory_area(
            area,
            &set,
            MemoryBindingPolicy::Bind,
            MemoryBindingFlags::empty(),
        )
        .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_we_run_on_has_a_node() {
        // A machine without NUMA information has one node, 0.
        assert!(nodes() >= 1);
        assert_eq!(node_of_core(u32::MAX), None);
    }
}
