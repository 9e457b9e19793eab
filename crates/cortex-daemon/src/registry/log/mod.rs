//! What has changed: the epoch, the revision, the history, and what the store must keep.
//!
//! Changes are staged here. The store takes them batch by batch: [`Log::begin_commit`] hands out a
//! batch, and [`Log::commit`] makes it count. Later changes are staged in the meantime.
//! [`Log::rollback`] takes all of them back.

pub(super) mod history;
pub(super) mod record;

use std::collections::VecDeque;
use std::sync::Arc;

use cortex_proto::{Since, TopicInfo, TopicName};

use super::view::View;
use crate::peer::PeerIdentity;
use history::History;
use record::{Change, Event, EventKind, Record, Write};

/// The changes of one epoch, each with a revision of its own.
#[derive(Debug)]
pub(super) struct Log {
    epoch: u64,
    /// The revision of the last committed change.
    committed: u64,
    history: History,
    /// The changes that are not committed, oldest first.
    staged: VecDeque<Change>,
    /// How many of them the store has under way.
    committing: usize,
    /// What the store must keep of the others.
    writes: Vec<Write>,
    /// The bytes of the topic names in `writes`.
    write_name_bytes: usize,
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
            committed: revision,
            history: History::new(max_events, history, revision),
            staged: VecDeque::new(),
            committing: 0,
            writes: Vec::new(),
            write_name_bytes: 0,
        }
    }

    /// The epoch and the last revision in a view.
    pub(super) fn position(&self, view: View) -> Since {
        let revision = match view {
            View::Committed => self.committed,
            View::Latest => self.committed + self.staged.len() as u64,
        };
        Since { epoch: self.epoch, revision }
    }

    /// The revision of the next change.
    pub(super) fn next_revision(&self) -> u64 {
        self.position(View::Latest).revision + 1
    }

    pub(super) fn history(&self) -> &History {
        &self.history
    }

    /// Stages a change of a topic. It makes the next revision.
    pub(super) fn stage(&mut self, kind: EventKind, topic: ChangedTopic) {
        let ChangedTopic { info, packed, owner, record } = topic;
        let revision = self.next_revision();
        let event = Event { revision, kind, packed };
        self.write_name_bytes += info.name.as_str().len();
        self.history.push(info.name.clone(), event.clone());
        self.writes.push(Write { name: info.name.clone(), record, event: Some(event) });
        self.staged.push_back(Change { revision, kind, info, owner });
    }

    /// Stages a record that changes without an event: it makes no revision.
    pub(super) fn stage_record(&mut self, record: Record) {
        self.writes.push(Write { name: record.name.clone(), record: Some(record), event: None });
    }

    /// Whether something is staged that the store does not have under way.
    pub(super) fn has_writes(&self) -> bool {
        !self.writes.is_empty()
    }

    /// The number of writes that wait for the store, and the bytes of their topic names.
    pub(super) fn write_size(&self) -> (usize, usize) {
        (self.writes.len(), self.write_name_bytes)
    }

    /// Hands out everything that is staged, as one batch. The one before must have ended.
    pub(super) fn begin_commit(&mut self) -> Vec<Write> {
        self.committing = self.staged.len();
        self.write_name_bytes = 0;
        std::mem::take(&mut self.writes)
    }

    /// Makes the batch count that the store has under way, and returns its changes.
    pub(super) fn commit(&mut self) -> Vec<Change> {
        self.committed += self.committing as u64;
        let changes = self.staged.drain(..std::mem::take(&mut self.committing)).collect();
        self.history.trim(self.staged.len());
        changes
    }

    /// Takes all staged changes and their revisions back.
    pub(super) fn rollback(&mut self) {
        for _ in self.staged.drain(..) {
            self.history.pop();
        }
        self.committing = 0;
        self.writes.clear();
        self.write_name_bytes = 0;
    }

    /// Begins a new epoch, in which nothing has happened before the last committed revision.
    pub(super) fn reset_history(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.history.keep_last(self.staged.len());
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
        let until = log.position(View::Committed).revision;
        Some(log.history().between(since, until)?.map(|(_, event)| event.revision).collect())
    }

    fn commit(log: &mut Log) -> Vec<u64> {
        log.begin_commit();
        log.commit().iter().map(|change| change.revision).collect()
    }

    fn position(log: &Log) -> [u64; 2] {
        [View::Committed, View::Latest].map(|view| log.position(view).revision)
    }

    #[test]
    fn every_change_makes_one_revision() {
        let mut log = log(10);
        log.stage(EventKind::Registered, topic("/a"));
        log.stage(EventKind::Unregistered, topic("/a"));
        assert_eq!((log.write_size(), position(&log)), ((2, 4), [0, 2]));
        assert_eq!((commit(&mut log), log.next_revision()), (vec![1, 2], 3));
        assert!(!log.has_writes() && log.write_size() == (0, 0));
    }

    #[test]
    fn changes_that_come_during_a_commit_are_for_the_next_one() {
        let mut log = log(2);
        log.stage(EventKind::Registered, topic("/a"));
        assert_eq!(log.begin_commit().len(), 1);
        log.stage(EventKind::Registered, topic("/b"));
        log.stage(EventKind::Updated, topic("/a"));
        assert_eq!((position(&log), revisions(&log, 0)), ([0, 3], Some(vec![])));
        assert_eq!((log.commit().len(), position(&log)), (1, [1, 3]));
        assert_eq!(revisions(&log, 0), Some(vec![1]), "later events do not count yet");
        assert_eq!((commit(&mut log), revisions(&log, 1)), (vec![2, 3], Some(vec![2, 3])));
        assert_eq!(revisions(&log, 0), None, "the history has room for two");
    }

    #[test]
    fn a_rollback_gives_all_revisions_back_that_are_not_committed() {
        let mut log = log(2);
        for name in ["/a", "/b"] {
            log.stage(EventKind::Registered, topic(name));
        }
        commit(&mut log);
        log.stage(EventKind::Updated, topic("/a"));
        log.begin_commit();
        log.stage(EventKind::Registered, topic("/c"));
        log.rollback();
        assert_eq!((position(&log), log.has_writes()), ([2, 2], false));
        assert_eq!(revisions(&log, 0), Some(vec![1, 2]), "the batches have displaced no event");
        assert_eq!(commit(&mut log), []);
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
        assert!(log.has_writes());
        assert_eq!((log.begin_commit().len(), log.commit(), log.next_revision()), (1, vec![], 1));
    }

    #[test]
    fn a_new_epoch_has_no_history() {
        let mut log = log(10);
        log.stage(EventKind::Registered, topic("/a"));
        commit(&mut log);
        log.reset_history(8);
        assert_eq!(log.position(View::Latest), Since { epoch: 8, revision: 1 });
        assert_eq!((revisions(&log, 0), revisions(&log, 1)), (None, Some(vec![])));
    }
}
