//! The shape of a machine: cores, NUMA nodes, and where network interfaces are. Plain values, so that whatever is decided
//! from them can be tested on machines nobody has here.
//!
//! [`Topology::read`] takes the kernel's files below a root directory; `Topology::of_hwloc` what hwloc knows (this
//! machine, or one that was only described). Both give the same for the same machine.

mod hwloc;
mod tree;

pub use hwloc::SyntheticError;

/// Bytes of a huge page of the size that is used.
pub const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// A hardware thread that the kernel runs things on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Core {
    /// The kernel's number.
    pub id: u32,
    /// False: switched off.
    pub online: bool,
    /// The process started with it.
    pub allowed: bool,
    /// The process may go there: its cpuset has it, whether it started with it or not.
    pub reachable: bool,
    /// The kernel's scheduler leaves it alone (`isolcpus=`).
    pub isolated: bool,
    /// Socket.
    pub package: u32,
    /// Lowest-numbered hardware thread of the same physical core: SMT siblings share it.
    pub physical: u32,
    /// NUMA node, by [`Node::id`].
    pub node: u32,
}

/// Memory, and the cores it is near to. A machine without NUMA has one, number 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The kernel's number.
    pub id: u32,
    /// Bytes; 0 where there are only cores.
    pub memory: u64,
    /// Bytes that are free, or easily freed.
    pub available: u64,
    /// Reserved huge pages of [`HUGE_PAGE_BYTES`].
    pub hugepages: u64,
    /// Those of them that nobody uses.
    pub free_hugepages: u64,
    /// To every node, itself included: its number, and how far it is (10: itself).
    pub distances: Vec<(u32, u32)>,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Like `eth0`.
    pub name: String,
    /// The node its device is near to; `None`: none, or nobody knows.
    pub node: Option<u32>,
}

/// Cores, nodes and interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// By number; all there are, those that are switched off too.
    pub cores: Vec<Core>,
    /// By number; at least one.
    pub nodes: Vec<Node>,
    /// By name.
    pub interfaces: Vec<Interface>,
    /// Huge pages of [`HUGE_PAGE_BYTES`] that the kernel would still make on demand (`vm.nr_overcommit_hugepages`).
    pub surplus_hugepages: u64,
}

impl Topology {
    /// The core of that number.
    #[must_use]
    pub fn core(&self, id: u32) -> Option<&Core> {
        self.cores.iter().find(|core| core.id == id)
    }

    /// The node of that number.
    #[must_use]
    pub fn node(&self, id: u32) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// Whether it matters where memory is.
    #[must_use]
    pub fn is_numa(&self) -> bool {
        self.nodes.len() > 1
    }

    /// How far memory of `to` is from cores of `from`; 10: the same node.
    #[must_use]
    pub fn distance(&self, from: u32, to: u32) -> u32 {
        let far = if from == to { 10 } else { 20 };
        let of = self.node(from).map(|node| &node.distances);
        of.and_then(|all| all.iter().find(|(node, _)| *node == to))
            .map_or(far, |&(_, distance)| distance)
    }

    /// The node whose memory is nearest to `core`: its own, unless that has none.
    #[must_use]
    pub fn memory_node(&self, core: &Core) -> u32 {
        self.nodes
            .iter()
            .filter(|node| node.memory > 0)
            .min_by_key(|node| (self.distance(core.node, node.id), node.id))
            .map_or(core.node, |node| node.id)
    }

    /// Sets which cores the process started with and which it may go to.
    pub fn set_allowed(&mut self, allowed: &[u32], reachable: &[u32]) {
        for core in &mut self.cores {
            core.allowed = allowed.contains(&core.id);
            core.reachable = core.allowed || reachable.contains(&core.id);
        }
    }

    /// Sets which cores the kernel keeps apart. No process starts with those: they are only reachable.
    pub fn set_isolated(&mut self, isolated: &[u32]) {
        for core in &mut self.cores {
            core.isolated = isolated.contains(&core.id);
        }
    }

    /// Gives a node its reserved huge pages.
    pub fn set_hugepages(&mut self, node: u32, hugepages: u64, free: u64) {
        for node in self.nodes.iter_mut().filter(|n| n.id == node) {
            (node.hugepages, node.free_hugepages) = (hugepages, free);
        }
    }

    /// Takes packages, physical cores, nodes, sizes and distances from `shape` where it knows them; what only the
    /// kernel's files say (who may run where, huge pages, interfaces) stays.
    #[must_use]
    pub fn shaped_by(mut self, shape: &Self) -> Self {
        for node in &shape.nodes {
            match self.nodes.iter_mut().find(|n| n.id == node.id) {
                Some(own) => {
                    own.memory = own.memory.max(node.memory);
                    if own.distances.is_empty() {
                        own.distances.clone_from(&node.distances);
                    }
                }
                None => self.nodes.push(node.clone()),
            }
        }
        for core in &shape.cores {
            match self.cores.iter_mut().find(|c| c.id == core.id) {
                Some(own) => {
                    (own.package, own.physical, own.node) = (core.package, core.physical, core.node)
                }
                None => self.cores.push(core.clone()),
            }
        }
        self.nodes.sort_by_key(|node| node.id);
        self.cores.sort_by_key(|core| core.id);
        self
    }
}

#[cfg(test)]
mod tests;
