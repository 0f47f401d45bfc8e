//! Checks of files, block devices and the disks below.

use std::path::{Path, PathBuf};

use super::devices::Disk;
use super::probe::{Place, There};
use super::{Case, Outcome};
use crate::backend::spec::{self, BackendKind};
use crate::control::build::{QUEUE_DEPTH, spec_of};
use crate::control::config::Storage;
use crate::control::size;

/// File systems on which a file of blocks is slow or may go away.
const UNSUITED: &[(&str, &str)] = &[
    ("nfs", "each operation is a round trip to another machine"),
    ("cifs", "each operation is a round trip to another machine"),
    ("smb2", "each operation is a round trip to another machine"),
    ("ceph", "each operation is a round trip to other machines"),
    ("9p", "each operation is a round trip to the host"),
    ("fuse", "each operation goes through another process"),
    (
        "overlay",
        "a container's own layer: the first write copies the file, and it goes with the container",
    ),
    ("squashfs", "it cannot be written"),
];
/// File systems that write elsewhere what is written again, until they are told not to.
const COPYING: &[&str] = &["btrfs", "bcachefs", "zfs"];

/// Storages that are files or block devices, with what was found there.
fn places<'a>(case: &'a Case<'_>) -> impl Iterator<Item = (&'a Storage, &'a Place)> {
    case.storages().filter_map(|storage| {
        let of = |(id, _): &&(u64, Place)| *id == storage.device_id;
        let place = case.probed.places.iter().find(of)?;
        Some((storage, &place.1))
    })
}

fn present<'a>(case: &'a Case<'_>) -> impl Iterator<Item = (&'a Storage, &'a There)> {
    places(case).filter_map(|(storage, place)| match place {
        Place::There(there) => Some((storage, there)),
        _ => None,
    })
}

/// A disk, and what is stored on it.
struct OnDisk<'a> {
    disk: &'a Disk,
    /// Nothing, where the advice is for any disk.
    what: Option<(&'a Storage, &'a There)>,
}

/// The disks that storages are on; below mapped devices, those that do the work.
fn disks<'a>(case: &'a Case<'_>) -> Vec<OnDisk<'a>> {
    let mut all: Vec<OnDisk<'_>> = Vec::new();
    if case.is_general() {
        let real = case.facts.disks.iter().filter(|disk| disk.is_real());
        all.extend(real.map(|disk| OnDisk { disk, what: None }));
    }
    for (storage, there) in present(case) {
        let mut names: Vec<String> = there.disk.iter().cloned().collect();
        while let Some(name) = names.pop() {
            let found = case.facts.disks.iter().find(|disk| disk.name == name);
            match found {
                Some(disk) if all.iter().any(|known| known.disk.name == disk.name) => {}
                Some(disk) if disk.below.is_empty() => {
                    let what = Some((storage, there));
                    all.push(OnDisk { disk, what });
                }
                Some(disk) => names.extend(disk.below.iter().cloned()),
                None => {}
            }
        }
    }
    all
}

/// What the daemon refuses without looking at any file, in its words.
fn refused(case: &Case<'_>) -> Vec<Outcome> {
    let available = case.facts.machine.limits.memory.available;
    let is_file =
        |storage: &Storage| matches!(storage.kind, BackendKind::File | BackendKind::IoUring);
    let is_missing = |storage: &Storage| {
        let mut places = case.probed.places.iter();
        places.any(|(id, place)| *id == storage.device_id && matches!(place, Place::Missing(_)))
    };
    let mut outcomes = Vec::new();
    let mut seen: Vec<(PathBuf, bool)> = Vec::new();
    for storage in case.storages() {
        let spec = spec_of(storage);
        let mut errors = Vec::new();
        if !is_file(storage) || is_missing(storage) {
            errors.extend(spec::check(&spec, available).err());
        }
        if is_file(storage) {
            let path = storage.path.canonicalize();
            let path = path.unwrap_or_else(|_| storage.path.clone());
            let shares =
                |(other, reads): &(PathBuf, bool)| *other == path && !(*reads && storage.read_only);
            errors.extend(seen.iter().any(shares).then(|| spec::in_use(&spec)));
            seen.push((path, storage.read_only));
        }
        outcomes.extend(errors.into_iter().map(|error| {
            let sentence = error.to_string();
            Outcome::wrong(sentence).advise(error.remedy)
        }));
    }
    outcomes
}

pub(super) fn files(case: &Case<'_>) -> Vec<Outcome> {
    let mut outcomes = found(case);
    outcomes.extend(refused(case));
    outcomes
}

/// What became of each place that was looked at.
fn found(case: &Case<'_>) -> Vec<Outcome> {
    let outcome = |(storage, place): (&Storage, &Place)| {
        let path = storage.path.display();
        match place {
            Place::Missing(None) => Outcome::wrong(format!("{path}: its directory does not exist"))
                .run(format!("mkdir -p {}", quoted(parent(storage)))),
            Place::Missing(Some(_)) => match storage.size {
                Some(bytes) if !storage.read_only => {
                    Outcome::ok(format!("{path} will be made, {}", size::show(bytes)))
                }
                _ => Outcome::wrong(format!("{path} does not exist"))
                    .advise("give a size (--size, \"size\") to have it made, or another path"),
            },
            Place::Unusable(why) => Outcome::wrong(format!("{path}: {why}"))
                .run(format!("ls -ld {}", quoted(&storage.path)))
                .advise("name a file or block device that the daemon's user may open"),
            Place::There(there) if there.is_used => Outcome::wrong(format!(
                "{path} is in use: served already, mounted, or locked"
            ))
            .run(format!("lsof {0}; lsblk {0}", quoted(&storage.path))),
            Place::There(there) if there.is_read_only && !storage.read_only => Outcome::wrong(
                format!("{path} cannot be written"),
            )
            .advise("serve it read-only (--read-only, \"readOnly\"), or change its permissions"),
            Place::There(there) => match odd_size(storage, there) {
                Some(outcome) => outcome,
                None => Outcome::ok(format!("{path}, {}", size::show(there.bytes))),
            },
        }
    };
    // Of a size that is refused, that is said instead.
    let is_refused = |storage: &Storage, place: &Place| {
        matches!(place, Place::Missing(Some(_))) && storage.size.is_some() && !whole(storage)
    };
    places(case)
        .filter(|(storage, place)| !is_refused(storage, place))
        .map(outcome)
        .collect()
}

/// The size that was given is one of a disk.
fn whole(storage: &Storage) -> bool {
    spec::check(&spec_of(storage), u64::MAX).is_ok()
}

fn parent(storage: &Storage) -> &Path {
    match storage.path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A path as a shell takes it for one word.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+:@,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

fn odd_size(storage: &Storage, there: &There) -> Option<Outcome> {
    let path = storage.path.display();
    let block = u64::from(storage.block_size.bytes());
    if there.bytes == 0 || !there.bytes.is_multiple_of(block) {
        let found = format!(
            "{path} has {} bytes: no whole blocks of {block}",
            there.bytes
        );
        let rounded = there.bytes.next_multiple_of(block).max(block);
        let outcome = Outcome::wrong(found);
        return Some(if there.is_device {
            outcome.advise("use blocks of 512 bytes (--block-size, \"blockShift\")")
        } else {
            outcome.run(format!("truncate -s {rounded} {}", quoted(&storage.path)))
        });
    }
    let wanted = storage.size.filter(|&wanted| wanted != there.bytes)?;
    let found = format!(
        "{path} has {} bytes, the configuration says {wanted}",
        there.bytes
    );
    Some(Outcome::wrong(found).advise("leave the size out to serve it as it is"))
}

pub(super) fn room(case: &Case<'_>) -> Vec<Outcome> {
    let outcome = |(storage, place): (&Storage, &Place)| {
        let (on, missing) = match place {
            Place::Missing(Some(on)) => (on, storage.size?),
            Place::There(there) if !there.is_device && !storage.read_only => {
                (&there.on, there.bytes.saturating_sub(there.allocated))
            }
            _ => return None,
        };
        let path = storage.path.display();
        let gib = |bytes: u64| format!("{}.{} GiB", bytes >> 30, (bytes >> 20) % 1024 * 10 / 1024);
        let found = format!(
            "{path}: {} may still be written, {} are free",
            gib(missing),
            gib(on.free)
        );
        Some(if missing > on.free {
            Outcome::better(format!("{found} ({})", on.name))
                .advise("make room: writes fail with a medium error when the file system is full")
        } else {
            Outcome::ok(found)
        })
    };
    places(case).filter_map(outcome).collect()
}

pub(super) fn file_systems(case: &Case<'_>) -> Vec<Outcome> {
    let outcome = |(storage, place): (&Storage, &Place)| {
        let on = match place {
            Place::Missing(Some(on)) => on,
            Place::There(there) if !there.is_device => &there.on,
            _ => return None,
        };
        let path = storage.path.display();
        let found = format!("{path} is on {}", on.name);
        if let Some((_, why)) = UNSUITED.iter().find(|(name, _)| *name == on.name) {
            return Some(
                Outcome::better(format!("{found}: {why}"))
                    .advise("use a local file system (ext4, xfs), a volume, or a block device"),
            );
        }
        if COPYING.contains(&on.name.as_str()) && !storage.read_only {
            let outcome = Outcome::better(format!("{found}: every write goes to a new place"));
            return Some(if on.name == "btrfs" {
                outcome
                    .run(format!("chattr +C {}", quoted(parent(storage))))
                    .advise("it is for files made afterwards: copy this one")
            } else {
                outcome.advise("use ext4, xfs, a volume of its own, or a block device")
            });
        }
        Some(Outcome::ok(match on.name.as_str() {
            "tmpfs" | "ramfs" => format!("{found}: in memory, gone at the next boot"),
            _ => found,
        }))
    };
    places(case).filter_map(outcome).collect()
}

pub(super) fn direct(case: &Case<'_>) -> Vec<Outcome> {
    let outcome =
        |(storage, there): (&Storage, &There)| {
            let path = storage.path.display();
            let block = storage.block_size.bytes();
            if !there.is_device {
                let can = match there.direct {
                    Some(unit) => format!("can bypass it in blocks of {unit} bytes"),
                    None => "cannot bypass it".to_owned(),
                };
                return Outcome::ok(format!("{path} goes through the page cache ({can})"));
            }
            match there.direct {
            Some(unit) if unit <= block && storage.kind == BackendKind::IoUring => {
                Outcome::ok(format!("{path} bypasses the page cache"))
            }
            Some(unit) if unit > block => Outcome::better(format!(
                "{path} goes through the page cache: its blocks are {unit} bytes, the LUN's {block}"
            ))
            .advise(format!("--block-size {unit} (\"blockShift\"): for disks that are new")),
            Some(_) => Outcome::better(format!("{path} goes through the page cache"))
                .advise("--backend iouring (\"backendType\")"),
            None => Outcome::better(format!("{path} cannot bypass the page cache"))
                .advise("its driver has no O_DIRECT: use another device"),
        }
        };
    present(case).map(outcome).collect()
}

pub(super) fn scheduler(case: &Case<'_>) -> Vec<Outcome> {
    let outcome = |OnDisk { disk, .. }: OnDisk<'_>| {
        let (current, all) = &disk.scheduler;
        let name = &disk.name;
        if current.is_empty() {
            return None;
        }
        let found = format!("{name}: {current}");
        let has_none = all.iter().any(|scheduler| scheduler == "none");
        Some(if disk.rotational || current == "none" || !has_none {
            Outcome::ok(found)
        } else {
            Outcome::better(found).run(format!("echo none > /sys/block/{name}/queue/scheduler"))
        })
    };
    disks(case).into_iter().filter_map(outcome).collect()
}

pub(super) fn depth(case: &Case<'_>) -> Vec<Outcome> {
    let reactors = u64::try_from(case.cores.len().max(1)).unwrap_or(1);
    let outcome = |OnDisk { disk, what }: OnDisk<'_>| {
        let depth = what.and_then(|(storage, _)| storage.queue_depth);
        let wanted = u64::from(depth.unwrap_or(QUEUE_DEPTH)) * reactors;
        let name = &disk.name;
        if disk.requests == 0 {
            return None;
        }
        let found = format!(
            "{name} takes {} requests, the reactors send {wanted} at most",
            disk.requests
        );
        Some(if disk.requests >= wanted.min(256) {
            Outcome::ok(found)
        } else {
            Outcome::better(found).run(format!("echo 256 > /sys/block/{name}/queue/nr_requests"))
        })
    };
    disks(case).into_iter().filter_map(outcome).collect()
}

pub(super) fn write_cache(case: &Case<'_>) -> Vec<Outcome> {
    let outcome = |OnDisk { disk, what }: OnDisk<'_>| {
        let name = &disk.name;
        if !disk.write_back {
            return Outcome::ok(format!("{name} has none that forgets: flushes are cheap"));
        }
        if what.is_none_or(|(storage, _)| storage.write_cache || storage.read_only) {
            return Outcome::ok(format!("{name} has one that forgets; initiators flush it"));
        }
        Outcome::better(format!(
            "{name} has one that forgets, and each write waits until it is flushed"
        ))
        .advise(
            "let initiators flush (\"writeCache\": true), or use a disk with power-loss protection",
        )
    };
    disks(case).into_iter().map(outcome).collect()
}

pub(super) fn polling(case: &Case<'_>) -> Vec<Outcome> {
    let outcome = |OnDisk { disk, what }: OnDisk<'_>| {
        let by_ring = |(storage, there): (&Storage, &There)| {
            there.is_device && storage.kind == BackendKind::IoUring
        };
        if !disk.name.starts_with("nvme") || !case.spins() || !what.is_none_or(by_ring) {
            return None;
        }
        let name = &disk.name;
        Some(if disk.polls {
            Outcome::ok(format!("{name} can be polled for completions"))
        } else {
            Outcome::better(format!(
                "{name} cannot be polled: each completion is an interrupt"
            ))
            .boot(format!("nvme.poll_queues={}", case.cores.len().max(1)))
        })
    };
    disks(case).into_iter().filter_map(outcome).collect()
}

pub(super) fn nodes(case: &Case<'_>) -> Vec<Outcome> {
    let outcome =
        |OnDisk { disk, .. }: OnDisk<'_>| super::network::nearness(case, &disk.name, disk.node?);
    disks(case).into_iter().filter_map(outcome).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_a_command_is_one_word() {
        assert_eq!(quoted(Path::new("/srv/disk-1.img")), "/srv/disk-1.img");
        assert_eq!(quoted(Path::new("/srv/my disk")), "'/srv/my disk'");
        assert_eq!(quoted(Path::new("a'b; rm")), "'a'\\''b; rm'");
    }
}
