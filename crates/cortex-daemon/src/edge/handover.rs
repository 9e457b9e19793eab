//! The wait of a starting daemon for one that is ending.

use std::time::{Duration, Instant};

use super::stop::StopHandle;

/// How long a starting daemon waits for a lock of another daemon, which may be ending.
const MAX_WAIT: Duration = Duration::from_secs(1);
const RETRY_INTERVAL: Duration = Duration::from_millis(5);

/// Repeats `attempt` while another daemon has the lock, for at most 1 s, or until this daemon is
/// asked to stop. Returns the last result.
pub(crate) fn wait_for_lock<T, E>(
    stop: &StopHandle,
    is_locked: impl Fn(&E) -> bool,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let deadline = Instant::now() + MAX_WAIT;
    loop {
        match attempt() {
            Err(error)
                if is_locked(&error)
                    && Instant::now() < deadline
                    && !stop.is_requested_within(RETRY_INTERVAL) => {}
            result => return result,
        }
    }
}
