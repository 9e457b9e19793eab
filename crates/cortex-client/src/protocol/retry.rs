//! One request and its attempts.
//!
//! This module is pure: time is an argument, and the caller carries out each
//! [`Exchange::next_action`]. The blocking and the asynchronous client share it.

use std::time::{Duration, Instant};

use crate::protocol::backoff::ReconnectBackoff;

/// The number of attempts of a request, and the time of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RetryPolicy {
    /// The time of one attempt, from its beginning.
    pub(crate) timeout: Duration,
    /// At least 1.
    pub(crate) attempts: u32,
}

impl RetryPolicy {
    /// The time of all attempts together.
    pub(crate) fn total(self) -> Duration {
        self.timeout.saturating_mul(self.attempts)
    }
}

/// One request of a [`Wait`](crate::protocol::wait::Wait) or a [`WatchState`](crate::protocol::watch::WatchState).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Query {
    /// The request's bytes.
    pub(crate) body: Vec<u8>,
    /// The time for the answer.
    pub(crate) timeout: Duration,
    /// The daemon may park the request. Then the caller must report a lost connection instead of
    /// sending the same request again.
    pub(crate) may_park: bool,
}

/// What the caller does next. Then it calls [`Exchange::next_action`] again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExchangeAction {
    /// Send the request, then call [`Exchange::sent`]. The socket may block this long.
    Send { within: Duration },
    /// Wait this long for the answer.
    Receive { within: Duration },
    /// Replace the connection. Do not read an answer that still arrives on the old one.
    Reconnect,
    /// Do nothing for this long: connections that fail immediately must not keep both sides busy.
    Pause { within: Duration },
    /// No answer came. Do not use the connection again.
    GiveUp,
}

/// A request in progress.
#[derive(Debug)]
pub(crate) struct Exchange {
    policy: RetryPolicy,
    attempt: u32,
    attempt_started: Instant,
    is_sent: bool,
    times_sent: u32,
    loss: Option<Loss>,
    reconnect_backoff: ReconnectBackoff,
}

/// A lost connection that the caller must replace.
#[derive(Clone, Copy, Debug)]
struct Loss {
    at: Instant,
    pause: Duration,
}

impl Exchange {
    pub(crate) fn start(policy: RetryPolicy, now: Instant) -> Self {
        Self {
            policy,
            attempt: 1,
            attempt_started: now,
            is_sent: false,
            times_sent: 0,
            loss: None,
            reconnect_backoff: ReconnectBackoff::default(),
        }
    }

    pub(crate) fn policy(&self) -> RetryPolicy {
        self.policy
    }

    /// The current attempt, counted from 1.
    pub(crate) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// How often the caller has sent the request. From the second time on, the daemon may have
    /// carried it out already.
    pub(crate) fn times_sent(&self) -> u32 {
        self.times_sent
    }

    /// Whether the caller has sent the request in this attempt.
    pub(crate) fn is_sent(&self) -> bool {
        self.is_sent
    }

    /// What to do at `now`. Spurious calls change nothing.
    pub(crate) fn next_action(&mut self, now: Instant) -> ExchangeAction {
        // Durations are subtracted, not instants added: even the longest timeout cannot overflow.
        let within =
            self.policy.timeout.saturating_sub(now.saturating_duration_since(self.attempt_started));
        if !within.is_zero() {
            return match self.loss {
                Some(loss) => self.replace(loss, now, within),
                None if self.is_sent => ExchangeAction::Receive { within },
                None => ExchangeAction::Send { within },
            };
        }
        if self.attempt >= self.policy.attempts {
            return ExchangeAction::GiveUp;
        }
        self.attempt += 1;
        self.attempt_started = now;
        self.is_sent = false;
        self.loss = None;
        ExchangeAction::Reconnect
    }

    fn replace(&mut self, loss: Loss, now: Instant, within: Duration) -> ExchangeAction {
        let pause = loss.pause.saturating_sub(now.saturating_duration_since(loss.at));
        if !pause.is_zero() {
            return ExchangeAction::Pause { within: pause.min(within) };
        }
        self.loss = None;
        self.is_sent = false;
        ExchangeAction::Reconnect
    }

    /// The caller has sent the request.
    pub(crate) fn sent(&mut self) {
        self.is_sent = true;
        self.times_sent = self.times_sent.saturating_add(1);
    }

    /// The connection was lost while the answer was outstanding, and the request with it. The
    /// caller sends it again in the rest of this attempt's time, the first time without a pause.
    ///
    /// Not for a SHUTDOWN, which would end the next daemon.
    pub(crate) fn lost(&mut self, now: Instant) {
        if !self.is_sent || self.loss.is_some() {
            return;
        }
        self.loss = Some(Loss { at: now, pause: self.reconnect_backoff.pause(now) });
    }
}

/// `within` in milliseconds for a poll: rounded up, so that the poll does not return just before
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
    fn a_single_attempt_sends_the_request_waits_and_gives_up() {
        let start = Instant::now();
        let mut exchange = Exchange::start(RetryPolicy { timeout: SECOND, attempts: 1 }, start);
        assert_eq!(exchange.next_action(start), ExchangeAction::Send { within: SECOND });
        exchange.sent();
        assert_eq!(
            exchange.next_action(start + ms(400)),
            ExchangeAction::Receive { within: ms(600) }
        );
        assert_eq!(
            exchange.next_action(start + ms(999)),
            ExchangeAction::Receive { within: ms(1) }
        );
        assert_eq!(exchange.next_action(start + ms(1000)), ExchangeAction::GiveUp);
        assert_eq!(exchange.next_action(start + ms(5000)), ExchangeAction::GiveUp);
        assert_eq!(exchange.attempt(), 1);
    }

    #[test]
    fn each_further_attempt_has_a_new_connection_and_the_whole_timeout() {
        let start = Instant::now();
        let mut exchange = Exchange::start(RetryPolicy { timeout: SECOND, attempts: 3 }, start);
        for attempt in 1..=3 {
            // Each attempt ends 10 ms late, but the next one still has its whole time.
            let attempt_started = start + ms(1010) * (attempt - 1);
            assert_eq!(exchange.attempt(), attempt);
            assert_eq!(
                exchange.next_action(attempt_started),
                ExchangeAction::Send { within: SECOND }
            );
            exchange.sent();
            assert_eq!(
                exchange.next_action(attempt_started + ms(1)),
                ExchangeAction::Receive { within: ms(999) }
            );
            let over = if attempt < 3 { ExchangeAction::Reconnect } else { ExchangeAction::GiveUp };
            assert_eq!(exchange.next_action(attempt_started + ms(1010)), over);
        }
    }

    #[test]
    fn a_request_that_cannot_be_sent_gives_up_at_its_timeout() {
        let start = Instant::now();
        let mut exchange = Exchange::start(RetryPolicy { timeout: SECOND, attempts: 1 }, start);
        assert_eq!(exchange.next_action(start + ms(700)), ExchangeAction::Send { within: ms(300) });
        assert_eq!(exchange.next_action(start + SECOND), ExchangeAction::GiveUp);
    }

    #[test]
    fn a_lost_connection_is_replaced_at_once_within_the_same_attempt() {
        let start = Instant::now();
        let mut exchange = Exchange::start(RetryPolicy { timeout: SECOND, attempts: 1 }, start);
        exchange.lost(start);
        assert_eq!(
            exchange.next_action(start),
            ExchangeAction::Send { within: SECOND },
            "no request was outstanding"
        );
        exchange.sent();
        assert_eq!(exchange.times_sent(), 1);
        exchange.lost(start + ms(300));
        assert_eq!(exchange.next_action(start + ms(300)), ExchangeAction::Reconnect);
        assert_eq!(exchange.next_action(start + ms(301)), ExchangeAction::Send { within: ms(699) });
        exchange.sent();
        assert_eq!((exchange.times_sent(), exchange.attempt()), (2, 1));
        assert_eq!(
            exchange.next_action(start + ms(999)),
            ExchangeAction::Receive { within: ms(1) }
        );
        assert_eq!(exchange.next_action(start + SECOND), ExchangeAction::GiveUp);
    }

    #[test]
    fn the_pauses_between_reconnections_grow() {
        let start = Instant::now();
        let policy = RetryPolicy { timeout: 60 * SECOND, attempts: 1 };
        let mut exchange = Exchange::start(policy, start);
        let mut now = start;
        let lose = |exchange: &mut Exchange, now: &mut Instant| {
            assert!(matches!(exchange.next_action(*now), ExchangeAction::Send { .. }));
            exchange.sent();
            exchange.lost(*now);
            exchange.lost(*now);
            let from = *now;
            while let ExchangeAction::Pause { within } = exchange.next_action(*now) {
                *now += within;
            }
            *now - from
        };
        for pause in [0, 10, 20, 40, 80, 160, 320, 640, 1000, 1000] {
            assert_eq!(lose(&mut exchange, &mut now), ms(pause));
        }
        now += 10 * SECOND;
        assert_eq!(lose(&mut exchange, &mut now), ms(0), "after a good connection");
        assert_eq!(lose(&mut exchange, &mut now), ms(10));
    }

    #[test]
    fn a_pause_at_the_end_of_an_attempt_stops_when_the_next_attempt_begins() {
        let start = Instant::now();
        let mut exchange = Exchange::start(RetryPolicy { timeout: SECOND, attempts: 2 }, start);
        for _ in 0..2 {
            exchange.next_action(start);
            exchange.sent();
            exchange.lost(start + ms(995));
            exchange.next_action(start + ms(995));
        }
        // The backoff is 10 ms now, but the attempt has only 5 ms left.
        assert_eq!(exchange.next_action(start + ms(995)), ExchangeAction::Pause { within: ms(5) });
        assert_eq!(exchange.next_action(start + SECOND), ExchangeAction::Reconnect);
        assert_eq!(exchange.attempt(), 2);
        assert_eq!(exchange.next_action(start + SECOND), ExchangeAction::Send { within: SECOND });
        exchange.sent();
        exchange.lost(start + SECOND);
        assert_eq!(exchange.next_action(start + 2 * SECOND), ExchangeAction::GiveUp);
    }

    #[test]
    fn zero_and_endless_timeouts_do_not_overflow() {
        let start = Instant::now();
        let mut none = Exchange::start(RetryPolicy { timeout: Duration::ZERO, attempts: 1 }, start);
        assert_eq!(none.next_action(start), ExchangeAction::GiveUp);

        let policy = RetryPolicy { timeout: Duration::MAX, attempts: u32::MAX };
        let mut endless = Exchange::start(policy, start);
        assert_eq!(endless.next_action(start), ExchangeAction::Send { within: Duration::MAX });
        assert_eq!(policy.total(), Duration::MAX);

        // When several threads read the clock, it may seem to go back.
        let mut early =
            Exchange::start(RetryPolicy { timeout: SECOND, attempts: 1 }, start + SECOND);
        assert_eq!(early.next_action(start), ExchangeAction::Send { within: SECOND });
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
