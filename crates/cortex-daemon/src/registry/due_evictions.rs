//! The evictions that become due with time: of sessions, and of dead topics that the store could not
//! remove yet.

use std::time::{Duration, Instant};

use cortex_proto::TopicName;

use super::directory::Directory;
use super::log::record::EvictionReason;
use super::registrations::EVICTION_RETRY;
use super::waiting_requests::WaitingRequests;

/// While requests wait that may renew a session whose lease is over, the time between two checks.
const LEASE_RECHECK: Duration = Duration::from_millis(100);

/// The times before which nothing is evicted.
#[derive(Debug, Default)]
pub(super) struct DueEvictions {
    /// For everything, after the store refused a batch.
    retry_at: Option<Instant>,
    /// For sessions, while requests wait that may renew one.
    lease_recheck_at: Option<Instant>,
}

impl DueEvictions {
    /// The store has refused a batch: its evictions are tried again later.
    pub(super) fn not_stored(&mut self, now: Instant) {
        self.retry_at = Some(now + EVICTION_RETRY);
    }

    /// When [`take`](Self::take) may return something.
    pub(super) fn next(&self, directory: &Directory) -> Option<Instant> {
        let not_before = [self.retry_at, self.lease_recheck_at].into_iter().flatten();
        let lease = directory.next_session_end().map(|end| not_before.fold(end, Instant::max));
        let dead = self.retry_at.filter(|_| directory.has_dead());
        lease.into_iter().chain(dead).min()
    }

    /// The topics to evict now. While requests of its user wait, among which a RENEW may have come in
    /// time, a session lives on for one more lease at most.
    pub(super) fn take(
        &mut self,
        directory: &Directory,
        waiting: &WaitingRequests,
        now: Instant,
    ) -> Vec<(TopicName, EvictionReason)> {
        if self.retry_at.is_some_and(|again| now < again) {
            return Vec::new();
        }
        self.retry_at = None;
        let mut due = directory.dead_topics();
        if self.lease_recheck_at.is_none_or(|again| again <= now) {
            let ended = directory.ended_sessions(waiting, now);
            self.lease_recheck_at = ended.has_extended.then_some(now + LEASE_RECHECK);
            due.extend(ended.topics.into_iter().map(|name| (name, EvictionReason::LeaseExpired)));
        }
        due
    }
}
