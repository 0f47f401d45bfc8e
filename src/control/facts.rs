//! What is served and with what, for people.

use std::fmt;
use std::net::SocketAddr;

use crate::buffer::Pages;
use crate::reactor::{PollPolicy, Registration};

/// What is served, for people.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Targets, by name.
    pub targets: Vec<TargetFacts>,
    /// Addresses listened on.
    pub portals: Vec<SocketAddr>,
    /// Cores, one reactor on each.
    pub cores: Vec<u32>,
    /// The same reactors, with what each of them got.
    pub reactors: Vec<ReactorBudget>,
    /// How the reactors wait.
    pub poll: PollPolicy,
    /// Bytes of media that are memory.
    pub ram: u64,
    /// Sessions there may be at once: what memory has room for, and connections are allowed.
    pub sessions: usize,
    /// What was wished for and is not so, in sentences.
    pub notes: Vec<String>,
}

impl Facts {
    /// The memory in all, for people.
    #[must_use]
    pub fn budget(&self) -> String {
        let bytes: usize = self.reactors.iter().map(|reactor| reactor.bytes).sum();
        let ram = match self.ram {
            0 => String::new(),
            ram => format!(", + {} MiB of ram media", ram.div_ceil(1 << 20)),
        };
        format!(
            "{} MiB of buffers in all, allocated{ram}; at most {} sessions",
            bytes >> 20,
            self.sessions
        )
    }
}

/// What a reactor got when it started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReactorBudget {
    /// Its core.
    pub core: u32,
    /// Why that one.
    pub why: String,
    /// Bytes of its buffers.
    pub bytes: usize,
    /// The kinds of pages they are in.
    pub pages: Pages,
    /// The NUMA node they are bound to; `None` where there is but one.
    pub node: Option<u32>,
    /// Whether they are registered with its ring.
    pub registration: Registration,
    /// The core of its ring's submission thread.
    pub sqpoll: Option<u32>,
    /// Sessions there is room for.
    pub sessions: usize,
}

impl fmt::Display for ReactorBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mib, pages) = (self.bytes >> 20, self.pages);
        write!(
            f,
            "core {} ({}), {mib} MiB of buffers {pages}",
            self.core, self.why
        )?;
        if let Some(node) = self.node {
            write!(f, ", on NUMA node {node}")?;
        }
        match &self.registration {
            Registration::NoRing => {}
            Registration::Registered => f.write_str(", registered with io_uring")?,
            Registration::Refused(_) => f.write_str(", not registered with io_uring")?,
        }
        match self.sqpoll {
            Some(core) => write!(f, ", submission thread on core {core}"),
            None => Ok(()),
        }
    }
}

/// One target, for people.
#[derive(Clone, Debug)]
pub struct TargetFacts {
    /// iSCSI name.
    pub name: String,
    /// Addresses it is reached at.
    pub portals: Vec<SocketAddr>,
    /// Its LUNs.
    pub luns: Vec<LunFacts>,
}

/// One LUN, for people.
#[derive(Clone, Debug)]
pub struct LunFacts {
    /// Its number.
    pub lun: u16,
    /// Kind and place of the medium.
    pub medium: String,
    /// Size.
    pub bytes: u64,
    /// Logical block size, in bytes.
    pub block_size: u32,
    /// Whether it takes no writes.
    pub read_only: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reactor_is_one_line() {
        let facts = ReactorBudget {
            core: 2,
            why: "isolated, near eth0".to_owned(),
            bytes: 256 << 20,
            pages: Pages {
                reserved: 256 << 20,
                ..Pages::default()
            },
            node: Some(1),
            registration: Registration::Registered,
            sqpoll: Some(3),
            sessions: 1024,
        };
        assert_eq!(
            facts.to_string(),
            "core 2 (isolated, near eth0), 256 MiB of buffers in reserved 2 MiB huge pages, on NUMA node 1, \
             registered with io_uring, submission thread on core 3"
        );
        let plain = ReactorBudget {
            pages: Pages {
                small: 256 << 20,
                ..Pages::default()
            },
            node: None,
            registration: Registration::Refused("ENOMEM".to_owned()),
            sqpoll: None,
            ..facts
        };
        assert!(
            plain
                .to_string()
                .ends_with("in 4 KiB pages, not registered with io_uring")
        );
    }
}
