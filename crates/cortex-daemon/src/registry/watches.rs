//! WAIT and WATCH: what they are answered, and when those that wait are woken.
//!
//! A request that cannot be answered yet is held back as a [`Waiter`]. Only when a batch is decided,
//! those are answered whom it concerns, whose time is over or who must make room: what could not be
//! stored wakes nobody.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use cortex_proto::{
    DiscoveryRequest, DiscoveryStatus, EncodedEvent, EncodedResponse, EncodedWatchExt, MAX_WAIT_MS,
    RequestExt, Since, TopicFilter, TopicName,
};

use super::requests::{Answer, Content, Outcome, non_empty};
use super::waiters::{Waiter, Wants, Watch};
use super::{Asked, Event, Moment, Registry, Reply};
use crate::peer::ConnectionId;

/// The most events in a reply: whoever is further behind asks again.
const MOST_EVENTS: u64 = 1000;

/// How a batch ended, and what follows for those who wait.
pub(super) struct Decided {
    /// Whether what it has changed counts.
    pub(super) is_stored: bool,
    /// The topics that are not what they were, or are so again.
    pub(super) topics: Vec<TopicName>,
    /// The revision before it.
    pub(super) before: u64,
}

/// The part of the history that a reply is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Passage {
    watch: Watch,
    /// What is behind this revision.
    since: u64,
}

impl Registry {
    pub(super) fn wait(&self, request: &DiscoveryRequest, now: Moment) -> Answer {
        let Some(name) = non_empty(request.topic_name.as_deref()) else {
            return Outcome::error("Missing topic_name in wait request").into();
        };
        let found = self.find(name, now);
        let wait = wait_of(request.ext.as_ref());
        if found.status == DiscoveryStatus::Ok || wait.is_zero() {
            return found.into();
        }
        match TopicName::new(name) {
            Ok(name) => Answer::HeldBack { wants: Wants::Topic(name), wait },
            Err(problem) => {
                Outcome::error(format!("No such topic can be waited for: {problem}")).into()
            }
        }
    }

    pub(super) fn watch(&self, request: &DiscoveryRequest) -> Answer {
        let no_ext = RequestExt::default();
        let ext = request.ext.as_ref().unwrap_or(&no_ext);
        let filter = match ext.filter.as_deref().map(TopicFilter::new).transpose() {
            Ok(filter) => filter.map(Arc::new),
            Err(problem) => return Outcome::error(format!("ext.filter: {problem}")).into(),
        };
        let Some(since) = ext.since.and_then(|since| self.known_revision(since)) else {
            return Outcome { content: Content::Snapshot(filter), ..Outcome::ok("") }.into();
        };
        let limit = ext.limit.unwrap_or(MOST_EVENTS).clamp(1, MOST_EVENTS);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let passage = Passage { watch: Watch { filter, limit }, since };
        let wait = wait_of(Some(ext));
        if wait.is_zero() || self.events_of(&passage).next().is_some() {
            return Outcome { content: Content::Events(passage), ..Outcome::ok("") }.into();
        }
        // From here on it has seen all up to the present: what wakes it is all that it is told.
        Answer::HeldBack { wants: Wants::Change(passage.watch), wait }
    }

    /// The revision from which a watch can go on without a gap.
    fn known_revision(&self, since: Since) -> Option<u64> {
        let is_known = since.epoch == self.epoch
            && self.history.since(since.revision, self.revision).is_some();
        is_known.then_some(since.revision)
    }

    /// Holds a reply back.
    pub(super) fn hold_back(&mut self, asked: Asked, wants: Wants, wait: Duration, now: Moment) {
        let end = now.instant + wait;
        self.effects.held_back.push(asked.from.connection);
        let waiter = Waiter { to: asked.from, uid: asked.peer.uid, end, wants };
        let crowded_out = self.waiters.add(waiter);
        self.crowded_out.extend(crowded_out);
    }

    /// Nobody waits at this connection any longer.
    pub(super) fn let_go(&mut self, connection: ConnectionId) {
        let dropped = self.waiters.take_connection(connection);
        self.effects.let_go.extend(dropped.iter().map(|waiter| waiter.to.connection));
    }

    /// Answers those who need not wait any longer, now that the batch is decided.
    pub(super) fn wake(&mut self, decided: &Decided, now: Moment) {
        if std::mem::take(&mut self.is_new_epoch) {
            for waiter in self.waiters.take_watches() {
                self.answer_afresh(waiter);
            }
        }
        let mut woken = Vec::new();
        for name in decided.topics.iter().collect::<BTreeSet<_>>() {
            let is_there = self.topics.get(name.as_str()).is_some();
            woken.extend(self.waiters.take_named(name, is_there, decided.is_stored));
        }
        if decided.is_stored {
            woken.extend(self.waiters.take_filtered(&decided.topics));
        }
        woken.append(&mut self.crowded_out);
        woken.extend(self.waiters.take_ended(now.instant));
        if self.is_closing {
            woken.extend(self.waiters.take_all());
        }
        // Watches on the same share their reply.
        let mut bodies = HashMap::new();
        for Waiter { to, wants, .. } in woken {
            let (status, body) = match wants {
                Wants::Topic(name) => {
                    let found = self.find(name.as_str(), now);
                    (found.status, self.body(found, true, now))
                }
                Wants::Change(watch) => {
                    let body = bodies.entry(watch).or_insert_with_key(|watch| {
                        let watch = watch.clone();
                        self.events_body(&Passage { watch, since: decided.before })
                    });
                    (DiscoveryStatus::Ok, Arc::clone(body))
                }
            };
            self.effects.replies.push(Reply { to, status, body });
        }
    }

    /// Tells a watch of another epoch all there is.
    fn answer_afresh(&mut self, waiter: Waiter) {
        let Wants::Change(watch) = waiter.wants else { return };
        let body = self.snapshot_body(watch.filter.as_deref());
        let status = DiscoveryStatus::Ok;
        self.effects.replies.push(Reply { to: waiter.to, status, body });
    }

    fn events_of<'a>(
        &'a self,
        passage: &'a Passage,
    ) -> impl Iterator<Item = &'a (TopicName, Event)> {
        let filter = passage.watch.filter.as_deref();
        let behind = self.history.since(passage.since, self.revision);
        behind.into_iter().flatten().filter(move |(name, _)| passes(filter, name))
    }

    /// The reply with what has happened behind a revision.
    pub(super) fn events_body(&mut self, passage: &Passage) -> Arc<[u8]> {
        let body = self.pack_events(passage);
        self.made(body)
    }

    fn pack_events(&self, passage: &Passage) -> Vec<u8> {
        let mut matching = self.events_of(passage);
        let events: Vec<_> = matching
            .by_ref()
            .take(passage.watch.limit)
            .map(|(name, event)| EncodedEvent {
                kind: event.kind.word(),
                revision: event.revision,
                topic_name: name.as_str(),
                topic_info: &event.packed,
                reason: event.kind.reason(),
            })
            .collect();
        // All was looked at, unless the limit has cut off something.
        let is_cut = matching.next().is_some();
        let revision = match events.last() {
            Some(last) if is_cut => last.revision,
            Some(_) | None => self.revision,
        };
        let epoch = self.epoch;
        packed(&[], &EncodedWatchExt { epoch, revision, snapshot: None, events: Some(&events) })
    }

    /// The reply with all topics; without a filter it is made once after a change.
    pub(super) fn snapshot_body(&mut self, filter: Option<&TopicFilter>) -> Arc<[u8]> {
        let place = Since { epoch: self.epoch, revision: self.revision };
        if let (None, Some((made_at, body))) = (filter, &self.snapshot_reply)
            && *made_at == place
        {
            return Arc::clone(body);
        }
        let topics = self.topics.iter().filter(|entry| passes(filter, &entry.info.name));
        let topics: Vec<_> = topics.map(|entry| &*entry.packed).collect();
        let Since { epoch, revision } = place;
        let ext = EncodedWatchExt { epoch, revision, snapshot: Some(true), events: None };
        let body = packed(&topics, &ext);
        let body = self.made(body);
        if filter.is_none() {
            self.snapshot_reply = Some((place, Arc::clone(&body)));
        }
        body
    }
}

fn passes(filter: Option<&TopicFilter>, name: &TopicName) -> bool {
    filter.is_none_or(|filter| filter.matches(name.as_str()))
}

/// How long a reply may be held back.
fn wait_of(ext: Option<&RequestExt>) -> Duration {
    let asked = ext.and_then(|ext| ext.wait_ms).unwrap_or(MAX_WAIT_MS);
    Duration::from_millis(asked.min(MAX_WAIT_MS))
}

fn packed(topics: &[&[u8]], ext: &EncodedWatchExt<'_>) -> Vec<u8> {
    let status = DiscoveryStatus::Ok;
    EncodedResponse { status, message: "", topic_info: None, topics, ext: Some(ext) }.to_bytes()
}
