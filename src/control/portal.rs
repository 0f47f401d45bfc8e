//! Portal addresses as people write them: `ADDR:PORT`, IPv6 in brackets, the port optional.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// The port IANA gave to iSCSI (RFC 7143, section 14).
pub const ISCSI_PORT: u16 = 3260;

/// Where serving starts when nobody says: reachable from this machine only, as there is no
/// authentication yet.
pub const DEFAULT_PORTAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), ISCSI_PORT);

/// Parses a portal: `127.0.0.1:3260`, `[::1]:3260`, `127.0.0.1`, `::1`, `[fe80::1%eth0]:3260`. A port
/// that is not named is `default_port`.
///
/// # Errors
/// A sentence that says what an address looks like.
pub fn parse(text: &str, default_port: u16) -> Result<SocketAddr, String> {
    let text = text.trim();
    let wrong = || {
        format!(
            "\"{text}\" is not ADDR:PORT with an IP address, like 192.0.2.1:3260 or [2001:db8::1]:3260"
        )
    };
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, default_port));
    }
    let (inside, after) = text
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
        .ok_or_else(wrong)?;
    let port = match after.strip_prefix(':') {
        Some(digits) => digits.parse().map_err(|_| wrong())?,
        None if after.is_empty() => default_port,
        None => return Err(wrong()),
    };
    let (address, zone) = inside
        .split_once('%')
        .map_or((inside, None), |(a, z)| (a, Some(z)));
    let address: Ipv6Addr = address.parse().map_err(|_| wrong())?;
    let scope = match zone {
        None => 0,
        Some(zone) => scope_of(zone)
            .ok_or_else(|| format!("\"{text}\": there is no network interface \"{zone}\""))?,
    };
    Ok(SocketAddr::V6(SocketAddrV6::new(address, port, 0, scope)))
}

/// The scope of a link-local address: an interface by number or by name.
fn scope_of(zone: &str) -> Option<u32> {
    if let Ok(index) = zone.parse() {
        return Some(index);
    }
    let plain = !zone.is_empty() && zone != "." && zone != ".." && !zone.contains('/');
    let index =
        plain.then(|| std::fs::read_to_string(format!("/sys/class/net/{zone}/ifindex")).ok())??;
    index.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_parse_with_and_without_a_port() {
        for (text, want) in [
            ("127.0.0.1:860", "127.0.0.1:860"),
            ("127.0.0.1", "127.0.0.1:3260"),
            ("[::1]:861", "[::1]:861"),
            ("[::1]", "[::1]:3260"),
            ("::1", "[::1]:3260"),
            ("0.0.0.0:0", "0.0.0.0:0"),
            ("[fe80::1%3]:3260", "[fe80::1%3]:3260"),
        ] {
            assert_eq!(
                parse(text, ISCSI_PORT).map(|a| a.to_string()).as_deref(),
                Ok(want),
                "{text}"
            );
        }
        assert!(
            parse("[fe80::1%lo]:3260", 1).is_ok(),
            "an interface by name"
        );
    }

    #[test]
    fn what_is_no_address_says_so() {
        for bad in [
            "",
            "localhost:3260",
            "127.0.0.1:",
            "1.2.3.4:70000",
            "[::1",
            "[::1]x",
            "[1.2.3.4]:1",
            "[fe80::1%nonesuch]:1",
        ] {
            assert!(parse(bad, ISCSI_PORT).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_portal_or_an_error(text in ".*") {
            let _ = parse(&text, ISCSI_PORT);
        }
    }
}
