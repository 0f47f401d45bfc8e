//! Sizes as people write them: `1G`, `512M`, `1GiB`, `4096`.

/// Why a text is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not digits followed by a known unit.
    #[error(
        "\"{0}\" is not a size: write a number with an optional unit, like 512M, 1G, 1GiB or 1073741824"
    )]
    NotASize(String),
    /// More than 2^63 - 1 bytes, which no file can have.
    #[error("\"{0}\" is more than a file can hold (2^63 - 1 bytes)")]
    TooLarge(String),
    /// Nothing.
    #[error("a size of 0 holds no block")]
    Zero,
}

/// The bytes that `text` names. Units are powers of 1024, with or without `B` or `iB`, in any case:
/// `K`, `M`, `G`, `T`, `P`; none means bytes.
///
/// # Errors
/// When it is not a number with a known unit, is zero, or is more than a file can hold.
pub fn parse(text: &str) -> Result<u64, SizeError> {
    let trimmed = text.trim();
    let digits = trimmed.len()
        - trimmed
            .trim_start_matches(|c: char| c.is_ascii_digit())
            .len();
    let (number, unit) = trimmed.split_at(digits);
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return Err(SizeError::NotASize(text.to_owned())),
    };
    if number.is_empty() {
        return Err(SizeError::NotASize(text.to_owned()));
    }
    let bytes = number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(1 << shift))
        .filter(|&n| i64::try_from(n).is_ok())
        .ok_or_else(|| SizeError::TooLarge(text.to_owned()))?;
    if bytes == 0 {
        return Err(SizeError::Zero);
    }
    Ok(bytes)
}

/// `bytes` for people, in the largest unit that divides them: `1 GiB`, `512 MiB`, `1000 bytes`.
#[must_use]
pub fn show(bytes: u64) -> String {
    const UNITS: [(u32, &str); 5] = [
        (50, "PiB"),
        (40, "TiB"),
        (30, "GiB"),
        (20, "MiB"),
        (10, "KiB"),
    ];
    for (shift, name) in UNITS {
        if bytes >> shift != 0 && bytes.trailing_zeros() >= shift {
            return format!("{} {name}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_a_power_of_1024() {
        assert_eq!(parse("4096"), Ok(4096));
        assert_eq!(parse("1K"), Ok(1024));
        assert_eq!(parse("512M"), Ok(512 << 20));
        for one in ["1G", "1g", "1GB", "1GiB", "1 GiB", " 1gib "] {
            assert_eq!(parse(one), Ok(1 << 30), "{one}");
        }
        assert_eq!(parse("8T"), Ok(8 << 40));
        assert_eq!(parse("1P"), Ok(1 << 50));
    }

    #[test]
    fn what_is_no_size_says_so() {
        for bad in ["", "G", "1X", "1.5G", "-1", "0x10", "1 G G", "１G"] {
            assert!(matches!(parse(bad), Err(SizeError::NotASize(_))), "{bad}");
        }
        assert_eq!(parse("0G"), Err(SizeError::Zero));
        for huge in ["8192P", "18446744073709551616", "9223372036854775808"] {
            assert!(matches!(parse(huge), Err(SizeError::TooLarge(_))), "{huge}");
        }
        assert!(parse("9223372036854775807").is_ok());
    }

    #[test]
    fn a_size_is_shown_in_its_largest_whole_unit() {
        assert_eq!(show(1 << 30), "1 GiB");
        assert_eq!(show(1536 << 20), "1536 MiB");
        assert_eq!(show(1000), "1000 bytes");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_size_or_an_error(text in ".*") {
            let _ = parse(&text);
        }
        #[test]
        fn what_is_shown_parses_back(n in 1..=i64::MAX as u64) {
            let shown = show(n).replace(" bytes", "");
            proptest::prop_assert_eq!(parse(&shown), Ok(n));
        }
    }
}
