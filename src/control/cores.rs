//! Lists of cores, as people write and read them.

/// Highest core number that is understood.
pub const CORE_MAX: u64 = 4095;

/// Parses a list of cores: `0`, `0,2`, `2-5`, `0,4-7`.
///
/// # Errors
/// A sentence that says what a list looks like.
pub fn parse(text: &str) -> Result<Vec<u32>, String> {
    let wrong = || format!("\"{text}\" is not a list of cores, like 2 or 0,2 or 2-5");
    let number = |s: &str| {
        let n: u64 = s.trim().parse().map_err(|_| wrong())?;
        u32::try_from(n)
            .ok()
            .filter(|_| n <= CORE_MAX)
            .ok_or_else(wrong)
    };
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last {
            return Err(wrong());
        }
        for core in first..=last {
            if cores.contains(&core) {
                return Err(format!("\"{text}\" names core {core} twice"));
            }
            cores.push(core);
        }
    }
    Ok(cores)
}

/// Cores for people: `0`, `2-5`, `0,4-7`.
#[must_use]
pub fn show(cores: &[u32]) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for &core in cores {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == core => *last = core,
            _ => parts.push((core, core)),
        }
    }
    let part = |&(a, b): &(u32, u32)| {
        if a == b {
            a.to_string()
        } else {
            format!("{a}-{b}")
        }
    };
    parts.iter().map(part).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_parse_and_print() {
        for (text, cores) in [
            ("0", vec![0]),
            ("0,2", vec![0, 2]),
            ("2-5", vec![2, 3, 4, 5]),
            ("0,4-6", vec![0, 4, 5, 6]),
        ] {
            assert_eq!(parse(text), Ok(cores.clone()));
            assert_eq!(show(&cores), text);
        }
        for bad in [
            "",
            "a",
            "1,",
            "3-1",
            "1,1",
            "0-2,1",
            "-1",
            "4096",
            "0-99999999999",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
