//! The command line: one function per command, exit codes, and what people read.
//!
//! Exit codes: 0 when all went well, 1 when something failed while running, 2 when the command line or the
//! configuration is wrong (then nothing was started).

pub mod bench;
pub mod daemon;
pub mod doctor;
mod running;
pub mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Something failed while running.
const FAILED: u8 = 1;
/// The command line or the configuration is wrong.
const MISUSED: u8 = 2;

#[derive(Debug, Parser)]
#[command(name = "ringtgt", version, about, long_about = None, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve one file, block device or piece of memory as an iSCSI disk
    Serve(serve::ServeArguments),
    /// Serve what a configuration file says: several targets, portals and LUNs
    Daemon(daemon::DaemonArguments),
    /// Measure a target: this one or any other
    Bench(bench::BenchArgs),
    /// Hold this machine against a configuration: what is ok, could be better, is wrong, and what mends it
    ///
    /// It changes nothing and needs no root. WHAT is a configuration file (a name that ends in .json), or a file or block
    /// device with the options that `ringtgt serve` would get; without it the advice is general.
    ///
    /// What is asked of the machine depends on how the reactors wait. With `--poll busy` their cores have to be theirs
    /// alone (isolcpus, nohz_full, interrupts elsewhere, no quota); with `adaptive` and `event` they need not be.
    /// Real-time priority (RLIMIT_RTPRIO) is never needed.
    Doctor(doctor::DoctorArguments),
}

const EXAMPLES: &str = "\
Examples:
  ringtgt serve disk.img --size 1G               make a sparse file of 1 GiB and serve it on 127.0.0.1:3260
  ringtgt serve /dev/nvme0n1 --portal 0.0.0.0    serve a block device to the network
  ringtgt serve x --backend ram --size 4G        a disk in memory, for a benchmark
  ringtgt daemon --config targets.json           serve what a (gotgt) configuration file says
  ringtgt bench iscsi://127.0.0.1/iqn.2026-11.io.ringtgt:disk    measure it (reads only)
  ringtgt doctor targets.json                    what on this machine keeps it from being as fast as it could be

Exit codes: 0 all went well, 1 failed while running, 2 wrong usage or configuration.";

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no mistakes; clap knows which stream is whose.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(MISUSED)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let outcome = match arguments.command {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Daemon(arguments) => daemon::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments).map_err(CommandError::from_bench),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in &error.lines {
                running::say(&format!("ringtgt: {line}\n"));
            }
            ExitCode::from(error.code)
        }
    }
}

/// Why a command ends, line by line, and its exit code.
#[derive(Debug)]
pub struct CommandError {
    code: u8,
    lines: Vec<String>,
}

impl CommandError {
    fn failed(failure: crate::control::Failure) -> Self {
        Self {
            code: FAILED,
            lines: failure.0,
        }
    }

    fn from_bench(error: bench::BenchError) -> Self {
        Self {
            code: if error.is_misuse() { MISUSED } else { FAILED },
            lines: vec![error.to_string()],
        }
    }

    fn misused(lines: Vec<String>) -> Self {
        Self {
            code: MISUSED,
            lines,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }
}
