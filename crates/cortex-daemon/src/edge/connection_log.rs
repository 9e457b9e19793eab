//! The log lines about connections, a limited number of each kind.

use std::io;
use std::time::Instant;

use super::log_limit::LogLimit;
use crate::peer::ConnectionId;
use crate::zmtp::Violation;

/// Writes one line of each kind in 10 s.
#[derive(Debug)]
pub(super) struct ConnectionLog {
    refused: LogLimit,
    accept_failure: LogLimit,
    violation: LogLimit,
}

impl ConnectionLog {
    pub(super) fn new() -> Self {
        let [refused, accept_failure, violation] = [(); 3].map(|()| LogLimit::new(1));
        Self { refused, accept_failure, violation }
    }

    /// A connection was closed at once; by now `refused` of them.
    pub(super) fn refused(
        &mut self,
        uid: Option<u32>,
        connections: usize,
        limit: usize,
        refused: u64,
        now: Instant,
    ) {
        if let Some(suppressed) = self.refused.allow(now) {
            tracing::warn!(
                uid,
                connections,
                limit,
                refused,
                suppressed,
                "too many connections: a new one was closed"
            );
        }
    }

    pub(super) fn accept_failure(&mut self, error: &io::Error, refused: u64, now: Instant) {
        if let Some(suppressed) = self.accept_failure.allow(now) {
            tracing::warn!(%error, refused, suppressed, "cannot accept a connection");
        }
    }

    pub(super) fn violation(
        &mut self,
        id: ConnectionId,
        uid: Option<u32>,
        violation: &Violation,
        now: Instant,
    ) {
        if let Some(suppressed) = self.violation.allow(now) {
            tracing::warn!(
                connection = id.0,
                uid,
                suppressed,
                reason = violation.to_string(),
                "closed a peer's connection"
            );
        }
    }
}
