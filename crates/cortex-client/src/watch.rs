//! Watching the topics: what to ask the daemon, when, and what its answers mean.
//!
//! A WATCH gives first all topics and a place in the daemon's history, then what has happened since
//! that place, held back until something has. A daemon that does not know WATCH is asked for its LIST
//! at each interval, and what differs is what has happened. Which of the two it is shows in each
//! answer.
//!
//! As in [`exchange`](crate::exchange), time is an argument.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use cortex_proto::{
    DiscoveryRequest, EventExt, EventKind, RemovalReason, RequestExt, Since, TopicFilter, TopicInfo,
};

use crate::backoff::{Backoff, ReconnectBackoff};
use crate::error::{Error, Result};
use crate::exchange::Query;
use crate::reply::{Reply, WatchReply};
use crate::wait::{LONG_POLL, whole_millis};

/// What a watch tells. A [`Snapshot`](Self::Snapshot) and the changes after it, applied in their
/// order, are at each moment what the daemon lists, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchEvent {
    /// All topics that are watched: at the start, and whenever it cannot be told what has happened
    /// since the last event. What was known before is to be forgotten.
    Snapshot {
        /// The topics, in the order of their first registration.
        topics: Vec<TopicInfo>,
        /// The last change before it; `None` from a daemon that speaks the legacy protocol alone.
        revision: Option<u64>,
        /// False at the start. True when history was lost: the daemon lost its state, was replaced,
        /// or there was more to tell than it keeps.
        is_resync: bool,
    },
    /// Something happened to a topic.
    Changed(Change),
}

/// What happened to a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// What happened. A registered topic is the last of the list, an updated one keeps its place.
    pub kind: EventKind,
    /// The number of the change; `None` from a daemon that speaks the legacy protocol alone, where
    /// only the difference between two lists is seen.
    pub revision: Option<u64>,
    /// The topic; the last that was known when it is gone.
    pub info: TopicInfo,
    /// Why the topic is gone; `None` when it is there, or nobody knows.
    pub reason: Option<RemovalReason>,
}

/// What the caller has to do now, and then to ask again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WatchAction {
    /// Ask this, then tell [`WatchState::answered`], [`WatchState::unanswered`], [`WatchState::lost`] or
    /// [`WatchState::failed`].
    Send(Query),
    /// Do nothing for this long.
    Pause(Duration),
}

/// A watch under way. What it has to tell is to be [taken](Self::take_event) before it is asked for more.
#[derive(Debug)]
pub(crate) struct WatchState {
    filter: Option<TopicFilter>,
    interval: Duration,
    answer_timeout: Duration,
    mode: Mode,
    /// There was a snapshot: the next one is a resync.
    has_started: bool,
    /// The next question is to be answered at once, to see whether a daemon is there.
    wants_immediate_reply: bool,
    last_query: Option<WatchQuery>,
    not_before: Option<(Instant, Duration)>,
    backoff: Backoff,
    reconnect_backoff: ReconnectBackoff,
    events: VecDeque<WatchEvent>,
}

/// What is known of the daemon and its topics.
#[derive(Debug)]
enum Mode {
    /// Nothing.
    Initial,
    /// All up to this place in its history.
    Following(Since),
    /// That it speaks the legacy protocol alone, and what it listed last.
    Polling(Option<Vec<TopicInfo>>),
}

/// The last question.
#[derive(Clone, Copy, Debug)]
struct WatchQuery {
    at: Instant,
    /// How long the daemon was to hold its answer back.
    parked: Duration,
}

impl WatchState {
    /// `interval` is the least time from one LIST's beginning to the next one's, `answer_timeout`
    /// the time that the daemon has for an answer that it does not hold back.
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
            last_query: None,
            not_before: None,
            backoff: Backoff::default(),
            reconnect_backoff: ReconnectBackoff::default(),
            events: VecDeque::new(),
        }
    }

    /// The next thing to tell.
    pub(crate) fn take_event(&mut self) -> Option<WatchEvent> {
        self.events.pop_front()
    }

    /// What to do at `now`.
    pub(crate) fn next_action(&mut self, now: Instant) -> WatchAction {
        let pause = self.not_before.map_or(Duration::ZERO, |(since, pause)| {
            pause.saturating_sub(now.saturating_duration_since(since))
        });
        if !pause.is_zero() {
            return WatchAction::Pause(pause);
        }
        self.not_before = None;
        let (request, parked) = match &self.mode {
            Mode::Initial => (self.watch(None, Duration::ZERO), Duration::ZERO),
            Mode::Following(since) => {
                let parked = if self.wants_immediate_reply { Duration::ZERO } else { LONG_POLL };
                (self.watch(Some(*since), parked), parked)
            }
            Mode::Polling(_) => {
                (DiscoveryRequest::list().with_ext(RequestExt::default()), Duration::ZERO)
            }
        };
        self.last_query = Some(WatchQuery { at: now, parked });
        WatchAction::Send(Query {
            body: request.to_bytes(),
            timeout: parked.saturating_add(self.answer_timeout),
            may_park: !parked.is_zero(),
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

    /// The daemon answered at `now`.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Unreadable`]. The watch may go on all the same.
    pub(crate) fn answered(&mut self, reply: Reply, now: Instant) -> Result<()> {
        let speaks_extensions = reply.ext().is_some();
        let understood = match (&self.mode, speaks_extensions) {
            (Mode::Polling(_), false) => self.listed(reply, now),
            (Mode::Initial | Mode::Following(_), true) => self.watched(reply, now),
            // Another daemon than before, or the first look at one.
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
            if matches!((error, &self.mode), (Error::Unreadable(_), Mode::Following(_))) {
                // What could not be read will not be better the second time.
                self.mode = Mode::Initial;
            }
            self.failed(now);
        })
    }

    /// No answer came in time.
    pub(crate) fn unanswered(&mut self) {
        self.wants_immediate_reply = true;
        self.not_before = self.last_query.map(|last_query| (last_query.at, self.backoff.pause()));
    }

    /// The connection was lost at `now` while the daemon held its answer back.
    pub(crate) fn lost(&mut self, now: Instant) {
        self.wants_immediate_reply = true;
        self.not_before = Some((now, self.reconnect_backoff.pause(now)));
    }

    /// The question could not be asked, or its answer could not be used.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.wants_immediate_reply = true;
        self.not_before = Some((now, self.backoff.pause()));
    }

    /// Goes over to what another kind of daemon needs: at once the first time, then ever more
    /// slowly, as long as the answers come from two kinds by turns.
    fn switch_mode(&mut self, mode: Mode, now: Instant) {
        let is_first = matches!(self.mode, Mode::Initial) && !self.has_started;
        if !is_first {
            self.not_before = Some((now, self.backoff.pause()));
        }
        self.mode = mode;
    }

    fn watched(&mut self, reply: Reply, now: Instant) -> Result<()> {
        let was_immediate = std::mem::take(&mut self.wants_immediate_reply);
        match (reply.watched()?, &self.mode) {
            (WatchReply::Snapshot { topics, since }, mode) => {
                // A daemon that always gives all is not asked for it all the time.
                let is_asked_for = !matches!(mode, Mode::Following(_));
                self.mode = Mode::Following(since);
                self.snapshot(topics, Some(since.revision));
                if !is_asked_for {
                    self.not_before = Some((now, self.backoff.pause()));
                }
            }
            (WatchReply::Events { events, since }, &Mode::Following(from))
                if since.epoch == from.epoch && since.revision >= from.revision =>
            {
                self.follow(events, from, since, now);
                self.schedule_next_query(was_immediate, now);
            }
            (WatchReply::Events { .. }, _) => {
                // Where this leads from is not known.
                self.mode = Mode::Initial;
                self.not_before = Some((now, self.backoff.pause()));
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
                // It may have changed the list, in a way that only a look at the list tells.
                self.mode = Mode::Initial;
                self.not_before = Some((now, self.backoff.pause()));
                return;
            }
            seen = revision;
            let change = Change { kind, revision: Some(revision), info: topic_info, reason };
            self.events.push_back(WatchEvent::Changed(change));
        }
        self.mode = Mode::Following(Since { revision: seen.max(to.revision), ..to });
    }

    /// Says when to ask on after an answer with events or none.
    fn schedule_next_query(&mut self, was_immediate: bool, now: Instant) {
        let Some(last_query) = self.last_query else { return };
        let was_parked = !last_query.parked.is_zero()
            && now.saturating_duration_since(last_query.at) >= last_query.parked / 2;
        if was_parked || !self.events.is_empty() {
            self.backoff = Backoff::default();
        } else if !was_immediate {
            // The daemon is full, or about to end.
            self.not_before = Some((now, self.backoff.pause()));
        }
    }

    fn listed(&mut self, reply: Reply, now: Instant) -> Result<()> {
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
        // A daemon for which a list is much work has at least as long without.
        let took = self
            .last_query
            .map_or(Duration::ZERO, |last_query| now.saturating_duration_since(last_query.at));
        self.not_before = Some((now, self.interval.saturating_sub(took).max(took)));
        Ok(())
    }

    fn snapshot(&mut self, topics: Vec<TopicInfo>, revision: Option<u64>) {
        let is_resync = std::mem::replace(&mut self.has_started, true);
        self.events.push_back(WatchEvent::Snapshot { topics, revision, is_resync });
    }
}

/// The pattern of a watch's caller.
///
/// # Errors
/// [`Error::InvalidFilter`].
pub(crate) fn parse_filter(filter: Option<&str>) -> Result<Option<TopicFilter>> {
    let parse = |filter: &str| {
        TopicFilter::new(filter)
            .map_err(|source| Error::InvalidFilter { filter: filter.to_owned(), source })
    };
    filter.map(parse).transpose()
}

/// The changes that make one list of different topics into another, in its order.
///
/// A list only loses topics and gains them at its end. So the topics at its beginning that are in
/// the old order were there all the time, and those after them are new, or were gone for a while.
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
