//! `ringtgt daemon`: what a configuration file says.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{CommandError, running};
use crate::control::config::{self, Config};
use crate::control::{Facts, cores, size};

/// Arguments of `daemon`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DaemonArguments {
    /// Configuration file [default: $RINGTGT_CONFIG, ~/.ringtgt/config.json, /etc/ringtgt/config.json, or gotgt's]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Log level: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: String,
    /// iSCSI port of portals that name none
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
}

const EXAMPLES: &str = "\
A configuration (gotgt's format; every member is in the README):
  { \"storages\":     [ { \"deviceID\": 1, \"path\": \"/srv/disk.img\", \"size\": \"10G\" } ],
    \"iscsiportals\": [ { \"id\": 0, \"portal\": \"127.0.0.1:3260\" } ],
    \"iscsitargets\": { \"iqn.2026-11.com.example:disk\": { \"tpgts\": { \"1\": [0] }, \"luns\": { \"0\": 1 } } } }

Signals: SIGINT and SIGTERM finish, flush and end; SIGUSR1 prints the counters.";

/// Serves until a signal.
///
/// # Errors
/// When the configuration is wrong, nothing can be served, or not everything was saved at the end.
pub fn run(arguments: &DaemonArguments) -> Result<(), CommandError> {
    running::start_log(&arguments.log)?;
    let path = find(arguments.config.as_deref())?;
    let config = load(&path, arguments.port)?;
    running::run(&config, announce_budget, |facts| announce(&path, facts))
}

fn find(named: Option<&Path>) -> Result<PathBuf, CommandError> {
    if let Some(path) = named {
        return Ok(path.to_path_buf());
    }
    let variable = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    // A file that is named is used even if it is not there: that is a mistake to hear of.
    if let Some(path) = variable("RINGTGT_CONFIG") {
        return Ok(path);
    }
    let places = config::search_path(variable);
    places
        .iter()
        .find(|path| path.exists())
        .cloned()
        .ok_or_else(|| {
            let places: Vec<String> = places
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            CommandError::misused(vec![format!(
                "no configuration file; looked for {}",
                places.join(", ")
            )])
        })
}

fn load(path: &Path, port: Option<u16>) -> Result<Config, CommandError> {
    let config = read(path, port)?;
    let missing = config.missing_files();
    if missing.is_empty() {
        Ok(config)
    } else {
        Err(mistakes_in(path, missing))
    }
}

/// Reads the file; what it names need not be there.
pub(super) fn read(path: &Path, port: Option<u16>) -> Result<Config, CommandError> {
    let text = std::fs::read_to_string(path).map_err(|e| mistakes_in(path, [e]))?;
    Config::parse(&text, port).map_err(|mistakes| mistakes_in(path, mistakes))
}

/// A line for each.
fn mistakes_in(path: &Path, what: impl IntoIterator<Item = impl ToString>) -> CommandError {
    let line = |what: &dyn ToString| format!("{}: {}", path.display(), what.to_string());
    CommandError::misused(what.into_iter().map(|one| line(&one)).collect())
}

fn announce_budget(facts: &Facts) {
    for (index, reactor) in facts.reactors.iter().enumerate() {
        tracing::info!("reactor {index}: {reactor}");
    }
    tracing::info!("memory: {}", facts.budget());
}

fn announce(path: &Path, facts: &Facts) {
    for note in &facts.notes {
        tracing::warn!("{note}");
    }
    for target in &facts.targets {
        let portals: Vec<String> = target.portals.iter().map(ToString::to_string).collect();
        tracing::info!("target {} at {}", target.name, portals.join(", "));
        for lun in &target.luns {
            tracing::info!(
                "  LUN {}: {}, {}",
                lun.lun,
                lun.medium,
                size::show(lun.bytes)
            );
        }
    }
    tracing::info!(
        "poll mode {}, cores {}",
        facts.poll,
        cores::show(&facts.cores)
    );
    tracing::info!("ready: serving what {} says", path.display());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_file_gets_one_line_per_mistake_and_exit_code_2() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("bad.json");
        let text = r#"{"storages": [{"deviceID": 1, "path": "/nonesuch", "sise": 1}], "iscsiportals": [{"id": 0}]}"#;
        std::fs::write(&path, text).expect("room");
        let error = load(&path, None).expect_err("two mistakes");
        assert_eq!((error.code, error.lines.len()), (super::super::MISUSED, 2));
        assert!(
            error.lines[0]
                .contains("bad.json: storages[0].sise: unknown field; did you mean \"size\"?"),
            "{error:?}"
        );
        std::fs::write(
            &path,
            r#"{"storages": [{"deviceID": 1, "path": "/nonesuch"}]}"#,
        )
        .expect("room");
        let error = load(&path, None).expect_err("a missing file");
        assert!(
            error.lines[0].contains("storages[0].path: /nonesuch does not exist"),
            "{error:?}"
        );
        let error = load(&dir.path().join("none.json"), None).expect_err("no file");
        assert_eq!(error.code, super::super::MISUSED);
    }
}
