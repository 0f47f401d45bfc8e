//! Ctrl-C: the first ends the run with what was measured until then, a second ends the program.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::{FAILED, running};
use crate::initiator::plan::DriverError;

/// Signals within this time are one: `timeout` sends its signal to the program and to its process group.
const ONE_SIGNAL: Duration = Duration::from_millis(100);

/// A flag that the first SIGINT or SIGTERM sets. The next one ends the program.
pub(super) fn at_signal() -> Result<Arc<AtomicBool>, DriverError> {
    let failed = |error| DriverError::System {
        what: "signals".to_owned(),
        error,
    };
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let listen = move || {
        let mut asked = None;
        for _ in signals.forever() {
            flag.store(true, Ordering::Relaxed);
            if asked.get_or_insert_with(Instant::now).elapsed() >= ONE_SIGNAL {
                running::say("ringtgt: ended at once\n");
                std::process::exit(i32::from(FAILED));
            }
        }
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(listen)
        .map_err(failed)?;
    Ok(stop)
}
