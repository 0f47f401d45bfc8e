//! What no file says: it is tried out, without changing anything, or given by a test.

use std::fs::{File, FileType};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::backend::spec::BackendKind;
use crate::control::config::{Config, Portal, Storage};
use crate::control::near;
use crate::control::placement::Hint;
use crate::control::plan::RING_ENTRIES;
use crate::sys::file::device_facts;
use crate::sys::ring::{self, NoRing};
use crate::sys::topology::Topology;
use crate::sys::{errno, file, filesystem, interface, socket};

/// What was tried out. What was not is `None` or empty: checks then say nothing of it.
#[derive(Clone, Debug, Default)]
pub struct Probed {
    /// Entries of the queues that a ring of this process gets when it asks for as many as a reactor, or why it gets none.
    pub io_uring: Option<Result<u32, NoRing>>,
    /// What became of each portal of the configuration, in its order.
    pub portals: Vec<Result<(), Refusal>>,
    /// Addresses of portals, each with the interface that has it.
    pub addresses: Vec<(String, IpAddr)>,
    /// The nodes that interfaces and disks that are used are near to, as the daemon sees it.
    pub near: Vec<Hint>,
    /// Files and block devices of the configuration, by the number of their storage.
    pub places: Vec<(u64, Place)>,
}

/// Why an address cannot be listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Somebody listens there already.
    Taken,
    /// Only privileged processes may.
    Privileged,
    /// No interface has it.
    Nowhere,
    /// Something else.
    Other(String),
}

/// Where blocks are to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nothing is there; its directory is on this file system, if there is one.
    Missing(Option<filesystem::FileSystem>),
    /// It cannot be used: why.
    Unusable(String),
    /// It is there.
    There(There),
}

/// A file or block device that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct There {
    /// A block device, no file.
    pub is_device: bool,
    /// Somebody else has it locked, mounted or opened for himself.
    pub is_used: bool,
    /// We may not write to it.
    pub is_read_only: bool,
    /// Bytes.
    pub bytes: u64,
    /// Bytes of them that have a place on the disk; of a device all.
    pub allocated: u64,
    /// Of a file: what it is on.
    pub on: filesystem::FileSystem,
    /// What O_DIRECT demands of place and length, in bytes; `None`: it cannot be had, or nobody knows.
    pub direct: Option<u32>,
    /// The disk that it is, or is on.
    pub disk: Option<String>,
}

impl Probed {
    /// Tries everything that `config` needs on this machine.
    #[must_use]
    pub fn here(config: &Config, topology: &Topology) -> Self {
        let on_disk =
            |storage: &&Storage| matches!(storage.kind, BackendKind::File | BackendKind::IoUring);
        let place = |storage: &Storage| (storage.device_id, place(storage));
        let address = |portal: &Portal| {
            let ip = portal.address.ip();
            Some((interface::interface_of(ip)?, ip))
        };
        Self {
            io_uring: Some(ring::probe_entries(RING_ENTRIES)),
            portals: config
                .portals
                .iter()
                .map(|portal| socket::try_bind(portal.address).map_err(|e| refusal(&e)))
                .collect(),
            addresses: config.portals.iter().filter_map(address).collect(),
            near: near::hints(config, topology),
            places: config.storages.iter().filter(on_disk).map(place).collect(),
        }
    }
}

fn refusal(error: &io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::AddrInUse => Refusal::Taken,
        io::ErrorKind::PermissionDenied => Refusal::Privileged,
        io::ErrorKind::AddrNotAvailable => Refusal::Nowhere,
        _ => Refusal::Other(error.to_string()),
    }
}

fn place(storage: &Storage) -> Place {
    let facts = match std::fs::metadata(&storage.path) {
        Ok(facts) => facts,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = match storage.path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            let on = File::open(directory).and_then(|directory| filesystem::of(&directory));
            return Place::Missing(on.ok());
        }
        Err(error) => return Place::Unusable(error.to_string()),
    };
    let kind = facts.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Place::Unusable("neither a regular file nor a block device".to_owned());
    }
    match there(storage, kind, facts.blocks()) {
        Ok(there) => Place::There(there),
        Err(error) => Place::Unusable(error.to_string()),
    }
}

fn there(storage: &Storage, kind: FileType, blocks: u64) -> io::Result<There> {
    let is_device = kind.is_block_device();
    let open = |write: bool, flags| {
        let mut how = File::options();
        how.read(true).write(write).custom_flags(flags);
        how.open(&storage.path)
    };
    let file = open(false, 0)?;
    // A device that was open for writing is looked at anew by the whole system when that ends: not by us.
    let writable = is_device || storage.read_only || open(true, 0).is_ok();
    let device = is_device.then(|| device_facts(&file)).transpose()?;
    let is_used = if is_device {
        let taken = open(false, file::EXCLUSIVE).err();
        taken.is_some_and(|e| e.raw_os_error() == Some(errno::EBUSY))
    } else {
        // The lock of a descriptor for reading would say nothing of writers.
        let seen = open(!storage.read_only, 0).unwrap_or(file.try_clone()?);
        filesystem::is_locked(&seen, !storage.read_only).unwrap_or(false)
    };
    let bytes = match device {
        Some(facts) => facts.bytes,
        None => file.metadata()?.len(),
    };
    let direct = file::direct_alignment(&file).map(|(_, unit)| unit);
    Ok(There {
        is_device,
        is_used,
        is_read_only: !writable || device.is_some_and(|facts| facts.read_only),
        bytes,
        allocated: if is_device { bytes } else { blocks * 512 },
        on: filesystem::of(&file).unwrap_or_default(),
        direct: direct.or(device.map(|facts| facts.logical)),
        disk: filesystem::disk_of(Path::new("/"), filesystem::device_numbers(&file)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(config: &Config) -> Probed {
        Probed::here(config, &Topology::default())
    }

    fn config(kind: BackendKind, path: &Path) -> Config {
        Config {
            storages: vec![Storage::new(1, kind, path.to_path_buf())],
            ..Config::default()
        }
    }

    #[test]
    fn files_are_looked_at_and_stay_as_they_are() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("disk.img");
        let probed = here(&config(BackendKind::IoUring, &path));
        assert!(matches!(&probed.places[0].1, Place::Missing(Some(on)) if on.free > 0));
        assert!(!path.exists());
        let made = File::create(&path).expect("room");
        made.set_len(1 << 20).expect("room");
        let before = std::fs::metadata(&path)
            .expect("there")
            .modified()
            .expect("known");
        let seen = |kind| match here(&config(kind, &path)).places.remove(0).1 {
            Place::There(there) => there,
            other => panic!("{other:?}"),
        };
        let there = seen(BackendKind::File);
        assert_eq!(
            (there.bytes, there.is_used, there.is_device),
            (1 << 20, false, false)
        );
        assert!(there.allocated < 1 << 20 && !there.is_read_only);
        assert!(file::lock(&made, true).expect("locks work"));
        assert!(seen(BackendKind::IoUring).is_used);
        let after = std::fs::metadata(&path)
            .expect("there")
            .modified()
            .expect("known");
        assert_eq!(before, after);
        assert!(here(&config(BackendKind::Ram, &path)).places.is_empty());
        let probed = here(&config(BackendKind::File, dir.path()));
        assert!(matches!(probed.places[0].1, Place::Unusable(_)));
    }

    #[test]
    fn a_portal_that_somebody_has_is_taken() {
        let any = "127.0.0.1:0".parse().expect("an address");
        let other = socket::listen(any).expect("binds");
        let mut portals = Vec::new();
        for (id, address) in (0..).zip([
            other.local_addr().expect("bound"),
            any,
            // Kept for documentation (RFC 5737): nobody has it.
            "192.0.2.1:3260".parse().expect("an address"),
        ]) {
            portals.push(Portal { id, address });
        }
        let probed = here(&Config {
            portals,
            ..Config::default()
        });
        let want = [Err(Refusal::Taken), Ok(()), Err(Refusal::Nowhere)];
        assert_eq!(probed.portals, want);
    }
}
