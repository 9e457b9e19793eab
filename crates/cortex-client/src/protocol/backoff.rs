//! Exponential backoff.

use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// How long the next pause is: 10 ms at first, then twice as long each time, up to 1 s.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST_PAUSE }
    }
}

impl Backoff {
    /// The pause before the next attempt.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (2 * pause).min(MAX_PAUSE);
        pause
    }
}

/// A connection was good when it lasted at least this long, and at least twice the pause before it.
const GOOD_CONNECTION: Duration = Duration::from_millis(500);

/// The pause between a lost connection and the next one. After a good connection it is zero, since
/// a killed daemon may already be running again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReconnectBackoff {
    /// When the last connection was lost, and the pause after it.
    last_loss: Option<(Instant, Duration)>,
    backoff: Backoff,
}

impl ReconnectBackoff {
    /// How long to wait after a connection was lost at `now`.
    pub(crate) fn pause(&mut self, now: Instant) -> Duration {
        let was_good = self.last_loss.is_none_or(|(at, pause)| {
            now.saturating_duration_since(at).saturating_sub(pause)
                >= GOOD_CONNECTION.max(2 * pause)
        });
        let pause = if was_good {
            self.backoff = Backoff::default();
            Duration::ZERO
        } else {
            self.backoff.pause()
        };
        self.last_loss = Some((now, pause));
        pause
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
    fn a_loss_after_a_good_connection_costs_no_pause() {
        let mut now = Instant::now();
        let mut reconnect_backoff = ReconnectBackoff::default();
        let mut after = |connected: Duration| {
            now += connected;
            let pause = reconnect_backoff.pause(now);
            now += pause;
            pause.as_millis()
        };
        let short = GOOD_CONNECTION * 9 / 10;
        assert_eq!(after(Duration::ZERO), 0);
        assert_eq!(after(short), 10);
        assert_eq!(after(GOOD_CONNECTION), 0, "a good one");
        assert_eq!(after(GOOD_CONNECTION), 0);
        for pause in [10, 20, 40, 80, 160, 320, 640, 1000, 1000] {
            assert_eq!(after(short), pause);
        }
        assert_eq!(after(Duration::from_millis(1999)), 1000, "no better than the pause before it");
        assert_eq!(after(Duration::from_secs(2)), 0);
    }
}
