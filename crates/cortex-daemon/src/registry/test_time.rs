//! A point in time for unit tests to start from.

use std::time::Instant;

#[expect(clippy::disallowed_methods, reason = "some instant to start from")]
pub(super) fn start() -> Instant {
    use std::sync::OnceLock;

    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}
