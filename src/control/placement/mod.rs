//! Where everything goes: which cores the reactors get, with how much memory of which node, where the kernel's submission
//! threads (SQPOLL) and the threads for what blocks run.
//!
//! [`place`] is a pure function of the machine's shape, the limits set on the process, and what was wished for. The rules:
//!
//! 1. Cores that were asked for are used as they are, or nothing starts.
//! 2. Else the cores the kernel keeps apart (`isolcpus=`), if the process can reach some; else all it may use, less one for
//!    the rest of the machine when there are more than two (the lowest: interrupts and housekeeping like it best).
//! 3. Of hardware threads of one physical core only one gets a reactor: a reactor that spins slows its sibling down. Only
//!    where there is but one physical core its threads are all used.
//! 4. Reactors whose core is near a network interface or disk that is used come first, so that they get the first sessions.
//! 5. A control group's time and the memory there is bound how many reactors are started by themselves.
//! 6. A reactor's memory comes from the node of its core, from reserved huge pages as far as that node has some free: each
//!    reactor of the node gets the same share of them.
//! 7. A submission thread spins: it gets a physical core of its own, near its reactor, or is refused. `force` makes do.
//! 8. What blocks runs on the cores that are left, if there are two; else anywhere.

mod choice;
mod memory;
mod spare;

use std::fmt;
use std::str::FromStr;

use super::cores::show;
use crate::sys::machine::Limits;
use crate::sys::topology::{Core, Topology};

/// Whether the kernel takes operations from the ring by a thread of its own, which spins (io_uring's SQPOLL).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sqpoll {
    /// The reactor hands operations over by itself.
    #[default]
    No,
    /// Yes, if each thread can have a core of its own; else nothing starts.
    Yes,
    /// Yes, whatever it costs.
    Force,
}

impl fmt::Display for Sqpoll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::No => "no",
            Self::Yes => "yes",
            Self::Force => "force",
        })
    }
}

impl FromStr for Sqpoll {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "no" => Ok(Self::No),
            "yes" => Ok(Self::Yes),
            "force" => Ok(Self::Force),
            _ => Err(format!(
                "unknown value \"{text}\": it is one of no, yes, force"
            )),
        }
    }
}

/// A reason to be near a NUMA node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The node.
    pub node: u32,
    /// What is there, like `eth0` or `/dev/nvme0n1`.
    pub what: String,
}

/// What was wished for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Exactly these cores, in this order.
    pub cores: Option<Vec<u32>>,
    /// Only cores of this node (`numaNode`), if there are any.
    pub node: Option<u32>,
    /// Interfaces and disks that are used, with their nodes.
    pub near: Vec<Hint>,
    /// Submission threads for the rings; [`Sqpoll::No`] where nobody uses a ring.
    pub sqpoll: Sqpoll,
    /// Bytes of buffers per NUMA node, shared by its reactors; `None`: the default for each reactor.
    pub bytes_per_node: Option<u64>,
}

/// Where a reactor is, and with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its core.
    pub core: u32,
    /// Why that one.
    pub why: String,
    /// The node its memory comes from.
    pub node: u32,
    /// Bytes of its buffers, a multiple of 2 MiB.
    pub bytes: u64,
    /// How many of those pages of 2 MiB are to be reserved huge pages.
    pub hugepages: u64,
    /// The core of its ring's submission thread.
    pub sqpoll: Option<u32>,
}

/// Where everything goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The reactors, by number.
    pub reactors: Vec<Placed>,
    /// Whether memory has to be bound to nodes at all.
    pub is_numa: bool,
    /// Cores for threads that may block.
    pub worker_cores: Vec<u32>,
    /// Whether those are cores of reactors too, which then give way.
    pub shares_cores: bool,
    /// What was wished for and is not so, in sentences.
    pub notes: Vec<String>,
}

impl Placement {
    /// Cores of the reactors, by number of the reactor.
    #[must_use]
    pub fn cores(&self) -> Vec<u32> {
        self.reactors.iter().map(|berth| berth.core).collect()
    }

    /// Bytes of all reactors' buffers: what RLIMIT_MEMLOCK must allow for them to be registered with io_uring.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.reactors.iter().map(|berth| berth.bytes).sum()
    }
}

/// Why nothing can be placed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Cores that were asked for are not to be had.
    #[error("this process may not run on core {}; it may on {}", show(.asked), show(.reachable))]
    NotReachable {
        /// Those.
        asked: Vec<u32>,
        /// What is to be had.
        reachable: Vec<u32>,
    },
    /// There is nothing to run on.
    #[error("there is no core this process may run on")]
    NoCore,
    /// A submission thread would share its core.
    #[error(
        "sqpoll is refused: the kernel's submission thread spins and needs a core of its own for each reactor; \
         reactors on core {}, cores left for the threads: {}; name fewer cores (--cores, reactors.cores), or leave \
         sqpoll off; \"force\" shares cores all the same, and each operation may then wait milliseconds for the scheduler",
        show(.reactors), if .free.is_empty() { "none".to_owned() } else { show(.free) }
    )]
    NoSpareCore {
        /// Cores of the reactors.
        reactors: Vec<u32>,
        /// Cores that are free for threads: too few.
        free: Vec<u32>,
    },
    /// The control group would stop the threads that spin.
    #[error(
        "sqpoll is refused: the control group has time for {time} cores, and {reactors} reactors with a submission thread \
         each would spin on {}; give the group more time, name fewer cores, or leave sqpoll off",
        .reactors * 2
    )]
    NoTime {
        /// Cores' worth of time.
        time: u32,
        /// Reactors.
        reactors: usize,
    },
}

/// Places reactors, their memory and what helps them. Pure: the same machine, limits and wishes give the same placement.
///
/// # Errors
/// When there is no core, one that was asked for is not to be had, or a submission thread would have to share its core.
pub fn place(topology: &Topology, limits: &Limits, wishes: &Wishes) -> Result<Placement, Refusal> {
    let mut notes = Vec::new();
    let chosen = choice::cores(topology, limits, wishes, &mut notes)?;
    let cores: Vec<&Core> = chosen.iter().map(|(core, _)| *core).collect();
    let threads = spare::submission_cores(topology, limits, wishes, &cores, &mut notes)?;
    let shares = memory::shares(topology, limits, wishes, &cores, &mut notes);
    let (worker_cores, shares_cores) = spare::worker_cores(topology, &cores, &threads);
    let berth =
        |(((core, why), share), sqpoll): (((&Core, String), memory::Share), Option<u32>)| Placed {
            core: core.id,
            why,
            node: share.node,
            bytes: share.bytes,
            hugepages: share.hugepages,
            sqpoll,
        };
    let reactors = chosen.into_iter().zip(shares).zip(threads).map(berth);
    Ok(Placement {
        reactors: reactors.collect(),
        is_numa: topology.is_numa(),
        worker_cores,
        shares_cores,
        notes,
    })
}

#[cfg(test)]
mod tests;
