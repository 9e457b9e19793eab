//! Parked requests: WAIT and WATCH requests whose replies wait for a change.
//!
//! A change wakes waiters only after the store has it: what was not stored wakes no watch.

pub(super) mod replies;
pub(super) mod waiters;

use std::collections::BTreeSet;
use std::time::Instant;

use cortex_proto::TopicName;

use crate::peer::{ConnectionId, ReplyTo};
use waiters::{Waiter, Waiters};

/// Every parked request, and what must be answered without a change.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    waiters: Waiters,
    /// Waiters that made room for others in this round.
    displaced: Vec<Waiter>,
    /// The epoch whose history was lost, until its watches are answered.
    lost_epoch: Option<u64>,
    is_shutting_down: bool,
}

/// How a batch has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BatchEnd {
    /// The store has it.
    Stored,
    /// It was rolled back.
    RolledBack,
}

impl Subscriptions {
    /// Parks a request. Displaced waiters are due at once.
    pub(super) fn park(&mut self, waiter: Waiter) {
        self.displaced.extend(self.waiters.add(waiter));
    }

    /// Forgets the waiters of a connection, and returns how many it had.
    pub(super) fn cancel(&mut self, connection: ConnectionId) -> usize {
        self.waiters.take_connection(connection).len()
    }

    /// Forgets the waiters with this connection and envelope, and returns how many there were.
    pub(super) fn cancel_requests(&mut self, reply_to: &ReplyTo) -> usize {
        self.waiters.take_requests(reply_to).len()
    }

    /// Notes that the history of an epoch is lost.
    pub(super) fn lose_history(&mut self, epoch: u64) {
        self.lost_epoch.get_or_insert(epoch);
    }

    /// Makes every waiter due.
    pub(super) fn shut_down(&mut self) {
        self.is_shutting_down = true;
    }

    /// The numbers of parked WAIT and WATCH requests.
    pub(super) fn counts(&self) -> (usize, usize) {
        self.waiters.counts()
    }

    /// The bytes of all patterns that each change is matched with.
    pub(super) fn pattern_bytes(&self) -> usize {
        self.waiters.pattern_bytes()
    }

    /// When the next waiter's time is over.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.waiters.next_end()
    }

    /// After a loss of the history: its epoch, and the watches on it.
    pub(super) fn take_lost(&mut self) -> Option<(u64, Vec<Waiter>)> {
        let epoch = self.lost_epoch.take()?;
        Some((epoch, self.waiters.take_watches()))
    }

    /// Takes the waiters whose condition is met at the end of a batch. `topics` are the topics that
    /// have changed, or are again what they were before.
    pub(super) fn take_changed(
        &mut self,
        end: BatchEnd,
        topics: &[TopicName],
        is_registered: impl Fn(&TopicName) -> bool,
    ) -> Vec<Waiter> {
        let is_stored = end == BatchEnd::Stored;
        let mut woken = Vec::new();
        for name in topics.iter().collect::<BTreeSet<_>>() {
            let is_registered = is_registered(name);
            let is_met = |waiter: &Waiter| if waiter.is_wait() { is_registered } else { is_stored };
            woken.extend(self.waiters.take_named(name, is_met));
        }
        if is_stored {
            woken.extend(self.waiters.take_matching(topics));
        }
        woken
    }

    /// Takes the waiters that are answered without a change: those whose time is over, those that
    /// made room for others, and all when the daemon shuts down.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Waiter> {
        let mut due = std::mem::take(&mut self.displaced);
        due.extend(self.waiters.take_ended(now));
        if self.is_shutting_down {
            due.extend(self.waiters.take_all());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use cortex_proto::TopicFilter;

    use super::waiters::{WakeCondition, WatchSpec};
    use super::*;
    use crate::peer::ReplyTo;
    use crate::registry::test_time::start;
    use crate::zmtp::Envelope;

    fn name(text: &str) -> TopicName {
        TopicName::new(text).unwrap()
    }

    /// A WAIT on connection 1, a watch of one topic on 2, a watch of a pattern on 3.
    fn subscriptions() -> Subscriptions {
        let mut subscriptions = Subscriptions::default();
        let watch = |pattern: &str| {
            let filter = Some(Arc::new(TopicFilter::new(pattern).unwrap()));
            WakeCondition::change(WatchSpec { filter, limit: 10 })
        };
        let conditions = [WakeCondition::Topic(name("/a")), watch("/a"), watch("/*")];
        for (index, condition) in conditions.into_iter().enumerate() {
            let connection = ConnectionId(index + 1);
            let to = ReplyTo { connection, envelope: Envelope::default() };
            let end = start() + Duration::from_secs(60);
            subscriptions.park(Waiter { to, uid: Some(1), end, condition });
        }
        subscriptions
    }

    fn woken(subscriptions: &mut Subscriptions, end: BatchEnd, is_registered: bool) -> Vec<usize> {
        connections(&subscriptions.take_changed(end, &[name("/a")], |_| is_registered))
    }

    fn connections(woken: &[Waiter]) -> Vec<usize> {
        woken.iter().map(|waiter| waiter.to.connection.0).collect()
    }

    #[test]
    fn a_stored_change_wakes_watches_and_a_registration_also_waits() {
        assert_eq!(woken(&mut subscriptions(), BatchEnd::Stored, false), [2, 3]);
        assert_eq!(woken(&mut subscriptions(), BatchEnd::Stored, true), [1, 2, 3]);
    }

    #[test]
    fn a_batch_that_was_rolled_back_wakes_no_watch() {
        assert_eq!(woken(&mut subscriptions(), BatchEnd::RolledBack, true), [1]);
        assert_eq!(woken(&mut subscriptions(), BatchEnd::RolledBack, false), [0; 0]);
    }

    #[test]
    fn time_and_the_daemons_end_wake_every_waiter() {
        let now = start();
        let later = now + Duration::from_secs(60);
        assert_eq!(connections(&subscriptions().take_due(now)), [0; 0]);
        assert_eq!(connections(&subscriptions().take_due(later)), [1, 2, 3]);
        let mut ending = subscriptions();
        ending.shut_down();
        assert_eq!(connections(&ending.take_due(now)), [1, 2, 3]);
        assert_eq!(ending.counts(), (0, 0));
    }

    #[test]
    fn a_lost_history_wakes_the_watches_once() {
        let mut subscriptions = subscriptions();
        assert!(subscriptions.take_lost().is_none());
        subscriptions.lose_history(7);
        subscriptions.lose_history(8);
        let (epoch, watches) = subscriptions.take_lost().unwrap();
        assert_eq!((epoch, watches.len(), subscriptions.counts()), (7, 2, (1, 0)));
        assert!(subscriptions.take_lost().is_none());
    }

    #[test]
    fn a_cancelled_waiter_wakes_no_more() {
        let mut subscriptions = subscriptions();
        assert_eq!((subscriptions.cancel(ConnectionId(2)), subscriptions.counts()), (1, (1, 1)));
        assert_eq!(subscriptions.cancel(ConnectionId(2)), 0);
    }
}
