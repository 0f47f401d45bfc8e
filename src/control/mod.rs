//! The control plane: what is to be served, who is where, starting and stopping.
//!
//! A program that embeds the target makes a [`Config`], starts a [`Controller`] with it and stops that in the end. It may
//! do so several times in one process; nothing here is global.

mod balance;
mod build;
pub mod config;
pub mod cores;
pub mod directory;
mod facts;
mod farewell;
mod json;
pub mod listener;
mod live;
pub mod names;
mod near;
pub mod placement;
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
pub use self::facts::{Facts, LunFacts, ReactorBudget, TargetFacts};
pub use crate::backend::spec::BackendKind;
pub use crate::buffer::Pages;
pub use crate::reactor::{PollPolicy, Registration, Unmoved, Whereabouts};
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
use crate::sys::socket;

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
    /// Called once, when all memory is allocated and nobody has been let in yet.
    pub on_budget: Option<fn(&Facts)>,
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
            on_budget: None,
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
        if let Err(error) = socket::raise_descriptor_limit() {
            notes.push(format!("the limit of open files stays as it is: {error}"));
        }
        let mut listeners = Listeners::default();
        let bound = bind(config, &mut listeners)?;
        let mut opened = build::open_storages(config, &settings).map_err(Failure)?;
        notes.append(&mut opened.notes);
        let targets = Arc::new(build::targets(config, &opened, &bound));
        let plan = Plan::new(config, &settings, &opened.seats, &mut notes)?;
        let service =
            Service::new().map_err(|e| Failure::one(format!("the control thread: {e}")))?;
        let (event_sender, events) = sync_channel(EVENTS);
        let berths = berths(plan.count())?;
        let mailboxes: Vec<_> = berths.iter().map(Berth::mailbox).collect();
        let counters: Vec<Arc<Cell>> = (0..plan.count()).map(|_| Arc::default()).collect();
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
        let facts = plan.facts(&targets, &bound, reactors.facts, notes);
        let reactors = reactors.threads;
        if let Some(tell) = settings.on_budget {
            tell(&facts);
        }
        let acceptor = Acceptor {
            listeners,
            targets,
            census: Arc::clone(&census),
            limits: settings.connections,
            newcomers: Newcomers::default(),
            reactors: mailboxes.clone(),
            turn: 0,
        };
        let duty = Duty {
            acceptor,
            directory: Directory::new(plan.count()),
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

fn berths(count: u16) -> Result<Vec<Berth>, Failure> {
    let berths = (0..count).map(|_| Berth::new()).collect::<Result<_, _>>();
    berths.map_err(|e| Failure::one(format!("a reactor cannot be made: {e}")))
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
