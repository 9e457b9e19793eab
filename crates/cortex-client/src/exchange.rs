//! One request and its attempts: what to do next, and until when.
//!
//! Nothing here has a socket or reads a clock: `now` is an argument, and the caller carries out
//! what [`Exchange::next_action`] says. A blocking and an asynchronous client can share it.

use std::time::{Duration, Instant};

use crate::backoff::ReconnectBackoff;

/// How often a request is sent, and how long each time is waited for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RetryPolicy {
    /// The time that each attempt has, from the moment it begins.
    pub(crate) timeout: Duration,
    /// At least 1.
    pub(crate) attempts: u32,
}

impl RetryPolicy {
    /// The time that all attempts together have.
    pub(crate) fn total(self) -> Duration {
        self.timeout.saturating_mul(self.attempts)
    }
}

/// What a [`Wait`](crate::wait::Wait) or a [`WatchState`](crate::watch::WatchState) asks the daemon, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Query {
    /// The request's bytes.
    pub(crate) body: Vec<u8>,
    /// The time for the answer.
    pub(crate) timeout: Duration,
    /// The daemon may hold the answer back. Then a lost connection is to be told, and not the same
    /// request to be sent again.
    pub(crate) may_park: bool,
}

/// What the caller has to do now, and then to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExchangeAction {
    /// Send the request, then tell [`Exchange::sent`]; it may wait this long for room.
    Send { within: Duration },
    /// Wait this long for the answer.
    Receive { within: Duration },
    /// Replace the connection: an answer that still comes to the old one must not be read.
    Reconnect,
    /// Do nothing for this long: a connection that is lost at once, again and again, must not keep
    /// both sides busy.
    Pause { within: Duration },
    /// Nobody answered. The connection must not be used again.
    GiveUp,
}

/// A request under way.
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

/// A lost connection that is to be replaced.
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

    /// The attempt under way, counted from 1.
    pub(crate) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// How often the request has left. From the second time on the daemon may have carried it out
    /// before.
    pub(crate) fn times_sent(&self) -> u32 {
        self.times_sent
    }

    /// Whether the request of this attempt has left.
    pub(crate) fn is_sent(&self) -> bool {
        self.is_sent
    }

    /// What to do at `now`. Asking again without need changes nothing.
    pub(crate) fn next_action(&mut self, now: Instant) -> ExchangeAction {
        // Durations are compared, not instants added: no timeout is too long to be represented.
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

    /// The request has left.
    pub(crate) fn sent(&mut self) {
        self.is_sent = true;
        self.times_sent = self.times_sent.saturating_add(1);
    }

    /// The connection on which the answer was awaited is gone, and with it the request: it is sent
    /// again, at once the first time, in what is left of this attempt's time.
    ///
    /// Not for a SHUTDOWN, which would end the next daemon.
    pub(crate) fn lost(&mut self, now: Instant) {
        if !self.is_sent || self.loss.is_some() {
            return;
        }
        self.loss = Some(Loss { at: now, pause: self.reconnect_backoff.pause(now) });
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
            // Each attempt ends 10 ms late, and the next one is not shorter for it.
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
    fn a_request_that_cannot_leave_also_ends() {
        let start = Instant::now();
        let mut exchange = Exchange::start(RetryPolicy { timeout: SECOND, attempts: 1 }, start);
        assert_eq!(exchange.next_action(start + ms(700)), ExchangeAction::Send { within: ms(300) });
        assert_eq!(exchange.next_action(start + SECOND), ExchangeAction::GiveUp);
    }

    #[test]
    fn a_lost_connection_is_replaced_at_once_in_the_time_of_the_attempt() {
        let start = Instant::now();
        let mut exchange = Exchange::start(RetryPolicy { timeout: SECOND, attempts: 1 }, start);
        exchange.lost(start);
        assert_eq!(
            exchange.next_action(start),
            ExchangeAction::Send { within: SECOND },
            "nothing was under way"
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
    fn a_connection_that_is_lost_again_and_again_is_replaced_ever_more_slowly() {
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
        assert_eq!(lose(&mut exchange, &mut now), ms(0), "after a calm time");
        assert_eq!(lose(&mut exchange, &mut now), ms(10));
    }

    #[test]
    fn a_loss_at_the_end_of_an_attempt_is_the_next_ones_beginning() {
        let start = Instant::now();
        let mut exchange = Exchange::start(RetryPolicy { timeout: SECOND, attempts: 2 }, start);
        for _ in 0..2 {
            exchange.next_action(start);
            exchange.sent();
            exchange.lost(start + ms(995));
            exchange.next_action(start + ms(995));
        }
        // It would pause for 10 ms now, and has 5 ms.
        assert_eq!(exchange.next_action(start + ms(995)), ExchangeAction::Pause { within: ms(5) });
        assert_eq!(exchange.next_action(start + SECOND), ExchangeAction::Reconnect);
        assert_eq!(exchange.attempt(), 2);
        assert_eq!(exchange.next_action(start + SECOND), ExchangeAction::Send { within: SECOND });
        exchange.sent();
        exchange.lost(start + SECOND);
        assert_eq!(exchange.next_action(start + 2 * SECOND), ExchangeAction::GiveUp);
    }

    #[test]
    fn the_ends_of_the_range() {
        let start = Instant::now();
        let mut none = Exchange::start(RetryPolicy { timeout: Duration::ZERO, attempts: 1 }, start);
        assert_eq!(none.next_action(start), ExchangeAction::GiveUp);

        let policy = RetryPolicy { timeout: Duration::MAX, attempts: u32::MAX };
        let mut endless = Exchange::start(policy, start);
        assert_eq!(endless.next_action(start), ExchangeAction::Send { within: Duration::MAX });
        assert_eq!(policy.total(), Duration::MAX);

        // A clock that is read by several threads may seem to go back.
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
