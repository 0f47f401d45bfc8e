//! Which NUMA nodes the interfaces and disks that are used are near to.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use super::BackendKind;
use super::config::{Config, Storage};
use super::placement::Hint;
use crate::sys::interface::interface_of;
use crate::sys::machine::{major_minor, node_of_block_device};
use crate::sys::topology::Topology;

/// Reasons to be near a node: interfaces that have a portal's address, and disks that storages are on.
pub(super) fn hints(config: &Config, topology: &Topology) -> Vec<Hint> {
    if !topology.is_numa() {
        return Vec::new();
    }
    let mut hints = Vec::new();
    for portal in &config.portals {
        let address = portal.address.ip();
        let named = interface_of(address);
        // A wildcard is every interface that has a device.
        let used = topology.interfaces.iter().filter(|interface| {
            address.is_unspecified() || named.as_ref() == Some(&interface.name)
        });
        hints.extend(used.filter_map(|interface| {
            Some(Hint {
                node: interface.node?,
                what: interface.name.clone(),
            })
        }));
    }
    hints.extend(config.storages.iter().filter_map(of_storage));
    let mut seen = Vec::new();
    hints.retain(|hint| {
        let is_new = !seen.contains(hint);
        seen.push(hint.clone());
        is_new
    });
    hints
}

/// The node of the disk that a storage is on: the block device itself, or that of the file system.
fn of_storage(storage: &Storage) -> Option<Hint> {
    if !matches!(storage.kind, BackendKind::File | BackendKind::IoUring) {
        return None;
    }
    let facts = std::fs::metadata(&storage.path).ok()?;
    let device = if facts.file_type().is_block_device() {
        facts.rdev()
    } else {
        facts.dev()
    };
    let (major, minor) = major_minor(device);
    Some(Hint {
        node: node_of_block_device(Path::new("/"), major, minor)?,
        what: storage.path.display().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::config::Portal;
    use crate::sys::topology::Interface;

    fn two_sockets() -> Topology {
        let mut topology = Topology::synthetic("package:2 numa:1 core:1 pu:1").expect("two");
        let interface = |name: &str, node| Interface {
            name: name.to_owned(),
            node,
        };
        topology.interfaces = vec![
            interface("eth0", Some(1)),
            interface("eth1", Some(0)),
            interface("lo", None),
        ];
        topology
    }

    fn portals(addresses: &[&str]) -> Config {
        let portal = |(id, address): (u64, &&str)| Portal {
            id,
            address: address.parse().expect("an address"),
        };
        Config {
            portals: (0..).zip(addresses).map(portal).collect(),
            ..Config::default()
        }
    }

    #[test]
    fn a_wildcard_is_near_every_interface_that_has_a_device_once() {
        let hints = hints(&portals(&["0.0.0.0:1", "[::]:1"]), &two_sockets());
        let found: Vec<_> = hints.iter().map(|h| (h.what.as_str(), h.node)).collect();
        assert_eq!(found, [("eth0", 1), ("eth1", 0)]);
    }

    #[test]
    fn loopback_and_machines_with_one_node_give_no_hint() {
        assert_eq!(hints(&portals(&["127.0.0.1:1"]), &two_sockets()), []);
        let one = Topology::synthetic("core:2 pu:1").expect("one");
        assert_eq!(hints(&portals(&["0.0.0.0:1"]), &one), []);
    }
}
