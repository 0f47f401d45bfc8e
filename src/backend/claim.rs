//! Waiting for a file or device that somebody else has yet.
//!
//! A process that ended, or was killed, may have it for some time after nobody sees it any more: the kernel takes its
//! rings apart behind its back, and they hold their files. Who starts in its place should not fail for that.

use std::io;
use std::time::Duration;

use super::spec::BackendSpec;

/// How long a file or device is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// How often it is asked for meanwhile.
const STEP: Duration = Duration::from_millis(20);
/// What took longer is worth a word.
const UNNOTICED: Duration = Duration::from_millis(200);

/// Tries until there is something, or nobody who is merely ending would be in the way any more. May block.
///
/// # Errors
/// The first that an attempt has.
pub(super) fn patiently<T>(
    spec: &BackendSpec,
    notes: &mut Vec<String>,
    mut attempt: impl FnMut() -> io::Result<Option<T>>,
) -> io::Result<Option<T>> {
    let mut waited = Duration::ZERO;
    loop {
        let got = attempt()?;
        if got.is_none() && waited < spec.patience {
            std::thread::sleep(STEP);
            waited += STEP;
            continue;
        }
        if got.is_some() && waited > UNNOTICED {
            notes.push(format!(
                "{} was in use; who had it gave it up after {} ms",
                spec.path.display(),
                waited.as_millis()
            ));
        }
        return Ok(got);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::spec::BackendKind;

    #[test]
    fn what_becomes_free_is_waited_for_and_told_when_it_took_long() {
        let mut spec = BackendSpec::new(BackendKind::File, "disk.img");
        for (busy, told) in [(0, false), (3, false), (11, true)] {
            let (mut notes, mut asked) = (Vec::new(), 0);
            let got = patiently(&spec, &mut notes, || {
                asked += 1;
                Ok((asked > busy).then_some(7))
            });
            assert_eq!(got.expect("no attempt fails"), Some(7));
            assert_eq!((asked, !notes.is_empty()), (busy + 1, told), "{notes:?}");
        }
        spec.patience = STEP * 2;
        let mut asked = 0;
        let never = patiently(&spec, &mut Vec::new(), || {
            asked += 1;
            Ok(None::<()>)
        });
        assert_eq!((never.expect("no attempt fails"), asked), (None, 3));
        let failed = patiently(&spec, &mut Vec::new(), || {
            Err::<Option<()>, _>(io::ErrorKind::NotFound.into())
        });
        assert!(failed.is_err(), "an error does not become better");
    }
}
