//! Pauses that grow while something fails again and again.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(1);

/// How long the next pause is: 10 ms at first, then twice as long each time, up to 1 s.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    /// The pause before the next attempt.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (2 * pause).min(LONGEST);
        pause
    }
}

/// A connection that was lost longer ago than this says nothing about the present one.
const CALM: Duration = Duration::from_secs(10);

/// Connections that were lost, and how long to wait before the next one: not at all the first time,
/// since a daemon that was killed may be back already.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Losses {
    last: Option<Instant>,
    backoff: Backoff,
}

impl Losses {
    /// A connection was lost at `now`: how long to wait.
    pub(crate) fn pause(&mut self, now: Instant) -> Duration {
        let last = self.last.replace(now);
        if last.is_none_or(|last| now.saturating_duration_since(last) >= CALM) {
            self.backoff = Backoff::default();
            return Duration::ZERO;
        }
        self.backoff.pause()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_second() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..10).map(|_| backoff.pause().as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000]);
    }

    #[test]
    fn the_first_loss_after_a_calm_time_costs_no_pause() {
        let mut now = Instant::now();
        let mut losses = Losses::default();
        let mut after = |calm: Duration| {
            now += calm;
            losses.pause(now).as_millis()
        };
        assert_eq!(after(Duration::ZERO), 0);
        assert_eq!(after(Duration::ZERO), 10);
        assert_eq!(after(CALM / 2), 20);
        assert_eq!(after(CALM), 0);
        assert_eq!(after(Duration::ZERO), 10);
    }
}
