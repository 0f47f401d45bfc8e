//! `--also`: one more stream of commands, in one argument.

use clap::ValueEnum as _;

use super::{Op, Pattern, access, block_size, operation, rate};
use crate::initiator::plan::Work;

/// The stream that `text` says, which is like `first` where it does not say anything.
pub(super) fn parse(text: &str, first: &Work, mix: u8) -> Result<Work, String> {
    let mut work = first.clone();
    let (mut op, mut mix) = (None, mix);
    for pair in text.split(',') {
        let wrong = |what: &str| format!("--also \"{text}\": {what}");
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| wrong(&format!("'{pair}' is not KEY=VALUE")))?;
        let number = |most: u16| {
            value
                .parse::<u16>()
                .ok()
                .filter(|number| (1..=most).contains(number))
                .ok_or_else(|| wrong(&format!("{key} must be 1 to {most}, not '{value}'")))
        };
        let said = |error: String| wrong(&format!("{key}: {error}"));
        match key {
            "op" => op = Some(Op::from_str(value, true).map_err(said)?),
            "mix" => {
                mix = value
                    .parse()
                    .ok()
                    .filter(|&percent: &u8| percent <= 100)
                    .ok_or_else(|| wrong("mix must be 0 to 100"))?;
            }
            "pattern" => work.access = access(Pattern::from_str(value, true).map_err(said)?),
            "block-size" => work.block_size = block_size(value).map_err(said)?,
            "depth" => work.depth = number(4096)?,
            "connections" => work.connections = number(1024)?,
            "rate" => work.rate = Some(rate(value).map_err(said)?),
            _ => {
                return Err(wrong(&format!(
                    "no such key '{key}'; there are op, mix, pattern, block-size, depth, connections, rate"
                )));
            }
        }
    }
    if let Some(op) = op {
        work.operation = operation(op, mix);
    }
    Ok(work)
}
