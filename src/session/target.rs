//! Targets, their portal groups and LUNs: an immutable snapshot that control makes.

use std::net::SocketAddr;
use std::sync::Arc;

use super::UnitId;

/// Longest iSCSI name, in bytes (RFC 7143, section 4.2.7.2).
pub const MAX_NAME_LEN: usize = 223;

/// One iSCSI target (RFC 7143, section 2.2).
#[derive(Clone, Debug)]
pub struct Target {
    /// iSCSI name, in its normal form.
    pub name: String,
    /// TargetAlias, if it has one.
    pub alias: Option<String>,
    /// Portal groups, by tag.
    pub portal_groups: Vec<PortalGroup>,
    /// Which logical unit each LUN is; ordered by LUN.
    pub luns: Vec<(u16, UnitId)>,
}

impl Target {
    /// The portal group that a connection to `local`, our address of it, belongs to.
    #[must_use]
    pub fn group_at(&self, local: SocketAddr) -> Option<&PortalGroup> {
        self.portal_groups.iter().find(|group| {
            let mut portals = group.portals.iter();
            portals.any(|&portal| address_of(portal, local) == Some(canonical(local)))
        })
    }
}

/// A target portal group (RFC 7143, section 2.2).
#[derive(Clone, Debug)]
pub struct PortalGroup {
    /// TargetPortalGroupTag.
    pub tag: u16,
    /// Where it listens (the bound addresses).
    pub portals: Vec<SocketAddr>,
}

/// Every target there is. Replaced as a whole, never changed.
#[derive(Clone, Debug, Default)]
pub struct TargetSet {
    /// Ordered by name.
    pub targets: Vec<Arc<Target>>,
}

impl TargetSet {
    /// The target of this name; `name` may be in any case.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Arc<Target>> {
        let name = name.to_lowercase();
        self.targets.iter().find(|target| target.name == name)
    }
}

/// The address at which a peer that reached us at `local` reaches the portal bound to `portal`. For a
/// wildcard that is the address it came in on, if the portal listens in that address family.
#[must_use]
pub fn address_of(portal: SocketAddr, local: SocketAddr) -> Option<SocketAddr> {
    let (portal, local) = (canonical(portal), canonical(local));
    if !portal.ip().is_unspecified() {
        return Some(portal);
    }
    // A socket bound to [::] takes IPv4 too, unless it was told not to; what came in, it took.
    (portal.is_ipv6() || local.is_ipv4()).then(|| SocketAddr::new(local.ip(), portal.port()))
}

/// IPv4 that came in on an IPv6 socket is IPv4; scope and flow label say nothing to a peer.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The normal form of an iSCSI name (RFC 7143, section 4.2.7): what names are compared in. `None` when it
/// is no iSCSI name.
///
/// Of the characters that the stringprep profile forbids, "_" is let through: names with it are in use.
#[must_use]
pub fn normal_name(name: &str) -> Option<String> {
    if name.len() > MAX_NAME_LEN {
        return None;
    }
    let name = name.to_lowercase();
    let well_formed = match name.split_at_checked(4)? {
        ("iqn.", rest) => is_qualified_name(rest),
        ("eui.", rest) => is_hex(rest) && rest.len() == 16,
        ("naa.", rest) => is_hex(rest) && matches!(rest.len(), 16 | 32),
        _ => false,
    };
    (well_formed && name.len() <= MAX_NAME_LEN).then_some(name)
}

/// The name an initiator gives itself, in its normal form. Only its alphabet, its length and one of the three
/// prefixes are asked for: initiators in the field are called `iqn.client1`, and no target they know minds.
#[must_use]
pub fn initiator_name(name: &str) -> Option<String> {
    let name = name.to_lowercase();
    let (prefix, rest) = name.split_at_checked(4)?;
    let accepted = matches!(prefix, "iqn." | "eui." | "naa.")
        && !rest.is_empty()
        && name.len() <= MAX_NAME_LEN
        && rest
            .chars()
            .all(|c| c.is_alphanumeric() || "-.:_".contains(c));
    accepted.then_some(name)
}

/// `yyyy-mm.` and a naming authority (section 4.2.7.4).
fn is_qualified_name(rest: &str) -> bool {
    let [y0, y1, y2, y3, b'-', m0, m1, b'.', authority, ..] = rest.as_bytes() else {
        return false;
    };
    [y0, y1, y2, y3, m0, m1]
        .iter()
        .all(|digit| digit.is_ascii_digit())
        && matches!((m0, m1), (b'0', b'1'..=b'9') | (b'1', b'0'..=b'2'))
        && !b".:-".contains(authority)
        && rest
            .chars()
            .all(|c| c.is_alphanumeric() || "-.:_".contains(c))
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_initiator_may_call_itself_less_formally_than_a_target() {
        assert_eq!(
            initiator_name("iqn.Client1").as_deref(),
            Some("iqn.client1")
        );
        for bad in [
            "",
            "iqn.",
            "client1",
            "iqn.a b",
            "iqn.a,b",
            &format!("iqn.{}", "a".repeat(220)),
        ] {
            assert_eq!(initiator_name(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn names_have_one_of_three_forms() {
        for good in [
            "iqn.2001-04.com.example",
            "iqn.2001-04.com.example:storage:diskarrays-sn-a8675309",
            "iqn.2008-11.org.linux-kvm:my_guest",
            "eui.02004567a425678d",
            "naa.52004567ba64678d",
            "naa.62004567ba64678d0123456789abcdef",
        ] {
            assert_eq!(normal_name(good).as_deref(), Some(good));
        }
        for bad in [
            "",
            "iqn",
            "iqn.",
            "iqn.2001-04",
            "iqn.2001-04.",
            "iqn.2001-13.com.example",
            "iqn.201-04.com.example",
            "iqn.2001-04.com.example:a b",
            "iqn.2001-04.com.example,1",
            "eui.02004567a425678",
            "eui.02004567a425678g",
            "naa.123",
            "example",
            "iq\u{e9}.2001-04.com.example",
        ] {
            assert_eq!(normal_name(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_normal_form_of_a_name_is_lower_case() {
        assert_eq!(
            normal_name("iqn.2001-04.COM.Example:Disk").as_deref(),
            Some("iqn.2001-04.com.example:disk")
        );
        assert_eq!(
            normal_name("eui.02004567A425678D").as_deref(),
            Some("eui.02004567a425678d")
        );
    }

    #[test]
    fn a_name_has_at_most_223_bytes() {
        let name = format!("iqn.2001-04.com.example:{}", "a".repeat(199));
        assert_eq!(name.len(), MAX_NAME_LEN);
        assert!(normal_name(&name).is_some());
        assert!(normal_name(&format!("{name}a")).is_none());
    }

    #[test]
    fn a_wildcard_portal_is_reached_where_the_peer_came_in() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (portal, local, reached) in [
            ("10.0.0.1:3260", "10.0.0.1:3260", Some("10.0.0.1:3260")),
            ("0.0.0.0:3260", "10.0.0.2:3260", Some("10.0.0.2:3260")),
            ("0.0.0.0:3261", "10.0.0.2:3260", Some("10.0.0.2:3261")),
            ("[::]:3260", "[::1]:3260", Some("[::1]:3260")),
            ("[::]:3260", "[::ffff:10.0.0.2]:3260", Some("10.0.0.2:3260")),
            ("0.0.0.0:3260", "[::1]:3260", None),
        ] {
            assert_eq!(
                address_of(address(portal), address(local)),
                reached.map(address),
                "{portal} from {local}"
            );
        }
    }
}
