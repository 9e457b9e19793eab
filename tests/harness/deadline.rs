//! Waiting for a condition, never for a time.

use std::thread;
use std::time::{Duration, Instant};

/// How long something that must happen may take. It is wide, so that a busy machine fails no
/// test: only a test that would fail anyway waits so long.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// How long to watch for something that must not happen, where no event tells that it will not.
pub const QUIET_PERIOD: Duration = Duration::from_millis(200);

/// Looks again and again until there is something to see.
///
/// # Panics
/// When `timeout` is over before; `what` says what was awaited.
pub fn eventually<T>(what: &str, timeout: Duration, mut poll: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(found) = poll() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {timeout:?}: {what}");
        // A poll of what cannot be waited on; nothing relies on how long it takes.
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// The same on a tokio runtime, which goes on meanwhile.
///
/// # Panics
/// When [`TIMEOUT`] is over before; `what` says what was awaited.
pub async fn eventually_async(what: &str, mut is_met: impl FnMut() -> bool) {
    let mut polls = tokio::time::interval(Duration::from_millis(2));
    let deadline = Instant::now() + TIMEOUT;
    while !is_met() {
        assert!(Instant::now() < deadline, "not within {TIMEOUT:?}: {what}");
        polls.tick().await;
    }
}
