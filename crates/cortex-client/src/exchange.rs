//! One request and its attempts: what to do next, and until when.
//!
//! Nothing here has a socket or reads a clock: `now` is an argument, and the caller carries out
//! what [`Exchange::next`] says. A blocking and an asynchronous client can share it.

use std::time::{Duration, Instant};

/// How often a request is sent, and how long each time is waited for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The time that each attempt has, from the moment it begins.
    pub(crate) timeout: Duration,
    /// At least 1.
    pub(crate) attempts: u32,
}

impl Plan {
    /// The time that all attempts together have.
    pub(crate) fn total(self) -> Duration {
        self.timeout.saturating_mul(self.attempts)
    }
}

/// What the caller has to do now, and then to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Send the request, then tell [`Exchange::sent`]; it may wait this long for room.
    Send { within: Duration },
    /// Wait this long for the answer.
    Receive { within: Duration },
    /// Replace the connection: an answer that still comes to the old one must not be read.
    Reconnect,
    /// Nobody answered. The connection must not be used again.
    GiveUp,
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Exchange {
    plan: Plan,
    attempt: u32,
    began: Instant,
    sent: bool,
}

impl Exchange {
    pub(crate) fn start(plan: Plan, now: Instant) -> Self {
        Self { plan, attempt: 1, began: now, sent: false }
    }

    pub(crate) fn plan(&self) -> Plan {
        self.plan
    }

    /// The attempt under way, counted from 1.
    pub(crate) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// What to do at `now`. Asking again without need changes nothing.
    pub(crate) fn next(&mut self, now: Instant) -> Next {
        // Durations are compared, not instants added: no timeout is too long to be represented.
        let within = self.plan.timeout.saturating_sub(now.saturating_duration_since(self.began));
        if !within.is_zero() {
            return if self.sent { Next::Receive { within } } else { Next::Send { within } };
        }
        if self.attempt >= self.plan.attempts {
            return Next::GiveUp;
        }
        self.attempt += 1;
        self.began = now;
        self.sent = false;
        Next::Reconnect
    }

    /// The request of this attempt has left.
    pub(crate) fn sent(&mut self) {
        self.sent = true;
    }
}

/// `within` as a poll's milliseconds: rounded up, so that the poll does not return just before
/// the deadline again and again, and at most an hour, which is always a valid argument.
pub(crate) fn poll_millis(within: Duration) -> i64 {
    const HOUR: i64 = 60 * 60 * 1000;
    let millis = within.as_nanos().div_ceil(1_000_000);
    i64::try_from(millis).map_or(HOUR, |millis| millis.min(HOUR))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_single_attempt_sends_waits_and_gives_up() {
        let start = Instant::now();
        let mut exchange = Exchange::start(Plan { timeout: SECOND, attempts: 1 }, start);
        assert_eq!(exchange.next(start), Next::Send { within: SECOND });
        exchange.sent();
        assert_eq!(exchange.next(start + ms(400)), Next::Receive { within: ms(600) });
        assert_eq!(exchange.next(start + ms(999)), Next::Receive { within: ms(1) });
        assert_eq!(exchange.next(start + ms(1000)), Next::GiveUp);
        assert_eq!(exchange.next(start + ms(5000)), Next::GiveUp);
        assert_eq!(exchange.attempt(), 1);
    }

    #[test]
    fn each_further_attempt_has_a_new_connection_and_the_whole_timeout() {
        let start = Instant::now();
        let mut exchange = Exchange::start(Plan { timeout: SECOND, attempts: 3 }, start);
        for attempt in 1..=3 {
            // Each attempt ends 10 ms late, and the next one is not shorter for it.
            let began = start + ms(1010) * (attempt - 1);
            assert_eq!(exchange.attempt(), attempt);
            assert_eq!(exchange.next(began), Next::Send { within: SECOND });
            exchange.sent();
            assert_eq!(exchange.next(began + ms(1)), Next::Receive { within: ms(999) });
            let over = if attempt < 3 { Next::Reconnect } else { Next::GiveUp };
            assert_eq!(exchange.next(began + ms(1010)), over);
        }
    }

    #[test]
    fn a_request_that_cannot_leave_also_ends() {
        let start = Instant::now();
        let mut exchange = Exchange::start(Plan { timeout: SECOND, attempts: 1 }, start);
        assert_eq!(exchange.next(start + ms(700)), Next::Send { within: ms(300) });
        assert_eq!(exchange.next(start + SECOND), Next::GiveUp);
    }

    #[test]
    fn the_ends_of_the_range() {
        let start = Instant::now();
        let mut none = Exchange::start(Plan { timeout: Duration::ZERO, attempts: 1 }, start);
        assert_eq!(none.next(start), Next::GiveUp);

        let plan = Plan { timeout: Duration::MAX, attempts: u32::MAX };
        let mut endless = Exchange::start(plan, start);
        assert_eq!(endless.next(start), Next::Send { within: Duration::MAX });
        assert_eq!(plan.total(), Duration::MAX);

        // A clock that is read by several threads may seem to go back.
        let mut early = Exchange::start(Plan { timeout: SECOND, attempts: 1 }, start + SECOND);
        assert_eq!(early.next(start), Next::Send { within: SECOND });
    }

    #[test]
    fn polls_are_rounded_up_and_bounded() {
        assert_eq!(poll_millis(Duration::ZERO), 0);
        assert_eq!(poll_millis(Duration::from_nanos(1)), 1);
        assert_eq!(poll_millis(ms(7)), 7);
        assert_eq!(poll_millis(Duration::from_micros(7001)), 8);
        assert_eq!(poll_millis(Duration::MAX), 3_600_000);
    }
}
