//! The wait of a starting daemon for one that is ending.

use std::thread;
use std::time::{Duration, Instant};

/// How long a starting daemon waits for a lock of another daemon, which may be ending.
const MAX_WAIT: Duration = Duration::from_secs(1);
const RETRY_INTERVAL: Duration = Duration::from_millis(5);

/// Repeats `attempt` while another daemon has the lock, for at most 1 s. Returns the last result.
pub(crate) fn wait_for_lock<T, E>(
    is_locked: impl Fn(&E) -> bool,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let deadline = Instant::now() + MAX_WAIT;
    loop {
        match attempt() {
            Err(error) if is_locked(&error) && Instant::now() < deadline => {
                thread::sleep(RETRY_INTERVAL);
            }
            result => return result,
        }
    }
}
