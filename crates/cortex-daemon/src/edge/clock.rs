//! The only place where the daemon reads clocks.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::registry::Timestamp;

/// The shortest gap: a wake-up this late, or a suspension of the machine this long. The daemon
/// could not read renewals of leases in the meantime.
const MIN_GAP: Duration = Duration::from_secs(1);

pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The current time of the monotonic and of the wall clock.
pub(crate) fn timestamp() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unix_ms = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
    Timestamp { instant: now(), unix_ms, boot_ticks: boot_ticks() }
}

/// The time since boot in the unit of `/proc/PID/stat`.
#[cfg(target_os = "linux")]
fn boot_ticks() -> u64 {
    use rustix::time::{ClockId, clock_gettime};
    let since_boot = Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default();
    let ticks = since_boot.as_nanos() * u128::from(rustix::param::clock_ticks_per_second());
    u64::try_from(ticks / 1_000_000_000).unwrap_or(u64::MAX)
}

#[cfg(not(target_os = "linux"))]
fn boot_ticks() -> u64 {
    0
}

/// Detects that the machine was suspended or the daemon stopped.
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

    /// Whether a gap precedes this wake-up, which was planned for `planned` at the latest.
    pub(crate) fn detects_gap(&mut self, planned: Instant, now: Instant) -> bool {
        let before = std::mem::replace(&mut self.suspended, suspended());
        let was_suspended = self.suspended.saturating_sub(before) >= MIN_GAP;
        let last = std::mem::replace(&mut self.last_wake_up, now);
        was_suspended || now.saturating_duration_since(planned.max(last)) >= MIN_GAP
    }
}

/// How long the machine has been suspended: BOOTTIME includes suspensions, MONOTONIC does not.
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
