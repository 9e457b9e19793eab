//! The one place that reads clocks.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::registry::Timestamp;

/// A wake-up this late, or a sleep of the machine this long, is a gap in which nobody was heard.
const MIN_GAP: Duration = Duration::from_secs(1);

pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Now, on both clocks.
pub(crate) fn timestamp() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unix_ms = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
    Timestamp { instant: now(), unix_ms }
}

/// Notices when the machine or the daemon stood still.
#[derive(Debug)]
pub(crate) struct SuspendDetector {
    /// How long the machine has been suspended since it booted.
    suspended: Duration,
    last_wake_up: Instant,
}

impl SuspendDetector {
    pub(crate) fn new() -> Self {
        Self { suspended: suspended(), last_wake_up: now() }
    }

    /// Whether there was a gap before this wake-up, which was meant for `planned` at the latest.
    pub(crate) fn detects_gap(&mut self, planned: Instant, now: Instant) -> bool {
        let before = std::mem::replace(&mut self.suspended, suspended());
        let was_suspended = self.suspended.saturating_sub(before) >= MIN_GAP;
        let last = std::mem::replace(&mut self.last_wake_up, now);
        was_suspended || now.saturating_duration_since(planned.max(last)) >= MIN_GAP
    }
}

/// BOOTTIME counts on while the machine sleeps, MONOTONIC does not.
#[cfg(target_os = "linux")]
fn suspended() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    let read = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
    read(ClockId::Boottime).saturating_sub(read(ClockId::Monotonic))
}

#[cfg(not(target_os = "linux"))]
fn suspended() -> Duration {
    Duration::ZERO
}
