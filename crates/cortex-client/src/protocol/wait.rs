//! A wait for one topic.
//!
//! The client first sends a LOOKUP. When the answer has an extension, the client sends a WAIT,
//! which the daemon parks until the topic is registered. Otherwise it looks for the topic in the
//! LIST that all waits and watches of the client share. Each answer shows the daemon's level again,
//! so another daemon may take over during a wait.

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use cortex_proto::{DiscoveryRequest, RequestExt, TopicInfo};

use super::backoff::Backoff;
use super::reply::{RawReply, Reply};
use super::request::Query;
use super::{Action, Outcome};
use crate::error::{ConnectError, Error, Result};

/// A good default for a wait: long enough for a whole system to start.
pub const DEFAULT_WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the daemon may park one request. After this time the client also notices a network that
/// fails without closing the connection.
pub(crate) const LONG_POLL: Duration = Duration::from_secs(20);

/// A wait in progress.
#[derive(Debug)]
pub(crate) struct Wait {
    topic: String,
    timeout: Duration,
    interval: Duration,
    answer_timeout: Duration,
    started: Instant,
    next: NextQuery,
    last_query: Option<WaitQuery>,
    queries: u32,
    early_replies: Backoff,
    was_answered: Option<bool>,
}

/// What the wait asks next.
#[derive(Clone, Copy, Debug)]
enum NextQuery {
    /// A LOOKUP, not before this time.
    Lookup(Option<Instant>),
    /// A WAIT: the last answer shows that the daemon parks requests.
    Park,
    /// The shared LIST, at this time at the latest.
    List(Instant),
}

/// The last query.
#[derive(Clone, Copy, Debug)]
struct WaitQuery {
    sent_at: Instant,
    /// How long the daemon may park it; `None` for a LOOKUP.
    park_time: Option<Duration>,
    /// The end of the wait leaves less than the whole time for the answer.
    is_shortened: bool,
}

impl Wait {
    /// `interval` is the time between two queries of a legacy daemon. `answer_timeout` is how long
    /// the daemon may take for a request that it does not park.
    pub(crate) fn start(
        topic: &str,
        timeout: Duration,
        interval: Duration,
        answer_timeout: Duration,
        now: Instant,
    ) -> Self {
        Self {
            topic: topic.to_owned(),
            timeout,
            interval,
            answer_timeout,
            started: now,
            next: NextQuery::Lookup(None),
            last_query: None,
            queries: 0,
            early_replies: Backoff::default(),
            was_answered: None,
        }
    }

    /// What to do at `now`. Each call may start a new query.
    pub(crate) fn next_action(&mut self, now: Instant) -> Action {
        let left = self.timeout.saturating_sub(now.saturating_duration_since(self.started));
        if left.is_zero() {
            return Action::Finish;
        }
        let end = now.checked_add(left);
        let mut query = |park_time: Option<Duration>| {
            let timeout = park_time.unwrap_or_default().saturating_add(self.answer_timeout);
            self.last_query =
                Some(WaitQuery { sent_at: now, park_time, is_shortened: left < timeout });
            if !timeout.is_zero() {
                self.queries = self.queries.saturating_add(1);
            }
        };
        match self.next {
            NextQuery::Lookup(Some(at)) if now < at => {
                Action::Wait(Some(end.map_or(at, |end| end.min(at))))
            }
            NextQuery::Lookup(_) => {
                query(None);
                let request = DiscoveryRequest::lookup(&self.topic).with_ext(RequestExt::default());
                Action::Send(Query::immediate(&request, self.answer_timeout).within(left))
            }
            NextQuery::Park => {
                let park_time = left.min(LONG_POLL);
                query(Some(park_time));
                let request = DiscoveryRequest::wait(&self.topic, whole_millis(park_time));
                Action::Send(Query::parked(&request, park_time, self.answer_timeout).within(left))
            }
            NextQuery::List(due) => Action::List { due, until: end },
        }
    }

    /// The query of the last action has ended at `now`. Gives the topic when it is registered.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Unreadable`] and the errors of [`Outcome::Failed`]; each ends
    /// the wait.
    pub(crate) fn outcome(&mut self, outcome: Outcome, now: Instant) -> Result<Option<TopicInfo>> {
        if matches!(self.next, NextQuery::List(_)) {
            self.queries = self.queries.saturating_add(1);
        }
        match outcome {
            Outcome::Reply(raw) => self.answered(&raw, now),
            Outcome::Lost => {
                self.was_answered = Some(false);
                self.next = NextQuery::Lookup(None);
                Ok(None)
            }
            Outcome::NoAnswer { was_lost } => {
                // After a shortened query, a daemon that answered before still counts as running.
                let is_shortened = self.last_query.is_some_and(|query| query.is_shortened);
                if was_lost || !is_shortened || self.was_answered.is_none() {
                    self.was_answered = Some(false);
                }
                self.lookup_after_interval(now);
                Ok(None)
            }
            Outcome::Failed(error) => Err(error),
        }
    }

    fn answered(&mut self, raw: &RawReply, now: Instant) -> Result<Option<TopicInfo>> {
        let reply = Reply::read(raw)?;
        self.was_answered = Some(true);
        let speaks_extensions = reply.ext().is_some();
        let is_list = matches!(self.next, NextQuery::List(_));
        let park_time = self.last_query.and_then(|last_query| last_query.park_time);
        let found = if is_list {
            let mut topics = reply.listed()?.into_iter();
            topics.find(|info| info.name.as_str() == self.topic)
        } else {
            match reply.found(&self.topic) {
                Ok(info) => Some(info),
                Err(Error::NoSuchTopic { .. }) => None,
                // The daemon does not know WAIT: another daemon has taken over. If it refuses all
                // requests, it will refuse the next LOOKUP too.
                Err(Error::Refused { .. }) if park_time.is_some() => {
                    self.lookup_after_interval(now);
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        };
        if found.is_some() {
            return Ok(found);
        }
        let sent_at = raw.sent_at;
        self.next = if !speaks_extensions {
            self.last_query = None;
            NextQuery::List(sent_at + self.interval)
        } else if park_time
            .is_some_and(|park_time| now.saturating_duration_since(sent_at) < park_time / 2)
        {
            // The daemon has too many parked requests, or it is shutting down.
            NextQuery::Lookup(Some(now + self.early_replies.pause()))
        } else {
            if park_time.is_some() {
                self.early_replies = Backoff::default();
            }
            NextQuery::Park
        };
        Ok(None)
    }

    fn lookup_after_interval(&mut self, now: Instant) {
        let since = self.last_query.map_or(now, |last_query| last_query.sent_at);
        self.next = NextQuery::Lookup(Some(since + self.interval));
    }

    /// The error at the end of the wait: the topic did not appear, or no daemon answered at the
    /// end. `cause` is why the client could not connect.
    pub(crate) fn failure(&self, address: &str, cause: Option<ConnectError>) -> Error {
        if self.was_answered == Some(true) {
            return Error::WaitTimedOut { topic: self.topic.clone(), waited: self.timeout };
        }
        let (waited, attempts) = (self.timeout, self.queries);
        Error::NoAnswer { address: address.to_owned(), waited, attempts, cause }
    }
}

/// `time` in ms, rounded up and at least 1.
pub(crate) fn whole_millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).max(1)
}
