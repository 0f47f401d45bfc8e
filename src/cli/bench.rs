//! `ringtgt bench`: measures an iSCSI target, ours or another.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;

use crate::initiator::driver;
use crate::initiator::latency::Outcome;
use crate::initiator::plan::{Access, DriverError, Length, Operation, Plan, Work, check_core};
use crate::initiator::url::LunUrl;
use crate::initiator::{DigestOffer, Offers};

mod also;
mod ceiling;
mod picture;
mod report;
mod stop;
mod value;

use value::{block_size, rate, seconds, size, some_seconds};

const EXAMPLES: &str = "\
Examples:
  How quick is one 4 KiB read?
    ringtgt bench iscsi://127.0.0.1:3260/iqn.2024-01.com.example:disk/0 --depth 1

  How many random 4 KiB reads per second, with four sessions?
    ringtgt bench iscsi://HOST/IQN/0 --pattern random --depth 32 --connections 4 --seconds 30

  How long do commands take at half that rate, stalls of the target included?
    ringtgt bench iscsi://HOST/IQN/0 --rate 100000 --depth 64 --connections 4 --picture --svg latency.svg

  How near to the limit of this machine is it? (two cores: 0 for what serves, 1 for the client)
    ringtgt bench --ceiling=127.0.0.1:3999 --core 0 &
    ringtgt bench iscsi://127.0.0.1:3999/iqn.2026-11.io.ringtgt:ceiling/0 --core 1

  What does a reader notice of a writer beside it? (DESTROYS what is on the logical unit)
    ringtgt bench iscsi://HOST/IQN/0 --depth 1 --also op=write,block-size=1m,depth=8

  How much can be written? (DESTROYS what is on the logical unit)
    ringtgt bench iscsi://HOST/IQN/0 --op write --block-size 256k --depth 8

  Does the target keep what it was given? (DESTROYS what is on the logical unit)
    ringtgt bench iscsi://HOST/IQN/0 --op write --pattern random --verify --header-digest --data-digest

JSON (--json), one object; keys are only ever added:
  url, capacity_blocks, logical_block_size, seed, negotiated { .. }, elapsed_seconds,
  op, read_percent, pattern, block_size, depth, connections, rate (null in a closed loop),
  read, write, total: { commands, bytes, iops, bytes_per_second,
                        latency_ns { mean, min, p50, p90, p99, p99_9, p99_99, max } },
  errors, first_error, refused, unissued, verified, mismatches, first_mismatch: of the first stream of commands,
  jobs: every stream, the --also ones after the first, with the keys of the last three lines,
  client { ran_ns, waited_ns }: the time of bench's own thread while it measured,
  ended_early: null, or why it ended before its time; all else is what was measured until then.";

const EXIT: &str = "\
Exit status:
  0  every command ended in GOOD, and all compared data was right
  1  some did not or was not, or there are no results, or it ended early: the target failed or was silent for 20
     seconds, or SIGINT (Ctrl-C) or SIGTERM came. What was measured by then is printed all the same. A second
     Ctrl-C ends it at once, without results; so does the first while it still connects (which ends it by the signal)
  2  the options are wrong, or do not fit the logical unit or the machine";

/// Measures an iSCSI target: issues reads or writes and reports rates and latencies.
///
/// Works against any target. A given number of commands (--depth) is kept outstanding on every
/// connection (a closed loop), or commands are issued at a fixed --rate; each connection is a session of its
/// own. One thread does it all and, unless --busy no, spins on one core: give it a core that the target does
/// not use, and do not compare results of different machines or of a machine that is busy otherwise.
///
/// Only --op write and --op mixed change the logical unit. They destroy what is on it.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXIT, after_long_help = format!("{EXAMPLES}\n\n{EXIT}"))]
pub struct BenchArgs {
    /// The logical unit: iscsi://HOST[:PORT]/TARGET-NAME[/LUN]; port 3260 and LUN 0 if not said.
    #[arg(value_name = "URL", required_unless_present = "ceiling")]
    url: Option<LunUrl>,

    /// What to do. "write" and "mixed" DESTROY the data of the logical unit.
    #[arg(long, value_enum, default_value_t = Op::Read)]
    op: Op,

    /// With --op mixed: how many of 100 commands are reads.
    #[arg(long, value_name = "PERCENT", default_value_t = 70, value_parser = clap::value_parser!(u8).range(0..=100))]
    mix: u8,

    /// In which order blocks are addressed.
    #[arg(long, value_enum, default_value_t = Pattern::Random)]
    pattern: Pattern,

    /// Bytes per command, such as 512, 4k or 1M; a multiple of the logical block size.
    #[arg(long, value_name = "BYTES", default_value = "4k", value_parser = block_size)]
    block_size: u32,

    /// Commands kept outstanding on each connection.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=4096))]
    depth: u16,

    /// Connections, each a session of its own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,

    /// Issues N commands per second, on all connections together, whether the target keeps up or not, with
    /// at most --depth outstanding on each. Latency then counts from the time a command was due, so that
    /// stalls are not hidden by the commands they held up.
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,

    /// Runs a second stream of commands beside the first, on connections of its own but in the same thread,
    /// and reports it separately: keys of op, mix, pattern, block-size, depth, connections, rate as in
    /// op=write,block-size=1m,depth=8; what is not said is as in the first. May be given several times.
    #[arg(long, value_name = "KEY=VALUE,..")]
    also: Vec<String>,

    /// How long to measure.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = some_seconds, conflicts_with = "count")]
    seconds: Duration,

    /// Measures so many commands instead of a time.
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    count: Option<u64>,

    /// How long commands run before they are measured.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    warmup: Duration,

    /// Uses only the first BYTES of the logical unit, such as 1G.
    #[arg(long, value_name = "BYTES", value_parser = size)]
    span: Option<u64>,

    /// Checks data. With --op write or mixed: writes a pattern made of address and seed, and reads all
    /// that was written back in the end. With --op read: expects what an earlier run with --op write,
    /// the same --seed and the same --span left on all of it. Costs speed.
    #[arg(long)]
    verify: bool,

    /// Of random addresses and of the pattern.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Insists on CRC32C over headers.
    #[arg(long)]
    header_digest: bool,

    /// Insists on CRC32C over data.
    #[arg(long)]
    data_digest: bool,

    /// Offers ImmediateData: whether data may come with the command.
    #[arg(long, value_enum, default_value_t = YesNo::Yes)]
    immediate: YesNo,

    /// Offers InitialR2T: whether data but the immediate waits until the target asks.
    #[arg(long, value_enum, default_value_t = YesNo::No)]
    initial_r2t: YesNo,

    /// Offers FirstBurstLength: most data of a command that comes unasked.
    #[arg(long, value_name = "BYTES", default_value = "256k", value_parser = size)]
    first_burst: u64,

    /// Offers MaxBurstLength: most data of one sequence.
    #[arg(long, value_name = "BYTES", default_value = "1M", value_parser = size)]
    max_burst: u64,

    /// Declares MaxRecvDataSegmentLength: most data of one PDU towards the initiator.
    #[arg(long, value_name = "BYTES", default_value = "256k", value_parser = size)]
    max_recv: u64,

    /// Name of the initiator, for targets that let in only some.
    #[arg(
        long,
        value_name = "IQN",
        default_value = "iqn.2024-01.io.ringtgt:bench"
    )]
    initiator_name: String,

    /// Puts up with targets that number or answer their PDUs wrongly, where it does no harm.
    #[arg(long)]
    lenient: bool,

    /// Spins instead of sleeping while there is nothing to do. "no" is kinder and slower.
    #[arg(long, value_enum, default_value_t = YesNo::Yes)]
    busy: YesNo,

    /// Stays on this core.
    #[arg(long, value_name = "N")]
    core: Option<u32>,

    /// Tells so often, on standard error, how it goes.
    #[arg(long, value_name = "SECONDS", value_parser = some_seconds)]
    interval: Option<Duration>,

    /// Shows how latencies are distributed.
    #[arg(long, conflicts_with = "json")]
    picture: bool,

    /// Draws latency by percentile into FILE.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// Prints the results as one JSON object.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    ceiling: ceiling::CeilingArgs,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    /// Reads only: changes nothing.
    Read,
    /// Writes only: DESTROYS data.
    Write,
    /// Reads and writes: DESTROYS data.
    Mixed,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Pattern {
    /// Rising; every connection in its own part of the logical unit.
    Sequential,
    /// Uniformly random, aligned.
    Random,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum YesNo {
    Yes,
    No,
}

/// Why `bench` failed.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// There are no results, or only those until it ended early.
    #[error("{error}{hint}")]
    Driver {
        /// What happened.
        error: DriverError,
        /// What to do, where that is known.
        hint: &'static str,
    },
    /// There are, but commands failed.
    #[error("{errors} commands failed; the first: {first}")]
    Commands {
        /// How many.
        errors: u64,
        /// The first, in words.
        first: String,
    },
    /// There are, but data was wrong.
    #[error("{mismatches} of {verified} reads had wrong data; the first: {first}")]
    Data {
        /// Reads with wrong data.
        mismatches: u64,
        /// Reads whose data was compared.
        verified: u64,
        /// The first, in words.
        first: String,
    },
    /// The picture cannot be kept.
    #[error("{0}")]
    Picture(String),
    /// The ceiling cannot be served.
    #[error("{0}")]
    Ceiling(String),
    /// Options that do not go together.
    #[error("{0}")]
    Options(String),
}

impl BenchError {
    /// Whether other options are what it takes.
    pub(super) const fn is_misuse(&self) -> bool {
        let plan = matches!(
            self,
            Self::Driver {
                error: DriverError::Plan(_),
                ..
            }
        );
        plan || matches!(self, Self::Options(_))
    }
}

/// Runs the command and prints its results.
///
/// # Errors
/// [`BenchError`]: no results, failed commands or wrong data.
pub fn run(args: &BenchArgs) -> Result<(), BenchError> {
    let failed = |error| BenchError::Driver {
        hint: hint(args, &error),
        error,
    };
    if let Some(core) = args.core {
        check_core(core).map_err(failed)?;
    }
    if let Some(address) = args.ceiling.ceiling {
        return ceiling::serve(&args.ceiling, address, offers(args)?, args.core);
    }
    let plan = plan(args)?;
    let run = driver::Run::connect(&plan).map_err(failed)?;
    let stop = stop::at_signal().map_err(failed)?;
    let measured = run
        .run_until(&stop, &mut |progress| {
            super::running::say(&report::line_of(progress));
        })
        .map_err(failed)?;
    let mut text = if args.json {
        format!("{}\n", report::json_of(&plan, &measured))
    } else {
        report::text_of(&plan, &measured)
    };
    if args.picture {
        text += &picture::text_of(&plan, &measured.outcome);
    }
    let mut out = std::io::stdout().lock();
    // Whoever read it may be gone: the exit status still says how it went.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    if let Some(path) = &args.svg {
        std::fs::write(path, picture::svg_of(&plan, &measured.outcome)).map_err(|error| {
            BenchError::Picture(format!("cannot write {}: {error}", path.display()))
        })?;
    }
    match measured.ended_early {
        Some(error) => Err(failed(error)),
        None => judge(&measured.outcome),
    }
}

/// What to do about `error`.
fn hint(args: &BenchArgs, error: &DriverError) -> &'static str {
    match error.refused_key() {
        Some("HeaderDigest") if args.header_digest => " (leave out --header-digest)",
        Some("DataDigest") if args.data_digest => " (leave out --data-digest)",
        _ => "",
    }
}

/// Failed commands and wrong data are failures of the whole.
fn judge(outcome: &Outcome) -> Result<(), BenchError> {
    for results in &outcome.works {
        if results.mismatches > 0 {
            return Err(BenchError::Data {
                mismatches: results.mismatches,
                verified: results.verified,
                first: results.first_mismatch.clone().unwrap_or_default(),
            });
        }
    }
    for results in &outcome.works {
        if results.errors > 0 {
            return Err(BenchError::Commands {
                errors: results.errors,
                first: results.first_error.clone().unwrap_or_default(),
            });
        }
    }
    Ok(())
}

/// What is offered at login; of the ceiling: what it agrees to.
fn offers(args: &BenchArgs) -> Result<Offers, BenchError> {
    let required = |on| {
        if on {
            DigestOffer::Required
        } else {
            DigestOffer::Off
        }
    };
    let key = |name: &str, value: u64| {
        u32::try_from(value)
            .ok()
            .filter(|value| (512..=0xff_ffff).contains(value))
            .ok_or_else(|| {
                BenchError::Options(format!("{name} must be 512 to 16777215 bytes, not {value}"))
            })
    };
    let offers = Offers {
        header_digest: required(args.header_digest),
        data_digest: required(args.data_digest),
        initial_r2t: args.initial_r2t == YesNo::Yes,
        immediate_data: args.immediate == YesNo::Yes,
        max_recv_data_segment_length: key("--max-recv", args.max_recv)?,
        max_burst_length: key("--max-burst", args.max_burst)?,
        first_burst_length: key("--first-burst", args.first_burst)?,
        ..Offers::DEFAULT
    };
    if offers.first_burst_length > offers.max_burst_length {
        let text = "--first-burst must not be more than --max-burst";
        return Err(BenchError::Options(text.to_owned()));
    }
    Ok(offers)
}

fn plan(args: &BenchArgs) -> Result<Plan, BenchError> {
    let offers = offers(args)?;
    let url = args
        .url
        .clone()
        .ok_or_else(|| BenchError::Options("a URL is missing".to_owned()))?;
    let work = Work {
        operation: operation(args.op, args.mix),
        access: access(args.pattern),
        block_size: args.block_size,
        depth: args.depth,
        connections: args.connections,
        rate: args.rate,
    };
    let also = args
        .also
        .iter()
        .map(|text| also::parse(text, &work, args.mix).map_err(BenchError::Options))
        .collect::<Result<Vec<_>, _>>()?;
    check(args, &work, &also)?;
    Ok(Plan {
        url,
        initiator_name: args.initiator_name.clone(),
        offers,
        also,
        work,
        length: args
            .count
            .map_or(Length::Time(args.seconds), Length::Commands),
        warmup: args.warmup,
        span: args.span,
        verify: args.verify,
        seed: args.seed,
        lenient: args.lenient,
        busy: args.busy == YesNo::Yes,
        core: args.core,
        interval: args.interval,
    })
}

/// What goes together and what does not.
fn check(args: &BenchArgs, work: &Work, also: &[Work]) -> Result<(), BenchError> {
    let wrong = |text: &str| Err(BenchError::Options(text.to_owned()));
    if args.verify && !also.is_empty() {
        return wrong("--verify cannot tell who wrote what: not together with --also");
    }
    let paced = std::iter::once(work)
        .chain(also)
        .any(|work| work.rate.is_some());
    if paced && args.busy == YesNo::No {
        return wrong(
            "a fixed rate needs a client that is never late: not together with --busy no",
        );
    }
    Ok(())
}

const fn operation(op: Op, read_percent: u8) -> Operation {
    match op {
        Op::Read => Operation::Read,
        Op::Write => Operation::Write,
        Op::Mixed => Operation::Mixed { read_percent },
    }
}

const fn access(pattern: Pattern) -> Access {
    match pattern {
        Pattern::Sequential => Access::Sequential,
        Pattern::Random => Access::Random,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        bench: BenchArgs,
    }

    pub(super) fn parse(options: &[&str]) -> Result<BenchArgs, String> {
        let fixed = ["bench", "iscsi://h/iqn.2024-01.com.example:a/1"];
        Line::try_parse_from(fixed.iter().chain(options))
            .map(|line| line.bench)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn without_options_nothing_is_written() {
        let plan = plan(&parse(&[]).unwrap()).unwrap();
        assert_eq!(
            (plan.work.operation, plan.work.block_size, plan.work.depth),
            (Operation::Read, 4096, 32)
        );
        assert_eq!(plan.length, Length::Time(Duration::from_secs(10)));
        assert!(plan.busy && !plan.verify);
    }

    #[test]
    fn options_become_a_plan() {
        let args = parse(&[
            "--op",
            "mixed",
            "--mix",
            "30",
            "--block-size",
            "64k",
            "--count",
            "9",
            "--initial-r2t",
            "yes",
        ]);
        let plan = plan(&args.unwrap()).unwrap();
        assert_eq!(plan.work.operation, Operation::Mixed { read_percent: 30 });
        assert_eq!(
            (plan.work.block_size, plan.length),
            (65_536, Length::Commands(9))
        );
        assert!(plan.offers.initial_r2t);
    }

    #[test]
    fn wrong_options_are_explained() {
        for (options, text) in [
            (["--block-size", "1000"], "multiple of 512"),
            (["--block-size", "4q"], "not a unit"),
            (["--seconds", "x"], "not a number of seconds"),
            (["--seconds", "0"], "must be more than 0 seconds"),
            (["--interval", "0"], "must be more than 0 seconds"),
            (["--depth", "0"], "1..=4096"),
            (["--mix", "101"], "0..=100"),
        ] {
            let error = parse(&options).unwrap_err();
            assert!(error.contains(text), "{options:?}: {error}");
        }
        let args = parse(&["--first-burst", "2M"]).unwrap();
        assert!(plan(&args).unwrap_err().to_string().contains("--max-burst"));
    }

    #[test]
    fn a_second_stream_is_like_the_first_where_nothing_else_is_said() {
        let args = parse(&["--depth", "1", "--also", "op=write,block-size=1m,depth=8"]).unwrap();
        let plan = plan(&args).unwrap();
        let [also] = &plan.also[..] else {
            panic!("one more stream")
        };
        assert_eq!((plan.work.depth, plan.work.operation), (1, Operation::Read));
        assert_eq!((also.depth, also.operation), (8, Operation::Write));
        assert_eq!((also.block_size, also.access), (1 << 20, plan.work.access));
        for (options, text) in [
            (&["--also", "depth=0"][..], "1 to 4096"),
            (&["--also", "color=red"], "no such key"),
            (&["--also", "op=write", "--verify"], "--verify"),
            (&["--rate", "5", "--busy", "no"], "--busy no"),
            (&["--also", "rate=0"], "0.001"),
        ] {
            let error = super::plan(&parse(options).unwrap())
                .unwrap_err()
                .to_string();
            assert!(error.contains(text), "{options:?}: {error}");
        }
    }

    #[test]
    fn a_url_is_needed_unless_the_ceiling_is_served() {
        let parse =
            |line: &[&str]| Line::try_parse_from(["bench"].iter().chain(line)).map(|l| l.bench);
        assert!(parse(&[]).is_err());
        let args = parse(&["--ceiling"]).unwrap();
        assert_eq!(args.ceiling.ceiling.unwrap().to_string(), "127.0.0.1:0");
        assert!(parse(&["--ceiling=[::1]:3999", "--ceiling-loop", "naive"]).is_ok());
        assert!(parse(&["--ceiling-loop", "naive", "iscsi://h/iqn.x/0"]).is_err());
    }
}
