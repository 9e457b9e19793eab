//! The state of a watch over the topics.
//!
//! The first WATCH gives a snapshot and its revision. Each further WATCH gives the events since the
//! last revision, and the daemon parks it until an event happens. When the daemon does not know
//! WATCH, the client requests a LIST at each interval and compares it with the last one. Each
//! answer shows the daemon's level again.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use cortex_proto::{
    DiscoveryRequest, EventExt, EventKind, RemovalReason, RequestExt, Since, TopicFilter, TopicInfo,
};

use super::Action;
use super::backoff::Backoff;
use super::reply::{Reply, WatchReply};
use super::request::Query;
use super::wait::{LONG_POLL, whole_millis};
use crate::error::{Error, Result};

/// An event of a watch. A [`Snapshot`](Self::Snapshot) and the changes after it, applied in order,
/// give the daemon's list of topics at each revision, in the daemon's order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchEvent {
    /// All watched topics: the first event, and again whenever the changes since the last event are
    /// unknown. Discard what you knew before.
    Snapshot {
        /// The topics, in the order of their first registration.
        topics: Vec<TopicInfo>,
        /// The revision of the snapshot; `None` from a daemon that speaks only the legacy protocol.
        revision: Option<u64>,
        /// False for the first snapshot. True when events were lost: the daemon lost its state,
        /// another daemon took over, or the daemon no longer keeps the events.
        is_resync: bool,
    },
    /// A topic changed.
    Changed(Change),
}

/// One change of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// The kind of the change. A registered topic comes last in the list; an updated topic keeps
    /// its position.
    pub kind: EventKind,
    /// The number of the change; `None` from a daemon that speaks only the legacy protocol, since
    /// the client then compares lists.
    pub revision: Option<u64>,
    /// The topic; after a removal its last state.
    pub info: TopicInfo,
    /// Why the daemon removed the topic; `None` for other changes and for an unknown reason.
    pub reason: Option<RemovalReason>,
}

/// A watch in progress. The caller [takes](Self::take_event) all events before the next action.
#[derive(Debug)]
pub(crate) struct WatchState {
    filter: Option<TopicFilter>,
    interval: Duration,
    answer_timeout: Duration,
    mode: Mode,
    /// The caller has a snapshot: the next one is a resync.
    has_started: bool,
    /// The daemon must not park the next query, so that its answer shows whether a daemon runs.
    wants_immediate_reply: bool,
    /// How long the daemon may park the last WATCH.
    parked: Duration,
    not_before: Option<Instant>,
    backoff: Backoff,
    events: VecDeque<WatchEvent>,
}

/// The client's knowledge of the daemon and its topics.
#[derive(Debug)]
enum Mode {
    /// Nothing is known.
    Initial,
    /// The client has all events up to this revision.
    Following(Since),
    /// The daemon speaks only the legacy protocol; this is its last list.
    Polling(Option<Vec<TopicInfo>>),
}

impl WatchState {
    /// `interval` is the time between two LISTs. `answer_timeout` is how long the daemon may take
    /// for a request that it does not park.
    pub(crate) fn new(
        filter: Option<TopicFilter>,
        interval: Duration,
        answer_timeout: Duration,
    ) -> Self {
        Self {
            filter,
            interval,
            answer_timeout,
            mode: Mode::Initial,
            has_started: false,
            wants_immediate_reply: false,
            parked: Duration::ZERO,
            not_before: None,
            backoff: Backoff::default(),
            events: VecDeque::new(),
        }
    }

    /// The next event for the caller.
    pub(crate) fn take_event(&mut self) -> Option<WatchEvent> {
        self.events.pop_front()
    }

    /// What to do at `now`. Each call may start a new query.
    pub(crate) fn next_action(&mut self, now: Instant) -> Action {
        if let Mode::Polling(_) = self.mode {
            return Action::List { due: self.not_before.unwrap_or(now), until: None };
        }
        if let Some(until) = self.not_before.filter(|until| now < *until) {
            return Action::Wait(Some(until));
        }
        self.not_before = None;
        let (since, parked) = match &self.mode {
            Mode::Following(since) if self.wants_immediate_reply => (Some(*since), Duration::ZERO),
            Mode::Following(since) => (Some(*since), LONG_POLL),
            Mode::Initial | Mode::Polling(_) => (None, Duration::ZERO),
        };
        self.parked = parked;
        let request = self.watch(since, parked);
        Action::Send(if parked.is_zero() {
            Query::immediate(&request, self.answer_timeout)
        } else {
            Query::parked(&request, parked, self.answer_timeout)
        })
    }

    fn watch(&self, since: Option<Since>, parked: Duration) -> DiscoveryRequest {
        DiscoveryRequest::watch(RequestExt {
            filter: self.filter.as_ref().map(|filter| filter.as_str().to_owned()),
            since,
            wait_ms: Some(if parked.is_zero() { 0 } else { whole_millis(parked) }),
            ..RequestExt::default()
        })
    }

    /// The daemon answered. The request was sent at `sent_at`, and the answer arrived at `now`.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Unreadable`]. The watch can continue nevertheless.
    pub(crate) fn answered(&mut self, reply: Reply, sent_at: Instant, now: Instant) -> Result<()> {
        let speaks_extensions = reply.ext().is_some();
        let understood = match (&self.mode, speaks_extensions) {
            (Mode::Polling(_), false) => self.listed(reply, sent_at, now),
            (Mode::Initial | Mode::Following(_), true) => self.watched(reply, sent_at, now),
            // Another daemon has taken over, or this is the first answer.
            (Mode::Polling(_), true) => {
                self.switch_mode(Mode::Initial, now);
                Ok(())
            }
            (Mode::Initial | Mode::Following(_), false) => {
                self.switch_mode(Mode::Polling(None), now);
                Ok(())
            }
        };
        understood.inspect_err(|error| {
            if let Error::Unreadable(_) = error {
                self.unreadable(now);
            } else {
                self.failed(now);
            }
        })
    }

    /// The answer could not be read.
    pub(crate) fn unreadable(&mut self, now: Instant) {
        if let Mode::Following(_) = self.mode {
            // The same query would give the same unreadable answer: start with a snapshot.
            self.mode = Mode::Initial;
        }
        self.failed(now);
    }

    /// The connection was lost while the request was parked. The next query is one that the daemon
    /// answers at once.
    pub(crate) fn lost(&mut self) {
        self.wants_immediate_reply = true;
    }

    /// No answer came in time; or the query could not be sent, or its answer could not be used.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.wants_immediate_reply = true;
        self.pause(now);
    }

    fn pause(&mut self, now: Instant) {
        self.not_before = Some(now + self.backoff.pause());
    }

    /// Switches between WATCH and LIST: at once the first time, then with a backoff, in case two
    /// kinds of daemon answer alternately.
    fn switch_mode(&mut self, mode: Mode, now: Instant) {
        let is_first = matches!(self.mode, Mode::Initial) && !self.has_started;
        if !is_first {
            self.pause(now);
        }
        self.mode = mode;
    }

    fn watched(&mut self, reply: Reply, sent_at: Instant, now: Instant) -> Result<()> {
        let was_immediate = std::mem::take(&mut self.wants_immediate_reply);
        match (reply.watched()?, &self.mode) {
            (WatchReply::Snapshot { topics, since }, mode) => {
                // Back off from a daemon that always answers with a snapshot.
                let is_asked_for = !matches!(mode, Mode::Following(_));
                self.mode = Mode::Following(since);
                self.snapshot(topics, Some(since.revision));
                if !is_asked_for {
                    self.pause(now);
                }
            }
            (WatchReply::Events { events, since }, &Mode::Following(from))
                if since.epoch == from.epoch && since.revision >= from.revision =>
            {
                self.follow(events, from, since, now);
                self.schedule_next_query(was_immediate, sent_at, now);
            }
            (WatchReply::Events { .. }, _) => {
                // These events do not follow the last revision.
                self.mode = Mode::Initial;
                self.pause(now);
            }
        }
        Ok(())
    }

    fn follow(&mut self, events: Vec<EventExt>, from: Since, to: Since, now: Instant) {
        let mut seen = from.revision;
        for EventExt { kind, revision, topic_info, reason, .. } in events {
            if revision <= seen {
                continue;
            }
            if matches!(kind, EventKind::Other(_)) {
                // An unknown kind of change: only a new snapshot shows its effect.
                self.mode = Mode::Initial;
                self.pause(now);
                return;
            }
            seen = revision;
            let change = Change { kind, revision: Some(revision), info: topic_info, reason };
            self.events.push_back(WatchEvent::Changed(change));
        }
        self.mode = Mode::Following(Since { revision: seen.max(to.revision), ..to });
    }

    /// Sets the pause after an answer to a WATCH since a revision.
    fn schedule_next_query(&mut self, was_immediate: bool, sent_at: Instant, now: Instant) {
        let was_parked =
            !self.parked.is_zero() && now.saturating_duration_since(sent_at) >= self.parked / 2;
        if was_parked || !self.events.is_empty() {
            self.backoff = Backoff::default();
        } else if !was_immediate {
            // The daemon has too many parked requests, or it is shutting down.
            self.pause(now);
        }
    }

    fn listed(&mut self, reply: Reply, sent_at: Instant, now: Instant) -> Result<()> {
        let mut topics = reply.listed()?;
        let mut names = HashSet::new();
        let wanted = |name: &str| self.filter.as_ref().is_none_or(|filter| filter.matches(name));
        topics.retain(|topic| wanted(topic.name.as_str()) && names.insert(topic.name.clone()));
        drop(names);
        let Mode::Polling(known) = &mut self.mode else { return Ok(()) };
        match known.replace(topics.clone()) {
            None => self.snapshot(topics, None),
            Some(known) => {
                self.backoff = Backoff::default();
                self.events.extend(difference(&known, topics).map(WatchEvent::Changed));
            }
        }
        // Pause at least as long as the daemon needed for the list.
        let took = now.saturating_duration_since(sent_at);
        self.not_before = Some((sent_at + self.interval).max(now + took));
        Ok(())
    }

    fn snapshot(&mut self, topics: Vec<TopicInfo>, revision: Option<u64>) {
        let is_resync = std::mem::replace(&mut self.has_started, true);
        self.events.push_back(WatchEvent::Snapshot { topics, revision, is_resync });
    }
}

/// Parses the filter of a watch.
///
/// # Errors
/// [`Error::InvalidFilter`].
pub(crate) fn parse_filter(filter: Option<&str>) -> Result<Option<TopicFilter>> {
    let parse = |filter: &str| {
        TopicFilter::new(filter)
            .map_err(|reason| Error::InvalidFilter { filter: filter.to_owned(), reason })
    };
    filter.map(parse).transpose()
}

/// The changes that turn one list into the other, in the order of the lists. Neither list has a
/// topic twice.
///
/// A daemon adds topics only at the end of its list. So the leading topics that are still in the
/// old order stayed registered, and all topics after them were registered in between.
fn difference(old: &[TopicInfo], new: Vec<TopicInfo>) -> impl Iterator<Item = Change> + use<> {
    let change = |kind, info| Change { kind, revision: None, info, reason: None };
    let places: HashMap<_, _> =
        old.iter().enumerate().map(|(at, topic)| (&topic.name, at)).collect();
    let mut kept = vec![false; old.len()];
    let mut updated = Vec::new();
    let mut registered = Vec::new();
    let mut next_place = 0;
    for topic in new {
        match places.get(&topic.name) {
            Some(&at) if at >= next_place && registered.is_empty() => {
                next_place = at + 1;
                kept[at] = true;
                if topic != old[at] {
                    updated.push(change(EventKind::Updated, topic));
                }
            }
            Some(_) | None => registered.push(change(EventKind::Registered, topic)),
        }
    }
    let gone = old.iter().zip(kept).filter(|(_, kept)| !kept);
    let gone: Vec<_> =
        gone.map(|(topic, _)| change(EventKind::Unregistered, topic.clone())).collect();
    gone.into_iter().chain(updated).chain(registered)
}
