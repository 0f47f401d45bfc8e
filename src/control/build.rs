//! From a configuration to what the reactors need: media, logical units, targets.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::config::{Config, Storage};
use super::names::derived_serial;
use super::{LunFacts, Settings};
use crate::backend::Medium;
use crate::backend::spec::{BackendKind, BackendSpec, open};
use crate::reactor::Seat;
use crate::scsi::{Identity, LogicalUnit};
use crate::session::UnitId;
use crate::session::target::{PortalGroup, Target, TargetSet};

/// Vendor of disks that were given none. T10 assigns them; this one is not taken.
const VENDOR: &str = "RINGTGT";
/// Operations in flight per storage and reactor when nobody says.
pub(super) const QUEUE_DEPTH: u32 = 128;

/// Storages that are open.
#[derive(Debug, Default)]
pub(super) struct Opened {
    pub(super) seats: Vec<Seat>,
    /// `deviceID` of each seat.
    device_ids: Vec<u64>,
    pub(super) notes: Vec<String>,
    pub(super) created: Created,
}

/// Files that were made for storages. Nothing is left of them when what they are for does not start.
#[derive(Debug, Default)]
pub(super) struct Created(Vec<PathBuf>);

impl Created {
    /// It started.
    pub(super) fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        for path in &self.0 {
            // By us, a moment ago, and empty.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Opens every storage that a target uses; blocks.
///
/// # Errors
/// A sentence for each that cannot be opened.
pub(super) fn open_storages(config: &Config, settings: &Settings) -> Result<Opened, Vec<String>> {
    let mut opened = Opened::default();
    let mut problems = Vec::new();
    let used = |id: u64| {
        config
            .targets
            .iter()
            .any(|t| t.luns.iter().any(|&(_, device)| device == id))
    };
    for storage in config
        .storages
        .iter()
        .filter(|storage| used(storage.device_id))
    {
        match open(&spec_of(storage)) {
            Ok(medium) => {
                opened.notes.extend(medium.notes);
                if medium.created {
                    opened.created.0.push(storage.path.clone());
                }
                let id =
                    UnitId(u32::try_from(opened.seats.len()).expect("fewer storages than 2^32"));
                opened
                    .seats
                    .push(seat(id, storage, medium.medium, settings));
                opened.device_ids.push(storage.device_id);
            }
            Err(error) => problems.push(error.to_string()),
        }
    }
    for storage in config
        .storages
        .iter()
        .filter(|storage| !used(storage.device_id))
    {
        opened.notes.push(format!(
            "storage {} is no target's LUN: it is not opened",
            storage.device_id
        ));
    }
    if problems.is_empty() {
        Ok(opened)
    } else {
        Err(problems)
    }
}

/// What is opened for a storage.
pub(super) fn spec_of(storage: &Storage) -> BackendSpec {
    BackendSpec {
        size: storage.size,
        block_size: storage.block_size,
        read_only: storage.read_only,
        write_cache: storage.write_cache,
        direct: storage.direct,
        queue_depth: storage.queue_depth.unwrap_or(QUEUE_DEPTH),
        ..BackendSpec::new(storage.kind, storage.path.clone())
    }
}

fn seat(id: UnitId, storage: &Storage, medium: Arc<dyn Medium>, settings: &Settings) -> Seat {
    let product = if storage.kind == BackendKind::Null {
        "NULL (NO DATA)"
    } else {
        "RINGTGT DISK"
    };
    let revision: String = env!("CARGO_PKG_VERSION").chars().take(4).collect();
    let unit = LogicalUnit {
        geometry: medium.geometry(),
        identity: Identity {
            vendor: storage.vendor.clone().unwrap_or_else(|| VENDOR.to_owned()),
            product: storage
                .product
                .clone()
                .unwrap_or_else(|| product.to_owned()),
            revision,
            serial: storage.serial.clone().unwrap_or_else(|| serial_of(storage)),
        },
        online: storage.online,
        stopped: false,
        generation: 0,
    };
    let depth = storage
        .queue_depth
        .unwrap_or(QUEUE_DEPTH)
        .min(settings.ring_entries);
    Seat {
        id,
        unit: Arc::new(unit),
        medium,
        depth,
    }
}

/// What tells this disk from every other, and is the same at every start: its file's true path, or, where
/// there is no file, its name and number.
fn serial_of(storage: &Storage) -> String {
    let path: &Path = &storage.path;
    let place = match storage.kind {
        BackendKind::File | BackendKind::IoUring => {
            let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
            path.to_string_lossy().into_owned()
        }
        kind => format!("{kind}:{}:{}", path.display(), storage.device_id),
    };
    derived_serial(&place)
}

/// The snapshot of targets that logins see; `bound` is what each portal's address became, by its id.
pub(super) fn targets(
    config: &Config,
    opened: &Opened,
    bound: &[(u64, std::net::SocketAddr)],
) -> TargetSet {
    let unit_of = |device: u64| {
        let index = opened.device_ids.iter().position(|&id| id == device)?;
        opened.seats.get(index).map(|seat| seat.id)
    };
    let group = |(tag, ids): &(u16, Vec<u64>)| PortalGroup {
        tag: *tag,
        portals: bound
            .iter()
            .filter(|(id, _)| ids.contains(id))
            .map(|(_, address)| *address)
            .collect(),
    };
    let target = |target: &super::config::TargetConfig| {
        Arc::new(Target {
            name: target.name.clone(),
            alias: None,
            portal_groups: target.portal_groups.iter().map(group).collect(),
            luns: target
                .luns
                .iter()
                .filter_map(|&(lun, device)| Some((lun, unit_of(device)?)))
                .collect(),
        })
    };
    TargetSet {
        targets: config.targets.iter().map(target).collect(),
    }
}

/// What people want to know of a target's LUNs.
pub(super) fn lun_facts(target: &Target, seats: &[Seat]) -> Vec<LunFacts> {
    let fact = |&(lun, id): &(u16, UnitId)| {
        let seat = seats.iter().find(|seat| seat.id == id)?;
        let geometry = seat.medium.geometry();
        Some(LunFacts {
            lun,
            medium: seat.medium.describe(),
            bytes: geometry.capacity.0 << geometry.block_size.shift(),
            block_size: geometry.block_size.bytes(),
            read_only: geometry.read_only,
        })
    };
    target.luns.iter().filter_map(fact).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_made_goes_away_when_another_storage_cannot_be_opened() {
        let dir = tempfile::tempdir().expect("a directory");
        let place = |name: &str| dir.path().join(name).display().to_string();
        let config = |second: &str| {
            let text = format!(
                r#"{{"storages": [
                    {{"deviceID": 1, "path": "file:{}", "size": "1M"}},
                    {{"deviceID": 2, "path": "file:{second}", "size": "1M"}}],
                "iscsiportals": [{{"id": 0, "portal": "127.0.0.1:0"}}],
                "iscsitargets": {{"iqn.2024-01.com.x:a":
                    {{"tpgts": {{"1": [0]}}, "luns": {{"0": 1, "1": 2}}}}}}}}"#,
                place("new.img")
            );
            Config::parse(&text, None).expect("good")
        };
        let settings = Settings::default();
        let bad = config(&place("none/old.img"));
        assert_eq!(
            open_storages(&bad, &settings)
                .map(drop)
                .map_err(|e| e.len()),
            Err(1)
        );
        assert!(!dir.path().join("new.img").exists());
        let good = config(&place("old.img"));
        drop(open_storages(&good, &settings).expect("both"));
        assert!(!dir.path().join("old.img").exists(), "it did not start");
        open_storages(&good, &settings)
            .expect("both")
            .created
            .keep();
        assert!(dir.path().join("old.img").exists());
        drop(open_storages(&good, &settings).expect("both"));
        assert!(dir.path().join("old.img").exists(), "it was there before");
    }
}
