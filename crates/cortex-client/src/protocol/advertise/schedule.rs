//! When the manager sends the next request about each topic.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

/// When a topic is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// At once and first: an ended advertisement may wait for it.
    Withdraw,
    /// At once, in the order in which the topics were added.
    Register,
    /// At this time or later.
    At(Instant),
}

/// The due topics by number. A topic is scheduled once, or not at all while a request about it is
/// outstanding.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    order: BTreeSet<(Due, u64)>,
    by_topic: HashMap<u64, Due>,
}

impl Schedule {
    /// Schedules a topic, in place of an earlier time.
    pub(super) fn set(&mut self, topic: u64, due: Due) {
        self.remove(topic);
        self.by_topic.insert(topic, due);
        self.order.insert((due, topic));
    }

    /// Removes a topic from the schedule.
    pub(super) fn remove(&mut self, topic: u64) {
        if let Some(due) = self.by_topic.remove(&topic) {
            self.order.remove(&(due, topic));
        }
    }

    /// The topic that is due next.
    pub(super) fn first(&self) -> Option<(Due, u64)> {
        self.order.first().copied()
    }
}
