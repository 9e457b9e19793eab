//! The requests of all machines.

use std::time::Duration;

use cortex_proto::{DiscoveryCommand, DiscoveryRequest};

/// The number of attempts of a request, and the time of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RetryPolicy {
    /// The time of one attempt, from its beginning. With zero the client sends nothing.
    pub(crate) timeout: Duration,
    /// At least 1.
    pub(crate) attempts: u32,
}

impl RetryPolicy {
    /// The time of all attempts together.
    pub(crate) fn total(self) -> Duration {
        self.timeout.saturating_mul(self.attempts)
    }

    /// How many attempts a request without an answer has had.
    pub(crate) fn attempts_made(self) -> u32 {
        if self.timeout.is_zero() { 0 } else { self.attempts }
    }
}

/// What the client does with a request whose connection is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnLoss {
    /// It sends the request again in the rest of its time.
    Resend,
    /// It reports the loss. The request is never sent twice: a second SHUTDOWN would end the next
    /// daemon.
    Report,
    /// It reports the loss, also when the connection was lost before the request was sent: the
    /// next daemon may not park requests. When the request is given up, the client sends CANCEL.
    ReportParked,
}

/// A request, and how long and how often the client sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Query {
    /// The request's bytes.
    pub(crate) body: Vec<u8>,
    pub(crate) policy: RetryPolicy,
    pub(crate) on_loss: OnLoss,
    /// The time after which an answer is overdue: then a connection without any other answer
    /// counts as dead.
    pub(crate) overdue_after: Duration,
}

impl Query {
    /// The request of a call.
    pub(crate) fn call(request: &DiscoveryRequest, policy: RetryPolicy) -> Self {
        let is_shutdown = request.command == DiscoveryCommand::Shutdown.into();
        let (policy, on_loss) = if is_shutdown {
            (RetryPolicy { attempts: 1, ..policy }, OnLoss::Report)
        } else {
            (policy, OnLoss::Resend)
        };
        Self { body: request.to_bytes(), policy, on_loss, overdue_after: policy.timeout / 2 }
    }

    /// A request that the daemon answers at once, with one attempt.
    pub(crate) fn immediate(request: &DiscoveryRequest, timeout: Duration) -> Self {
        Self::call(request, RetryPolicy { timeout, attempts: 1 })
    }

    /// A request that the daemon may park for `parked`. Then it has `answer_timeout` for its answer.
    pub(crate) fn parked(
        request: &DiscoveryRequest,
        parked: Duration,
        answer_timeout: Duration,
    ) -> Self {
        let timeout = parked.saturating_add(answer_timeout);
        Self {
            body: request.to_bytes(),
            policy: RetryPolicy { timeout, attempts: 1 },
            on_loss: OnLoss::ReportParked,
            overdue_after: parked.saturating_add(answer_timeout / 2),
        }
    }

    /// The same request with at most this time for each attempt.
    pub(crate) fn within(mut self, timeout: Duration) -> Self {
        self.policy.timeout = self.policy.timeout.min(timeout);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_overdue_after_half_of_its_time_and_the_time_that_the_request_is_parked() {
        let (parked, answer) = (Duration::from_secs(20), Duration::from_secs(2));
        let query = Query::parked(&DiscoveryRequest::wait("/a", 20_000), parked, answer);
        assert_eq!(query.overdue_after, Duration::from_secs(21));
        assert_eq!(query.policy, RetryPolicy { timeout: Duration::from_secs(22), attempts: 1 });
        assert_eq!(query.on_loss, OnLoss::ReportParked);
        let query = Query::immediate(&DiscoveryRequest::lookup("/a"), answer);
        assert_eq!(query.overdue_after, Duration::from_secs(1));
        assert_eq!(query.policy, RetryPolicy { timeout: answer, attempts: 1 });
        assert_eq!(query.clone().within(parked).policy.timeout, answer);
        assert_eq!(query.within(answer / 2).policy.timeout, answer / 2);
    }
}
