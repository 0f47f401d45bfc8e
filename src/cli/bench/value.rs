//! Values of options: sizes, times, rates.

use std::time::Duration;

/// Longest command, in bytes.
const LONGEST: u64 = 8 << 20;

/// Commands per second.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    let number: f64 = text
        .parse()
        .map_err(|_| "not a number of commands per second".to_owned())?;
    (0.001..=1e9)
        .contains(&number)
        .then_some(number)
        .ok_or_else(|| "must be from 0.001 to 1e9 commands per second".to_owned())
}

/// "4k", "1M", "2G", "512": powers of 1024.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1u64 << 40,
        unit => {
            return Err(format!(
                "'{unit}' is not a unit: use k, M, G or T (powers of 1024)"
            ));
        }
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "not a number of bytes such as 4096, 4k or 1M".to_owned())?;
    number
        .checked_mul(factor)
        .filter(|&bytes| bytes > 0)
        .ok_or_else(|| "must be from 1 byte to 2^64 - 1".to_owned())
}

/// Bytes of one command.
pub(super) fn block_size(text: &str) -> Result<u32, String> {
    size(text)?
        .try_into()
        .ok()
        .filter(|&bytes: &u32| bytes.is_multiple_of(512) && u64::from(bytes) <= LONGEST)
        .ok_or_else(|| "must be a multiple of 512 bytes, and 8M at most".to_owned())
}

/// A time, none included.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text
        .parse()
        .map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(number)
        .ok()
        .filter(|&time| time <= Duration::from_secs(7 * 24 * 3600))
        .ok_or_else(|| "must be from 0 seconds to a week".to_owned())
}

/// A time that is not none.
pub(super) fn some_seconds(text: &str) -> Result<Duration, String> {
    let time = seconds(text)?;
    (!time.is_zero())
        .then_some(time)
        .ok_or_else(|| "must be more than 0 seconds".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(
            (size("512"), size("4k"), size("1MiB")),
            (Ok(512), Ok(4096), Ok(1 << 20))
        );
        assert!(
            size("").is_err()
                && size("k").is_err()
                && size("0").is_err()
                && size("99999999T").is_err()
        );
    }
}
