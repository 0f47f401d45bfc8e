//! How the machine's cores and memory are shared out among the reactors.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::config::{Config, Storage};
use super::{BackendKind, Facts, Failure, Settings, TargetFacts, build, memory};
use crate::backend::offload::OffloadPool;
use crate::buffer::PoolConfig;
use crate::reactor::{self, Berth, ReactorConfig, SPIN, Seat, Starting, Surroundings};
use crate::session::ReactorId;
use crate::session::target::{Target, TargetSet};
use crate::sys::memory::Memory;
use crate::sys::ring::{self, RingConfig};
use crate::sys::{cpu, numa};

/// Threads for what blocks: a storage alone has half of them, and the fifth that hangs takes the last.
const OFFLOAD_THREADS: usize = 16;

/// With so many cores to spare, one of them is idle when a worker wants it.
const PLENTY: usize = 2;

/// What the reactors are made from.
pub(super) struct Plan<'a> {
    pub(super) config: &'a Config,
    pub(super) settings: &'a Settings,
    pub(super) cores: &'a [u32],
    pub(super) seats: &'a [Seat],
}

impl Plan<'_> {
    pub(super) fn count(&self) -> u16 {
        u16::try_from(self.cores.len()).expect("there are at most 4096 cores")
    }

    /// Starts all reactors, or none.
    pub(super) fn start(
        &self,
        offload: &Arc<OffloadPool>,
        berths: Vec<Berth>,
        around: Vec<Surroundings>,
        notes: &mut Vec<String>,
    ) -> Result<Vec<JoinHandle<()>>, Failure> {
        let memory = self.memory(notes);
        let ring = self.ring();
        let mailboxes: Vec<_> = berths.iter().map(Berth::mailbox).collect();
        // All at once: making memory present takes longest.
        let starting: Vec<_> = berths
            .into_iter()
            .zip(around)
            .enumerate()
            .map(|(index, (berth, around))| {
                let config = self.reactor(index, memory, ring.clone(), Arc::clone(offload));
                reactor::start(config, berth, around)
            })
            .collect();
        let mut threads = Vec::new();
        let mut failure = None;
        for (index, starting) in starting.into_iter().enumerate() {
            match starting.and_then(Starting::wait) {
                Ok((thread, report)) => {
                    threads.push(thread);
                    for note in report.pool.notes.into_iter().chain(report.notes) {
                        if !notes.contains(&note) {
                            notes.push(note);
                        }
                    }
                }
                Err(error) => {
                    let core = self.cores[index];
                    let sentence = format!("reactor {index} on core {core}: {error}");
                    failure.get_or_insert(Failure::one(sentence));
                }
            }
        }
        match failure {
            None => Ok(threads),
            Some(failure) => {
                stop_all(&mailboxes, threads);
                Err(failure)
            }
        }
    }

    fn reactor(
        &self,
        index: usize,
        memory: usize,
        ring: Option<RingConfig>,
        offload: Arc<OffloadPool>,
    ) -> ReactorConfig {
        let core = self.cores[index];
        let node = numa::node_of_core(core);
        ReactorConfig {
            id: ReactorId(u16::try_from(index).expect("there are at most 4096 cores")),
            count: self.count(),
            core,
            poll: self.config.reactors.poll,
            spin: self.config.reactors.spin.unwrap_or(SPIN),
            shares_core: self.spare_cores().is_empty(),
            pool: PoolConfig {
                bytes: memory,
                numa_node: node.filter(|_| numa::nodes() > 1),
                hugepages: true,
            },
            ring,
            login: self.settings.login,
            limits: self.settings.sessions,
            seats: self.seats.to_vec(),
            offload,
        }
    }

    /// The cores for what blocks; none when it had better run where the reactors do.
    fn spare_cores(&self) -> Vec<u32> {
        let allowed = cpu::allowed_cores();
        spare_cores(&allowed, self.cores)
    }

    /// Where threads for what blocks may run.
    fn worker_cores(&self) -> Vec<u32> {
        match self.spare_cores() {
            none if none.is_empty() => cpu::allowed_cores(),
            spare => spare,
        }
    }

    /// Threads for what blocks.
    pub(super) fn offload(&self) -> Result<Arc<OffloadPool>, Failure> {
        OffloadPool::new(OFFLOAD_THREADS, &self.worker_cores())
            .map_err(|e| Failure::one(format!("threads for what blocks: {e}")))
    }

    /// Bytes of buffers for each reactor.
    fn memory(&self, notes: &mut Vec<String>) -> usize {
        let reactors = u64::from(self.count());
        let nodes = u64::try_from(numa::nodes()).unwrap_or(1).min(reactors);
        let asked = self
            .config
            .memory
            .bytes_per_node
            .map(|bytes| bytes.saturating_mul(nodes) / reactors);
        let (bytes, note) = memory::per_reactor(Memory::here(), reactors, asked);
        notes.extend(note);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// A ring for each reactor, where that is allowed; the media said already what follows if not.
    fn ring(&self) -> Option<RingConfig> {
        let needed = self
            .config
            .storages
            .iter()
            .any(|storage| storage.kind == BackendKind::IoUring);
        if !needed || ring::probe().is_err() {
            return None;
        }
        let depth = |storage: &Storage| storage.queue_depth.unwrap_or(0);
        let entries = self
            .config
            .storages
            .iter()
            .map(depth)
            .fold(1024, u32::saturating_add);
        Some(RingConfig {
            entries: entries.min(self.settings.ring_entries),
            worker_cores: self.worker_cores(),
            sqpoll: None,
        })
    }

    pub(super) fn facts(
        &self,
        targets: &TargetSet,
        bound: &[(u64, SocketAddr)],
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
            cores: self.cores.to_vec(),
            poll: self.config.reactors.poll,
            notes,
        }
    }
}

/// The allowed cores without reactors, if there are at least [`PLENTY`].
///
/// A single one is where everything else of the machine runs, often a client that polls: an operation that
/// waits there for the scheduler takes milliseconds. Then a worker may run anywhere, the reactor's own core included,
/// and the reactor gives way (measured on 2 cores, 4 KiB buffered writes on ext4, interleaved on a loaded machine:
/// 2.1 k/s on the one spare core against 8.5 k/s anywhere at depth 1, 4.1 k/s against 61 k/s at depth 32).
fn spare_cores(allowed: &[u32], reactors: &[u32]) -> Vec<u32> {
    let spare = allowed.iter().filter(|core| !reactors.contains(core));
    let spare: Vec<u32> = spare.copied().collect();
    if spare.len() < PLENTY {
        return Vec::new();
    }
    spare
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spare_core_is_not_enough_for_what_blocks() {
        assert!(spare_cores(&[0, 1], &[0]).is_empty());
        assert!(spare_cores(&[0, 1], &[0, 1]).is_empty());
        assert_eq!(spare_cores(&[0, 1, 2, 3], &[1, 2]), [0, 3]);
    }
}
