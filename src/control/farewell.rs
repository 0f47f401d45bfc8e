//! The end, even when a storage does not answer: everything here has a bound.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::backend::Medium;

/// How long a reactor's thread may take to go once it has stopped. The kernel does not let a thread go whose
/// operations hang.
const LAST_STEP: Duration = Duration::from_secs(1);
/// Waits for the reactors' threads, which have stopped; what went wrong, in sentences.
pub(super) fn join(reactors: Vec<JoinHandle<()>>) -> Vec<String> {
    let deadline = Instant::now() + LAST_STEP;
    // What ran in a thread is over before the thread is; joining waits for that too.
    let joining: Vec<_> = reactors
        .into_iter()
        .map(|reactor| {
            let (done, is_done) = channel();
            let thread = std::thread::Builder::new()
                .name("join".to_owned())
                .spawn(move || {
                    // Nobody listens after the limit.
                    let _ = done.send(reactor.join().is_ok());
                });
            thread.map(|_| is_done)
        })
        .collect();
    let mut problems = Vec::new();
    for (index, joining) in joining.into_iter().enumerate() {
        // Without a thread to wait in, it goes by itself.
        let Ok(is_done) = joining else { continue };
        let left = deadline.saturating_duration_since(Instant::now());
        match is_done.recv_timeout(left) {
            Ok(true) => {}
            Err(RecvTimeoutError::Timeout) => problems.push(format!(
                "reactor {index} is left behind: a storage holds operations of it that do not end"
            )),
            Ok(false) | Err(RecvTimeoutError::Disconnected) => {
                problems.push(format!("reactor {index} had failed"));
            }
        }
    }
    problems
}

/// Makes what was written stable, all media at a time and within `limit`; what went wrong, in sentences.
pub(super) fn flush(media: &[Arc<dyn Medium>], limit: Duration) -> Vec<String> {
    let deadline = Instant::now() + limit;
    let writable = media.iter().filter(|medium| !medium.geometry().read_only);
    let begun: Vec<_> = writable
        .map(|medium| {
            let (done, is_done) = channel();
            let flushed = Arc::clone(medium);
            let thread = std::thread::Builder::new()
                .name("flush".to_owned())
                .spawn(move || {
                    let result = flushed.flush();
                    // Whoever hears of the end may count on the medium being nobody else's.
                    drop(flushed);
                    // Nobody listens after the limit.
                    let _ = done.send(result);
                });
            (medium, thread.map(|_| is_done))
        })
        .collect();
    let mut problems = Vec::new();
    for (medium, begun) in begun {
        let left = deadline.saturating_duration_since(Instant::now());
        let result = match begun {
            // Without a thread it takes the time it takes.
            Err(_) => medium.flush().map_err(|error| error.to_string()),
            Ok(is_done) => match is_done.recv_timeout(left) {
                Ok(result) => result.map_err(|error| error.to_string()),
                Err(RecvTimeoutError::Timeout) => Err(format!(
                    "its flush did not end within {} s",
                    limit.as_secs()
                )),
                Err(RecvTimeoutError::Disconnected) => Err("its flush failed".to_owned()),
            },
        };
        if let Err(error) = result {
            let what = medium.describe();
            problems.push(format!(
                "{what}: what was written last may be lost: {error}"
            ));
        }
    }
    problems
}
