//! Waits for conditions, each with a deadline.

use std::thread;
use std::time::{Duration, Instant};

/// The longest wait for something that must happen. It is long so that no test fails on a busy
/// machine; only a failing test waits that long.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// How long a test observes that something does not happen, if no event can show this.
pub const QUIET_PERIOD: Duration = Duration::from_millis(200);

/// Polls until `poll` returns a value.
///
/// # Panics
/// When `timeout` passes first. `what` names the awaited condition.
pub fn eventually<T>(what: &str, timeout: Duration, mut poll: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(found) = poll() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {timeout:?}: {what}");
        // No event announces the condition; no test relies on the length of this pause.
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// Polls until the condition is met. Other tasks of the tokio runtime run meanwhile.
///
/// # Panics
/// When [`TIMEOUT`] passes first. `what` names the awaited condition.
pub async fn eventually_async(what: &str, mut is_met: impl FnMut() -> bool) {
    let mut polls = tokio::time::interval(Duration::from_millis(2));
    let deadline = Instant::now() + TIMEOUT;
    while !is_met() {
        assert!(Instant::now() < deadline, "not within {TIMEOUT:?}: {what}");
        polls.tick().await;
    }
}
