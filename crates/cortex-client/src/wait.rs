//! Waiting for a topic by asking for it again and again: when to ask, and how long.
//!
//! As in [`exchange`](crate::exchange), time is an argument.

use std::time::{Duration, Instant};

/// A sensible time to wait for a topic: long enough for a whole system to start.
pub const DEFAULT_WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// What the caller has to do now, and then to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Look the topic up, once, then tell [`Wait::absent`] or [`Wait::unanswered`].
    Lookup { timeout: Duration },
    /// Do nothing for this long.
    Pause(Duration),
    /// The time is over. `heard` tells whether a daemon was there lately.
    Over { heard: bool },
}

/// A wait under way.
#[derive(Debug)]
pub(crate) struct Wait {
    timeout: Duration,
    interval: Duration,
    lookup_timeout: Duration,
    started: Instant,
    last_lookup: Option<Instant>,
    /// The wait's end left the last lookup less than its own time.
    cut_short: bool,
    heard: Option<bool>,
}

impl Wait {
    /// `interval` is the least time from one lookup's beginning to the next one's.
    pub(crate) fn start(
        timeout: Duration,
        interval: Duration,
        lookup_timeout: Duration,
        now: Instant,
    ) -> Self {
        Self {
            timeout,
            interval,
            lookup_timeout,
            started: now,
            last_lookup: None,
            cut_short: false,
            heard: None,
        }
    }

    /// What to do at `now`.
    pub(crate) fn next(&mut self, now: Instant) -> Next {
        let left = self.timeout.saturating_sub(now.saturating_duration_since(self.started));
        if left.is_zero() {
            return Next::Over { heard: self.heard.unwrap_or(false) };
        }
        let pause = self.last_lookup.map_or(Duration::ZERO, |last| {
            self.interval.saturating_sub(now.saturating_duration_since(last))
        });
        if !pause.is_zero() {
            return Next::Pause(pause.min(left));
        }
        self.last_lookup = Some(now);
        self.cut_short = left < self.lookup_timeout;
        Next::Lookup { timeout: left.min(self.lookup_timeout) }
    }

    /// The daemon answered that the topic is not there.
    pub(crate) fn absent(&mut self) {
        self.heard = Some(true);
    }

    /// The lookup got no answer.
    pub(crate) fn unanswered(&mut self) {
        // A lookup that was cut short says nothing against a daemon that answered before.
        if !(self.cut_short && self.heard == Some(true)) {
            self.heard = Some(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Plays a wait in which `answers(elapsed)` tells whether a daemon answers a lookup that
    /// begins then, and returns when lookups began and whether a daemon was heard at the end.
    fn play(timeout: u64, answers: impl Fn(Duration) -> bool) -> (Vec<Duration>, bool) {
        let start = Instant::now();
        let mut now = start;
        let mut lookups = Vec::new();
        let mut wait = Wait::start(ms(timeout), ms(500), ms(2000), now);
        loop {
            match wait.next(now) {
                Next::Lookup { timeout } => {
                    lookups.push(now - start);
                    if answers(now - start) {
                        now += ms(1);
                        wait.absent();
                    } else {
                        now += timeout;
                        wait.unanswered();
                    }
                }
                Next::Pause(pause) => now += pause,
                Next::Over { heard } => {
                    assert_eq!(now - start, ms(timeout), "neither early nor late");
                    return (lookups, heard);
                }
            }
        }
    }

    #[test]
    fn asks_at_every_interval_and_ends_in_time() {
        let (lookups, heard) = play(1800, |_| true);
        assert_eq!(lookups, [ms(0), ms(500), ms(1000), ms(1500)]);
        assert!(heard);
    }

    #[test]
    fn a_lookup_never_outlives_the_wait() {
        let (lookups, heard) = play(5000, |_| false);
        assert_eq!(lookups, [ms(0), ms(2000), ms(4000)], "the last one has 1 s left");
        assert!(!heard);
    }

    #[test]
    fn a_daemon_that_comes_late_is_heard() {
        let (lookups, heard) = play(5000, |elapsed| elapsed >= ms(2000));
        assert_eq!(lookups[..3], [ms(0), ms(2000), ms(2500)]);
        assert!(heard);
    }

    #[test]
    fn a_daemon_that_goes_is_missed_but_not_for_a_lookup_cut_short() {
        let (_, heard) = play(5000, |elapsed| elapsed < ms(1000));
        assert!(!heard);
        let (_, heard) = play(3000, |elapsed| elapsed < ms(2500));
        assert!(heard);
    }

    #[test]
    fn no_time_at_all_is_over_at_once() {
        assert_eq!(play(0, |_| true), (Vec::new(), false));
    }
}
