//! What a batch changes: staged first, and then kept or taken back.

use std::sync::Arc;
use std::time::Instant;

use crate::registry::directory::sessions::SessionKey;
use crate::registry::directory::topics::Entry;
use crate::registry::subscriptions::watches::{Decided, wake_cost};
use crate::registry::{
    Change, EVICTION_RETRY, Effects, Event, EventKind, Hold, Record, Registry, Timestamp, Write,
};

/// A change that counts only when it is stored.
#[derive(Debug)]
pub(in crate::registry) struct Staged {
    before: Option<Detached>,
    change: Option<Change>,
}

/// An entry that is not in order, and what was known of it beside it.
#[derive(Debug)]
pub(in crate::registry) struct Detached {
    entry: Entry,
    /// When its session ends; `None`: after a full term, or it has none.
    session_end: Option<Instant>,
}

impl From<Entry> for Detached {
    fn from(entry: Entry) -> Self {
        Self { entry, session_end: None }
    }
}

impl Registry {
    /// The batch is stored: gives what is to be done.
    pub fn commit(&mut self, now: Timestamp) -> Effects {
        let changes: Vec<_> = self.staged.drain(..).filter_map(|staged| staged.change).collect();
        for change in &changes {
            self.counters.count(change.kind);
        }
        let before = self.revision - changes.len() as u64;
        let topics = changes.iter().map(|change| change.info.name.clone()).collect();
        self.effects.changed.extend(changes);
        self.end_batch(&Decided { is_stored: true, topics, before }, now)
    }

    fn end_batch(&mut self, decided: &Decided, now: Timestamp) -> Effects {
        self.wake(decided, now);
        self.history.trim();
        self.writes.clear();
        self.answered.clear();
        self.cost = 0;
        self.owners.settle(&mut self.effects);
        std::mem::take(&mut self.effects)
    }

    /// The batch could not be stored: takes its changes back, answers them with ERROR and the
    /// other requests from what is there. Evictions are tried again later.
    pub fn rollback(&mut self, problem: &str, now: Timestamp) -> Effects {
        self.counters.not_stored += 1;
        let staged = std::mem::take(&mut self.staged);
        let writes = std::mem::take(&mut self.writes);
        let names = writes.iter().map(|write| write.name.clone()).collect();
        for (staged, write) in staged.into_iter().zip(writes).rev() {
            self.detach(write.name.as_str());
            if let Some(before) = staged.before {
                self.put_back(before, staged.change.as_ref(), now.instant);
            }
            if staged.change.is_some() {
                self.revision -= 1;
                self.history.pop();
            }
        }
        self.retry_evictions_at = Some(now.instant + EVICTION_RETRY);
        self.effects.replies.clear();
        self.effects.refused.clear();
        // The numbers of what was taken back are given again: looks for them must not be.
        let topics = &self.topics;
        self.effects.probe.retain(|probe| {
            let present = topics.get(probe.name.as_str());
            present.is_some_and(|entry| entry.revision == probe.revision)
        });
        let counters = self.counters;
        for asked in std::mem::take(&mut self.answered) {
            self.answer_without_store(asked, problem, now);
        }
        // Each request counts once.
        self.counters = counters;
        let before = self.revision;
        self.end_batch(&Decided { is_stored: false, topics: names, before }, now)
    }

    /// Undoes a change. What was to be evicted is so again, a little later.
    fn put_back(&mut self, mut before: Detached, change: Option<&Change>, now: Instant) {
        if change.is_some_and(|change| matches!(change.kind, EventKind::Evicted(_))) {
            before.entry.probes.hurry(now + EVICTION_RETRY);
        }
        self.attach(before, now);
    }

    pub(in crate::registry) fn stage(
        &mut self,
        before: Option<Detached>,
        change: Option<Change>,
        write: Write,
    ) {
        self.staged.push(Staged { before, change });
        self.writes.push(write);
    }

    /// Stages a topic that is new or new again.
    pub(in crate::registry) fn stage_entry(&mut self, mut entry: Entry, now: Instant) {
        let before = self.detach(entry.info.name.as_str());
        let kind = if before.is_some() { EventKind::Updated } else { EventKind::Registered };
        self.revision += 1;
        entry.revision = self.revision;
        let record = Some(entry.record());
        self.stage_event(before, &entry, kind, record);
        self.attach(entry.into(), now);
    }

    /// Stages that a topic, which is detached already, is gone.
    pub(in crate::registry) fn stage_removal(&mut self, detached: Detached, kind: EventKind) {
        self.revision += 1;
        let entry = detached.entry.clone();
        self.stage_event(Some(detached), &entry, kind, None);
    }

    /// Stages what has happened to `entry` at the present revision.
    fn stage_event(
        &mut self,
        before: Option<Detached>,
        entry: &Entry,
        kind: EventKind,
        record: Option<Record>,
    ) {
        let (revision, info, owner) = (self.revision, Arc::clone(&entry.info), entry.owner);
        self.cost += wake_cost(self.waiters.pattern_bytes(), &info.name);
        let event = Event { revision, kind, packed: Arc::clone(&entry.packed) };
        self.history.push(info.name.clone(), event.clone());
        let write = Write { name: info.name.clone(), record, event: Some(event) };
        self.stage(before, Some(Change { revision, kind, info, owner }), write);
    }

    /// Puts an entry and all that hangs on it into order.
    pub(in crate::registry) fn attach(&mut self, detached: Detached, now: Instant) {
        let Detached { entry, session_end } = detached;
        let name = &entry.info.name;
        if let Some(process) = entry.living_process() {
            self.owners.add(process, name.clone());
        }
        if let Some((key, lease_ms)) = session_of(&entry) {
            self.sessions.add(key, lease_ms, name.clone(), session_end, now);
        }
        if let Some(due) = entry.probes.due() {
            self.agenda.insert((due, name.clone()));
        }
        self.topics.insert(entry);
        self.forget_lists();
    }

    /// The opposite of [`attach`](Self::attach).
    pub(in crate::registry) fn detach(&mut self, name: &str) -> Option<Detached> {
        let entry = self.topics.remove(name)?;
        let name = &entry.info.name;
        if let Some(process) = entry.living_process() {
            self.owners.remove(process, name);
        }
        let mut session_end = None;
        if let Some((key, _)) = session_of(&entry) {
            session_end = self.sessions.end_of(&key);
            self.sessions.remove(&key, name);
        }
        if let Some(due) = entry.probes.due() {
            self.agenda.remove(&(due, name.clone()));
        }
        self.forget_lists();
        Some(Detached { entry, session_end })
    }

    /// After a batch that was taken back, a revision may come again with other topics.
    fn forget_lists(&mut self) {
        self.list_reply = None;
        self.snapshot_reply = None;
    }
}

/// The session that keeps an entry, and its term in ms.
pub(in crate::registry) fn session_of(entry: &Entry) -> Option<(SessionKey, u64)> {
    match &entry.hold {
        Hold::Session { id, lease_ms } => {
            Some((SessionKey { uid: entry.owner.uid, id: id.clone() }, *lease_ms))
        }
        Hold::Process | Hold::Static => None,
    }
}
