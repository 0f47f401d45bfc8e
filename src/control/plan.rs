//! How the machine's cores and memory are shared out among the reactors.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::config::{Config, Storage};
use super::placement::{Hint, Placed, Placement, Sqpoll, Wishes, place};
use super::{BackendKind, Facts, Failure, ReactorBudget, Settings, TargetFacts, build, near};
use crate::backend::offload::OffloadPool;
use crate::buffer::PoolConfig;
use crate::reactor::{
    self, Berth, ReactorConfig, Registration, Report, SPIN, Seat, Starting, Surroundings,
};
use crate::session::ReactorId;
use crate::session::target::{Target, TargetSet};
use crate::sys::machine::Machine;
use crate::sys::ring::{self, NoRing, RingConfig};
use crate::sys::topology::HUGE_PAGE_BYTES;

/// Threads for what blocks: a storage alone has half of them, and the fifth that hangs takes the last.
const OFFLOAD_THREADS: usize = 16;
/// How long to wait for reserved huge pages that are in use.
const HUGE_PAGE_PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of buffers of one reactor that has what it likes.
const USUAL_POOL: u64 = 256 << 20;
/// Operations in flight that every ring has room for, if it can be had.
pub(super) const RING_ENTRIES: u32 = 1024;

/// What the reactors are made from.
pub(super) struct Plan<'a> {
    pub(super) config: &'a Config,
    pub(super) settings: &'a Settings,
    pub(super) seats: &'a [Seat],
    pub(super) placement: Placement,
    /// Whether a storage wants a ring, and may have one.
    has_ring: bool,
}

/// The reactors that run, and what they got.
#[derive(Debug)]
pub(super) struct Reactors {
    pub(super) threads: Vec<JoinHandle<()>>,
    pub(super) facts: Vec<ReactorBudget>,
}

fn wants_ring(config: &Config) -> bool {
    let mut storages = config.storages.iter();
    storages.any(|storage| storage.kind == BackendKind::IoUring)
}

/// What the configuration asks of the placement; `has_ring`: this process may use io_uring.
pub(super) fn wishes(
    config: &Config,
    near: Vec<Hint>,
    has_ring: bool,
    notes: &mut Vec<String>,
) -> Wishes {
    let mut sqpoll = config.reactors.sqpoll;
    let wants_ring = wants_ring(config);
    if sqpoll != Sqpoll::No && !(wants_ring && has_ring) {
        sqpoll = Sqpoll::No;
        let why = if wants_ring {
            "is denied here"
        } else {
            "is not used by any storage"
        };
        notes.push(format!("sqpoll has no effect: io_uring {why}"));
    }
    Wishes {
        cores: config.reactors.cores.clone(),
        node: config.numa_node(notes),
        near,
        sqpoll,
        bytes_per_node: config.memory.bytes_per_node,
    }
}

/// The machine, once whoever ended a moment ago has given back his huge pages: the kernel takes a while over those of a
/// process that was killed. Does not wait where none are reserved, or enough are free.
fn settled(config: &Config) -> Machine {
    let since = Instant::now();
    loop {
        let machine = Machine::here();
        let is_short = machine.topology.nodes.iter().any(|node| {
            let cores = config.reactors.cores.as_ref();
            let count = cores.map_or(machine.topology.cores.len(), Vec::len);
            let usual = USUAL_POOL.saturating_mul(u64::try_from(count).unwrap_or(u64::MAX));
            let wanted = config.memory.bytes_per_node.unwrap_or(usual) / HUGE_PAGE_BYTES;
            node.free_hugepages < node.hugepages.min(wanted)
        });
        if !is_short || since.elapsed() >= HUGE_PAGE_PATIENCE {
            return machine;
        }
        std::thread::sleep(HUGE_PAGE_PATIENCE / 20);
    }
}

impl<'a> Plan<'a> {
    /// Looks at the machine, which by now has the media, and places the reactors.
    pub(super) fn new(
        config: &'a Config,
        settings: &'a Settings,
        seats: &'a [Seat],
        notes: &mut Vec<String>,
    ) -> Result<Self, Failure> {
        let machine = settled(config);
        // Where memory is short now, a reactor may still get one: an ended ring's memory comes back late. It says what it got.
        let may = matches!(ring::probe(), Ok(()) | Err(NoRing::NoMemory));
        let has_ring = wants_ring(config) && may;
        let near = near::hints(config, &machine.topology);
        let wishes = wishes(config, near, has_ring, notes);
        let placement = place(&machine.topology, &machine.limits, &wishes)
            .map_err(|refusal| Failure::one(refusal.to_string()))?;
        notes.extend(placement.notes.iter().cloned());
        Ok(Self {
            config,
            settings,
            seats,
            placement,
            has_ring,
        })
    }

    pub(super) fn count(&self) -> u16 {
        u16::try_from(self.placement.reactors.len()).expect("there are at most 4096 cores")
    }

    /// Starts all reactors, or none.
    pub(super) fn start(
        &self,
        offload: &Arc<OffloadPool>,
        berths: Vec<Berth>,
        around: Vec<Surroundings>,
        notes: &mut Vec<String>,
    ) -> Result<Reactors, Failure> {
        let mailboxes: Vec<_> = berths.iter().map(Berth::mailbox).collect();
        // All at once: making memory present takes longest.
        let starting: Vec<_> = berths
            .into_iter()
            .zip(around)
            .zip(&self.placement.reactors)
            .enumerate()
            .map(|(index, ((berth, around), placed))| {
                let config = self.reactor(index, placed, Arc::clone(offload));
                reactor::start(config, berth, around)
            })
            .collect();
        let mut threads = Vec::new();
        let mut facts = Vec::new();
        let mut failure = None;
        for (index, starting) in starting.into_iter().enumerate() {
            let placed = &self.placement.reactors[index];
            match starting.and_then(Starting::wait) {
                Ok((thread, report)) => {
                    threads.push(thread);
                    facts.push(facts_of(placed, &report));
                    for note in report.pool.notes.into_iter().chain(report.notes) {
                        if !notes.contains(&note) {
                            notes.push(note);
                        }
                    }
                }
                Err(error) => {
                    let sentence = format!("reactor {index} on core {}: {error}", placed.core);
                    failure.get_or_insert(Failure::one(sentence));
                }
            }
        }
        match failure {
            None => {
                notes.extend(unregistered(&facts));
                Ok(Reactors { threads, facts })
            }
            Some(failure) => {
                stop_all(&mailboxes, threads);
                Err(failure)
            }
        }
    }

    fn reactor(&self, index: usize, placed: &Placed, offload: Arc<OffloadPool>) -> ReactorConfig {
        let whole = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        ReactorConfig {
            id: ReactorId(u16::try_from(index).expect("there are at most 4096 cores")),
            count: self.count(),
            core: placed.core,
            poll: self.config.reactors.poll,
            spin: self.config.reactors.spin.unwrap_or(SPIN),
            shares_core: self.placement.shares_cores,
            pool: PoolConfig {
                bytes: whole(placed.bytes),
                numa_node: Some(placed.node).filter(|_| self.placement.is_numa),
                hugepages: true,
            },
            hugepages: whole(placed.hugepages),
            ring: self.ring(placed),
            login: self.settings.login,
            limits: self.settings.sessions,
            seats: self.seats.to_vec(),
            offload,
        }
    }

    /// Threads for what blocks.
    pub(super) fn offload(&self) -> Result<Arc<OffloadPool>, Failure> {
        OffloadPool::new(OFFLOAD_THREADS, &self.placement.worker_cores)
            .map_err(|e| Failure::one(format!("threads for what blocks: {e}")))
    }

    /// A ring for a reactor, where that is allowed; the media said already what follows if not.
    fn ring(&self, placed: &Placed) -> Option<RingConfig> {
        if !self.has_ring {
            return None;
        }
        let depth = |storage: &Storage| storage.queue_depth.unwrap_or(0);
        let entries = self
            .config
            .storages
            .iter()
            .map(depth)
            .fold(RING_ENTRIES, u32::saturating_add);
        Some(RingConfig {
            entries: entries.min(self.settings.ring_entries),
            worker_cores: self.placement.worker_cores.clone(),
            sqpoll: placed.sqpoll,
        })
    }

    /// Bytes of the media that are memory.
    fn ram(&self) -> u64 {
        let is_ram = |seat: &&Seat| seat.medium.describe().starts_with("ram:");
        let bytes = |seat: &Seat| {
            let geometry = seat.medium.geometry();
            geometry.capacity.0 << geometry.block_size.shift()
        };
        self.seats.iter().filter(is_ram).map(bytes).sum()
    }

    pub(super) fn facts(
        &self,
        targets: &TargetSet,
        bound: &[(u64, SocketAddr)],
        reactors: Vec<ReactorBudget>,
        notes: Vec<String>,
    ) -> Facts {
        let target = |target: &Arc<Target>| TargetFacts {
            name: target.name.clone(),
            portals: target
                .portal_groups
                .iter()
                .flat_map(|group| group.portals.iter().copied())
                .collect(),
            luns: build::lun_facts(target, self.seats),
        };
        Facts {
            targets: targets.targets.iter().map(target).collect(),
            portals: bound.iter().map(|(_, address)| *address).collect(),
            cores: self.placement.cores(),
            sessions: reactors
                .iter()
                .map(|reactor| reactor.sessions)
                .sum::<usize>()
                .min(self.settings.connections.open as usize),
            reactors,
            ram: self.ram(),
            poll: self.config.reactors.poll,
            notes,
        }
    }
}

/// What a reactor got, for people.
fn facts_of(placed: &Placed, report: &Report) -> ReactorBudget {
    ReactorBudget {
        core: placed.core,
        why: placed.why.clone(),
        bytes: report.pool.bytes,
        pages: report.pool.pages,
        node: report.pool.node,
        registration: report.registration.clone(),
        sqpoll: placed.sqpoll.filter(|_| report.has_sq_thread),
        sessions: report.sessions,
    }
}

/// One sentence, however many reactors it is about.
fn unregistered(reactors: &[ReactorBudget]) -> Option<String> {
    let why = |facts: &ReactorBudget| match &facts.registration {
        Registration::Refused(why) => Some(why.clone()),
        Registration::Registered | Registration::NoRing => None,
    };
    let why = reactors.iter().find_map(why)?;
    let kib = reactors.iter().map(|facts| facts.bytes).sum::<usize>() >> 10;
    Some(format!(
        "buffers are not registered with io_uring ({why}): everything works, cached reads a little slower; RLIMIT_MEMLOCK \
         must allow {kib} KiB (ulimit -l {kib}; systemd: LimitMEMLOCK=infinity)"
    ))
}

/// Ends the reactors that were started already.
pub(super) fn stop_all(
    mailboxes: &[reactor::Mailbox<reactor::Message>],
    threads: Vec<JoinHandle<()>>,
) {
    for mailbox in mailboxes {
        let _ = mailbox.send(reactor::Message::Stop {
            deadline: std::time::Instant::now(),
        });
    }
    for thread in threads {
        let _ = thread.join();
    }
}
