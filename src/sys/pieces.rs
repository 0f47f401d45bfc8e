//! Pieces of memory for one gathered send or one scattered receive.
//!
//! [`Piece`] and [`Room`] are what `IoSlice` and `IoSliceMut` are, but may also lie in memory that other cores
//! change meanwhile: there must be no reference to such memory, so they hold an address, and only the kernel or
//! a copy made here touches what is there.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::copy::racy_copy;

/// Bytes to send. They live at least as long as `'a`, but may change.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Piece<'a> {
    raw: libc::iovec,
    memory: PhantomData<&'a [u8]>,
}

impl std::fmt::Debug for Piece<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Piece({} bytes)", self.len())
    }
}

impl<'a> Piece<'a> {
    /// No bytes.
    pub const EMPTY: Self = Self {
        raw: libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        },
        memory: PhantomData,
    };

    /// These bytes.
    #[must_use]
    pub fn of(bytes: &'a [u8]) -> Self {
        // SAFETY: a slice is readable for as long as it is borrowed.
        unsafe { Self::at(bytes.as_ptr(), bytes.len()) }
    }

    /// Memory that is perhaps written by others.
    ///
    /// # Safety
    /// `len` bytes from `base` stay readable for `'a`.
    pub(super) unsafe fn at(base: *const u8, len: usize) -> Self {
        Self {
            raw: libc::iovec {
                iov_base: base.cast_mut().cast(),
                iov_len: len,
            },
            memory: PhantomData,
        }
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.raw.iov_len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.raw.iov_len == 0
    }

    /// What is behind the first `bytes` of them (at most all).
    #[must_use]
    pub fn skip(self, bytes: usize) -> Self {
        let bytes = bytes.min(self.len());
        // SAFETY: what is left lies inside of what `self` may read.
        unsafe {
            Self::at(
                self.raw.iov_base.cast::<u8>().add(bytes),
                self.len() - bytes,
            )
        }
    }

    /// The first `bytes` of them (at most all).
    #[must_use]
    pub fn first(self, bytes: usize) -> Self {
        // SAFETY: what is left lies inside of what `self` may read.
        unsafe { Self::at(self.raw.iov_base.cast(), bytes.min(self.len())) }
    }

    /// Copies the first bytes into `into`, as many as there are and fit; returns how many.
    pub fn copy_to(&self, into: &mut [u8]) -> usize {
        let len = self.len().min(into.len());
        // SAFETY: `len` bytes are readable by the contract of the constructors; the destination is borrowed
        // mutably, so it is no part of them.
        unsafe { racy_copy(self.raw.iov_base.cast(), into.as_mut_ptr(), len) };
        len
    }
}

/// Memory to receive into. Nobody but its owner has it, or everybody writes it only by copies.
#[repr(transparent)]
pub struct Room<'a> {
    raw: libc::iovec,
    memory: PhantomData<&'a mut [u8]>,
}

impl std::fmt::Debug for Room<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Room({} bytes)", self.len())
    }
}

impl<'a> Room<'a> {
    /// These bytes.
    #[must_use]
    pub fn of(bytes: &'a mut [u8]) -> Self {
        // SAFETY: a mutable slice is writable for as long as it is borrowed.
        unsafe { Self::at(bytes.as_mut_ptr(), bytes.len()) }
    }

    /// Memory that others perhaps read and write.
    ///
    /// # Safety
    /// `len` bytes from `base` stay writable for `'a`.
    pub(super) unsafe fn at(base: *mut u8, len: usize) -> Self {
        Self {
            raw: libc::iovec {
                iov_base: base.cast(),
                iov_len: len,
            },
            memory: PhantomData,
        }
    }

    /// How many bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.raw.iov_len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.raw.iov_len == 0
    }

    /// Copies the first bytes of `from` there, as many as fit; returns how many.
    pub fn fill(&mut self, from: &[u8]) -> usize {
        let len = self.len().min(from.len());
        // SAFETY: `len` bytes are writable by the contract of the constructors, and no reference to them exists
        // beside the one that `self` holds, so `from` is no part of them.
        unsafe { racy_copy(from.as_ptr(), self.raw.iov_base.cast(), len) };
        len
    }
}

/// Sends what the pieces hold, in order; returns how many bytes the socket took. No SIGPIPE.
///
/// # Errors
/// As `sendmsg`.
pub fn send(socket: BorrowedFd<'_>, pieces: &[Piece<'_>]) -> io::Result<usize> {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    let sent = if let [only] = pieces {
        // SAFETY: the descriptor is open; the kernel reads what the piece may read.
        unsafe { libc::send(socket.as_raw_fd(), only.raw.iov_base, only.len(), flags) }
    } else {
        // SAFETY: plain numbers and pointers; all zero is a value of it.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = pieces.as_ptr().cast_mut().cast();
        message.msg_iovlen = pieces.len();
        // SAFETY: the descriptor is open; a piece is an `iovec` (transparent), which the kernel only reads, as
        // it does what they name.
        unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) }
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Receives into the rooms, in order; returns how many bytes came, 0 at the end of the stream.
///
/// # Errors
/// As `recvmsg`.
pub fn receive(socket: BorrowedFd<'_>, rooms: &mut [Room<'_>]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT;
    let received = if let [only] = rooms {
        // SAFETY: the descriptor is open; the kernel writes at most what the room may be written.
        unsafe { libc::recv(socket.as_raw_fd(), only.raw.iov_base, only.len(), flags) }
    } else {
        // SAFETY: plain numbers and pointers; all zero is a value of it.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = rooms.as_mut_ptr().cast();
        message.msg_iovlen = rooms.len();
        // SAFETY: the descriptor is open; a room is an `iovec` (transparent), and the kernel writes at most what
        // they name.
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) }
    };
    usize::try_from(received).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::copy::SharedMemory;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_is_gathered_from_shared_memory_is_scattered_into_it() {
        let (one, other) = UnixStream::pair().expect("sockets");
        let memory = SharedMemory::new(1, false).expect("memory").0;
        memory.write(100, b"shared");
        let pieces = [
            Piece::of(b"a "),
            memory.piece(100, 6),
            Piece::EMPTY,
            Piece::of(b"xx!").skip(2),
        ];
        assert_eq!(send(one.as_fd(), &pieces).expect("sends"), 9);
        assert_eq!(send(one.as_fd(), &[Piece::of(b"?")]).expect("sends"), 1);
        let mut own = [0; 3];
        let mut rooms = [Room::of(&mut own), memory.room(200, 5), memory.room(0, 1)];
        assert_eq!(receive(other.as_fd(), &mut rooms).expect("receives"), 9);
        let mut rest = [memory.room(205, 9)];
        assert_eq!(receive(other.as_fd(), &mut rest).expect("receives"), 1);
        let mut into = [0; 6];
        assert_eq!(memory.piece(200, 9).copy_to(&mut into), 6);
        assert_eq!((&own, &into), (b"a s", b"hared?"));
        assert_eq!(memory.piece(0, 1).copy_to(&mut into), 1);
        assert_eq!(into[0], b'!');
        let nothing = receive(other.as_fd(), &mut [memory.room(0, 1)]);
        assert_eq!(
            nothing.expect_err("empty").kind(),
            io::ErrorKind::WouldBlock
        );
        assert_eq!(memory.room(1, 2).fill(b"abc"), 2);
        drop(one);
        assert_eq!(
            receive(other.as_fd(), &mut [memory.room(0, 1)]).expect("end"),
            0
        );
        let broken = send(other.as_fd(), &[Piece::of(b"x")]).expect_err("nobody is there");
        assert_eq!(broken.kind(), io::ErrorKind::BrokenPipe);
    }
}
