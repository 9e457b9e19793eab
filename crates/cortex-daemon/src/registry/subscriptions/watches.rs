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

use crate::peer::ConnectionId;
use crate::registry::requests::{Answer, Content, Outcome, non_empty};
use crate::registry::subscriptions::waiters::{Waiter, WakeCondition, WatchSpec, passes};
use crate::registry::{PeerRequest, Registry, Reply, Timestamp};
use crate::zmtp::SHARED_FROM;

/// The most events in a reply: whoever is further behind asks again.
const MAX_EVENTS: u64 = 1000;
/// The most steps for one request: about a quarter of a second.
const MAX_EFFORT: usize = 500_000_000;
/// Behind an event that makes a reply longer than this, in bytes, no other one follows.
const MAX_REPLY_BYTES: usize = 256 * 1024;
/// The most bytes that waking takes, made or copied. Whoever comes later is told that nothing has
/// happened yet: it asks again, and then it is answered at its turn.
const MAX_WAKE_BYTES: usize = 4 * 1024 * 1024;

/// How a batch ended, and what follows for those who wait.
pub(in crate::registry) struct Decided {
    /// Whether what it has changed counts.
    pub(in crate::registry) is_stored: bool,
    /// The topics that are not what they were, or are so again.
    pub(in crate::registry) topics: Vec<TopicName>,
    /// The revision before it.
    pub(in crate::registry) before: u64,
}

impl Registry {
    pub(in crate::registry) fn wait(&self, request: &DiscoveryRequest, now: Timestamp) -> Answer {
        let Some(name) = non_empty(request.topic_name.as_deref()) else {
            return Outcome::error("Missing topic_name in wait request").into();
        };
        let found = self.find(name, now);
        let wait = wait_of(request.ext.as_ref());
        if found.status == DiscoveryStatus::Ok || wait.is_zero() {
            return found.into();
        }
        match TopicName::new(name) {
            Ok(name) => Answer::Parked { condition: WakeCondition::Topic(name), wait },
            Err(problem) => {
                Outcome::error(format!("No such topic can be waited for: {problem}")).into()
            }
        }
    }

    pub(in crate::registry) fn watch(&mut self, request: &DiscoveryRequest) -> Answer {
        let no_ext = RequestExt::default();
        let ext = request.ext.as_ref().unwrap_or(&no_ext);
        let filter = match ext.filter.as_deref().map(TopicFilter::new).transpose() {
            Ok(filter) => filter.map(Arc::new),
            Err(problem) => return Outcome::error(format!("ext.filter: {problem}")).into(),
        };
        let name_bytes = self.topics.name_bytes().max(self.history.name_bytes());
        if filter.as_ref().is_some_and(|filter| filter.match_cost(name_bytes) > MAX_EFFORT) {
            self.counters.over_limit += 1;
            let problem = "with so many topics it would take too long: have less behind a `*`";
            return Outcome::error(format!("ext.filter: {problem}")).into();
        }
        let Some(since) = ext.since.and_then(|since| self.known_revision(since)) else {
            let body = self.snapshot_body(filter.as_ref());
            return Outcome { content: Content::Made(body), ..Outcome::ok("") }.into();
        };
        let limit = ext.limit.unwrap_or(MAX_EVENTS).clamp(1, MAX_EVENTS);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let watch = WatchSpec { filter, limit };
        let wait = wait_of(Some(ext));
        let (body, has_events) = self.events_body(&watch, since);
        if has_events || wait.is_zero() {
            return Outcome { content: Content::Made(body), ..Outcome::ok("") }.into();
        }
        // From here on it has seen all up to the present: what wakes it is all that it is told.
        Answer::Parked { condition: WakeCondition::change(watch), wait }
    }

    /// The revision from which a watch can go on without a gap.
    fn known_revision(&self, since: Since) -> Option<u64> {
        let is_known = since.epoch == self.epoch
            && self.history.since(since.revision, self.revision).is_some();
        is_known.then_some(since.revision)
    }

    /// Holds a reply back.
    pub(in crate::registry) fn park(
        &mut self,
        asked: PeerRequest,
        condition: WakeCondition,
        wait: Duration,
        now: Timestamp,
    ) {
        let end = now.instant + wait;
        self.effects.parked.push(asked.reply_to.connection);
        let waiter = Waiter { to: asked.reply_to, uid: asked.peer.uid, end, condition };
        let displaced = self.waiters.add(waiter);
        self.displaced.extend(displaced);
    }

    /// Nobody waits at this connection any longer.
    pub(in crate::registry) fn cancel_waiters(&mut self, connection: ConnectionId) {
        let dropped = self.waiters.take_connection(connection);
        self.effects.cancelled.extend(dropped.iter().map(|waiter| waiter.to.connection));
    }

    /// Answers those who need not wait any longer, now that the batch is decided.
    pub(in crate::registry) fn wake(&mut self, decided: &Decided, now: Timestamp) {
        if let Some(epoch) = self.lost_epoch.take() {
            // Their next request is one of another epoch, and gets a snapshot.
            let body = self.no_events(Since { epoch, revision: self.revision });
            for Waiter { to, .. } in self.waiters.take_watches() {
                let body = Arc::clone(&body);
                self.effects.replies.push(Reply { to, status: DiscoveryStatus::Ok, body });
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
        woken.append(&mut self.displaced);
        woken.extend(self.waiters.take_ended(now.instant));
        if self.is_closing {
            woken.extend(self.waiters.take_all());
        }
        self.answer_woken(woken, decided.before, now);
    }

    fn answer_woken(&mut self, woken: Vec<Waiter>, since: u64, now: Timestamp) {
        // Watches on the same share their reply.
        let mut bodies: HashMap<WatchSpec, Arc<[u8]>> = HashMap::new();
        let mut nothing_yet = None;
        let mut bytes = 0;
        for Waiter { to, condition, .. } in woken {
            let (status, body) = match condition {
                WakeCondition::Topic(name) => {
                    let found = self.find(name.as_str(), now);
                    (found.status, self.body(found, true, now))
                }
                WakeCondition::Change(_, watch) => {
                    let known = bodies.get(&watch).map(Arc::clone);
                    let body = if bytes > MAX_WAKE_BYTES {
                        let place = Since { epoch: self.epoch, revision: since };
                        Arc::clone(nothing_yet.get_or_insert_with(|| self.no_events(place)))
                    } else if let Some(body) = known {
                        // A long one is not copied.
                        bytes += body.len().min(SHARED_FROM);
                        body
                    } else {
                        let (body, _) = self.events_body(&watch, since);
                        bytes += body.len();
                        bodies.insert(watch, Arc::clone(&body));
                        body
                    };
                    (DiscoveryStatus::Ok, body)
                }
            };
            self.effects.replies.push(Reply { to, status, body });
        }
    }

    /// The reply with what has happened behind a revision, and whether that is anything.
    fn events_body(&mut self, watch: &WatchSpec, since: u64) -> (Arc<[u8]>, bool) {
        let WatchSpec { filter, limit } = watch;
        let (mut cost, mut bytes, mut is_cut) = (0, 0, false);
        let mut events = Vec::new();
        for (name, event) in self.history.since(since, self.revision).into_iter().flatten() {
            cost += match_cost(filter.as_deref(), name);
            if !passes(filter.as_deref(), name) {
                continue;
            }
            if events.len() == *limit || bytes > MAX_REPLY_BYTES {
                is_cut = true;
                break;
            }
            bytes += name.as_str().len() + event.packed.len();
            events.push(EncodedEvent {
                kind: event.kind.word(),
                revision: event.revision,
                topic_name: name.as_str(),
                topic_info: &event.packed,
                reason: event.kind.reason(),
            });
        }
        // All was looked at, unless there is more than fits.
        let revision = match events.last() {
            Some(last) if is_cut => last.revision,
            Some(_) | None => self.revision,
        };
        let epoch = self.epoch;
        let ext = EncodedWatchExt { epoch, revision, snapshot: None, events: Some(&events) };
        let (body, has_events) = (packed(&[], &ext), !events.is_empty());
        self.cost += cost;
        (self.made(body), has_events)
    }

    /// The reply that nothing has happened up to there.
    fn no_events(&mut self, place: Since) -> Arc<[u8]> {
        let Since { epoch, revision } = place;
        let ext = EncodedWatchExt { epoch, revision, snapshot: None, events: Some(&[]) };
        self.made(packed(&[], &ext))
    }

    /// The reply with the topics that pass a filter. Asked for the same again, it is not made anew as
    /// long as nothing changes.
    fn snapshot_body(&mut self, filter: Option<&Arc<TopicFilter>>) -> Arc<[u8]> {
        let place = Since { epoch: self.epoch, revision: self.revision };
        if let Some(known) = &self.snapshot_reply
            && (known.place, known.filter.as_ref()) == (place, filter)
        {
            return Arc::clone(&known.body);
        }
        let mut cost = 0;
        let mut topics = Vec::new();
        for entry in self.topics.iter() {
            cost += match_cost(filter.map(Arc::as_ref), &entry.info.name);
            if passes(filter.map(Arc::as_ref), &entry.info.name) {
                topics.push(&*entry.packed);
            }
        }
        let Since { epoch, revision } = place;
        let ext = EncodedWatchExt { epoch, revision, snapshot: Some(true), events: None };
        let body = packed(&topics, &ext);
        self.cost += cost;
        let body = self.made(body);
        self.snapshot_reply =
            Some(SnapshotReply { place, filter: filter.cloned(), body: Arc::clone(&body) });
        body
    }
}

/// The last snapshot that was made for a watch.
#[derive(Debug)]
pub(in crate::registry) struct SnapshotReply {
    place: Since,
    filter: Option<Arc<TopicFilter>>,
    body: Arc<[u8]>,
}

/// About how long it takes to look at a topic, in ns.
fn match_cost(filter: Option<&TopicFilter>, name: &TopicName) -> usize {
    16 + filter.map_or(0, |filter| filter.match_cost(name.as_str().len()))
}

/// About how long it takes to hold a name against patterns of so many bytes together, in ns.
pub(in crate::registry) fn wake_cost(pattern_bytes: usize, name: &TopicName) -> usize {
    pattern_bytes * (8 + name.as_str().len()) / 4
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
