//! The configuration file: gotgt's format with a few members of our own.
//!
//! [`Config::parse`] reads the whole file before it judges, so that one run names every mistake.

mod check;
mod targets;
mod walk;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::json;
use super::placement::Sqpoll;
use super::portal::ISCSI_PORT;
use crate::backend::spec::BackendKind;
use crate::reactor::PollPolicy;
use crate::units::BlockSize;

/// What to serve, and with what.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// Disks.
    pub storages: Vec<Storage>,
    /// Addresses.
    pub portals: Vec<Portal>,
    /// Targets, ordered by name.
    pub targets: Vec<TargetConfig>,
    /// Cores, and how they wait.
    pub reactors: Reactors,
    /// Memory.
    pub memory: Memory,
    /// What was accepted but has no or little effect: sentences for the log.
    pub notes: Vec<String>,
}

/// One disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    /// Its number in this file (`deviceID`).
    pub device_id: u64,
    /// What stores it (`backendType`, or the prefix of `path`).
    pub kind: BackendKind,
    /// Where; for `ram` and `null` only a name.
    pub path: PathBuf,
    /// Bytes; needed for what does not exist yet.
    pub size: Option<u64>,
    /// False: the LUN answers NOT READY.
    pub online: bool,
    /// From `blockShift`.
    pub block_size: BlockSize,
    /// Nothing may be written.
    pub read_only: bool,
    /// Whether a completed write may wait for a flush.
    pub write_cache: bool,
    /// Bypass the page cache (`directIO`); `None`: for block devices through io_uring, where blocks allow it.
    pub direct: Option<bool>,
    /// Unit serial number; derived when it is not given.
    pub serial: Option<String>,
    /// T10 vendor identification, at most 8 characters.
    pub vendor: Option<String>,
    /// Product identification, at most 16 characters.
    pub product: Option<String>,
    /// Operations in flight per reactor (`ioUringQueueDepth`).
    pub queue_depth: Option<u32>,
    /// Memory and reactors of this node are wanted (`numaNode`, where `enableNUMA`).
    pub numa_node: Option<u32>,
}

impl Storage {
    /// The usual: blocks of 512 bytes, online, writable, with a write cache.
    #[must_use]
    pub fn new(device_id: u64, kind: BackendKind, path: PathBuf) -> Self {
        Self {
            device_id,
            kind,
            path,
            size: None,
            online: true,
            block_size: BlockSize::B512,
            read_only: false,
            write_cache: true,
            direct: None,
            serial: None,
            vendor: None,
            product: None,
            queue_depth: None,
            numa_node: None,
        }
    }
}

/// One address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Portal {
    /// Its number in this file.
    pub id: u64,
    /// Exactly this is bound.
    pub address: SocketAddr,
}

/// One target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetConfig {
    /// iSCSI name in normal form.
    pub name: String,
    /// Portal group tags, each with the ids of its portals.
    pub portal_groups: Vec<(u16, Vec<u64>)>,
    /// LUNs, each with the `deviceID` of its storage; ascending.
    pub luns: Vec<(u16, u64)>,
}

/// Cores, and how they wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reactors {
    /// One reactor on each; `None`: chosen from what the process may use.
    pub cores: Option<Vec<u32>>,
    /// How a reactor with nothing to do waits.
    pub poll: PollPolicy,
    /// How long `adaptive` spins before it sleeps; `None`: the default.
    pub spin: Option<Duration>,
    /// Whether the rings get submission threads of the kernel's.
    pub sqpoll: Sqpoll,
    /// Whether sessions move to other reactors when the load is lopsided.
    pub balance: bool,
}

impl Default for Reactors {
    fn default() -> Self {
        Self {
            cores: None,
            poll: PollPolicy::default(),
            spin: None,
            sqpoll: Sqpoll::No,
            balance: true,
        }
    }
}

/// Memory that the reactors share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Bytes per NUMA node (`numaBufferPoolSize` x `numaBufferSize`); `None`: the default.
    pub bytes_per_node: Option<u64>,
}

/// Something wrong in the file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Path of members, like `storages[0].path`; line and column for a syntax error.
    pub place: String,
    /// What is wrong, and what would be right.
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

impl Config {
    /// Reads a configuration. `port` is for portals that name none.
    ///
    /// # Errors
    /// Every mistake there is, in the order of the file.
    pub fn parse(text: &str, port: Option<u16>) -> Result<Self, Vec<Mistake>> {
        let tree = json::parse(text).map_err(|error| {
            let (place, what) = error
                .rsplit_once(": ")
                .unwrap_or(("the file", error.as_str()));
            vec![Mistake {
                place: place.to_owned(),
                what: format!("not JSON: {what}"),
            }]
        })?;
        check::config(&tree, port.unwrap_or(ISCSI_PORT))
    }

    /// The NUMA node that the storages are wanted on, if they agree on one.
    #[must_use]
    pub fn numa_node(&self, notes: &mut Vec<String>) -> Option<u32> {
        let mut wanted = self.storages.iter().filter_map(|storage| storage.numa_node);
        let first = wanted.next()?;
        if wanted.any(|other| other != first) {
            notes.push(
                "storages want different NUMA nodes: reactors run on all of them; \"reactors\": {\"cores\"} decides"
                    .to_owned(),
            );
            return None;
        }
        Some(first)
    }

    /// Mistakes that only the file system can tell: storages whose file is missing.
    #[must_use]
    pub fn missing_files(&self) -> Vec<Mistake> {
        let on_disk =
            |s: &&(usize, &Storage)| matches!(s.1.kind, BackendKind::File | BackendKind::IoUring);
        let missing = |(index, storage): (usize, &Storage)| {
            let what = match storage.path.try_exists() {
                Ok(true) => return None,
                Ok(false) if storage.size.is_some() => return None,
                Ok(false) => format!(
                    "{} does not exist (give \"size\" to have it created)",
                    storage.path.display()
                ),
                Err(error) => format!("{}: {error}", storage.path.display()),
            };
            let place = format!("storages[{index}].path");
            Some(Mistake { place, what })
        };
        let all: Vec<_> = self.storages.iter().enumerate().collect();
        all.iter()
            .filter(on_disk)
            .copied()
            .filter_map(missing)
            .collect()
    }
}

/// Where a configuration is looked for when none is named, best first.
#[must_use]
pub fn search_path(variable: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let mut places = Vec::new();
    places.extend(variable("RINGTGT_CONFIG"));
    let home = variable("HOME");
    places.extend(home.as_ref().map(|h| h.join(".ringtgt/config.json")));
    places.push(PathBuf::from("/etc/ringtgt/config.json"));
    places.extend(variable("GOSTOR_CONFIG").map(|dir| dir.join("config.json")));
    places.extend(home.map(|h| h.join(".gotgt/config.json")));
    places
}

#[cfg(test)]
mod tests;
