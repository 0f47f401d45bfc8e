//! Reading the kernel's files below a directory, and the forms they have.

use std::fs;
use std::path::{Path, PathBuf};

use crate::sys::cpu::parse_list;

/// Reads files below a directory. What is not there, or is empty, says nothing.
pub(super) struct Root<'a>(pub(super) &'a Path);

impl Root<'_> {
    pub(super) fn text(&self, place: &str) -> Option<String> {
        let text = fs::read_to_string(self.0.join(place)).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    pub(super) fn number(&self, place: &str) -> Option<u64> {
        self.text(place)?.parse().ok()
    }

    pub(super) fn cores(&self, place: &str) -> Vec<u32> {
        let list = self.text(place).and_then(|text| parse_list(&text));
        list.unwrap_or_default()
    }

    pub(super) fn exists(&self, place: &str) -> bool {
        self.0.join(place).exists()
    }

    /// What is in a directory, by name.
    pub(super) fn names(&self, place: &str) -> Vec<String> {
        let entries = fs::read_dir(self.0.join(place)).into_iter().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// Whether a process of that name runs (that we can see).
    pub(super) fn runs(&self, name: &str) -> bool {
        let is_it = |number: &String| {
            number.starts_with(|c: char| c.is_ascii_digit())
                && self.text(&format!("proc/{number}/comm")).as_deref() == Some(name)
        };
        self.names("proc").iter().any(is_it)
    }

    /// `name` of a device, or of what it hangs on, up to the bus; `start` is its entry in a class.
    pub(super) fn up(&self, start: &str, name: &str) -> Option<PathBuf> {
        let near = self.0.join(start).join("device").join(name);
        if near.exists() {
            return Some(near);
        }
        let top = self.0.join("sys").canonicalize().ok()?;
        let mut place = self.0.join(start).canonicalize().ok()?;
        while place.starts_with(&top) && place != top {
            for found in [place.join(name), place.join("device").join(name)] {
                if found.exists() {
                    return Some(found);
                }
            }
            place.pop();
        }
        None
    }

    pub(super) fn node_of(&self, start: &str) -> Option<u32> {
        let file = self.up(start, "numa_node")?;
        // -1: nobody knows.
        fs::read_to_string(file).ok()?.trim().parse().ok()
    }
}

pub(super) fn words(text: Option<String>) -> Vec<String> {
    let text = text.unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// The word in brackets, or the only one.
pub(super) fn selected(choices: &str) -> String {
    let inside = choices
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    inside.map_or(choices, |(word, _)| word).trim().to_owned()
}

/// The cores of a mask as the kernel writes it: hexadecimal, in groups of 32 divided by commas.
pub(super) fn cores_of_mask(mask: &str) -> Vec<u32> {
    let digits = mask.chars().rev().filter_map(|c| c.to_digit(16));
    let bits = digits.zip((0..).step_by(4)).flat_map(|(digit, first)| {
        (0..4)
            .filter(move |bit| digit >> bit & 1 == 1)
            .map(move |bit| first + bit)
    });
    bits.collect()
}

/// The mask of some cores, as the kernel reads it.
#[must_use]
pub(super) fn mask_of(cores: &[u32]) -> String {
    let groups = cores.iter().max().map_or(1, |most| most / 32 + 1);
    let group = |group: u32| {
        let bits = cores.iter().filter(|&&core| core / 32 == group);
        format!(
            "{:08x}",
            bits.fold(0u32, |mask, core| mask | 1 << (core % 32))
        )
    };
    let all: Vec<String> = (0..groups).rev().map(group).collect();
    all.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_and_choices_are_read_and_written_as_the_kernel_does() {
        assert_eq!(cores_of_mask("00000001,0000000f"), [0, 1, 2, 3, 32]);
        assert_eq!(cores_of_mask("c"), [2, 3]);
        assert_eq!(mask_of(&[0, 1]), "00000003");
        assert_eq!(mask_of(&[1, 33]), "00000002,00000002");
        assert_eq!(mask_of(&[]), "00000000");
        assert_eq!(selected("always [madvise] never"), "madvise");
        assert_eq!(selected("none"), "none");
    }
}
