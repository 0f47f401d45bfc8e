//! `iscsitargets`: names, portal groups and LUNs, and that what they refer to exists.

use std::collections::BTreeMap;

use super::walk::{Members, Walk};
use super::{Config, Portal, Storage, TargetConfig};
use crate::control::names;

pub(super) const TARGET: &[&str] = &["tpgts", "luns"];

/// Highest LUN that fits the flat and peripheral addressing that is offered (SAM-5, section 4.7).
const LUN_MAX: u64 = 16_383;

/// Reads the member; storages and portals were read before.
pub(super) fn targets(walk: &mut Walk, top: &Members<'_>, config: &mut Config) {
    let mut found: BTreeMap<String, TargetConfig> = BTreeMap::new();
    let Some((place, json)) = walk.any(top, "iscsitargets") else {
        return;
    };
    let Some(all) = walk.map(&place, json) else {
        return;
    };
    for (key, place, json) in all.iter() {
        let name = names::normalize(key).unwrap_or_else(|what| {
            walk.mistake(&place, what);
            key.to_owned()
        });
        if found.contains_key(&name) && name != key {
            walk.mistake(
                &place,
                format!("is the same name as \"{name}\": case does not count"),
            );
        }
        let Some(of) = walk.object(&place, json, TARGET) else {
            continue;
        };
        let portal_groups = portal_groups(walk, &of, &config.portals);
        let luns = luns(walk, &of, &config.storages);
        found.insert(
            name.clone(),
            TargetConfig {
                name,
                portal_groups,
                luns,
            },
        );
    }
    config.targets = found.into_values().collect();
}

fn portal_groups(walk: &mut Walk, of: &Members<'_>, portals: &[Portal]) -> Vec<(u16, Vec<u64>)> {
    let mut groups: Vec<(u16, Vec<u64>)> = Vec::new();
    let mut at = of.place().to_owned();
    let map = match walk.any(of, "tpgts") {
        Some((place, json)) => {
            at.clone_from(&place);
            walk.map(&place, json)
        }
        None => {
            walk.mistake(
                of.place(),
                "\"tpgts\" is missing: nobody could reach this target",
            );
            None
        }
    };
    let Some(map) = map else {
        return groups;
    };
    let mistakes = walk.mistakes.len();
    for (key, place, json) in map.iter() {
        // Tag 0 is allowed by the standard's encoding, but some initiators take it for "none".
        let tag = key.parse::<u16>().ok();
        if tag.is_none() {
            walk.mistake(&place, "a portal group tag is a number from 0 to 65535");
        } else if groups.iter().any(|(seen, _)| Some(*seen) == tag) {
            walk.mistake(
                &place,
                "is the tag of another portal group of this target too",
            );
        }
        let mut members = Vec::new();
        for (place, json) in walk.elements(&place, json) {
            let Some(id) = walk.number(place.clone(), json, 0, u64::MAX) else {
                continue;
            };
            if !portals.iter().any(|p| p.id == id) {
                walk.mistake(place, format!("no portal has id {id}"));
            } else if members.contains(&id) || groups.iter().any(|(_, seen)| seen.contains(&id)) {
                walk.mistake(place, format!("portal {id} is in this target already"));
            } else {
                members.push(id);
            }
        }
        groups.extend(tag.map(|tag| (tag, members)));
    }
    // Where a mistake was found, there may be a portal behind it.
    if walk.mistakes.len() == mistakes && groups.iter().all(|(_, members)| members.is_empty()) {
        walk.mistake(at, "names no portal: nobody could reach this target");
    }
    groups.sort_by_key(|(tag, _)| *tag);
    groups
}

fn luns(walk: &mut Walk, of: &Members<'_>, storages: &[Storage]) -> Vec<(u16, u64)> {
    let mut luns: Vec<(u16, u64)> = Vec::new();
    let Some((place, json)) = walk.any(of, "luns") else {
        return luns;
    };
    let Some(map) = walk.map(&place, json) else {
        return luns;
    };
    for (key, place, json) in map.iter() {
        let lun = key
            .parse::<u64>()
            .ok()
            .filter(|&n| n <= LUN_MAX)
            .and_then(|n| u16::try_from(n).ok());
        match lun {
            None => walk.mistake(&place, format!("a LUN is a number from 0 to {LUN_MAX}")),
            Some(lun) if luns.iter().any(|(seen, _)| *seen == lun) => {
                walk.mistake(&place, format!("LUN {lun} is given twice"));
            }
            Some(_) => {}
        }
        let Some(id) = walk.number(place.clone(), json, 0, u64::MAX) else {
            continue;
        };
        if !storages.iter().any(|s| s.device_id == id) {
            walk.mistake(place, format!("no storage has deviceID {id}"));
        } else if luns.iter().any(|(_, seen)| *seen == id) {
            walk.mistake(
                place,
                format!("storage {id} is a LUN of this target already"),
            );
        }
        luns.extend(lun.map(|lun| (lun, id)));
    }
    luns.sort_unstable();
    luns
}
