//! SendTargets: which targets there are, and where (RFC 7143, appendix C).

use std::net::SocketAddr;

use super::target::{Target, TargetSet, address_of};
use crate::pdu::text::write_pair;

/// What a SendTargets asks for, once the session's type was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query<'a> {
    /// Every target.
    All,
    /// The target of this name, if there is one.
    Named(&'a str),
}

/// Appends the target records that answer `query` to a peer that reached us at `portal`, our address of
/// its connection. No target: nothing is appended.
pub fn send_targets(targets: &TargetSet, query: Query<'_>, portal: SocketAddr, out: &mut Vec<u8>) {
    match query {
        Query::All => {
            for target in &targets.targets {
                record(target, portal, out);
            }
        }
        Query::Named(name) => {
            if let Some(target) = targets.find(name) {
                record(target, portal, out);
            }
        }
    }
}

/// One target record: its name, then all its addresses with their portal group tags (section 13.8).
fn record(target: &Target, portal: SocketAddr, out: &mut Vec<u8>) {
    write_pair(out, "TargetName", &target.name);
    for group in &target.portal_groups {
        for &bound in &group.portals {
            if let Some(address) = address_of(bound, portal) {
                write_pair(
                    out,
                    "TargetAddress",
                    format_args!("{address},{}", group.tag),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::target::PortalGroup;
    use std::sync::Arc;

    fn target(name: &str, groups: &[(u16, &[&str])]) -> Arc<Target> {
        Arc::new(Target {
            name: name.into(),
            alias: None,
            portal_groups: groups
                .iter()
                .map(|&(tag, portals)| PortalGroup {
                    tag,
                    portals: portals.iter().map(|p| p.parse().unwrap()).collect(),
                })
                .collect(),
            luns: Vec::new(),
        })
    }

    fn answer(targets: &[Arc<Target>], query: Query<'_>, portal: &str) -> String {
        let set = TargetSet {
            targets: targets.to_vec(),
        };
        let mut out = Vec::new();
        send_targets(&set, query, portal.parse().unwrap(), &mut out);
        String::from_utf8(out).unwrap().replace('\0', "\n")
    }

    #[test]
    fn every_target_is_listed_with_every_address_and_its_tag() {
        let targets = [
            target(
                "iqn.2001-04.com.example:a",
                &[
                    (1, &["10.1.0.45:3000", "[fd00::1]:3260"]),
                    (2, &["10.1.1.45:3000"]),
                ],
            ),
            target("iqn.2001-04.com.example:b", &[(7, &["0.0.0.0:3260"])]),
        ];
        assert_eq!(
            answer(&targets, Query::All, "192.168.0.9:3260"),
            "TargetName=iqn.2001-04.com.example:a\n\
             TargetAddress=10.1.0.45:3000,1\n\
             TargetAddress=[fd00::1]:3260,1\n\
             TargetAddress=10.1.1.45:3000,2\n\
             TargetName=iqn.2001-04.com.example:b\n\
             TargetAddress=192.168.0.9:3260,7\n"
        );
    }

    #[test]
    fn a_name_gives_that_target_alone_and_an_unknown_name_nothing() {
        let targets = [
            target("iqn.2001-04.com.example:a", &[(1, &["[::]:3260"])]),
            target("iqn.2001-04.com.example:b", &[(1, &["[::]:3260"])]),
        ];
        assert_eq!(
            answer(
                &targets,
                Query::Named("iqn.2001-04.com.example:b"),
                "[fe80::1]:3260"
            ),
            "TargetName=iqn.2001-04.com.example:b\nTargetAddress=[fe80::1]:3260,1\n"
        );
        assert_eq!(
            answer(
                &targets,
                Query::Named("iqn.2001-04.com.example:c"),
                "[::1]:3260"
            ),
            ""
        );
    }

    #[test]
    fn no_target_is_no_text() {
        assert_eq!(answer(&[], Query::All, "127.0.0.1:3260"), "");
    }
}
