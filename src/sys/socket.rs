//! Listening sockets with the options that `std` cannot set.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Connections that wait in the kernel to be accepted.
pub const BACKLOG: i32 = 1024;

/// Listens on exactly `address`, non-blocking. An IPv6 address is for IPv6 alone, so that `[::]` and
/// `0.0.0.0` are two portals.
///
/// # Errors
/// As `socket`, `bind` and `listen`.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = bound(address)?;
    // SAFETY: the descriptor is open; the rest is a number.
    check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
    Ok(TcpListener::from(socket))
}

/// Whether [`listen`] could have `address`: it is bound for a moment, but not listened on, so nobody can connect.
///
/// # Errors
/// As `socket` and `bind`: EADDRINUSE, EACCES, EADDRNOTAVAIL.
pub fn try_bind(address: SocketAddr) -> io::Result<()> {
    bound(address).map(drop)
}

/// A socket with that address.
fn bound(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    // SAFETY: takes three numbers.
    let fd = unsafe {
        libc::socket(
            family,
            libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            0,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor, and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
    let result = match address {
        SocketAddr::V4(v4) => {
            // SAFETY: plain numbers; all zero is a value of it.
            let mut raw: libc::sockaddr_in = unsafe { std::mem::zeroed() };
            raw.sin_family = family_number(family);
            raw.sin_port = v4.port().to_be();
            raw.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
            bind(&socket, &raw)
        }
        SocketAddr::V6(v6) => {
            set(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)?;
            // SAFETY: plain numbers; all zero is a value of it.
            let mut raw: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
            raw.sin6_family = family_number(family);
            raw.sin6_port = v6.port().to_be();
            raw.sin6_addr.s6_addr = v6.ip().octets();
            raw.sin6_flowinfo = v6.flowinfo();
            raw.sin6_scope_id = v6.scope_id();
            bind(&socket, &raw)
        }
    };
    check(result)?;
    Ok(socket)
}

/// Lets this process have as many descriptors open as it is allowed to; returns how many.
///
/// # Errors
/// As `setrlimit`.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes one `rlimit`.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the kernel reads one `rlimit`.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(limit.rlim_cur)
}

fn family_number(family: i32) -> libc::sa_family_t {
    libc::sa_family_t::try_from(family).expect("families are small numbers")
}

/// Binds to an address that is one of the kernel's `sockaddr` structures.
fn bind<A>(socket: &OwnedFd, address: &A) -> i32 {
    let len = libc::socklen_t::try_from(size_of::<A>()).expect("an address is short");
    // SAFETY: the kernel reads `size_of::<A>()` bytes of the address.
    unsafe { libc::bind(socket.as_raw_fd(), std::ptr::from_ref(address).cast(), len) }
}

fn set(socket: &OwnedFd, level: i32, option: i32) -> io::Result<()> {
    let one: i32 = 1;
    let len = libc::socklen_t::try_from(size_of::<i32>()).expect("4");
    // SAFETY: the kernel reads one `i32`.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const one).cast(),
            len,
        )
    })
}

fn check(result: i32) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_wildcards_can_have_the_same_port() {
        let v4 = listen("0.0.0.0:0".parse().expect("address")).expect("binds");
        let port = v4.local_addr().expect("bound").port();
        match listen(SocketAddr::new("::".parse().expect("address"), port)) {
            Ok(v6) => assert_eq!(v6.local_addr().expect("bound").port(), port),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EAFNOSUPPORT), "{error}"),
        }
    }

    #[test]
    fn an_address_has_one_listener() {
        let one = listen("127.0.0.1:0".parse().expect("address")).expect("binds");
        let again = listen(one.local_addr().expect("bound")).expect_err("taken");
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
        let tried = try_bind(one.local_addr().expect("bound")).expect_err("taken");
        assert_eq!(tried.kind(), io::ErrorKind::AddrInUse);
        std::net::TcpStream::connect(one.local_addr().expect("bound")).expect("it listens");
    }

    #[test]
    fn the_descriptor_limit_goes_up() {
        let first = raise_descriptor_limit().expect("allowed");
        assert_eq!(raise_descriptor_limit().expect("allowed"), first);
    }
}
