//! One request: its attempts, their time, and lost connections.

use std::time::Instant;

use super::request::{OnLoss, Query};

/// What the client does with a request in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Wait for the answer until this time; `None` is for ever.
    Wait(Option<Instant>),
    /// The attempt has ended without an answer: send the request again.
    Retry,
    /// The last attempt has ended without an answer.
    GiveUp,
}

/// A request in progress. A later attempt has a new number, so that an answer to an earlier attempt
/// is not taken for its own.
#[derive(Debug)]
pub(crate) struct Exchange {
    query: Query,
    attempt: u32,
    attempt_started: Instant,
    number: u64,
    sent_at: Option<Instant>,
    times_sent: u32,
    was_lost: bool,
}

impl Exchange {
    /// Starts the first attempt, with this number.
    pub(crate) fn start(query: Query, number: u64, now: Instant) -> Self {
        Self {
            query,
            attempt: 1,
            attempt_started: now,
            number,
            sent_at: None,
            times_sent: 0,
            was_lost: false,
        }
    }

    pub(crate) fn query(&self) -> &Query {
        &self.query
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// When the request was sent on the present connection.
    pub(crate) fn sent_at(&self) -> Option<Instant> {
        self.sent_at
    }

    /// How often the request was sent. From the second time on, the daemon may have carried it out
    /// already.
    pub(crate) fn times_sent(&self) -> u32 {
        self.times_sent
    }

    /// Whether a connection was lost while the daemon had the request.
    pub(crate) fn was_lost(&self) -> bool {
        self.was_lost
    }

    /// Whether the daemon may keep the request parked.
    pub(crate) fn is_parked(&self) -> bool {
        self.sent_at.is_some() && self.query.on_loss == OnLoss::ReportParked
    }

    /// What to do at `now`.
    pub(crate) fn next_step(&self, now: Instant) -> Step {
        let elapsed = now.saturating_duration_since(self.attempt_started);
        if elapsed < self.query.policy.timeout {
            // A timeout too long for an `Instant` is endless.
            Step::Wait(self.attempt_started.checked_add(self.query.policy.timeout))
        } else if self.attempt < self.query.policy.attempts {
            Step::Retry
        } else {
            Step::GiveUp
        }
    }

    /// Starts the next attempt, with a new number.
    pub(crate) fn retry(&mut self, number: u64, now: Instant) {
        self.attempt += 1;
        self.attempt_started = now;
        self.number = number;
        self.sent_at = None;
    }

    /// The client has sent the request.
    pub(crate) fn sent(&mut self, now: Instant) {
        self.sent_at = Some(now);
        self.times_sent = self.times_sent.saturating_add(1);
    }

    /// The connection was lost, and the request with it. The client sends it again in the rest of
    /// this attempt's time, with a new number.
    pub(crate) fn lost(&mut self, number: u64) {
        self.was_lost = true;
        self.number = number;
        self.sent_at = None;
    }

    /// Whether the connection has been silent for too long: the answer is overdue, and the client
    /// has received nothing since it sent the request.
    pub(crate) fn shows_dead_connection(
        &self,
        up_since: Instant,
        last_received: Option<Instant>,
        now: Instant,
    ) -> bool {
        self.sent_at.is_some_and(|sent_at| {
            now.saturating_duration_since(sent_at) >= self.query.overdue_after
                && up_since <= sent_at
                && last_received.is_none_or(|received| received <= sent_at)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cortex_proto::DiscoveryRequest;

    use super::*;
    use crate::protocol::request::RetryPolicy;

    const SECOND: Duration = Duration::from_secs(1);

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn exchange(timeout: Duration, attempts: u32, start: Instant) -> Exchange {
        let policy = RetryPolicy { timeout, attempts };
        Exchange::start(Query::call(&DiscoveryRequest::ping(), policy), 1, start)
    }

    #[test]
    fn each_attempt_has_the_whole_timeout_and_a_number() {
        let start = Instant::now();
        let mut exchange = exchange(SECOND, 3, start);
        for attempt in 1..=3 {
            // Each attempt ends 10 ms late, but the next one still has its whole time.
            let began = start + ms(1010) * (attempt - 1);
            exchange.sent(began);
            assert_eq!((exchange.number(), exchange.times_sent()), (attempt.into(), attempt));
            assert_eq!(exchange.next_step(began + ms(999)), Step::Wait(Some(began + SECOND)));
            let over = if attempt < 3 { Step::Retry } else { Step::GiveUp };
            assert_eq!(exchange.next_step(began + ms(1010)), over);
            if attempt < 3 {
                exchange.retry(u64::from(attempt) + 1, began + ms(1010));
                assert_eq!(exchange.sent_at(), None);
            }
        }
    }

    #[test]
    fn a_lost_connection_does_not_extend_the_attempt() {
        let start = Instant::now();
        let mut exchange = exchange(SECOND, 1, start);
        exchange.sent(start);
        assert!(!exchange.was_lost());
        exchange.lost(2);
        assert_eq!((exchange.was_lost(), exchange.sent_at(), exchange.number()), (true, None, 2));
        assert_eq!(exchange.next_step(start + ms(300)), Step::Wait(Some(start + SECOND)));
        exchange.sent(start + ms(301));
        assert_eq!(exchange.times_sent(), 2);
        assert_eq!(exchange.next_step(start + SECOND), Step::GiveUp);
    }

    #[test]
    fn a_shutdown_has_one_attempt() {
        let policy = RetryPolicy { timeout: SECOND, attempts: 5 };
        let query = Query::call(&DiscoveryRequest::shutdown(), policy);
        assert_eq!((query.policy.attempts, query.on_loss), (1, OnLoss::Report));
        assert_eq!(Query::call(&DiscoveryRequest::ping(), policy).policy.attempts, 5);
    }

    #[test]
    fn a_connection_is_dead_when_an_answer_is_overdue_and_nothing_else_came() {
        let start = Instant::now();
        let mut exchange = exchange(SECOND, 1, start);
        let dead = |exchange: &Exchange, up, received, now| {
            exchange.shows_dead_connection(up, received, now)
        };
        assert!(!dead(&exchange, start, None, start + SECOND), "the request was not sent");
        exchange.sent(start + ms(10));
        assert!(!dead(&exchange, start, None, start + ms(509)), "not overdue yet");
        assert!(dead(&exchange, start, None, start + ms(510)));
        assert!(dead(&exchange, start, Some(start + ms(10)), start + ms(510)));
        assert!(!dead(&exchange, start, Some(start + ms(11)), start + SECOND), "it answers others");
        assert!(!dead(&exchange, start + ms(11), None, start + SECOND), "a newer connection");
    }

    #[test]
    fn zero_and_endless_timeouts_do_not_overflow() {
        let start = Instant::now();
        assert_eq!(exchange(Duration::ZERO, 1, start).next_step(start), Step::GiveUp);
        let endless = exchange(Duration::MAX, u32::MAX, start);
        assert_eq!(endless.next_step(start), Step::Wait(None));
        let policy = endless.query().policy;
        assert_eq!((policy.total(), policy.attempts_made()), (Duration::MAX, u32::MAX));
        let none = RetryPolicy { timeout: Duration::ZERO, attempts: 4 };
        assert_eq!(none.attempts_made(), 0);
        // When several threads read the clock, it may seem to go back.
        assert!(matches!(exchange(SECOND, 1, start + SECOND).next_step(start), Step::Wait(_)));
    }
}
