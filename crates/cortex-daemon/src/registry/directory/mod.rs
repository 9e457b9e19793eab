//! The registered topics, the processes that own them, and the sessions that hold them.
//!
//! A change counts at once for later changes, and can be rolled back until the store has it. Until
//! then readers of the committed view see the topic as it was.

pub(super) mod access;
mod endpoints;
pub(super) mod owners;
pub(super) mod sessions;
pub(super) mod topics;
mod uncommitted;

use std::sync::Arc;
use std::time::Instant;

use cortex_proto::{TopicInfo, TopicName};

use crate::peer::{EndpointListener, Process};
use crate::registry::log::record::{EvictionReason, Hold};
use crate::registry::view::View;
use crate::registry::waiting_requests::WaitingRequests;
use endpoints::Endpoints;
use owners::{Owners, WatchChanges};
use sessions::{EndedSessions, SessionKey, Sessions};
use topics::{EndpointFinding, Entry, TopicList, Topics};
use uncommitted::{DetachedEntry, MovedEnd, Uncommitted, Undo};

/// Every topic, reachable by name, by order, by its owner's process and by its session.
#[derive(Debug, Default)]
pub(super) struct Directory {
    topics: Topics,
    endpoints: Endpoints,
    owners: Owners,
    sessions: Sessions,
    /// The number of topics that are dead and not removed from the store yet.
    dead_count: usize,
    /// The list of all committed topics, kept until one changes.
    list: Option<TopicList>,
    uncommitted: Uncommitted,
    /// The number of committed topics, and that number after the commit under way.
    committed_count: usize,
    committing_count: usize,
}

impl Directory {
    pub(super) fn len(&self) -> usize {
        self.topics.len()
    }

    /// The number of topics in a view.
    pub(super) fn count(&self, view: View) -> usize {
        match view {
            View::Committed => self.committed_count,
            View::Latest => self.topics.len(),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Entry> {
        self.topics.get(name)
    }

    /// The topic that peers see under a name.
    pub(super) fn find(&self, name: &str, view: View) -> Option<&Entry> {
        let undo = match view {
            View::Committed => self.uncommitted.oldest(name),
            View::Latest => None,
        };
        let entry = undo.map_or_else(|| self.topics.get(name), Undo::entry_before);
        entry.filter(|entry| entry.dead.is_none())
    }

    /// The topics that peers see, in the order of their first registration.
    pub(super) fn visible(&self, view: View) -> Vec<&Entry> {
        let is_alive = |entry: &&Entry| entry.dead.is_none();
        if view == View::Latest || self.uncommitted.is_empty() {
            return self.topics.iter().filter(is_alive).collect();
        }
        let is_unchanged =
            |entry: &&Entry| self.uncommitted.oldest(entry.info.name.as_str()).is_none();
        let unchanged = self.topics.iter().filter(is_unchanged);
        let committed = unchanged.chain(self.uncommitted.committed_entries());
        let mut visible: Vec<_> = committed.filter(is_alive).collect();
        visible.sort_by_key(|entry| entry.order);
        visible
    }

    /// The topics in the order of their first registration.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.topics.iter()
    }

    /// The packed infos of the topics that peers see, in the order of their first registration.
    pub(super) fn list(&mut self, view: View) -> TopicList {
        if view == View::Latest && !self.uncommitted.is_empty() {
            return self.pack_list(view);
        }
        let list = self.list.take().unwrap_or_else(|| self.pack_list(view));
        Arc::clone(self.list.insert(list))
    }

    fn pack_list(&self, view: View) -> TopicList {
        self.visible(view).into_iter().map(|entry| Arc::clone(&entry.packed)).collect()
    }

    /// The place in the order for a topic that is registered for the first time.
    pub(super) fn next_order(&self) -> u64 {
        self.topics.next_order()
    }

    /// Adds a topic that a former daemon has stored.
    pub(super) fn restore(&mut self, entry: Entry, now: Instant) {
        self.attach(DetachedEntry { entry, session_end: None }, now);
        self.committed_count = self.topics.len();
    }

    /// Puts an entry in place of the topic's former one, if it has one. Its session gets a full
    /// lease.
    pub(super) fn put(&mut self, entry: Entry, now: Instant) {
        let session = entry.session().and_then(|(key, _)| {
            let end = self.sessions.end_of(&key)?;
            Some((key, end))
        });
        let name = entry.info.name.clone();
        let before = self.detach(name.as_str());
        self.attach(DetachedEntry { entry, session_end: None }, now);
        let session_end = session.map(|(key, before)| {
            let after = self.sessions.end_of(&key);
            MovedEnd { key, before, after }
        });
        self.uncommitted.push(Undo { name, before, session_end, changes_list: true });
    }

    /// Removes a topic and returns its entry.
    pub(super) fn remove(&mut self, name: &TopicName) -> Option<Entry> {
        let before = self.detach(name.as_str())?;
        let entry = before.entry.clone();
        self.push_removal(name, before);
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
        self.uncommitted.push(Undo {
            name: name.clone(),
            before: Some(before),
            session_end: None,
            changes_list: false,
        });
        entry.found_alive = true;
        entry.listener = entry.listener.or(listener);
        Some(entry)
    }

    /// Forgets what listened at the endpoint of an owner that the daemon cannot see, when the owner
    /// registers the topic again: it may have a new socket.
    pub(super) fn forget_listener(&mut self, name: &TopicName) {
        if let Some(entry) = self.topics.get_mut(name.as_str()) {
            entry.listener = None;
        }
    }

    /// Whether another node has registered the endpoint of this topic later, and lives.
    pub(super) fn has_later_claim(&self, entry: &Entry) -> bool {
        let others = self.endpoints.of_other_nodes(&entry.info);
        others.filter_map(|name| self.find(name.as_str(), View::Latest)).any(|other| {
            let is_same_host = other.owner.is_local == entry.owner.is_local;
            other.revision > entry.revision && !other.is_orphaned && is_same_host
        })
    }

    /// The topics that other nodes have registered at this endpoint, and whose owners the daemon
    /// cannot see.
    pub(super) fn unseen_at(&self, info: &TopicInfo) -> Vec<TopicName> {
        let is_unseen = |name: &&TopicName| {
            let entry = self.find(name.as_str(), View::Latest);
            entry.is_some_and(|entry| self.needs_probes(&entry.hold, entry.owner.process))
        };
        self.endpoints.of_other_nodes(info).filter(is_unseen).cloned().collect()
    }

    /// Notes what the last probe of an endpoint found.
    pub(super) fn note_finding(&mut self, name: &TopicName, finding: EndpointFinding) {
        if let Some(entry) = self.topics.get_mut(name.as_str()) {
            entry.endpoint = finding;
        }
    }

    /// Removes a topic that is dead. Every peer sees it gone from now on, also before the removal is
    /// committed, and if it is rolled back.
    pub(super) fn evict(&mut self, name: &TopicName, reason: EvictionReason) -> Option<Entry> {
        let mut before = self.detach(name.as_str())?;
        before.entry.dead = Some(reason);
        self.list = None;
        let entry = before.entry.clone();
        self.push_removal(name, before);
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

    /// Lets the store have all changes under way.
    pub(super) fn begin_commit(&mut self) {
        self.uncommitted.begin_commit();
        self.committing_count = self.topics.len();
    }

    /// Keeps the changes that the store had under way.
    pub(super) fn commit(&mut self) {
        self.committed_count = self.committing_count;
        if self.uncommitted.commit() {
            self.list = None;
        }
    }

    /// Undoes all changes that are not committed. Returns the names of their topics.
    pub(super) fn rollback(&mut self, now: Instant) -> Vec<TopicName> {
        let mut names = Vec::new();
        for Undo { name, before, session_end, .. } in self.uncommitted.take().into_iter().rev() {
            self.detach(name.as_str());
            if let Some(before) = before {
                self.attach(before, now);
            }
            // A renewal that came later keeps the session alive.
            if let Some(MovedEnd { key, before, after }) = session_end
                && self.sessions.end_of(&key) == after
            {
                self.sessions.set_end(&key, before);
            }
            names.push(name);
        }
        self.list = None;
        names.reverse();
        names
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

    /// The sessions that have ended by `now`.
    pub(super) fn ended_sessions(&self, waiting: &WaitingRequests, now: Instant) -> EndedSessions {
        self.sessions.ended(waiting, now)
    }

    fn push_removal(&mut self, name: &TopicName, before: DetachedEntry) {
        self.uncommitted.push(Undo {
            name: name.clone(),
            before: Some(before),
            session_end: None,
            changes_list: true,
        });
    }

    fn attach(&mut self, detached: DetachedEntry, now: Instant) {
        let DetachedEntry { entry, session_end } = detached;
        let name = &entry.info.name;
        self.endpoints.add(&entry.info);
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
    }

    fn detach(&mut self, name: &str) -> Option<DetachedEntry> {
        let entry = self.topics.remove(name)?;
        let name = &entry.info.name;
        self.endpoints.remove(&entry.info);
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
        Some(DetachedEntry { entry, session_end })
    }
}

#[cfg(test)]
mod tests;
