//! The directory's changes that are not committed yet: how each topic was before.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use cortex_proto::TopicName;

use super::sessions::SessionKey;
use super::topics::Entry;

/// How one topic was before a change.
#[derive(Debug)]
pub(super) struct Undo {
    pub(super) name: TopicName,
    pub(super) before: Option<DetachedEntry>,
    /// The session whose end the change has moved.
    pub(super) session_end: Option<MovedEnd>,
    /// Whether a list of topics is another one after the change.
    pub(super) changes_list: bool,
}

impl Undo {
    /// The topic's entry before the change, if it was registered.
    pub(super) fn entry_before(&self) -> Option<&Entry> {
        self.before.as_ref().map(|before| &before.entry)
    }
}

/// An entry that is not in its place.
#[derive(Debug)]
pub(super) struct DetachedEntry {
    pub(super) entry: Entry,
    /// When its session ends; `None` for a full lease, or without a session.
    pub(super) session_end: Option<Instant>,
}

/// A session's end before and after a change.
#[derive(Debug)]
pub(super) struct MovedEnd {
    pub(super) key: SessionKey,
    pub(super) before: Instant,
    pub(super) after: Option<Instant>,
}

/// The changes that are not committed, oldest first.
#[derive(Debug, Default)]
pub(super) struct Uncommitted {
    changes: VecDeque<Undo>,
    /// How many of them the store has under way.
    committing: usize,
    /// Where each topic's oldest change is: before it the topic was as it is committed.
    oldest: HashMap<TopicName, usize>,
}

impl Uncommitted {
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(super) fn push(&mut self, undo: Undo) {
        self.changes.push_back(undo);
        self.index(self.changes.len() - 1);
    }

    /// Lets the store have all changes under way.
    pub(super) fn begin_commit(&mut self) {
        self.committing = self.changes.len();
    }

    /// Forgets the changes that the store had under way. Returns whether they change a list of
    /// topics.
    pub(super) fn commit(&mut self) -> bool {
        let mut committed = self.changes.drain(..std::mem::take(&mut self.committing));
        let changes_list = committed.any(|change| change.changes_list);
        drop(committed);
        self.oldest.clear();
        for index in 0..self.changes.len() {
            self.index(index);
        }
        changes_list
    }

    /// Takes all changes.
    pub(super) fn take(&mut self) -> VecDeque<Undo> {
        std::mem::take(self).changes
    }

    /// The oldest change of a topic.
    pub(super) fn oldest(&self, name: &str) -> Option<&Undo> {
        self.changes.get(*self.oldest.get(name)?)
    }

    /// The committed entries of all topics that have changed.
    pub(super) fn committed_entries(&self) -> impl Iterator<Item = &Entry> {
        let oldest = self.oldest.values().filter_map(|index| self.changes.get(*index));
        oldest.filter_map(Undo::entry_before)
    }

    /// Enters a change into the index. When a registration is evicted, what the same owner has
    /// committed under its name is dead, too: no reader may see it any more.
    fn index(&mut self, index: usize) {
        let change = &self.changes[index];
        let Some(&oldest) = self.oldest.get(change.name.as_str()) else {
            self.oldest.insert(change.name.clone(), index);
            return;
        };
        let Some(evicted) = change.entry_before().filter(|entry| entry.dead.is_some()) else {
            return;
        };
        let reason = evicted.dead;
        let is_committed_dead =
            self.changes[oldest].entry_before().is_some_and(|entry| dies_with(entry, evicted));
        if is_committed_dead && let Some(committed) = &mut self.changes[oldest].before {
            committed.entry.dead = reason;
        }
    }
}

/// Whether an earlier registration of a topic is dead when the later one `evicted` is: nothing else
/// keeps it.
fn dies_with(earlier: &Entry, evicted: &Entry) -> bool {
    match (earlier.session(), evicted.session()) {
        (Some((earlier, _)), Some((evicted, _))) => earlier == evicted,
        (None, None) => {
            earlier.hold == evicted.hold
                && earlier.owner == evicted.owner
                && earlier.info.address == evicted.info.address
        }
        _ => false,
    }
}
