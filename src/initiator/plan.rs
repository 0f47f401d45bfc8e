//! What a run of the load generator is to do, and whether it can be done.

use std::time::Duration;

use super::socket::LinkError;
use super::url::LunUrl;
use super::{Error, Negotiated, Offers};

/// Most slots of a run that verifies: its set of written slots takes one bit each (1 GiB).
const MOST_SLOTS: u64 = 1 << 33;

/// What the commands do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reads only.
    Read,
    /// Writes only. Destroys data.
    Write,
    /// Both. Destroys data.
    Mixed {
        /// Reads per 100 commands.
        read_percent: u8,
    },
}

/// In which order blocks are addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Rising; every connection has its own part of the medium and starts again at its end.
    Sequential,
    /// Uniformly random, aligned to the block size.
    Random,
}

/// When a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// After so long.
    Time(Duration),
    /// After so many commands.
    Commands(u64),
}

/// One stream of commands, on connections of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    /// What the commands do.
    pub operation: Operation,
    /// In which order.
    pub access: Access,
    /// Bytes per command: a multiple of the logical block size.
    pub block_size: u32,
    /// Commands outstanding per connection, at most.
    pub depth: u16,
    /// Connections, each a session of its own.
    pub connections: u16,
    /// Commands per second, on all of them together, whatever the target does; `None` issues the next when one
    /// has ended.
    pub rate: Option<f64>,
}

/// A run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The logical unit.
    pub url: LunUrl,
    /// InitiatorName.
    pub initiator_name: String,
    /// What is offered at login.
    pub offers: Offers,
    /// What is measured.
    pub work: Work,
    /// What runs beside it, measured too.
    pub also: Vec<Work>,
    /// When it ends, warm-up not counted; commands are those of [`Self::work`].
    pub length: Length,
    /// How long commands run before they are measured.
    pub warmup: Duration,
    /// Bytes of the logical unit that are used, from its start; all of it when `None`.
    pub span: Option<u64>,
    /// Writes a pattern, and compares what is read.
    pub verify: bool,
    /// Of the random numbers and of the pattern.
    pub seed: u64,
    /// Puts up with breaches of the protocol that do no harm to the measurement.
    pub lenient: bool,
    /// Spins; otherwise sleeps while there is nothing to do.
    pub busy: bool,
    /// Core to stay on.
    pub core: Option<u32>,
    /// Tells how it goes, so often.
    pub interval: Option<Duration>,
}

impl Plan {
    /// All streams of commands, the measured one first.
    pub fn works(&self) -> impl Iterator<Item = &Work> {
        std::iter::once(&self.work).chain(&self.also)
    }
}

/// Why there are no results, or only some.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// A connection was not made, or failed.
    #[error("connection {number}: {error}")]
    Link {
        /// Counted from 0.
        number: u16,
        /// What happened.
        error: LinkError,
    },
    /// The host's name has no address.
    #[error("cannot resolve '{host}': {error}")]
    Resolve {
        /// As given.
        host: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// The target fell silent.
    #[error("no answer for {} seconds; {outstanding} commands are outstanding", patience.as_secs())]
    Silence {
        /// How long nothing came.
        patience: Duration,
        /// Commands without an answer.
        outstanding: usize,
    },
    /// Somebody wanted it to stop.
    #[error("stopped by a signal")]
    Stopped,
    /// The plan does not fit the logical unit.
    #[error("{0}")]
    Plan(String),
    /// The system refused something.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: String,
        /// What the system says.
        error: std::io::Error,
    },
}

impl DriverError {
    /// The key of the login whose answer could not be accepted, if that is why.
    #[must_use]
    pub fn refused_key(&self) -> Option<&str> {
        match self {
            Self::Link {
                error: LinkError::Initiator(Error::Key { key, .. }),
                ..
            } => Some(key),
            _ => None,
        }
    }
}

/// What was found out about the target before the run.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Logical blocks.
    pub blocks: u64,
    /// Bytes in one.
    pub logical_block_size: u32,
    /// What the first connection agreed on.
    pub negotiated: Negotiated,
}

/// Whether a thread of this process may stay on `core`.
///
/// # Errors
/// [`DriverError::Plan`] names the cores that it may stay on.
pub fn check_core(core: u32) -> Result<(), DriverError> {
    let cores = crate::sys::cpu::reachable_cores();
    if cores.contains(&core) {
        return Ok(());
    }
    let names: Vec<String> = cores.iter().map(u32::to_string).collect();
    Err(DriverError::Plan(format!(
        "cannot stay on core {core}: this process may use {}",
        names.join(", ")
    )))
}

/// How many commands lie side by side in the part of the logical unit that is used.
pub(super) fn slots_of(plan: &Plan, work: &Work, facts: &Facts) -> Result<u64, DriverError> {
    let wrong = |text: String| Err(DriverError::Plan(text));
    let logical = facts.logical_block_size;
    if logical == 0 || !work.block_size.is_multiple_of(logical) || work.block_size == 0 {
        return wrong(format!(
            "the block size of {} bytes is not a multiple of the logical block size, {logical} bytes",
            work.block_size
        ));
    }
    let capacity = facts.blocks.saturating_mul(logical.into());
    let span = plan.span.unwrap_or(capacity);
    if span > capacity {
        return wrong(format!(
            "a span of {span} bytes, but the logical unit has {capacity}"
        ));
    }
    let slots = span / u64::from(work.block_size);
    if slots < u64::from(work.connections) {
        return wrong(format!(
            "{span} bytes are too few for {} connections with commands of {} bytes each",
            work.connections, work.block_size
        ));
    }
    if plan.verify && slots > MOST_SLOTS {
        return wrong(format!(
            "{slots} blocks are too many to keep track of while verifying: use a part of the logical unit"
        ));
    }
    Ok(slots)
}

/// READ or WRITE of `blocks` logical blocks at slot `slot`: the 10-byte form where it can say it
/// (SBC-4, sections 5.16, 5.18, 5.40 and 5.42).
pub(super) fn transfer_cdb(blocks: u32, slot: u64, writes: bool) -> [u8; 16] {
    let lba = slot * u64::from(blocks);
    let mut cdb = [0; 16];
    if let (Ok(lba), Ok(blocks)) = (u32::try_from(lba), u16::try_from(blocks)) {
        cdb[0] = if writes { 0x2a } else { 0x28 };
        cdb[2..6].copy_from_slice(&lba.to_be_bytes());
        cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    } else {
        cdb[0] = if writes { 0x8a } else { 0x88 };
        cdb[2..10].copy_from_slice(&lba.to_be_bytes());
        cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    }
    cdb
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            url: "iscsi://h/iqn.x/0".parse().unwrap(),
            initiator_name: String::new(),
            offers: Offers::DEFAULT,
            work: Work {
                operation: Operation::Read,
                access: Access::Random,
                block_size: 4096,
                depth: 1,
                connections: 2,
                rate: None,
            },
            also: Vec::new(),
            length: Length::Commands(1),
            warmup: Duration::ZERO,
            span: None,
            verify: false,
            seed: 1,
            lenient: false,
            busy: true,
            core: None,
            interval: None,
        }
    }

    fn slots(plan: &Plan, blocks: u64, logical_block_size: u32) -> Result<u64, String> {
        let negotiated = Negotiated::defaults();
        slots_of(
            plan,
            &plan.work,
            &Facts {
                blocks,
                logical_block_size,
                negotiated,
            },
        )
        .map_err(|e| e.to_string())
    }

    #[test]
    fn a_plan_must_fit_the_logical_unit() {
        assert_eq!(slots(&plan(), 100, 512), Ok(12));
        assert_eq!(
            slots(
                &Plan {
                    span: Some(8192),
                    ..plan()
                },
                100,
                512
            ),
            Ok(2)
        );
        for (plan, blocks, size, text) in [
            (plan(), 100, 8192, "not a multiple"),
            (plan(), 100, 0, "not a multiple"),
            (plan(), 15, 512, "too few"),
            (
                Plan {
                    span: Some(1 << 20),
                    ..plan()
                },
                100,
                512,
                "has 51200",
            ),
            (
                Plan {
                    verify: true,
                    ..plan()
                },
                u64::MAX,
                512,
                "keep track",
            ),
        ] {
            let error = slots(&plan, blocks, size).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn long_addresses_and_lengths_take_the_long_form() {
        assert_eq!(
            transfer_cdb(8, 3, false)[..9],
            [0x28, 0, 0, 0, 0, 24, 0, 0, 8]
        );
        assert_eq!(transfer_cdb(8, 3, true)[0], 0x2a);
        let cdb = transfer_cdb(8, 1 << 29, true);
        assert_eq!(cdb[..14], [0x8a, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 8]);
        assert_eq!(transfer_cdb(1 << 16, 0, false)[0], 0x88);
    }
}
