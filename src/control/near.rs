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
