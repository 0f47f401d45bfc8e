//! What each member of the file means, and what it may be.

use std::path::PathBuf;
use std::time::Duration;

use super::targets::targets;
use super::walk::{Members, Walk};
use super::{Config, Memory, Mistake, Portal, Reactors, Storage};
use crate::backend::spec::{BackendKind, UnknownKind};
use crate::control::json::Json;
use crate::control::placement::Sqpoll;
use crate::control::{cores, portal, size};
use crate::units::BlockSize;

const TOP: &[&str] = &[
    "storages",
    "iscsiportals",
    "iscsitargets",
    "performance",
    "reactors",
];
const STORAGE: &[&str] = &[
    "deviceID",
    "path",
    "online",
    "thinProvisioning",
    "blockShift",
    "backendType",
    "enableNUMA",
    "numaNode",
    "ioUringQueueDepth",
    "size",
    "serial",
    "vendor",
    "product",
    "readOnly",
    "writeCache",
    "directIO",
];
const PORTAL: &[&str] = &["id", "portal"];
const PERFORMANCE: &[&str] = &[
    "enableNUMA",
    "enableIoUring",
    "ioUringQueueDepth",
    "numaBufferPoolSize",
    "numaBufferSize",
];
const REACTORS: &[&str] = &["cores", "poll", "spinMicros", "sqpoll", "balance"];

/// Every member below the top, by its place as the README writes it.
#[cfg(test)]
pub(super) const MEMBERS: &[(&str, &[&str])] = &[
    ("storages[].", STORAGE),
    ("iscsiportals[].", PORTAL),
    ("iscsitargets{iqn}.", super::targets::TARGET),
    ("performance.", PERFORMANCE),
    ("reactors.", REACTORS),
];

/// Most operations in flight that a ring is asked for.
const QUEUE_DEPTH_MAX: u64 = 32_768;

/// What `performance` sets for every storage.
#[derive(Clone, Copy, Debug, Default)]
struct Defaults {
    kind: Option<BackendKind>,
    queue_depth: Option<u32>,
    numa: bool,
}

/// Checks a whole file.
pub(super) fn config(tree: &Json, port: u16) -> Result<Config, Vec<Mistake>> {
    let mut walk = Walk::default();
    let mut config = Config::default();
    if let Some(top) = walk.object("", tree, TOP) {
        let defaults = performance(&mut walk, &top, &mut config.memory);
        storages(&mut walk, &top, defaults, &mut config.storages);
        portals(&mut walk, &top, port, &mut config.portals);
        targets(&mut walk, &top, &mut config);
        reactors(&mut walk, &top, &mut config.reactors);
    }
    if walk.mistakes.is_empty() {
        config.notes = walk.notes;
        Ok(config)
    } else {
        Err(walk.mistakes)
    }
}

fn performance(walk: &mut Walk, top: &Members<'_>, memory: &mut Memory) -> Defaults {
    let mut defaults = Defaults::default();
    let Some((place, json)) = walk.any(top, "performance") else {
        return defaults;
    };
    let Some(of) = walk.object(&place, json, PERFORMANCE) else {
        return defaults;
    };
    defaults.kind = walk.flag(&of, "enableIoUring").map(|ring| {
        if ring {
            BackendKind::IoUring
        } else {
            BackendKind::File
        }
    });
    defaults.queue_depth = queue_depth(walk, &of);
    defaults.numa = walk.flag(&of, "enableNUMA").unwrap_or(false);
    let buffers = walk.whole(&of, "numaBufferPoolSize", 1, 1 << 32);
    let length = walk.whole(&of, "numaBufferSize", 1, 1 << 30);
    memory.bytes_per_node = match (buffers, length) {
        (Some(buffers), Some(length)) => Some(buffers * length),
        (None, None) => None,
        _ => {
            let note =
                "performance: numaBufferPoolSize and numaBufferSize have an effect only together";
            walk.notes.push(note.to_owned());
            None
        }
    };
    defaults
}

fn queue_depth(walk: &mut Walk, of: &Members<'_>) -> Option<u32> {
    let depth = walk.whole(of, "ioUringQueueDepth", 1, QUEUE_DEPTH_MAX)?;
    u32::try_from(depth).ok()
}

fn storages(walk: &mut Walk, top: &Members<'_>, defaults: Defaults, out: &mut Vec<Storage>) {
    for (place, json) in walk.array(top, "storages") {
        let Some(of) = walk.object(&place, json, STORAGE) else {
            continue;
        };
        let Some(storage) = storage(walk, &of, defaults) else {
            continue;
        };
        if out.iter().any(|s| s.device_id == storage.device_id) {
            walk.mistake(
                of.at("deviceID"),
                format!("{} is the number of another storage too", storage.device_id),
            );
        }
        out.push(storage);
    }
}

fn storage(walk: &mut Walk, of: &Members<'_>, defaults: Defaults) -> Option<Storage> {
    let device_id = required(walk, of, "deviceID", |walk| {
        walk.whole(of, "deviceID", 0, u64::MAX)
    });
    let place = required(walk, of, "path", |walk| walk.parsed(of, "path", split_path));
    let named = walk.parsed(of, "backendType", kind);
    let block_size = match walk.whole(of, "blockShift", 0, 63) {
        None | Some(9) => BlockSize::B512,
        Some(12) => BlockSize::B4096,
        Some(other) => {
            walk.mistake(
                of.at("blockShift"),
                format!("is {other}: only 9 (512 bytes) and 12 (4096 bytes) are served"),
            );
            BlockSize::B512
        }
    };
    if walk.flag(of, "thinProvisioning") == Some(true) {
        let note = format!(
            "{}: thinProvisioning is not offered yet; the LUN is fully provisioned",
            of.place()
        );
        walk.notes.push(note);
    }
    let numa = walk.flag(of, "enableNUMA").unwrap_or(defaults.numa);
    let node = walk
        .whole(of, "numaNode", 0, 1023)
        .and_then(|n| u32::try_from(n).ok());
    let mut storage = Storage {
        device_id: device_id.unwrap_or_default(),
        kind: BackendKind::IoUring,
        path: PathBuf::new(),
        size: bytes(walk, of),
        online: walk.flag(of, "online").unwrap_or(true),
        block_size,
        read_only: walk.flag(of, "readOnly").unwrap_or(false),
        write_cache: walk.flag(of, "writeCache").unwrap_or(true),
        direct: walk.flag(of, "directIO"),
        serial: words(walk, of, "serial", 36),
        vendor: words(walk, of, "vendor", 8),
        product: words(walk, of, "product", 16),
        queue_depth: queue_depth(walk, of).or(defaults.queue_depth),
        numa_node: node.filter(|_| numa),
    };
    let (prefix, path) = place?;
    storage.kind = named
        .or(prefix)
        .or(defaults.kind)
        .unwrap_or(BackendKind::IoUring);
    storage.path = path;
    needs_size(walk, of, &storage);
    device_id.map(|_| storage)
}

/// What has no file needs a size; a size must be whole blocks.
fn needs_size(walk: &mut Walk, of: &Members<'_>, storage: &Storage) {
    let is_ram = storage.kind == BackendKind::Ram;
    let block = u64::from(storage.block_size.bytes());
    match storage.size {
        None if is_ram && !of.has("size") => {
            walk.mistake(
                of.place(),
                format!("a storage of kind \"{}\" needs \"size\"", storage.kind),
            );
        }
        Some(size) if size % block != 0 => {
            walk.mistake(
                of.at("size"),
                format!("{size} bytes is not a whole number of blocks of {block} bytes"),
            );
        }
        _ => {}
    }
}

/// A member that must be there.
fn required<T>(
    walk: &mut Walk,
    of: &Members<'_>,
    name: &str,
    read: impl FnOnce(&mut Walk) -> Option<T>,
) -> Option<T> {
    if !of.has(name) {
        walk.mistake(of.place(), format!("\"{name}\" is missing"));
    }
    read(walk)
}

/// `TYPE:/path` or `/path`.
fn split_path(text: &str) -> Result<(Option<BackendKind>, PathBuf), String> {
    let (prefix, path) = match text.split_once(':') {
        Some((prefix, path)) if !prefix.contains('/') => (Some(kind(prefix)?), path),
        _ => (None, text),
    };
    if path.is_empty() {
        return Err("is empty: name a file or a block device".to_owned());
    }
    Ok((prefix, PathBuf::from(path)))
}

fn kind(text: &str) -> Result<BackendKind, String> {
    text.parse().map_err(|error: UnknownKind| error.to_string())
}

/// `size`: bytes, or a string with a unit.
fn bytes(walk: &mut Walk, of: &Members<'_>) -> Option<u64> {
    match walk.any(of, "size")? {
        (_, Json::Text(_)) => walk.parsed(of, "size", |text| {
            size::parse(text).map_err(|e| e.to_string())
        }),
        (place, json) => walk.number(place, json, 1, i64::MAX.unsigned_abs()),
    }
}

/// A string of at most `max` printable ASCII characters, not empty.
fn words(walk: &mut Walk, of: &Members<'_>, name: &str, max: usize) -> Option<String> {
    walk.parsed(of, name, |text| {
        let printable = text.bytes().all(|b| (0x20..0x7f).contains(&b));
        if printable && (1..=max).contains(&text.trim().len()) {
            Ok(text.trim().to_owned())
        } else {
            Err(format!("must be 1 to {max} printable ASCII characters"))
        }
    })
}

fn portals(walk: &mut Walk, top: &Members<'_>, port: u16, out: &mut Vec<Portal>) {
    for (place, json) in walk.array(top, "iscsiportals") {
        let Some(of) = walk.object(&place, json, PORTAL) else {
            continue;
        };
        let id = required(walk, &of, "id", |walk| walk.whole(&of, "id", 0, u64::MAX));
        let address = required(walk, &of, "portal", |walk| {
            walk.parsed(&of, "portal", |text| portal::parse(text, port))
        });
        if id.is_some_and(|id| out.iter().any(|p| p.id == id)) {
            walk.mistake(
                of.at("id"),
                format!("{} is the id of another portal too", id.unwrap_or_default()),
            );
        }
        if let Some(same) = address.filter(|a| a.port() != 0 && out.iter().any(|p| p.address == *a))
        {
            walk.mistake(
                of.at("portal"),
                format!("{same} is the address of another portal too"),
            );
        }
        if let Some(id) = id {
            // An address that is wrong was named already; the id still exists for `tpgts`.
            out.push(Portal {
                id,
                address: address.unwrap_or(portal::DEFAULT_PORTAL),
            });
        }
    }
}

fn reactors(walk: &mut Walk, top: &Members<'_>, out: &mut Reactors) {
    let Some((place, json)) = walk.any(top, "reactors") else {
        return;
    };
    let Some(of) = walk.object(&place, json, REACTORS) else {
        return;
    };
    out.cores = match walk.any(&of, "cores") {
        None => None,
        Some((_, Json::Text(_))) => walk.parsed(&of, "cores", cores::parse),
        Some((place, json)) => {
            let mut list = Vec::new();
            for (place, json) in walk.elements(&place, json) {
                let core = walk.number(place.clone(), json, 0, cores::CORE_MAX);
                match core.and_then(|n| u32::try_from(n).ok()) {
                    Some(core) if list.contains(&core) => {
                        walk.mistake(place, format!("core {core} is given twice"))
                    }
                    core => list.extend(core),
                }
            }
            if list.is_empty() && matches!(json, Json::Array(items) if items.is_empty()) {
                walk.mistake(place, "names no core");
            }
            Some(list)
        }
    };
    out.poll = walk
        .parsed(&of, "poll", |text| text.parse())
        .unwrap_or_default();
    out.spin = walk
        .whole(&of, "spinMicros", 0, 1_000_000)
        .map(Duration::from_micros);
    out.sqpoll = match walk.any(&of, "sqpoll") {
        Some((_, Json::Bool(true))) => Sqpoll::Yes,
        Some((_, Json::Bool(false))) => Sqpoll::No,
        _ => walk
            .parsed(&of, "sqpoll", |text| text.parse())
            .unwrap_or_default(),
    };
    out.balance = walk.flag(&of, "balance").unwrap_or(true);
}
