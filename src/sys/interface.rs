//! Network interfaces by their addresses.

use std::ffi::CStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The interface that has `address`, like `eth0`; `None`: none here has it.
#[must_use]
pub fn interface_of(address: IpAddr) -> Option<String> {
    let mut first: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the kernel's answer goes into a list that is ours until `freeifaddrs`.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return None;
    }
    let mut name = None;
    let mut next = first;
    while !next.is_null() && name.is_none() {
        // SAFETY: a node of the list, which lives until it is freed below.
        let node = unsafe { &*next };
        if address_of(node.ifa_addr) == Some(address) {
            // SAFETY: every node has a name, which ends with a zero byte.
            let text = unsafe { CStr::from_ptr(node.ifa_name) };
            name = Some(text.to_string_lossy().into_owned());
        }
        next = node.ifa_next;
    }
    // SAFETY: the list from `getifaddrs`, once; nothing refers to it any more.
    unsafe { libc::freeifaddrs(first) };
    name
}

/// An address as the kernel keeps it, if it is one of the internet's.
fn address_of(raw: *const libc::sockaddr) -> Option<IpAddr> {
    if raw.is_null() {
        return None;
    }
    // SAFETY: an address is at least its family long.
    match i32::from(unsafe { (*raw).sa_family }) {
        libc::AF_INET => {
            // SAFETY: addresses of this family have this shape; it may be unaligned for it.
            let v4 = unsafe { raw.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes()).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { raw.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_an_interface_and_strangers_have_none() {
        assert!(interface_of(Ipv4Addr::LOCALHOST.into()).is_some());
        // Reserved for documentation.
        assert_eq!(interface_of(Ipv4Addr::new(192, 0, 2, 77).into()), None);
    }
}
