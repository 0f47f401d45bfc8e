//! `ringtgt doctor`: what on this machine keeps the target from being as fast as it could be.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::serve::ServeOptions;
use super::{CommandError, FAILED, daemon};
use crate::control::doctor::{Facts, Finding, Mend, Probed, Report, Verdict, examine};
use crate::control::{Config, cores};

/// Arguments of `doctor`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArguments {
    /// Configuration file (*.json), or file or block device to serve
    #[arg(value_name = "WHAT")]
    what: Option<PathBuf>,
    /// The same as a configuration file in the place of WHAT
    #[arg(long, value_name = "FILE", conflicts_with = "what")]
    config: Option<PathBuf>,
    #[command(flatten)]
    options: ServeOptions,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Read DIR/sys and DIR/proc, a recording by scripts/record-machine, instead of this machine; nothing is tried out then
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  ringtgt doctor                                       general advice, for a daemon with its defaults
  ringtgt doctor --poll busy --cores 2-5               the same, for the lowest latency on these cores
  ringtgt doctor /etc/ringtgt/config.json              for what this configuration serves
  ringtgt doctor /dev/nvme0n1 --poll busy --portal 0.0.0.0    for what `ringtgt serve` would do with the same words
  ringtgt doctor --json | jq '.findings[] | select(.verdict == \"wrong\")'
  ringtgt doctor --root machine --poll busy            for a machine that was recorded elsewhere (scripts/record-machine)

Exit codes: 0 nothing is wrong, 1 something is, 2 wrong usage or configuration.";

/// Prints the report.
///
/// # Errors
/// When something is wrong (without further words), or the command line or configuration is.
pub fn run(arguments: &DoctorArguments) -> Result<(), CommandError> {
    let config = config_of(arguments)?;
    let report = match &arguments.root {
        None => {
            let facts = Facts::read(Path::new("/"));
            let probed = Probed::here(&config, &facts.machine.topology);
            examine(&config, &facts, &probed)
        }
        Some(root) if root.join("proc").is_dir() || root.join("sys").is_dir() => {
            examine(&config, &Facts::read(root), &Probed::default())
        }
        Some(root) => {
            let place = root.display();
            return Err(CommandError::misused(vec![format!(
                "{place}: there is neither sys nor proc in it; make a recording with scripts/record-machine"
            )]));
        }
    };
    let mut out = std::io::stdout();
    let text = if arguments.json {
        format!("{:#}\n", json_of(&report))
    } else {
        let is_coloured = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
        text_of(&subject(arguments), &report, is_coloured)
    };
    // Who reads may have seen enough; the exit code is the same.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    if report.count(Verdict::Wrong) > 0 {
        return Err(CommandError {
            code: FAILED,
            lines: Vec::new(),
        });
    }
    Ok(())
}

fn config_of(arguments: &DoctorArguments) -> Result<Config, CommandError> {
    let Some(what) = arguments.config.as_ref().or(arguments.what.as_ref()) else {
        let config = arguments.options.config(Path::new(""));
        return Ok(Config {
            storages: Vec::new(),
            targets: Vec::new(),
            ..config
        });
    };
    if arguments.config.is_none() && what.extension().is_none_or(|end| end != "json") {
        return Ok(arguments.options.config(what));
    }
    if arguments.options != ServeOptions::default() {
        return Err(CommandError::misused(vec![format!(
            "{} says what is served and how; options are for a single file or block device",
            what.display()
        )]));
    }
    daemon::read(what, None)
}

fn subject(arguments: &DoctorArguments) -> String {
    let what = arguments.config.as_ref().or(arguments.what.as_ref());
    what.map_or_else(
        || "general advice".to_owned(),
        |what| what.display().to_string(),
    )
}

/// Where the second column of a line begins, and the third.
const COLUMNS: (usize, usize) = (2, 19);

/// The report for people.
fn text_of(subject: &str, report: &Report, is_coloured: bool) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_report(&mut text, subject, report, is_coloured);
    text
}

fn write_report(
    out: &mut String,
    subject: &str,
    report: &Report,
    is_coloured: bool,
) -> std::fmt::Result {
    let used: Vec<u32> = report.reactors.iter().map(|reactor| reactor.core).collect();
    write!(out, "{subject}: poll {}", report.poll)?;
    if !used.is_empty() {
        let mib = report.pages.bytes() >> 20;
        write!(
            out,
            ", cores {}\n{mib} MiB of buffers {}",
            cores::show(&used),
            report.backing()
        )?;
        match report.registered {
            Some(true) => out.push_str(", registered with io_uring"),
            Some(false) => out.push_str(", not registered with io_uring"),
            None => {}
        }
    }
    out.push('\n');
    let widest = report
        .findings
        .iter()
        .map(|finding| finding.check.chars().count())
        .max();
    let widest = widest.unwrap_or(0);
    let mut group = None;
    for finding in &report.findings {
        if group != Some(finding.group) {
            group = Some(finding.group);
            writeln!(out, "\n{}", finding.group.name())?;
        }
        write_finding(out, finding, widest, is_coloured)?;
    }
    write_end(out, report)
}

fn write_finding(
    out: &mut String,
    finding: &Finding,
    widest: usize,
    is_coloured: bool,
) -> std::fmt::Result {
    let verdict = finding.verdict.name();
    let colour = match finding.verdict {
        Verdict::Ok => "32",
        Verdict::Better => "33",
        Verdict::Wrong => "31;1",
    };
    let (indent, second) = COLUMNS;
    let width = second - indent;
    let shown = if is_coloured {
        format!("\x1b[{colour}m{verdict:<width$}\x1b[0m")
    } else {
        format!("{verdict:<width$}")
    };
    writeln!(
        out,
        "{:indent$}{shown}{:<widest$}  {}",
        "", finding.check, finding.found
    )?;
    if finding.verdict == Verdict::Ok {
        return Ok(());
    }
    let margin = second + widest + 2;
    writeln!(out, "{:margin$}{}", "", finding.why)?;
    for mend in &finding.mend {
        match mend {
            Mend::Run(command) => writeln!(out, "{:margin$}$ {command}", "")?,
            Mend::Boot(parameters) => {
                writeln!(
                    out,
                    "{:margin$}kernel command line (reboot): {parameters}",
                    ""
                )?;
            }
            Mend::Do(sentence) => writeln!(out, "{:margin$}{sentence}", "")?,
        }
    }
    Ok(())
}

fn write_end(out: &mut String, report: &Report) -> std::fmt::Result {
    let boot = report.boot_parameters();
    if !boot.is_empty() {
        writeln!(
            out,
            "\nAll for the kernel's command line (Debian: GRUB_CMDLINE_LINUX in /etc/default/grub, update-grub, reboot):"
        )?;
        writeln!(out, "  {}", boot.join(" "))?;
    }
    let commands = report.findings.iter().flat_map(|finding| &finding.mend);
    let lasts =
        |mend: &Mend| matches!(mend, Mend::Run(c) if c.contains("sysctl ") || c.contains("echo "));
    if commands.clone().any(lasts) {
        writeln!(
            out,
            "\nLines with $ are commands, most of them for root. What sysctl and echo set lasts until the next boot; to keep it: \
             /etc/sysctl.d/ringtgt.conf, /etc/tmpfiles.d/ringtgt.conf."
        )?;
    }
    writeln!(
        out,
        "\n{} wrong, {} could be better, {} ok; nothing was changed",
        report.count(Verdict::Wrong),
        report.count(Verdict::Better),
        report.count(Verdict::Ok)
    )
}

/// The report for programs.
fn json_of(report: &Report) -> Value {
    let mend = |mend: &Mend| match mend {
        Mend::Run(command) => json!({ "run": command }),
        Mend::Boot(parameters) => json!({ "kernelCommandLine": parameters, "reboot": true }),
        Mend::Do(sentence) => json!({ "do": sentence }),
    };
    let finding = |finding: &Finding| {
        json!({
            "group": finding.group.name(),
            "check": finding.check,
            "verdict": finding.verdict.name(),
            "found": finding.found,
            "why": finding.why,
            "mend": finding.mend.iter().map(mend).collect::<Vec<_>>(),
        })
    };
    let reactors = report.reactors.iter().map(|reactor| {
        json!({
            "core": reactor.core,
            "numaNode": reactor.node,
            "bufferBytes": reactor.bytes,
            "reservedHugePages": reactor.hugepages,
        })
    });
    json!({
        "poll": report.poll.to_string(),
        "reactors": reactors.collect::<Vec<_>>(),
        "buffers": {
            "reservedHugePageBytes": report.pages.reserved,
            "transparentHugePageBytes": report.pages.transparent,
            "smallPageBytes": report.pages.small,
            "registered": report.registered,
        },
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "kernelCommandLine": report.boot_parameters().join(" "),
        "ok": report.count(Verdict::Ok),
        "couldBeBetter": report.count(Verdict::Better),
        "wrong": report.count(Verdict::Wrong),
    })
}

#[cfg(test)]
mod tests;
