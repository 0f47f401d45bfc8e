//! The control plane: what is to be served, who is where, starting and stopping.
//!
//! A program that embeds the target makes a [`Config`], starts a [`Controller`] with it and stops that in the end. It may
//! do so several times in one process; nothing here is global.

mod balance;
mod build;
pub mod config;
pub mod cores;
pub mod directory;
mod farewell;
mod json;
pub mod listener;
mod live;
mod memory;
pub mod names;
mod plan;
pub mod portal;
mod service;
pub mod size;

use std::fmt;
use std::net::SocketAddr;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

pub use self::config::Config;
pub use crate::backend::spec::BackendKind;
pub use crate::reactor::{PollPolicy, Unmoved, Whereabouts};
pub use live::{ReactorFacts, lines_of};

use self::directory::Directory;
use self::listener::{Acceptor, ConnectionLimits, Listeners, Newcomers};
use self::plan::Plan;
use self::service::{Duty, Running, Service};
use crate::backend::Medium;
use crate::backend::offload::OffloadPool;
use crate::reactor::{Berth, Census, Mailbox, Message, Surroundings};
use crate::session::SessionLimits;
use crate::session::login::LoginLimits;
use crate::stats::{self, Cell};
use crate::sys::memory::Memory;
use crate::sys::{cpu, numa, socket};

/// Events that wait for the control thread to log them.
const EVENTS: usize = 1024;
/// How long commands may take to finish at a stop.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the media may take at a stop to make stable what was written to them.
const FLUSH_PATIENCE: Duration = Duration::from_secs(60);
/// What is not in the configuration file.
pub struct Settings {
    /// Operations in flight per reactor, of all its storages.
    pub ring_entries: u32,
    /// How many connections there may be.
    pub connections: ConnectionLimits,
    /// Bounds of a login.
    pub login: LoginLimits,
    /// Bounds of a session.
    pub sessions: SessionLimits,
    /// How long commands may take to finish at a stop.
    pub patience: Duration,
    /// How long the media may take after that to make stable what was written.
    pub flush_patience: Duration,
    /// Called once, with a sentence, when the data plane fails while nobody stopped it.
    pub on_failure: Option<Box<dyn FnOnce(String) + Send>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ring_entries: 4096,
            connections: ConnectionLimits::default(),
            login: LoginLimits::default(),
            sessions: SessionLimits::default(),
            patience: PATIENCE,
            flush_patience: FLUSH_PATIENCE,
            on_failure: None,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

/// Why nothing was started, or a stop was not clean: a sentence for every reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub Vec<String>);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Failure {}

impl Failure {
    fn one(sentence: impl Into<String>) -> Self {
        Self(vec![sentence.into()])
    }
}

/// What is served, for people.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Targets, by name.
    pub targets: Vec<TargetFacts>,
    /// Addresses listened on.
    pub portals: Vec<SocketAddr>,
    /// Cores, one reactor on each.
    pub cores: Vec<u32>,
    /// How the reactors wait.
    pub poll: PollPolicy,
    /// What was wished for and is not so, in sentences.
    pub notes: Vec<String>,
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

/// A running target.
#[derive(Debug)]
pub struct Controller {
    control: Running,
    reactors: Vec<JoinHandle<()>>,
    mailboxes: Vec<Mailbox<Message>>,
    /// How each reactor waits.
    policies: Mutex<Vec<PollPolicy>>,
    counters: Vec<Arc<Cell>>,
    media: Vec<Arc<dyn Medium>>,
    /// Its threads end with it, so it must outlive the reactors.
    offload: Arc<OffloadPool>,
    census: Arc<Census>,
    facts: Facts,
    flush_patience: Duration,
}

impl Controller {
    /// Opens what `config` names, binds its portals, starts reactors and accepts connections.
    ///
    /// # Errors
    /// When something cannot be had; then nothing runs.
    pub fn start(config: &Config, settings: Settings) -> Result<Self, Failure> {
        let mut notes = config.notes.clone();
        let cores = prepare(config, &mut notes)?;
        let mut listeners = Listeners::default();
        let bound = bind(config, &mut listeners)?;
        let mut opened = build::open_storages(config, &settings).map_err(Failure)?;
        notes.append(&mut opened.notes);
        let targets = Arc::new(build::targets(config, &opened, &bound));
        let plan = Plan {
            config,
            settings: &settings,
            cores: &cores,
            seats: &opened.seats,
        };
        let service =
            Service::new().map_err(|e| Failure::one(format!("the control thread: {e}")))?;
        let (event_sender, events) = sync_channel(EVENTS);
        let berths = cores
            .iter()
            .map(|_| Berth::new())
            .collect::<Result<Vec<_>, _>>();
        let berths = berths.map_err(|e| Failure::one(format!("a reactor cannot be made: {e}")))?;
        let mailboxes: Vec<_> = berths.iter().map(Berth::mailbox).collect();
        let counters: Vec<Arc<Cell>> = cores.iter().map(|_| Arc::default()).collect();
        let around = |counters: &Arc<Cell>| Surroundings {
            peers: mailboxes.clone(),
            control: service.mailbox(),
            events: event_sender.clone(),
            counters: Arc::clone(counters),
        };
        let around: Vec<_> = counters.iter().map(around).collect();
        let offload = plan.offload()?;
        let reactors = plan.start(&offload, berths, around, &mut notes)?;
        let census = Arc::new(Census::default());
        let facts = plan.facts(&targets, &bound, notes);
        let acceptor = Acceptor {
            listeners,
            targets,
            census: Arc::clone(&census),
            limits: settings.connections,
            newcomers: Newcomers::default(),
            reactors: mailboxes.clone(),
            turn: 0,
        };
        let directory = Directory::new(plan.count());
        let duty = Duty {
            acceptor,
            directory,
            events,
            counters: counters.clone(),
            balance: config.reactors.balance,
            patience: settings.patience,
            on_failure: settings.on_failure,
        };
        let control = match service.start(duty) {
            Ok(control) => control,
            Err(error) => {
                plan::stop_all(&mailboxes, reactors);
                return Err(Failure::one(format!("the control thread: {error}")));
            }
        };
        opened.created.keep();
        let media = opened.seats.into_iter().map(|seat| seat.medium).collect();
        Ok(Self {
            control,
            reactors,
            policies: Mutex::new(vec![config.reactors.poll; mailboxes.len()]),
            mailboxes,
            counters,
            media,
            offload,
            census,
            facts,
            flush_patience: settings.flush_patience,
        })
    }

    /// What is served.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Connections there are, and how many of them are not logged in.
    #[must_use]
    pub fn connections(&self) -> (u32, u32) {
        (self.census.open(), self.census.logging_in())
    }

    /// The counters, as a table for people.
    #[must_use]
    pub fn summary(&self) -> String {
        summary_of(&self.counters)
    }

    /// The counters themselves, for [`summary_of`] after the end.
    #[must_use]
    pub fn counters(&self) -> Vec<Arc<Cell>> {
        self.counters.clone()
    }

    /// Stops accepting, lets begun commands finish (within [`Settings::patience`]), closes every session, and makes
    /// every medium's content stable (within [`Settings::flush_patience`]). What a storage that hangs holds is left
    /// behind.
    ///
    /// # Errors
    /// When a medium could not be flushed, or a reactor had failed or was left behind.
    pub fn stop(self) -> Result<(), Failure> {
        let mut problems = Vec::new();
        if !self.control.stop() {
            problems.push("the control thread had failed".to_owned());
        }
        problems.extend(farewell::join(self.reactors));
        drop(self.offload);
        problems.extend(farewell::flush(&self.media, self.flush_patience));
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Failure(problems))
        }
    }
}

/// Counters as a table for people.
#[must_use]
pub fn summary_of(counters: &[Arc<Cell>]) -> String {
    stats::summary(counters.iter().map(|cell| &**cell))
}

/// Raises the limit of open files; gives the reactors' cores.
fn prepare(config: &Config, notes: &mut Vec<String>) -> Result<Vec<u32>, Failure> {
    if let Err(error) = socket::raise_descriptor_limit() {
        notes.push(format!("the limit of open files stays as it is: {error}"));
    }
    let (reachable, isolated) = (cpu::reachable_cores(), cpu::isolated_cores());
    if let Some(asked) = &config.reactors.cores {
        return cores::choose(Some(asked), &reachable, &isolated).map_err(Failure::one);
    }
    let started = cpu::allowed_cores();
    let mut allowed = cores::candidates(&started, &reachable, &isolated);
    if let Some(node) = config.numa_node(notes) {
        let near = |core: &u32| numa::node_of_core(*core) == Some(node);
        if allowed.iter().any(near) {
            allowed.retain(near);
        } else {
            notes.push(format!("NUMA node {node} has no core this process may use"));
        }
    }
    let mut cores = cores::choose(None, &allowed, &isolated).map_err(Failure::one)?;
    let time = cpu::parallelism();
    if time < started.len() && time < cores.len() {
        notes.push(format!(
            "the control group has time for {time} cores: {time} reactors instead of {}",
            cores.len()
        ));
        cores.truncate(time);
    }
    let most = memory::most_reactors(Memory::here());
    if most < cores.len() {
        notes.push(format!(
            "there is memory for {most} reactors, not for {}",
            cores.len()
        ));
        cores.truncate(most);
    }
    Ok(cores)
}

/// Binds every portal; gives their ids and what the addresses became.
fn bind(config: &Config, listeners: &mut Listeners) -> Result<Vec<(u64, SocketAddr)>, Failure> {
    let mut bound = Vec::new();
    let mut problems = Vec::new();
    for portal in &config.portals {
        match listeners.bind(portal.address) {
            Ok(address) => bound.push((portal.id, address)),
            Err(problem) => problems.push(problem),
        }
    }
    if bound.is_empty() && problems.is_empty() {
        problems.push("there is no portal to listen on".to_owned());
    }
    if problems.is_empty() {
        Ok(bound)
    } else {
        Err(Failure(problems))
    }
}
