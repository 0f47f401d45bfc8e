//! The one list of kinds of media, and opening one. Control's side: everything here may block.

use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::claim;
use super::disk::{Disk, knows_nowait};
use super::file::FileMedium;
use super::iouring::RingMedium;
use super::null::NullMedium;
use super::ram::RamMedium;
use super::{Geometry, Medium};
use crate::sys;
use crate::sys::errno;
use crate::sys::file::DeviceFacts;
use crate::units::BlockSize;

/// What a `null` medium pretends to be when no size is given, in bytes: 1 TiB.
pub const NULL_SIZE: u64 = 1 << 40;
/// Alignment of every buffer in memory, in bytes.
const BUFFER_ALIGNMENT: u32 = 4096;
/// What the page cache writes at least, in bytes.
const CACHE_PAGE: u32 = 4096;

/// Kinds of media.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BackendKind {
    /// A file or block device through io_uring.
    IoUring,
    /// A file or block device by system calls.
    File,
    /// Memory, gone with the process.
    Ram,
    /// Nothing: reads zeroes, forgets writes.
    Null,
}

impl BackendKind {
    /// All of them, the default first.
    pub const ALL: [Self; 4] = [Self::IoUring, Self::File, Self::Ram, Self::Null];

    /// Its name on the command line and in configuration files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::IoUring => "iouring",
            Self::File => "file",
            Self::Ram => "ram",
            Self::Null => "null",
        }
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// There is no backend of that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown backend {0:?}: it is one of iouring, file, ram, null")]
pub struct UnknownKind(pub String);

impl FromStr for BackendKind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<Self, UnknownKind> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| UnknownKind(name.to_owned()))
    }
}

/// What to open, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSpec {
    /// Kind.
    pub kind: BackendKind,
    /// File or block device; for `ram` and `null` only a name.
    pub path: PathBuf,
    /// Size in bytes: needed for `ram` and for a file that does not exist; of an existing one it must be
    /// the true size. `null` without it is [`NULL_SIZE`].
    pub size: Option<u64>,
    /// Logical block size.
    pub block_size: BlockSize,
    /// Take no writes.
    pub read_only: bool,
    /// Create a file that does not exist, sparse, when `size` is given.
    pub create: bool,
    /// Bypass the page cache. `None`: for block devices through io_uring, where blocks allow it.
    pub direct: Option<bool>,
    /// Writes may stay in the page cache until a flush; without it each write is made stable.
    pub write_cache: bool,
    /// Operations that each core may have in flight; the reactor puts it into `AttachContext::depth`.
    pub queue_depth: u32,
    /// How long to wait for who has the file or device: one that is ending gives it up a little later.
    pub patience: Duration,
}

impl BackendSpec {
    /// The usual: 512-byte blocks, writable, with a write cache, 128 operations in flight.
    #[must_use]
    pub fn new(kind: BackendKind, path: impl Into<PathBuf>) -> Self {
        Self {
            kind,
            path: path.into(),
            size: None,
            block_size: BlockSize::B512,
            read_only: false,
            create: true,
            direct: None,
            write_cache: true,
            queue_depth: 128,
            patience: claim::PATIENCE,
        }
    }
}

/// An open medium.
#[derive(Debug)]
pub struct Opened {
    /// To be attached by reactors.
    pub medium: Arc<dyn Medium>,
    /// What was wished for and is not so, in sentences.
    pub notes: Vec<String>,
    /// Its file did not exist and was made.
    pub created: bool,
}

/// Why a medium cannot be served: what, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot serve {}: {problem}; {remedy}", path.display())]
pub struct OpenError {
    /// What was to be opened.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

/// The problem and the remedy; [`open`] adds the path.
type Complaint = (String, String);

fn complain(problem: impl Into<String>, remedy: impl Into<String>) -> Complaint {
    (problem.into(), remedy.into())
}

/// Opens what `spec` says. May block.
///
/// # Errors
/// A sentence with what is wrong and what to do about it.
pub fn open(spec: &BackendSpec) -> Result<Opened, OpenError> {
    let opened = match spec.kind {
        BackendKind::Null | BackendKind::Ram if spec.direct == Some(true) => Err(complain(
            format!("a {} medium has no page cache to bypass", spec.kind),
            "do not ask for that (--direct, \"directIO\")",
        )),
        BackendKind::Null => open_null(spec),
        BackendKind::Ram => open_ram(spec),
        BackendKind::File | BackendKind::IoUring => open_disk(spec),
    };
    opened.map_err(|complaint| named(spec, complaint))
}

/// What [`open`] would refuse without looking at any file, where so many bytes of memory are `available`. The size of
/// a file counts only if it is to be made.
///
/// # Errors
/// The sentence of [`open`].
pub fn check(spec: &BackendSpec, available: u64) -> Result<(), OpenError> {
    let checked = match (spec.kind, spec.size) {
        (BackendKind::Ram, _) => ram_size(spec, available).map(drop),
        (_, Some(bytes)) => check_size(bytes, spec.block_size),
        (_, None) => Ok(()),
    };
    checked.map_err(|complaint| named(spec, complaint))
}

/// What [`open`] says of a file that somebody has.
#[must_use]
pub fn in_use(spec: &BackendSpec) -> OpenError {
    named(spec, complain(IN_USE.0, IN_USE.1))
}

const IN_USE: (&str, &str) = (
    "it is in use: another process has it locked, or it is already served",
    "end that, or serve another file",
);

fn named(spec: &BackendSpec, (problem, remedy): Complaint) -> OpenError {
    OpenError {
        path: spec.path.clone(),
        problem,
        remedy,
    }
}

fn check_size(bytes: u64, block_size: BlockSize) -> Result<(), Complaint> {
    if bytes == 0 {
        return Err(complain("its size is 0", "give it at least one block"));
    }
    let block = block_size.bytes();
    if !bytes.is_multiple_of(u64::from(block)) {
        return Err(complain(
            format!("its size, {bytes} bytes, is not a multiple of the block size, {block}"),
            if bytes.is_multiple_of(512) {
                "use 512-byte blocks, or another size"
            } else {
                "use another size"
            },
        ));
    }
    if i64::try_from(bytes).is_err() {
        return Err(complain(
            format!("{bytes} bytes are more than a file can have"),
            "use a smaller size",
        ));
    }
    Ok(())
}

fn open_null(spec: &BackendSpec) -> Result<Opened, Complaint> {
    let bytes = spec.size.unwrap_or(NULL_SIZE);
    check_size(bytes, spec.block_size)?;
    let name = spec.path.to_string_lossy();
    let capacity = spec.block_size.blocks_in(bytes);
    let medium = NullMedium::new(&name, spec.block_size, capacity, spec.read_only);
    Ok(Opened {
        medium: Arc::new(medium),
        notes: Vec::new(),
        created: false,
    })
}

/// The size of a ram medium, where so much memory is available.
fn ram_size(spec: &BackendSpec, available: u64) -> Result<u64, Complaint> {
    let bytes = spec.size.ok_or_else(|| {
        complain(
            "a ram medium has no size of its own",
            "give it one (--size)",
        )
    })?;
    check_size(bytes, spec.block_size)?;
    // Taking more than there is would end with the process being killed.
    if available < bytes {
        return Err(complain(
            format!("{bytes} bytes are more than the {available} bytes of memory there are"),
            "use a smaller size",
        ));
    }
    Ok(bytes)
}

fn open_ram(spec: &BackendSpec) -> Result<Opened, Complaint> {
    let bytes = ram_size(spec, sys::memory::Memory::here().available)?;
    let name = spec.path.to_string_lossy();
    let medium = RamMedium::new(&name, spec.block_size, bytes, spec.read_only).map_err(|e| {
        complain(
            format!("no memory for {bytes} bytes ({e})"),
            "use a smaller size",
        )
    })?;
    Ok(Opened {
        medium: Arc::new(medium),
        notes: Vec::new(),
        created: false,
    })
}

fn open_disk(spec: &BackendSpec) -> Result<Opened, Complaint> {
    let mut notes = Vec::new();
    let (file, created) = match std::fs::metadata(&spec.path) {
        Ok(facts) => (open_existing(spec, &facts, &mut notes)?, false),
        Err(e) if e.kind() == io::ErrorKind::NotFound => (create(spec)?, true),
        Err(e) => return Err(io_complaint("it cannot be looked at", &e)),
    };
    let medium = open_file(spec, file, &mut notes);
    if medium.is_err() && created {
        // By us, a moment ago, and empty.
        let _ = std::fs::remove_file(&spec.path);
    }
    Ok(Opened {
        medium: medium?,
        notes,
        created,
    })
}

fn open_file(
    spec: &BackendSpec,
    file: File,
    notes: &mut Vec<String>,
) -> Result<Arc<dyn Medium>, Complaint> {
    let facts = file
        .metadata()
        .map_err(|e| io_complaint("it cannot be looked at", &e))?;
    let device = if facts.file_type().is_block_device() {
        let facts = sys::file::device_facts(&file)
            .map_err(|e| io_complaint("the device does not tell its size", &e))?;
        Some(facts)
    } else {
        take_lock(spec, &file, notes)?;
        None
    };
    let bytes = device.map_or(facts.len(), |d| d.bytes);
    check_size(bytes, spec.block_size)?;
    if let Some(wanted) = spec.size.filter(|&wanted| wanted != bytes) {
        return Err(complain(
            format!("it has {bytes} bytes, not {wanted}"),
            "leave the size out to serve it as it is, or change its size first (truncate -s)",
        ));
    }
    if device.is_some_and(|d| d.read_only) && !spec.read_only {
        return Err(complain("the device is read-only", "serve it read-only"));
    }
    let in_memory = device.is_none() && sys::file::in_memory(&file);
    let knows = knows_nowait(&file);
    let direct = choose_direct(spec, &file, device)?;
    let physical = device.map_or(CACHE_PAGE, |d| d.physical);
    let nowait = knows && !direct;
    let disk = Disk {
        in_memory,
        threads_write: device.is_none() && !direct && !in_memory && !knows,
        blocks: !in_memory && !knows,
        file: Arc::new(file),
        path: spec.path.clone(),
        geometry: Geometry {
            block_size: spec.block_size,
            capacity: spec.block_size.blocks_in(bytes),
            physical_block_exponent: super::disk::exponent(physical, spec.block_size),
            read_only: spec.read_only,
            write_cache: spec.write_cache,
            forgets: false,
        },
        direct,
        nowait_reads: AtomicBool::new(nowait),
        nowait_writes: AtomicBool::new(nowait),
        poisoned: AtomicBool::new(false),
    };
    let disk = Arc::new(disk);
    Ok(match spec.kind {
        BackendKind::IoUring => match sys::ring::probe() {
            // Each reactor tries for a ring, and does without if there is no memory for it.
            Ok(()) | Err(sys::ring::NoRing::NoMemory) => Arc::new(RingMedium::new(disk)),
            Err(e) => {
                notes.push(format!(
                    "io_uring is denied here ({e}); {} is served by system calls",
                    spec.path.display()
                ));
                Arc::new(FileMedium::new(disk))
            }
        },
        _ => Arc::new(FileMedium::new(disk)),
    })
}

fn io_complaint(what: &str, error: &io::Error) -> Complaint {
    let remedy = match error.raw_os_error() {
        Some(errno::EACCES | errno::EPERM) => "run as a user who may, or change its permissions",
        Some(errno::EROFS) => "serve it read-only",
        Some(errno::ENOSPC | errno::EDQUOT) => "make room, or use another place",
        Some(errno::EFBIG) => "use a smaller size, or another file system",
        Some(errno::ENOENT) => "create its directory first",
        Some(errno::ENOTDIR) => "correct the path",
        _ => "check the path",
    };
    complain(format!("{what} ({error})"), remedy)
}

fn open_existing(
    spec: &BackendSpec,
    facts: &Metadata,
    notes: &mut Vec<String>,
) -> Result<File, Complaint> {
    let kind = facts.file_type();
    if kind.is_dir() {
        return Err(complain(
            "it is a directory",
            "name a file in it, or a block device",
        ));
    }
    if !kind.is_file() && !kind.is_block_device() {
        return Err(complain(
            "it is neither a regular file nor a block device",
            "name one of these",
        ));
    }
    let exclusive = if kind.is_block_device() {
        sys::file::EXCLUSIVE
    } else {
        0
    };
    let opened = claim::patiently(spec, notes, || {
        let attempt = File::options()
            .read(true)
            .write(!spec.read_only)
            .custom_flags(exclusive)
            .open(&spec.path);
        match attempt {
            Err(e) if e.raw_os_error() == Some(errno::EBUSY) => Ok(None),
            other => other.map(Some),
        }
    });
    match opened {
        Ok(Some(file)) => Ok(file),
        Ok(None) => Err(complain(
            "the device is in use: mounted, part of another device, or already served",
            "unmount it, or end what uses it",
        )),
        Err(e) => Err(io_complaint("it cannot be opened", &e)),
    }
}

/// Makes a sparse file that survives a loss of power as an empty disk.
fn create(spec: &BackendSpec) -> Result<File, Complaint> {
    let Some(bytes) = spec.size.filter(|_| spec.create && !spec.read_only) else {
        let remedy = if spec.read_only {
            "name a file that exists: an empty one is of no use read-only"
        } else if spec.create {
            "give a size (--size) to create it, or name a file or block device that exists"
        } else {
            "name a file or block device that exists"
        };
        return Err(complain("it does not exist", remedy));
    };
    check_size(bytes, spec.block_size)?;
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&spec.path)
        .map_err(|e| io_complaint("it cannot be created", &e))?;
    let directory = match spec.path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let made = file
        .set_len(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| File::open(directory)?.sync_all());
    match made {
        Ok(()) => Ok(file),
        Err(e) => {
            // Half made, by us, a moment ago: nothing of anybody's is lost.
            let _ = std::fs::remove_file(&spec.path);
            Err(io_complaint(
                &format!("it cannot be given {bytes} bytes"),
                &e,
            ))
        }
    }
}

fn take_lock(spec: &BackendSpec, file: &File, notes: &mut Vec<String>) -> Result<(), Complaint> {
    let locked = claim::patiently(spec, notes, || {
        Ok(sys::file::lock(file, !spec.read_only)?.then_some(()))
    });
    match locked {
        Ok(Some(())) => Ok(()),
        Ok(None) => Err(complain(IN_USE.0, IN_USE.1)),
        Err(e) => {
            notes.push(format!(
                "{} cannot be locked ({e}): make sure that nobody else uses it",
                spec.path.display()
            ));
            Ok(())
        }
    }
}

/// Whether to bypass the page cache, and does so. A block smaller than O_DIRECT's unit goes through the
/// cache: never read, change, write.
fn choose_direct(
    spec: &BackendSpec,
    file: &File,
    device: Option<DeviceFacts>,
) -> Result<bool, Complaint> {
    let wanted = spec
        .direct
        .unwrap_or(device.is_some() && spec.kind == BackendKind::IoUring);
    if !wanted {
        return Ok(false);
    }
    let alignment = sys::file::direct_alignment(file).or(device.map(|d| (d.logical, d.logical)));
    let block = spec.block_size.bytes();
    let refusal = match alignment {
        None => complain(
            "its file system does not say how it can bypass the page cache",
            "serve it through the cache",
        ),
        Some((memory, unit)) if unit > block || memory > BUFFER_ALIGNMENT => complain(
            format!(
                "bypassing the page cache needs blocks of {unit} bytes, and these have {block}"
            ),
            format!("use {unit}-byte blocks, or serve it through the cache"),
        ),
        Some(_) => match sys::file::set_direct(file) {
            Ok(()) => return Ok(true),
            Err(e) => io_complaint("it cannot bypass the page cache", &e),
        },
    };
    if spec.direct == Some(true) {
        Err(refusal)
    } else {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Blocks;

    fn spec(kind: BackendKind, path: &Path) -> BackendSpec {
        BackendSpec::new(kind, path)
    }

    fn refused(spec: &BackendSpec) -> String {
        let hasty = BackendSpec {
            patience: Duration::ZERO,
            ..spec.clone()
        };
        open(&hasty).expect_err("refused").to_string()
    }

    #[test]
    fn kinds_are_read_as_they_are_written() {
        for kind in BackendKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        let error = "nvme".parse::<BackendKind>().expect_err("unknown");
        assert!(error.to_string().contains("iouring, file, ram, null"));
    }

    #[test]
    fn a_missing_file_is_created_sparse_when_a_size_is_given() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("new.img");
        let mut wish = spec(BackendKind::File, &path);
        assert!(refused(&wish).contains("does not exist; give a size"));
        wish.size = Some(1 << 30);
        wish.read_only = true;
        assert!(refused(&wish).contains("does not exist"));
        wish.read_only = false;
        let opened = open(&wish).expect("created");
        assert_eq!(opened.medium.geometry().capacity, Blocks(1 << 21));
        let facts = std::fs::metadata(&path).expect("it exists");
        assert_eq!(facts.len(), 1 << 30);
        assert!(std::os::unix::fs::MetadataExt::blocks(&facts) < 100);
        drop(opened);
        wish.size = Some(1 << 29);
        assert!(refused(&wish).contains("it has 1073741824 bytes, not 536870912"));
        wish.size = None;
        open(&wish).expect("it keeps its size");
    }

    #[test]
    fn nothing_is_left_of_a_file_that_could_not_be_made() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut wish = spec(BackendKind::File, &dir.path().join("none/x.img"));
        wish.size = Some(4096);
        assert!(refused(&wish).contains("create its directory first"));
        wish.path = dir.path().join("x.img");
        wish.size = Some(1 << 62);
        assert!(refused(&wish).contains("cannot be given"));
        assert!(!wish.path.exists());
        for bad in [0, 513] {
            wish.size = Some(bad);
            assert!(refused(&wish).contains("its size"));
        }
    }

    #[test]
    fn what_is_no_disk_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(refused(&spec(BackendKind::IoUring, dir.path())).contains("is a directory"));
        let null = spec(BackendKind::File, Path::new("/dev/null"));
        assert!(refused(&null).contains("neither a regular file nor a block device"));
        let path = dir.path().join("odd.img");
        std::fs::write(&path, [0; 1000]).expect("room");
        assert!(refused(&spec(BackendKind::File, &path)).contains("not a multiple"));
    }

    #[test]
    fn a_served_file_is_refused_to_a_second_server() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("disk.img");
        std::fs::write(&path, [0; 8192]).expect("room");
        let first = open(&spec(BackendKind::File, &path)).expect("free");
        assert!(refused(&spec(BackendKind::IoUring, &path)).contains("already served"));
        let mut reader = spec(BackendKind::File, &path);
        reader.read_only = true;
        assert!(refused(&reader).contains("already served"));
        drop(first);
        let _readers = (open(&reader).expect("free"), open(&reader).expect("shared"));
        assert!(refused(&spec(BackendKind::File, &path)).contains("already served"));
    }

    #[test]
    fn what_cannot_bypass_the_page_cache_is_refused_when_it_is_asked_to() {
        let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
        let path = dir.path().join("disk.img");
        std::fs::write(&path, [0; 8192]).expect("room");
        let direct = |kind, path: &Path| BackendSpec {
            direct: Some(true),
            size: Some(8192),
            ..spec(kind, path)
        };
        for kind in [BackendKind::Ram, BackendKind::Null] {
            assert!(refused(&direct(kind, &path)).contains("no page cache"));
        }
        if let Ok(memory) = tempfile::tempdir_in("/dev/shm") {
            let file = direct(BackendKind::File, &memory.path().join("disk.img"));
            assert!(refused(&file).contains("serve it through the cache"));
            assert!(!file.path.exists(), "it was made for nothing");
        }
        let file = File::open(&path).expect("it exists");
        let Some((_, unit)) = sys::file::direct_alignment(&file) else {
            return;
        };
        for block_size in [BlockSize::B512, BlockSize::B4096] {
            let wish = BackendSpec {
                block_size,
                ..direct(BackendKind::File, &path)
            };
            if unit <= block_size.bytes() {
                open(&wish).expect("blocks are whole units");
            } else {
                assert!(refused(&wish).contains(&format!("needs blocks of {unit} bytes")));
            }
        }
    }

    #[test]
    fn ram_needs_a_size_and_null_does_not() {
        let name = Path::new("a name");
        assert!(refused(&spec(BackendKind::Ram, name)).contains("--size"));
        let null = open(&spec(BackendKind::Null, name)).expect("always").medium;
        assert_eq!(null.geometry().capacity, Blocks(NULL_SIZE / 512));
        assert_eq!(null.describe(), "null:a name");
        let mut ram = spec(BackendKind::Ram, name);
        ram.size = Some(1 << 60);
        assert!(refused(&ram).contains("bytes of memory there are"));
        ram.size = Some(1 << 20);
        ram.block_size = BlockSize::B4096;
        let ram = open(&ram).expect("a megabyte").medium;
        assert_eq!(ram.geometry().capacity, Blocks(256));
    }
}
