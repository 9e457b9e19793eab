//! The registered topics, the processes that own them, and the sessions that hold them.
//!
//! A batch changes the directory at once and can be rolled back: [`Directory::rollback`] restores
//! the state before the batch, [`Directory::commit`] forgets it.

pub(super) mod access;
pub(super) mod owners;
pub(super) mod sessions;
pub(super) mod topics;

use std::sync::Arc;
use std::time::Instant;

use cortex_proto::TopicName;

use crate::peer::Process;
use crate::registry::log::record::Hold;
use owners::{Owners, WatchChanges};
use sessions::{SessionKey, Sessions};
use topics::{Entry, TopicList, Topics};

/// Every topic, reachable by name, by order, by its owner's process and by its session.
#[derive(Debug, Default)]
pub(super) struct Directory {
    topics: Topics,
    owners: Owners,
    sessions: Sessions,
    /// The list of all topics, kept until one changes.
    list: Option<TopicList>,
    /// What the batch has changed, oldest first.
    undo: Vec<Undo>,
}

/// How one topic was before a change.
#[derive(Debug)]
struct Undo {
    name: TopicName,
    before: Option<DetachedEntry>,
    /// The session that the change extends, and when it would have ended.
    session_end: Option<(SessionKey, Instant)>,
}

/// An entry that is not in its place.
#[derive(Debug)]
struct DetachedEntry {
    entry: Entry,
    /// When its session ends; `None` for a full lease, or without a session.
    session_end: Option<Instant>,
}

impl Directory {
    pub(super) fn len(&self) -> usize {
        self.topics.len()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Entry> {
        self.topics.get(name)
    }

    /// The topics in the order of their first registration.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.topics.iter()
    }

    /// The packed infos of all topics, in the order of their first registration.
    pub(super) fn list(&mut self) -> TopicList {
        let topics = &self.topics;
        let pack = || topics.iter().map(|entry| Arc::clone(&entry.packed)).collect();
        Arc::clone(self.list.get_or_insert_with(pack))
    }

    /// The place in the order for a topic that is registered for the first time.
    pub(super) fn next_order(&self) -> u64 {
        self.topics.next_order()
    }

    /// Adds a topic that a former daemon has stored.
    pub(super) fn restore(&mut self, entry: Entry, now: Instant) {
        self.attach(DetachedEntry { entry, session_end: None }, now);
    }

    /// Puts an entry in place of the topic's former one, if it has one. Its session gets a full
    /// lease.
    pub(super) fn put(&mut self, entry: Entry, now: Instant) {
        let session_end = entry.session().and_then(|(key, _)| {
            let end = self.sessions.end_of(&key)?;
            Some((key, end))
        });
        let name = entry.info.name.clone();
        let before = self.detach(name.as_str());
        self.undo.push(Undo { name, before, session_end });
        self.attach(DetachedEntry { entry, session_end: None }, now);
    }

    /// Removes a topic and returns its entry.
    pub(super) fn remove(&mut self, name: &TopicName) -> Option<Entry> {
        let before = self.detach(name.as_str())?;
        let entry = before.entry.clone();
        self.undo.push(Undo { name: name.clone(), before: Some(before), session_end: None });
        Some(entry)
    }

    /// Notes that a probe found the endpoint alive. Returns the entry when that is news.
    pub(super) fn note_alive(&mut self, name: &TopicName) -> Option<&Entry> {
        let entry = self.topics.get_mut(name.as_str()).filter(|entry| !entry.found_alive)?;
        let before = DetachedEntry { entry: entry.clone(), session_end: None };
        self.undo.push(Undo { name: name.clone(), before: Some(before), session_end: None });
        entry.found_alive = true;
        Some(entry)
    }

    /// Keeps the changes of the batch.
    pub(super) fn commit(&mut self) {
        self.undo.clear();
    }

    /// Undoes the changes of the batch.
    pub(super) fn rollback(&mut self, now: Instant) {
        for Undo { name, before, session_end } in std::mem::take(&mut self.undo).into_iter().rev() {
            self.detach(name.as_str());
            if let Some(before) = before {
                self.attach(before, now);
            }
            if let Some((key, end)) = session_end {
                self.sessions.set_end(&key, end);
            }
        }
    }

    /// Marks the topics of a process that has ended as orphaned, and returns their names.
    pub(super) fn process_exited(&mut self, process: Process) -> Vec<TopicName> {
        let names: Vec<_> = self.owners.process_exited(process).into_iter().collect();
        for name in &names {
            if let Some(entry) = self.topics.get_mut(name.as_str()) {
                entry.is_orphaned = true;
            }
        }
        names
    }

    /// Notes that the daemon cannot watch a process, and returns the names of its topics.
    pub(super) fn process_unseen(&mut self, process: Process) -> Vec<TopicName> {
        self.owners.process_unseen(process).into_iter().collect()
    }

    /// Whether the daemon can judge an owner with this hold only by probes.
    pub(super) fn needs_probes(&self, hold: &Hold, owner: Option<Process>) -> bool {
        *hold == Hold::Process && owner.is_none_or(|process| self.owners.is_unseen(process))
    }

    /// The watches on processes that must begin and end since the last call.
    pub(super) fn take_watch_changes(&mut self) -> WatchChanges {
        self.owners.take_watch_changes()
    }

    pub(super) fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// Gives a session a full lease. Returns the lease in ms; `None` when no such session exists.
    pub(super) fn renew_session(&mut self, key: &SessionKey, now: Instant) -> Option<u64> {
        self.sessions.renew(key, now)
    }

    /// Gives every session a full lease.
    pub(super) fn renew_all_sessions(&mut self, now: Instant) {
        self.sessions.renew_all(now);
    }

    /// The lease of the session that holds a topic, in ms.
    pub(super) fn lease_of(&self, entry: &Entry) -> Option<u64> {
        self.sessions.lease_of(&entry.session()?.0)
    }

    /// When the next session ends, unless a client renews it.
    pub(super) fn next_session_end(&self) -> Option<Instant> {
        self.sessions.next_end()
    }

    /// The topics of the sessions that have ended by `now`.
    pub(super) fn topics_of_ended_sessions(&self, now: Instant) -> Vec<TopicName> {
        self.sessions.ended(now)
    }

    fn attach(&mut self, detached: DetachedEntry, now: Instant) {
        let DetachedEntry { entry, session_end } = detached;
        let name = &entry.info.name;
        if let Some(process) = entry.living_process() {
            self.owners.add(process, name.clone());
        }
        if let Some((key, lease_ms)) = entry.session() {
            self.sessions.add(key, lease_ms, name.clone(), session_end, now);
        }
        self.topics.insert(entry);
        self.list = None;
    }

    fn detach(&mut self, name: &str) -> Option<DetachedEntry> {
        let entry = self.topics.remove(name)?;
        let name = &entry.info.name;
        if let Some(process) = entry.living_process() {
            self.owners.remove(process, name);
        }
        let mut session_end = None;
        if let Some((key, _)) = entry.session() {
            session_end = self.sessions.end_of(&key);
            self.sessions.remove(&key, name);
        }
        self.list = None;
        Some(DetachedEntry { entry, session_end })
    }
}

#[cfg(test)]
mod tests;
