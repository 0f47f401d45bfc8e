//! System calls on files and block devices that std has no name for.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// To open a block device with: fails with EBUSY when it is mounted or somebody else has it so (O_EXCL).
pub const EXCLUSIVE: i32 = libc::O_EXCL;

/// `result` of a system call that gives -1 for an error.
fn checked(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Repeats what a signal interrupted.
fn uninterrupted(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match checked(call()) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn position(offset: u64) -> io::Result<i64> {
    i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
}

/// Reads into `into` from `offset`; with `nowait` only what needs no waiting for a device.
///
/// # Errors
/// As `preadv2`: with `nowait`, EAGAIN when nothing is there yet, EOPNOTSUPP when the file cannot tell.
pub fn read_at(file: &File, into: &mut [u8], offset: u64, nowait: bool) -> io::Result<usize> {
    let position = position(offset)?;
    let flags = if nowait { libc::RWF_NOWAIT } else { 0 };
    let piece = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: into.len(),
    };
    uninterrupted(|| {
        // SAFETY: the piece is `into`, borrowed mutably for the whole call.
        unsafe { libc::preadv2(file.as_raw_fd(), &piece, 1, position, flags) }
    })
}

/// How a write is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// Into the cache, if there is one; may wait.
    Cached,
    /// Into the cache, if that needs no waiting.
    NoWait,
    /// Stable when it returns (RWF_DSYNC).
    Stable,
}

impl WriteMode {
    /// The RWF_* flags.
    #[must_use]
    pub const fn flags(self) -> i32 {
        match self {
            Self::Cached => 0,
            Self::NoWait => libc::RWF_NOWAIT,
            Self::Stable => libc::RWF_DSYNC,
        }
    }
}

/// Writes `from` at `offset`.
///
/// # Errors
/// As `pwritev2`: EAGAIN and EOPNOTSUPP as in [`read_at`]; EOPNOTSUPP where there is no RWF_DSYNC.
pub fn write_at(file: &File, from: &[u8], offset: u64, mode: WriteMode) -> io::Result<usize> {
    let position = position(offset)?;
    let piece = libc::iovec {
        iov_base: from.as_ptr().cast_mut().cast(),
        iov_len: from.len(),
    };
    uninterrupted(|| {
        // SAFETY: the piece is `from`, borrowed for the whole call, which only reads it.
        unsafe { libc::pwritev2(file.as_raw_fd(), &piece, 1, position, mode.flags()) }
    })
}

/// Tells the kernel that these bytes will be read.
///
/// # Errors
/// As `posix_fadvise`.
pub fn prefetch(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let (offset, len) = (position(offset)?, position(len)?);
    // SAFETY: advice about a descriptor; no memory is involved.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), offset, len, libc::POSIX_FADV_WILLNEED) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Another open file description of the same file, for reading. Each is told of a failed write-back for itself.
///
/// # Errors
/// As `open`; ENOENT also where `/proc` is not mounted.
pub fn reopen(file: &File) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Whether the page cache could not write something of the file back, since it was opened so or last asked.
/// Waits for nothing: no page is where it asks.
#[must_use]
pub fn write_back_failed(witness: &File) -> bool {
    const BEYOND: i64 = 1 << 60;
    let wait = libc::SYNC_FILE_RANGE_WAIT_BEFORE;
    // SAFETY: a question about a descriptor; no memory is involved.
    let result = unsafe { libc::sync_file_range(witness.as_raw_fd(), BEYOND, 1, wait) };
    result != 0
        && matches!(
            io::Error::last_os_error().raw_os_error(),
            Some(libc::EIO | libc::ENOSPC | libc::EDQUOT)
        )
}

/// Takes an open-file-description lock on the whole file: for writing, or shared for reading. False when
/// somebody else has one that excludes it. Held until [`unlock`], or until nobody has this open file any more:
/// neither a descriptor nor an operation of the kernel's.
///
/// # Errors
/// As `fcntl(F_OFD_SETLK)`; file systems without locks give ENOLCK or EINVAL.
pub fn lock(file: &File, for_writing: bool) -> io::Result<bool> {
    let kind = if for_writing {
        libc::F_WRLCK
    } else {
        libc::F_RDLCK
    };
    match set_lock(file, kind) {
        Ok(()) => Ok(true),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Gives up what [`lock`] took.
pub fn unlock(file: &File) {
    // What was never locked cannot be unlocked, and need not be.
    let _ = set_lock(file, libc::F_UNLCK);
}

fn set_lock(file: &File, kind: i32) -> io::Result<()> {
    // SAFETY: a plain struct of numbers; all zero is "whole file, from the start".
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = i16::try_from(kind).expect("a small constant");
    lock.l_whence = i16::try_from(libc::SEEK_SET).expect("a small constant");
    // SAFETY: the kernel reads one `flock`, which lives through the call.
    checked(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) } as isize).map(drop)
}

/// What a block device says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Size in bytes.
    pub bytes: u64,
    /// Bytes per logical sector.
    pub logical: u32,
    /// Bytes per physical sector.
    pub physical: u32,
    /// Writes are refused by the device itself.
    pub read_only: bool,
}

/// `BLKROGET`; libc has no name for it.
const BLKROGET: libc::Ioctl = 0x125e;
/// `BLKGETSIZE64`: `_IOR(0x12, 114, size_t)`.
const BLKGETSIZE64: libc::Ioctl = if cfg!(any(
    target_arch = "mips64",
    target_arch = "powerpc64",
    target_arch = "sparc64"
)) {
    0x4008_1272
} else {
    0x8008_1272
};

/// Asks a block device for its size and sectors.
///
/// # Errors
/// ENOTTY when it is no block device.
pub fn device_facts(file: &File) -> io::Result<DeviceFacts> {
    let fd = file.as_raw_fd();
    let (mut bytes, mut logical, mut physical, mut read_only) = (0u64, 0i32, 0u32, 0i32);
    // SAFETY: each request writes one number of the type that its variable has.
    unsafe {
        checked(libc::ioctl(fd, BLKGETSIZE64, &raw mut bytes) as isize)?;
        checked(libc::ioctl(fd, libc::BLKSSZGET, &raw mut logical) as isize)?;
        checked(libc::ioctl(fd, libc::BLKPBSZGET, &raw mut physical) as isize)?;
        checked(libc::ioctl(fd, BLKROGET, &raw mut read_only) as isize)?;
    }
    Ok(DeviceFacts {
        bytes,
        logical: u32::try_from(logical).unwrap_or(512),
        physical,
        read_only: read_only != 0,
    })
}

/// What O_DIRECT demands: alignment of memory and of place and length in the file, in bytes. `None` when
/// the file has no O_DIRECT or the kernel cannot tell (before 6.1).
#[must_use]
pub fn direct_alignment(file: &File) -> Option<(u32, u32)> {
    // SAFETY: a plain struct of numbers, which the call fills.
    let mut facts: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: an empty path with AT_EMPTY_PATH names the descriptor itself; `facts` lives through the call.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &mut facts,
        )
    };
    let known = result == 0 && facts.stx_mask & libc::STATX_DIOALIGN != 0;
    (known && facts.stx_dio_offset_align > 0)
        .then_some((facts.stx_dio_mem_align, facts.stx_dio_offset_align))
}

/// Makes the file bypass the page cache from now on (O_DIRECT).
///
/// # Errors
/// EINVAL when the file system cannot.
pub fn set_direct(file: &File) -> io::Result<()> {
    let fd = file.as_raw_fd();
    // SAFETY: asks for a number; no memory is involved.
    let flags = checked(unsafe { libc::fcntl(fd, libc::F_GETFL) } as isize)?;
    let flags = i32::try_from(flags).expect("it was an i32") | libc::O_DIRECT;
    // SAFETY: sets a number; no memory is involved.
    checked(unsafe { libc::fcntl(fd, libc::F_SETFL, flags) } as isize).map(drop)
}

/// Whether the file lives in memory only (tmpfs, ramfs), where no operation waits for a device.
#[must_use]
pub fn in_memory(file: &File) -> bool {
    const RAMFS_MAGIC: u32 = 0x8584_58f6;
    // SAFETY: a plain struct of numbers, which the call fills.
    let mut facts: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `facts` lives through the call.
    if unsafe { libc::fstatfs(file.as_raw_fd(), &mut facts) } != 0 {
        return false;
    }
    [libc::TMPFS_MAGIC, RAMFS_MAGIC.into()].contains(&facts.f_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_locked_for_writing_is_refused_to_others() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let again = || {
            File::options()
                .read(true)
                .write(true)
                .open(file.path())
                .expect("it exists")
        };
        let (first, second, third) = (again(), again(), again());
        assert!(lock(&first, false).expect("locks work"));
        assert!(lock(&second, false).expect("locks work"));
        assert!(!lock(&third, true).expect("locks work"));
        drop((first, second));
        assert!(lock(&third, true).expect("locks work"));
        assert!(!lock(&again(), false).expect("locks work"));
        unlock(&third);
        assert!(lock(&again(), true).expect("locks work"));
    }

    #[test]
    fn what_is_written_is_read_in_every_mode() {
        let file = tempfile::tempfile().expect("a file");
        assert_eq!(
            write_at(&file, b"abcd", 0, WriteMode::Cached).expect("room"),
            4
        );
        assert_eq!(
            write_at(&file, b"ef", 4, WriteMode::Stable).expect("room"),
            2
        );
        let mut into = [0; 8];
        assert_eq!(read_at(&file, &mut into, 0, false).expect("there"), 6);
        assert_eq!(&into[..6], b"abcdef");
        assert_eq!(read_at(&file, &mut into, 6, false).expect("the end"), 0);
        prefetch(&file, 0, 4).expect("advice");
        assert!(device_facts(&file).is_err());
    }
}
