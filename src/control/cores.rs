//! Which cores the reactors get.

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

/// The cores to choose from when nobody asked for any: what the process `started` with, and the `isolated` ones among
/// those it can reach, unless it was kept from others too: then somebody chose for it.
#[must_use]
pub fn candidates(started: &[u32], reachable: &[u32], isolated: &[u32]) -> Vec<u32> {
    let others = reachable.iter().filter(|core| !started.contains(core));
    if others.clone().all(|core| isolated.contains(core)) {
        let mut all = [started, &others.copied().collect::<Vec<_>>()].concat();
        all.sort_unstable();
        return all;
    }
    started.to_vec()
}

/// The cores to use: those asked for, if the process may; else the ones the kernel keeps free of other
/// work; else all it may use but one for the rest of the machine, when there are more than two.
///
/// # Errors
/// When a core that was asked for is not allowed.
pub fn choose(
    asked: Option<&[u32]>,
    allowed: &[u32],
    isolated: &[u32],
) -> Result<Vec<u32>, String> {
    if let Some(asked) = asked {
        let strange: Vec<u32> = asked
            .iter()
            .copied()
            .filter(|core| !allowed.contains(core))
            .collect();
        if !strange.is_empty() {
            let (strange, allowed) = (show(&strange), show(allowed));
            return Err(format!(
                "this process may not run on core {strange}; it may on {allowed}"
            ));
        }
        return Ok(asked.to_vec());
    }
    let mut kept: Vec<u32> = allowed
        .iter()
        .copied()
        .filter(|core| isolated.contains(core))
        .collect();
    if kept.is_empty() {
        let spare = usize::from(allowed.len() > 2);
        kept = allowed.get(spare..).unwrap_or_default().to_vec();
    }
    if kept.is_empty() {
        return Err("there is no core this process may run on".to_owned());
    }
    Ok(kept)
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

    #[test]
    fn isolated_cores_are_reached_for_unless_somebody_chose() {
        // The kernel starts every process on the others.
        assert_eq!(candidates(&[0, 1], &[0, 1, 2, 3], &[2, 3]), [0, 1, 2, 3]);
        assert_eq!(candidates(&[2], &[0, 1, 2, 3], &[2, 3]), [2], "taskset");
        assert_eq!(candidates(&[1], &[0, 1, 2, 3], &[2, 3]), [1], "taskset");
        assert_eq!(candidates(&[0, 1], &[0, 1, 2], &[2, 3]), [0, 1, 2]);
        assert_eq!(candidates(&[0, 1], &[0, 1], &[]), [0, 1]);
    }

    #[test]
    fn isolated_cores_come_first_and_one_core_is_left_to_the_machine() {
        assert_eq!(choose(None, &[0, 1], &[]), Ok(vec![0, 1]));
        assert_eq!(choose(None, &[0, 1, 2, 3], &[]), Ok(vec![1, 2, 3]));
        assert_eq!(choose(None, &[0, 1, 2, 3], &[2, 3, 9]), Ok(vec![2, 3]));
        assert_eq!(choose(Some(&[3]), &[0, 1, 2, 3], &[2]), Ok(vec![3]));
        assert!(choose(Some(&[7]), &[0, 1], &[]).is_err());
        assert!(choose(None, &[], &[]).is_err());
    }
}
