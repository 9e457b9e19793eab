//! What has changed: the epoch, the revision, the history, and what the store must keep.
//!
//! A batch stages its changes here. [`Log::commit`] makes them count after the store has them;
//! [`Log::rollback`] takes their revisions back.

pub(super) mod history;
pub(super) mod record;

use std::sync::Arc;

use cortex_proto::{Since, TopicInfo, TopicName};

use crate::peer::PeerIdentity;
use history::History;
use record::{Change, Event, EventKind, Record, Write};

/// The changes of one epoch, each with a revision of its own.
#[derive(Debug)]
pub(super) struct Log {
    epoch: u64,
    revision: u64,
    history: History,
    staged: Vec<Change>,
    writes: Vec<Write>,
    /// The bytes of the staged changes' topic names.
    staged_name_bytes: usize,
}

/// A topic that changes.
#[derive(Clone, Debug)]
pub(super) struct ChangedTopic {
    pub(super) info: Arc<TopicInfo>,
    pub(super) packed: Arc<[u8]>,
    pub(super) owner: PeerIdentity,
    /// Its new record; `None` when it is removed.
    pub(super) record: Option<Record>,
}

/// A batch that was not stored.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RolledBack {
    /// Its changes, which never happened.
    pub(super) changes: Vec<Change>,
    /// The topics that have their former state again.
    pub(super) names: Vec<TopicName>,
}

impl Log {
    /// The log of an epoch at a revision, with a history of at most `max_events` events.
    pub(super) fn new(
        max_events: usize,
        position: Since,
        history: Vec<(TopicName, Event)>,
    ) -> Self {
        let Since { epoch, revision } = position;
        Self {
            epoch,
            revision,
            history: History::new(max_events, history, revision),
            staged: Vec::new(),
            writes: Vec::new(),
            staged_name_bytes: 0,
        }
    }

    /// The epoch and the present revision.
    pub(super) fn position(&self) -> Since {
        Since { epoch: self.epoch, revision: self.revision }
    }

    /// The revision of the next change.
    pub(super) fn next_revision(&self) -> u64 {
        self.revision + 1
    }

    pub(super) fn history(&self) -> &History {
        &self.history
    }

    /// Stages a change of a topic. It makes the next revision.
    pub(super) fn stage(&mut self, kind: EventKind, topic: ChangedTopic) {
        let ChangedTopic { info, packed, owner, record } = topic;
        self.revision += 1;
        let revision = self.revision;
        let event = Event { revision, kind, packed };
        self.staged_name_bytes += info.name.as_str().len();
        self.history.push(info.name.clone(), event.clone());
        self.writes.push(Write { name: info.name.clone(), record, event: Some(event) });
        self.staged.push(Change { revision, kind, info, owner });
    }

    /// Stages a record that changes without an event: it makes no revision.
    pub(super) fn stage_record(&mut self, record: Record) {
        self.writes.push(Write { name: record.name.clone(), record: Some(record), event: None });
    }

    /// Whether the batch has staged something.
    pub(super) fn has_staged(&self) -> bool {
        !self.writes.is_empty()
    }

    /// The number of staged changes, and the bytes of their topic names.
    pub(super) fn staged_size(&self) -> (usize, usize) {
        (self.staged.len(), self.staged_name_bytes)
    }

    /// What the store must keep before the batch counts.
    pub(super) fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// Makes the staged changes count, and returns them.
    pub(super) fn commit(&mut self) -> Vec<Change> {
        self.writes.clear();
        self.staged_name_bytes = 0;
        std::mem::take(&mut self.staged)
    }

    /// Takes the staged changes and their revisions back.
    pub(super) fn rollback(&mut self) -> RolledBack {
        let names = self.writes.drain(..).map(|write| write.name).collect();
        let changes = std::mem::take(&mut self.staged);
        self.staged_name_bytes = 0;
        for change in changes.iter().rev() {
            self.revision = change.revision - 1;
            self.history.pop();
        }
        RolledBack { changes, names }
    }

    /// Forgets the events that the history has no room for. Until then a batch can be rolled back
    /// without a loss.
    pub(super) fn trim_history(&mut self) {
        self.history.trim();
    }

    /// Begins a new epoch, in which nothing has happened before the present revision.
    pub(super) fn reset_history(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.history.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> ChangedTopic {
        let info = TopicInfo {
            name: TopicName::new(name).unwrap(),
            address: "ipc:///x".into(),
            message_type: "M".into(),
            fingerprint: 1,
            publisher_node: "n".into(),
        };
        let owner = PeerIdentity { uid: Some(1), process: None, is_local: true };
        let packed = info.to_bytes().into();
        ChangedTopic { info: Arc::new(info), packed, owner, record: None }
    }

    fn log(max_events: usize) -> Log {
        Log::new(max_events, Since { epoch: 7, revision: 0 }, Vec::new())
    }

    fn revisions(log: &Log, since: u64) -> Option<Vec<u64>> {
        let present = log.position().revision;
        Some(log.history().since(since, present)?.map(|(_, event)| event.revision).collect())
    }

    #[test]
    fn every_change_makes_one_revision() {
        let mut log = log(10);
        log.stage(EventKind::Registered, topic("/a"));
        log.stage(EventKind::Unregistered, topic("/a"));
        assert_eq!(log.staged_size(), (2, 4));
        let committed: Vec<_> = log.commit().iter().map(|change| change.revision).collect();
        assert_eq!((committed, log.next_revision()), (vec![1, 2], 3));
        assert!(!log.has_staged() && log.staged_size() == (0, 0));
    }

    #[test]
    fn a_rollback_gives_the_revisions_back_and_names_the_topics() {
        let mut log = log(2);
        for name in ["/a", "/b"] {
            log.stage(EventKind::Registered, topic(name));
        }
        log.commit();
        log.trim_history();
        log.stage(EventKind::Updated, topic("/a"));
        log.stage(EventKind::Registered, topic("/c"));
        let rolled_back = log.rollback();
        let names: Vec<_> = rolled_back.names.iter().map(TopicName::as_str).collect();
        assert_eq!((names, rolled_back.changes.len()), (vec!["/a", "/c"], 2));
        assert_eq!((log.position().revision, log.has_staged()), (2, false));
        assert_eq!(revisions(&log, 0), Some(vec![1, 2]), "the batch has displaced no event");
    }

    #[test]
    fn a_record_without_an_event_is_stored_and_makes_no_revision() {
        let mut log = log(10);
        let record = Record {
            name: TopicName::new("/a").unwrap(),
            order: 0,
            packed: [].into(),
            revision: 0,
            changed_ms: 0,
            uid: None,
            process: None,
            is_local: true,
            listener: None,
            hold: record::Hold::Process,
            found_alive: true,
        };
        log.stage_record(record);
        assert!(log.has_staged());
        assert_eq!((log.writes().len(), log.commit(), log.next_revision()), (1, vec![], 1));
    }

    #[test]
    fn a_new_epoch_has_no_history() {
        let mut log = log(10);
        log.stage(EventKind::Registered, topic("/a"));
        log.commit();
        log.reset_history(8);
        assert_eq!(log.position(), Since { epoch: 8, revision: 1 });
        assert_eq!((revisions(&log, 0), revisions(&log, 1)), (None, Some(vec![])));
    }
}
