//! What `serve` and `daemon` have in common once they run: signals, the log, and the end.

use std::io::{IsTerminal, Write as _};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use tracing_subscriber::EnvFilter;

use super::{CommandError, FAILED};
use crate::control::{Config, Controller, Facts, Failure, Settings};

/// Log lines go to standard error; `level` is a level or a filter like `ringtgt=debug`.
pub(super) fn start_log(level: &str) -> Result<(), CommandError> {
    let filter = EnvFilter::try_new(level).map_err(|error| {
        CommandError::misused(vec![format!(
            "--log \"{level}\": {error}; use error, warn, info, debug or trace"
        )])
    })?;
    // Another subscriber may have been set by a program that embeds this.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        // It would say so with `eprintln!`, which panics where nothing can be written.
        .log_internal_errors(false)
        .try_init();
    Ok(())
}

/// Writes to standard error, where that is possible: who read it may be gone, or the disk full. Nothing that is
/// served may depend on it.
pub(super) fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Starts what `config` says, calls `budget` before anybody is let in and `announce` when all runs, and goes on until
/// SIGINT or SIGTERM. SIGUSR1 prints the counters.
pub(super) fn run(
    config: &Config,
    budget: fn(&Facts),
    announce: impl FnOnce(&Facts),
) -> Result<(), CommandError> {
    let io = |what: &str, error: &std::io::Error| {
        CommandError::failed(Failure(vec![format!("{what}: {error}")]))
    };
    let mut signals =
        Signals::new([SIGHUP, SIGINT, SIGTERM, SIGUSR1]).map_err(|e| io("signals", &e))?;
    // A failure closes the others, and must not leave the process deaf to whoever wants it gone.
    let impatience = Signals::new([SIGINT, SIGTERM]).map_err(|e| io("signals", &e))?;
    let (tell, failure) = channel();
    let handle = signals.handle();
    let on_failure = move |sentence: String| {
        // Whoever listens is waiting for a signal; closing the signals ends that.
        let _ = tell.send(sentence);
        handle.close();
    };
    let settings = Settings {
        on_budget: Some(budget),
        on_failure: Some(Box::new(on_failure)),
        ..Settings::default()
    };
    let controller = Controller::start(config, settings).map_err(CommandError::failed)?;
    announce(controller.facts());
    for signal in signals.forever() {
        match signal {
            SIGUSR1 => say(&controller.summary()),
            SIGHUP => tracing::info!("SIGHUP: nothing to reload yet"),
            _ => break,
        }
    }
    // Without this thread it takes SIGKILL to end a stop that hangs: no reason not to stop.
    let _ = std::thread::Builder::new()
        .name("impatience".to_owned())
        .spawn(move || leave_at_second_signal(impatience));
    let counters = controller.counters();
    let mut problems = controller
        .stop()
        .err()
        .map_or_else(Vec::new, |failure| failure.0);
    for line in crate::control::lines_of(&counters) {
        tracing::info!("{line}");
    }
    tracing::info!("counters:\n{}", crate::control::summary_of(&counters));
    problems.extend(failure.try_recv());
    if problems.is_empty() {
        Ok(())
    } else {
        Err(CommandError::failed(Failure(problems)))
    }
}

/// Signals within this time are one request: a signal to the process group that is also forwarded comes twice.
const ONE_REQUEST: Duration = Duration::from_secs(1);

/// A stop that hangs (a disk that does not answer) is ended by asking again.
fn leave_at_second_signal(mut signals: Signals) {
    let asked = Instant::now();
    for _ in signals.forever() {
        if asked.elapsed() >= ONE_REQUEST {
            say("ringtgt: stopped before everything was finished and flushed\n");
            std::process::exit(i32::from(FAILED));
        }
    }
}
