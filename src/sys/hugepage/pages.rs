//! What kinds of pages a mapping is made of.

use std::fmt;
use std::fs;

/// Bytes of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// In reserved huge pages of 2 MiB.
    pub reserved: usize,
    /// In huge pages that the kernel made by itself.
    pub transparent: usize,
    /// In pages of 4 KiB, or not there yet.
    pub small: usize,
}

impl Pages {
    /// All together.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.reserved + self.transparent + self.small
    }
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            (self.reserved, "reserved 2 MiB huge pages"),
            (self.transparent, "transparent huge pages"),
            (self.small, "4 KiB pages"),
        ];
        let used = || kinds.iter().filter(|(bytes, _)| *bytes > 0);
        let is_one = used().count() == 1;
        for (index, (bytes, kind)) in used().enumerate() {
            if index > 0 {
                f.write_str(" + ")?;
            }
            if is_one {
                f.write_str(kind)?;
            } else {
                write!(f, "{} MiB in {kind}", bytes.div_ceil(1 << 20))?;
            }
        }
        Ok(())
    }
}

/// Bytes of the process's memory from `start` that are in transparent huge pages; `None` where the kernel does not say.
pub(super) fn transparent(start: usize, len: usize) -> Option<usize> {
    let text = fs::read_to_string("/proc/self/smaps").ok()?;
    Some(transparent_of(&text, start, start + len))
}

/// The same, of a text like the kernel's. The kernel joins neighbours of a kind into one line: one that reaches out of
/// `start..end` counts as far as it can be inside.
fn transparent_of(smaps: &str, start: usize, end: usize) -> usize {
    let mut inside = 0;
    let mut sum = 0;
    for line in smaps.lines() {
        if let Some((first, last)) = range(line) {
            inside = last.min(end).saturating_sub(first.max(start));
        } else if let Some(size) = line.strip_prefix("AnonHugePages:") {
            let kib = size.trim().trim_end_matches("kB").trim().parse::<usize>();
            sum += (kib.unwrap_or(0) * 1024).min(inside);
        }
    }
    sum.min(end - start)
}

/// Addresses of a line that begins a mapping.
fn range(line: &str) -> Option<(usize, usize)> {
    let (first, last) = line.split_whitespace().next()?.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some((number(first)?, number(last)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_counted_inside_alone() {
        let text = "00200000-00600000 rw-p 00000000 00:00 0\nSize: 4096 kB\nAnonHugePages:      2048 kB\n\
            00600000-00a00000 rw-p 00000000 00:00 0\nAnonHugePages:      4096 kB\n\
            7f0000000000-7f0000200000 rw-p 00000000 00:00 0\nAnonHugePages:      2048 kB\n";
        assert_eq!(transparent_of(text, 0x20_0000, 0x60_0000), 2 << 20);
        assert_eq!(transparent_of(text, 0x20_0000, 0xa0_0000), 6 << 20);
        assert_eq!(transparent_of(text, 0x80_0000, 0xa0_0000), 2 << 20);
        assert_eq!(transparent_of(text, 0xa0_0000, 0xc0_0000), 0);
    }

    #[test]
    fn pages_are_said_for_people() {
        let all = Pages {
            reserved: 256 << 20,
            ..Pages::default()
        };
        assert_eq!(all.to_string(), "reserved 2 MiB huge pages");
        let some = Pages {
            reserved: 16 << 20,
            small: 240 << 20,
            transparent: 0,
        };
        assert_eq!(
            some.to_string(),
            "16 MiB in reserved 2 MiB huge pages + 240 MiB in 4 KiB pages"
        );
    }
}
