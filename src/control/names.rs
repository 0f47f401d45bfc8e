//! iSCSI names and what identifies a disk: made once, the same at every start.

use std::path::Path;

use crate::session::target::normal_name;

/// The name in its normal form (RFC 7143, section 4.2.7), if it is one.
///
/// # Errors
/// A sentence that says what a name looks like.
pub fn normalize(name: &str) -> Result<String, String> {
    normal_name(name).ok_or_else(|| {
        format!("\"{name}\" is not an iSCSI name: write it like iqn.2026-11.com.example:disk1")
    })
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.')
}

/// The name that `serve` gives a target nobody named: from the file's stem, else the host's name.
#[must_use]
pub fn default_iqn(path: &Path) -> String {
    let stem = path
        .file_stem()
        .map(|s| s.to_string_lossy().to_lowercase())
        .unwrap_or_default();
    let mut suffix: String = stem
        .chars()
        .map(|c| if is_name_char(c) { c } else { '-' })
        .take(64)
        .collect();
    suffix = suffix.trim_matches(|c| c == '-' || c == '.').to_owned();
    if suffix.is_empty() {
        suffix = "disk".to_owned();
    }
    format!("iqn.2026-11.io.ringtgt:{suffix}")
}

/// A serial number for a disk that was given none: 16 hexadecimal digits that depend on this machine
/// and on `what` (the storage's number and place), and on nothing else.
#[must_use]
pub fn derived_serial(what: &str) -> String {
    let machine = ["/etc/machine-id", "/proc/sys/kernel/hostname"]
        .iter()
        .find_map(|file| {
            std::fs::read_to_string(file)
                .ok()
                .filter(|s| !s.trim().is_empty())
        })
        .unwrap_or_default();
    let hash = fnv1a(
        fnv1a(FNV_OFFSET, machine.trim().as_bytes()),
        what.as_bytes(),
    );
    format!("{hash:016x}")
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a: small, and fixed for ever, which `std`'s hasher is not.
fn fnv1a(start: u64, bytes: &[u8]) -> u64 {
    let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    step(bytes.iter().fold(start, step), &0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_type_are_taken_in_normal_form() {
        for (name, want) in [
            (
                "iqn.2016-09.com.gotgt.gostor:02:example-tgt-0",
                "iqn.2016-09.com.gotgt.gostor:02:example-tgt-0",
            ),
            ("iqn.2024-01.com.example", "iqn.2024-01.com.example"),
            (
                "IQN.2024-01.com.Example:Disk",
                "iqn.2024-01.com.example:disk",
            ),
            ("eui.02004567A425678D", "eui.02004567a425678d"),
            ("naa.52004567BA64678D", "naa.52004567ba64678d"),
        ] {
            assert_eq!(normalize(name).as_deref(), Ok(want));
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = format!("iqn.2024-01.com.example:{}", "x".repeat(200));
        for bad in [
            "",
            "disk",
            "iqn.",
            "iqn.2024-13.com.x",
            "iqn.24-01.com",
            "iqn.2024-01.",
            "iqn.2024-01.com.x:a b",
            "eui.123",
            "naa.xyz",
            long.as_str(),
        ] {
            assert!(normalize(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_default_name_is_a_name_whatever_the_file_is_called() {
        for path in [
            "/srv/Disk One.img",
            "/srv/..",
            "",
            "/",
            "/x/ÄÖ.raw",
            "vm_1.qcow2",
            "/dev/sda",
        ] {
            let name = default_iqn(Path::new(path));
            assert_eq!(normalize(&name), Ok(name.clone()), "{path}");
        }
        assert_eq!(
            default_iqn(Path::new("/srv/Disk One.img")),
            "iqn.2026-11.io.ringtgt:disk-one"
        );
    }

    #[test]
    fn a_serial_is_stable_and_tells_disks_apart() {
        assert_eq!(derived_serial("a"), derived_serial("a"));
        assert_ne!(derived_serial("a"), derived_serial("b"));
        assert_eq!(derived_serial("a").len(), 16);
    }
}
