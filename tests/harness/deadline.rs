//! Waiting for a condition, never for a time.

use std::thread;
use std::time::{Duration, Instant};

/// How long something that must happen may take. It is wide, so that a busy machine fails no
/// test: only a test that would fail anyway waits so long.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long to watch for something that must not happen, where no event tells that it will not.
pub const QUIET: Duration = Duration::from_millis(200);

/// Looks again and again until there is something to see.
///
/// # Panics
/// When `patience` is over before; `what` says what was awaited.
pub fn eventually<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        // A poll of what cannot be waited on; nothing relies on how long it takes.
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// The same on a tokio runtime, which goes on meanwhile.
///
/// # Panics
/// When [`PATIENCE`] is over before; `what` says what was awaited.
pub async fn eventually_async(what: &str, mut is_there: impl FnMut() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(2));
    let deadline = Instant::now() + PATIENCE;
    while !is_there() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        looks.tick().await;
    }
}
