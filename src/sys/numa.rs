//! Where memory is put.
//!
//! The topology is read once per process (it takes some 60 ms) and never changes afterwards.

use std::sync::OnceLock;

use hwlocality::Topology as Hwloc;
use hwlocality::memory::binding::{MemoryBindingFlags, MemoryBindingPolicy};
use hwlocality::memory::nodeset::NodeSet;
use hwlocality::object::types::ObjectType;

use super::topology::Topology;

static TOPOLOGY: OnceLock<Result<Hwloc, String>> = OnceLock::new();

fn topology() -> Result<&'static Hwloc, &'static str> {
    TOPOLOGY
        .get_or_init(|| Hwloc::new().map_err(|e| e.to_string()))
        .as_ref()
        .map_err(String::as_str)
}

/// The shape of this machine, as hwloc sees it; `None` when it sees none.
pub(super) fn shape() -> Option<Topology> {
    topology().ok().map(Topology::of_hwloc)
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
    fn memory_of_a_node_that_is_not_there_is_refused() {
        let area = [0u8; 1];
        assert!(bind_area(&area, 4000).is_err());
    }
}
