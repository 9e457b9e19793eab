//! Whose turn it is: some at once, the others at their time.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

/// When something is to be asked about a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// At once: somebody may wait for the end of it.
    Withdraw,
    /// At once, in the order in which the topics came.
    Register,
    /// At this time, or some time after it.
    At(Instant),
}

/// The turns of topics, which are known by their number. A topic has one turn, or none while it is
/// being asked about.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    order: BTreeSet<(Due, u64)>,
    by_topic: HashMap<u64, Due>,
}

impl Schedule {
    /// Gives a topic this turn, and no other.
    pub(super) fn set(&mut self, topic: u64, due: Due) {
        self.remove(topic);
        self.by_topic.insert(topic, due);
        self.order.insert((due, topic));
    }

    /// Leaves a topic without a turn.
    pub(super) fn remove(&mut self, topic: u64) {
        if let Some(due) = self.by_topic.remove(&topic) {
            self.order.remove(&(due, topic));
        }
    }

    /// The next one.
    pub(super) fn first(&self) -> Option<(Due, u64)> {
        self.order.first().copied()
    }
}
