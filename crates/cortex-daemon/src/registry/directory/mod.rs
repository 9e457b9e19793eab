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

use crate::peer::{EndpointListener, Process};
use crate::registry::log::record::{EvictionReason, Hold};
use owners::{Owners, WatchChanges};
use sessions::{SessionKey, Sessions};
use topics::{EndpointFinding, Entry, TopicList, Topics};

/// Every topic, reachable by name, by order, by its owner's process and by its session.
#[derive(Debug, Default)]
pub(super) struct Directory {
    topics: Topics,
    owners: Owners,
    sessions: Sessions,
    /// The number of topics that are dead and not removed from the store yet.
    dead_count: usize,
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

    /// The topic that peers see under a name.
    pub(super) fn find(&self, name: &str) -> Option<&Entry> {
        self.topics.get(name).filter(|entry| entry.dead.is_none())
    }

    /// The topics that peers see, in the order of their first registration.
    pub(super) fn visible(&self) -> impl Iterator<Item = &Entry> {
        self.topics.iter().filter(|entry| entry.dead.is_none())
    }

    /// The topics in the order of their first registration.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.topics.iter()
    }

    /// The packed infos of the topics that peers see, in the order of their first registration.
    pub(super) fn list(&mut self) -> TopicList {
        let topics = &self.topics;
        let visible = || topics.iter().filter(|entry| entry.dead.is_none());
        let pack = || visible().map(|entry| Arc::clone(&entry.packed)).collect();
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

    /// Notes that a probe found the endpoint served, by this listener if it is known. Returns the
    /// entry when that is news.
    pub(super) fn note_served(
        &mut self,
        name: &TopicName,
        listener: Option<EndpointListener>,
    ) -> Option<&Entry> {
        let entry = self.topics.get_mut(name.as_str())?;
        // The first listener after the registration is the evidence, not a later one.
        let is_news = !entry.found_alive || (entry.listener.is_none() && listener.is_some());
        if !is_news {
            return None;
        }
        let before = DetachedEntry { entry: entry.clone(), session_end: None };
        self.undo.push(Undo { name: name.clone(), before: Some(before), session_end: None });
        entry.found_alive = true;
        entry.listener = entry.listener.or(listener);
        Some(entry)
    }

    /// Notes what the last probe of an endpoint found.
    pub(super) fn note_finding(&mut self, name: &TopicName, finding: EndpointFinding) {
        if let Some(entry) = self.topics.get_mut(name.as_str()) {
            entry.endpoint = finding;
        }
    }

    /// Removes a topic that is dead. It stays hidden from every peer, also if the batch is undone.
    pub(super) fn evict(&mut self, name: &TopicName, reason: EvictionReason) -> Option<Entry> {
        let mut before = self.detach(name.as_str())?;
        before.entry.dead = Some(reason);
        let entry = before.entry.clone();
        self.undo.push(Undo { name: name.clone(), before: Some(before), session_end: None });
        Some(entry)
    }

    pub(super) fn has_dead(&self) -> bool {
        self.dead_count > 0
    }

    /// The dead topics whose eviction the store does not have yet.
    pub(super) fn dead_topics(&self) -> Vec<(TopicName, EvictionReason)> {
        let dead = |entry: &Entry| Some((entry.info.name.clone(), entry.dead?));
        if self.dead_count == 0 {
            Vec::new()
        } else {
            self.topics.iter().filter_map(dead).collect()
        }
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
        if entry.dead.is_some() {
            // Nothing holds it any more.
            self.dead_count += 1;
        } else {
            if let Some(process) = entry.living_process() {
                self.owners.add(process, name.clone());
            }
            if let Some((key, lease_ms)) = entry.session() {
                self.sessions.add(key, lease_ms, name.clone(), session_end, now);
            }
        }
        self.topics.insert(entry);
        self.list = None;
    }

    fn detach(&mut self, name: &str) -> Option<DetachedEntry> {
        let entry = self.topics.remove(name)?;
        let name = &entry.info.name;
        let mut session_end = None;
        if entry.dead.is_some() {
            self.dead_count -= 1;
        } else {
            if let Some(process) = entry.living_process() {
                self.owners.remove(process, name);
            }
            if let Some((key, _)) = entry.session() {
                session_end = self.sessions.end_of(&key);
                self.sessions.remove(&key, name);
            }
        }
        self.list = None;
        Some(DetachedEntry { entry, session_end })
    }
}

#[cfg(test)]
mod tests;
