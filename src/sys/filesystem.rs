//! What a file lies on, asked without changing anything.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A file system, as far as it concerns a file that blocks are stored in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileSystem {
    /// Its name, or its magic number in hexadecimal.
    pub name: String,
    /// Bytes that this process may still fill.
    pub free: u64,
}

/// Names of file systems by the magic number of `statfs(2)`.
const NAMES: &[(u32, &str)] = &[
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0x794c_7630, "overlay"),
    (0x2fc1_2fc1, "zfs"),
    (0xf2f5_2010, "f2fs"),
    (0xca45_1a4e, "bcachefs"),
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x6573_5546, "fuse"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "ceph"),
    (0x4d44, "vfat"),
    (0x2011_bab0, "exfat"),
    (0x9584_58f6, "hugetlbfs"),
    (0x7371_7368, "squashfs"),
];

/// The file system that a file or directory is on.
///
/// # Errors
/// As `fstatfs`.
pub fn of(file: &File) -> io::Result<FileSystem> {
    // SAFETY: a plain struct of numbers, which the call fills.
    let mut facts: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `facts` lives through the call.
    if unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut facts) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // The numbers have 32 bits, in a field whose width and sign differ between machines.
    let bits = i128::from(facts.f_type) & 0xffff_ffff;
    let magic = u32::try_from(bits).expect("32 bits");
    let known = NAMES.iter().find(|(number, _)| *number == magic);
    let name = known.map_or_else(|| format!("{magic:#x}"), |(_, name)| (*name).to_owned());
    let unit = u64::try_from(facts.f_bsize).unwrap_or(0);
    Ok(FileSystem {
        name,
        free: facts.f_bavail.saturating_mul(unit),
    })
}

/// Whether somebody holds a lock on the file that would keep us from having ours; takes none.
///
/// # Errors
/// As `fcntl(F_OFD_GETLK)`; file systems without locks give ENOLCK or EINVAL.
pub fn is_locked(file: &File, for_writing: bool) -> io::Result<bool> {
    // SAFETY: a plain struct of numbers; all zero is "whole file, from the start".
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    let kind = if for_writing {
        libc::F_WRLCK
    } else {
        libc::F_RDLCK
    };
    lock.l_type = i16::try_from(kind).expect("a small constant");
    lock.l_whence = i16::try_from(libc::SEEK_SET).expect("a small constant");
    // SAFETY: the kernel reads and writes one `flock`, which lives through the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } {
        0 => Ok(i32::from(lock.l_type) != libc::F_UNLCK),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Numbers of the block device that a file is on, or, of a block device, its own. Major 0: on none.
///
/// # Errors
/// As `fstat`.
pub fn device_numbers(file: &File) -> io::Result<(u32, u32)> {
    use std::os::unix::fs::FileTypeExt;
    let facts = file.metadata()?;
    let device = if facts.file_type().is_block_device() {
        facts.rdev()
    } else {
        facts.dev()
    };
    Ok((libc::major(device), libc::minor(device)))
}

/// The disk that device numbers belong to, by the name it has in `/sys/block` below `root`; of a partition the disk
/// that it is on.
#[must_use]
pub fn disk_of(root: &Path, (major, minor): (u32, u32)) -> Option<String> {
    let link = root.join(format!("sys/dev/block/{major}:{minor}"));
    let mut place = link.canonicalize().ok()?;
    if place.join("partition").exists() {
        place.pop();
    }
    place.file_name()?.to_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_on_a_file_system_with_a_name_and_room() {
        let file = tempfile::tempfile().expect("a file");
        let on = of(&file).expect("it is on one");
        assert!(!on.name.is_empty());
        assert!(on.free > 0);
        let proc = of(&File::open("/proc/self/status").expect("there")).expect("it is on one");
        assert_eq!((proc.name.as_str(), proc.free), ("0x9fa0", 0));
    }

    #[test]
    fn a_lock_of_another_is_seen_and_none_is_taken() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let again = || File::options().read(true).write(true).open(file.path());
        let (ours, theirs) = (again().expect("there"), again().expect("there"));
        assert!(!is_locked(&ours, true).expect("locks work"));
        assert!(crate::sys::file::lock(&theirs, true).expect("locks work"));
        assert!(is_locked(&ours, true).expect("locks work"));
        assert!(is_locked(&ours, false).expect("locks work"));
        drop(theirs);
        assert!(!is_locked(&ours, true).expect("locks work"));
    }

    #[test]
    fn a_partition_is_on_its_disk() {
        let root = tempfile::tempdir().expect("a directory");
        let disk = root.path().join("sys/devices/virtual/block/vda");
        std::fs::create_dir_all(disk.join("vda1")).expect("room");
        std::fs::write(disk.join("vda1/partition"), "1\n").expect("room");
        let links = root.path().join("sys/dev/block");
        std::fs::create_dir_all(&links).expect("room");
        std::os::unix::fs::symlink(&disk, links.join("254:0")).expect("room");
        std::os::unix::fs::symlink(disk.join("vda1"), links.join("254:1")).expect("room");
        for minor in [0, 1] {
            assert_eq!(disk_of(root.path(), (254, minor)).as_deref(), Some("vda"));
        }
        assert_eq!(disk_of(root.path(), (0, 44)), None);
    }
}
