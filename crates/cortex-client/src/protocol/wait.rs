//! The state of a wait for one topic.
//!
//! The client first sends a LOOKUP. When the answer has an extension, the client sends a WAIT,
//! which the daemon parks until the topic is registered. Otherwise the client repeats the LOOKUP at
//! each interval. Each answer shows the daemon's level again, so another daemon may take over
//! during a wait.
//!
//! This module is pure: time is an argument, as in [`exchange`](crate::protocol::retry).

use std::time::{Duration, Instant};

use cortex_proto::{DiscoveryRequest, RequestExt, TopicInfo};

use crate::connection::no_answer;
use crate::error::{Error, Result};
use crate::protocol::backoff::{Backoff, ReconnectBackoff};
use crate::protocol::reply::Reply;
use crate::protocol::retry::Query;

/// A good default for a wait: long enough for a whole system to start.
pub const DEFAULT_WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the daemon may park one request. After this time the client also notices a network that
/// fails without closing the connection.
pub(crate) const LONG_POLL: Duration = Duration::from_secs(20);

/// What the caller does next. Then it calls [`Wait::next_action`] again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WaitAction {
    /// Send this, then call [`Wait::answered`], [`Wait::unanswered`] or [`Wait::lost`].
    Send(Query),
    /// Do nothing for this long.
    Pause(Duration),
    /// The wait has timed out; [`Wait::failure`] gives the error.
    Expired,
}

/// A wait in progress.
#[derive(Debug)]
pub(crate) struct Wait {
    topic: String,
    timeout: Duration,
    interval: Duration,
    answer_timeout: Duration,
    started: Instant,
    last_query: Option<WaitQuery>,
    queries: u32,
    /// The last answer shows that the daemon parks requests.
    parks_requests: bool,
    not_before: Option<(Instant, Duration)>,
    early_replies: Backoff,
    reconnect_backoff: ReconnectBackoff,
    was_answered: Option<bool>,
}

/// The last query.
#[derive(Clone, Copy, Debug)]
struct WaitQuery {
    sent_at: Instant,
    /// How long the daemon may park it; `None` for a LOOKUP.
    park_time: Option<Duration>,
    /// The wait ended before the query's own timeout.
    is_shortened: bool,
}

impl Wait {
    /// `interval` is the time between two LOOKUPs. `answer_timeout` is how long the daemon may take
    /// for a request that it does not park.
    pub(crate) fn start(
        topic: impl Into<String>,
        timeout: Duration,
        interval: Duration,
        answer_timeout: Duration,
        now: Instant,
    ) -> Self {
        Self {
            topic: topic.into(),
            timeout,
            interval,
            answer_timeout,
            started: now,
            last_query: None,
            queries: 0,
            parks_requests: false,
            not_before: None,
            early_replies: Backoff::default(),
            reconnect_backoff: ReconnectBackoff::default(),
            was_answered: None,
        }
    }

    /// What to do at `now`. Each call may start a new query.
    pub(crate) fn next_action(&mut self, now: Instant) -> WaitAction {
        let left = self.timeout.saturating_sub(now.saturating_duration_since(self.started));
        if left.is_zero() {
            return WaitAction::Expired;
        }
        let pause = self.not_before.map_or(Duration::ZERO, |(since, pause)| {
            pause.saturating_sub(now.saturating_duration_since(since))
        });
        if !pause.is_zero() {
            return WaitAction::Pause(pause.min(left));
        }
        self.not_before = None;
        let park_time = self.parks_requests.then_some(left.min(LONG_POLL));
        let timeout = park_time.unwrap_or_default().saturating_add(self.answer_timeout);
        self.last_query = Some(WaitQuery { sent_at: now, park_time, is_shortened: left < timeout });
        self.queries = self.queries.saturating_add(1);
        let request = match park_time {
            Some(park_time) => DiscoveryRequest::wait(&self.topic, whole_millis(park_time)),
            None => DiscoveryRequest::lookup(&self.topic).with_ext(RequestExt::default()),
        };
        let timeout = timeout.min(left);
        WaitAction::Send(Query { body: request.to_bytes(), timeout, may_park: park_time.is_some() })
    }

    /// The daemon answered at `now`. Gives the topic when it is registered.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Unreadable`]; both end the wait.
    pub(crate) fn answered(&mut self, reply: Reply, now: Instant) -> Result<Option<TopicInfo>> {
        self.was_answered = Some(true);
        let park_time = self.last_query.and_then(|last_query| last_query.park_time);
        let speaks_extensions = reply.ext().is_some();
        match reply.found(&self.topic) {
            Err(Error::NoSuchTopic { .. }) => {}
            // The daemon does not know WAIT: another daemon has taken over. If it refuses all
            // requests, it will refuse the next LOOKUP too.
            Err(Error::Refused { .. }) if park_time.is_some() => {
                self.parks_requests = false;
                self.retry_after_interval();
                return Ok(None);
            }
            found_or_failed => return found_or_failed.map(Some),
        }
        self.parks_requests = speaks_extensions;
        if !speaks_extensions {
            self.retry_after_interval();
        } else if let (Some(last_query), Some(park_time)) = (self.last_query, park_time) {
            if now.saturating_duration_since(last_query.sent_at) < park_time / 2 {
                // The daemon has too many parked requests, or it is shutting down.
                self.parks_requests = false;
                self.not_before = Some((now, self.early_replies.pause()));
            } else {
                self.early_replies = Backoff::default();
            }
        }
        Ok(None)
    }

    /// No answer came in time. `was_lost`: the connection was lost in the meantime.
    pub(crate) fn unanswered(&mut self, was_lost: bool) {
        // After a shortened query, a daemon that answered before still counts as running.
        let is_shortened = self.last_query.is_some_and(|last_query| last_query.is_shortened);
        if was_lost || !is_shortened || self.was_answered.is_none() {
            self.was_answered = Some(false);
        }
        self.parks_requests = false;
        self.retry_after_interval();
    }

    /// The connection was lost at `now` while the request was parked.
    pub(crate) fn lost(&mut self, now: Instant) {
        self.was_answered = Some(false);
        self.parks_requests = false;
        self.not_before = Some((now, self.reconnect_backoff.pause(now)));
    }

    fn retry_after_interval(&mut self) {
        self.not_before = self.last_query.map(|last_query| (last_query.sent_at, self.interval));
    }

    /// The error at the end of the wait: the topic did not appear, or no daemon answered at the
    /// end.
    pub(crate) fn failure(&self, address: &str) -> Error {
        if self.was_answered == Some(true) {
            Error::WaitTimedOut { topic: self.topic.clone(), waited: self.timeout }
        } else {
            no_answer(address, self.timeout, self.queries)
        }
    }
}

/// `time` in ms, rounded up and at least 1.
pub(crate) fn whole_millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use cortex_proto::{
        DiscoveryCommand, DiscoveryResponse, DiscoveryStatus, ResponseExt, TopicName,
    };

    use super::*;
    use crate::protocol::reply::RawReply;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A daemon as the wait sees it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum DaemonKind {
        Missing,
        Reference,
        Ours,
        /// Ours, but it parks no request.
        NeverParks,
        /// Ours, but it refuses every WAIT.
        RefusesWait,
    }

    struct Played {
        /// When the client sent each query, and whether the daemon may park it.
        queries: Vec<(Duration, bool)>,
        ended: Duration,
        outcome: Result<TopicInfo>,
    }

    impl Played {
        fn lookups(&self) -> Vec<Duration> {
            let lookups = self.queries.iter().filter(|(_, may_park)| !may_park);
            lookups.map(|(at, _)| *at).collect()
        }

        fn was_answered(&self) -> bool {
            matches!(self.outcome, Err(Error::WaitTimedOut { .. }))
        }
    }

    fn reply(daemon: DaemonKind, status: DiscoveryStatus) -> Reply {
        let topic_info = (status == DiscoveryStatus::Ok).then(|| TopicInfo {
            name: TopicName::new("/a").unwrap(),
            address: String::new(),
            message_type: String::new(),
            fingerprint: 0,
            publisher_node: String::new(),
        });
        let ext = (daemon != DaemonKind::Reference).then(ResponseExt::default);
        let response =
            DiscoveryResponse { topic_info, ext, ..DiscoveryResponse::new(status, "why") };
        Reply::read(&RawReply { body: response.to_bytes(), parts: 1 }, 1).unwrap()
    }

    /// Plays a wait of `timeout` ms in virtual time. `daemon` gives the daemon at each millisecond;
    /// each change closes the connection. The topic is registered after `appears` ms.
    fn play(timeout: u64, appears: u64, daemon: impl Fn(u64) -> DaemonKind) -> Played {
        let start = Instant::now();
        let at = |now: Instant| u64::try_from((now - start).as_millis()).unwrap();
        let mut now = start;
        let mut queries = Vec::new();
        let mut wait = Wait::start("/a", ms(timeout), ms(500), ms(2000), now);
        let outcome = loop {
            let query = match wait.next_action(now) {
                WaitAction::Send(query) => query,
                WaitAction::Pause(pause) => {
                    now += pause;
                    continue;
                }
                WaitAction::Expired => break Err(wait.failure("ipc://x")),
            };
            queries.push((now - start, query.may_park));
            let asked_daemon = daemon(at(now));
            let mut parked_for = 0;
            let request = DiscoveryRequest::from_bytes(&query.body).unwrap();
            if query.may_park && asked_daemon == DaemonKind::Ours {
                parked_for = request.ext.unwrap().wait_ms.unwrap();
            }
            let is_wait = request.command == DiscoveryCommand::WaitTopic.into();
            assert_eq!(is_wait, query.may_park);
            // Steps through each millisecond until an event ends the query.
            let end = now + query.timeout;
            let answer = loop {
                if daemon(at(now)) != asked_daemon {
                    break None;
                }
                if is_wait
                    && matches!(asked_daemon, DaemonKind::Reference | DaemonKind::RefusesWait)
                {
                    break Some(DiscoveryStatus::Error);
                }
                if asked_daemon != DaemonKind::Missing {
                    if at(now) >= appears {
                        break Some(DiscoveryStatus::Ok);
                    }
                    if parked_for == 0 {
                        break Some(DiscoveryStatus::NotFound);
                    }
                    parked_for -= 1;
                }
                if now >= end {
                    break None;
                }
                now = (now + ms(1)).min(end);
            };
            match answer {
                Some(status) => match wait.answered(reply(asked_daemon, status), now) {
                    Ok(None) => {}
                    Ok(Some(info)) => break Ok(info),
                    Err(error) => break Err(error),
                },
                None if query.may_park && now < end => wait.lost(now),
                None => {
                    now = end;
                    wait.unanswered(false);
                }
            }
        };
        Played { queries, ended: now - start, outcome }
    }

    const NEVER: u64 = u64::MAX;

    #[test]
    fn a_wait_polls_a_reference_daemon_at_each_interval_and_ends_in_time() {
        let played = play(1800, NEVER, |_| DaemonKind::Reference);
        assert_eq!(played.lookups(), [ms(0), ms(500), ms(1000), ms(1500)]);
        assert_eq!((played.queries.len(), played.ended), (4, ms(1800)));
        assert!(played.was_answered());
        let played = play(1800, 700, |_| DaemonKind::Reference);
        assert_eq!((played.outcome.is_ok(), played.ended), (true, ms(1000)));
    }

    #[test]
    fn our_daemon_parks_the_request() {
        let played = play(30_000, 700, |_| DaemonKind::Ours);
        assert_eq!((played.outcome.is_ok(), played.ended), (true, ms(700)));
        assert_eq!(played.queries, [(ms(0), false), (ms(0), true)]);
        let played = play(45_000, NEVER, |_| DaemonKind::Ours);
        let times = [0, 0, 20_000, 40_000].map(ms);
        assert_eq!(played.queries.iter().map(|(at, _)| *at).collect::<Vec<_>>(), times);
        assert_eq!((played.was_answered(), played.ended), (true, ms(45_000)));
    }

    #[test]
    fn no_lookup_outlives_the_wait() {
        let played = play(5000, NEVER, |_| DaemonKind::Missing);
        assert_eq!(played.lookups(), [ms(0), ms(2000), ms(4000)], "the last one has 1 s left");
        assert_eq!((played.was_answered(), played.ended), (false, ms(5000)));
    }

    #[test]
    fn a_daemon_that_starts_late_answers() {
        let late = |at| if at < 2000 { DaemonKind::Missing } else { DaemonKind::Reference };
        let played = play(5000, NEVER, late);
        assert_eq!(played.lookups()[..3], [ms(0), ms(2000), ms(2500)]);
        assert!(played.was_answered());
    }

    #[test]
    fn a_daemon_that_stops_counts_as_missing_but_not_after_a_shortened_lookup() {
        let until =
            |end| move |at| if at < end { DaemonKind::Reference } else { DaemonKind::Missing };
        assert!(!play(5000, NEVER, until(1000)).was_answered());
        assert!(play(3000, NEVER, until(2500)).was_answered());
    }

    #[test]
    fn a_killed_daemon_counts_as_missing_at_once_and_the_next_daemon_is_queried_at_once() {
        let gone = |at| if at < 1000 { DaemonKind::Ours } else { DaemonKind::Missing };
        assert!(!play(1500, NEVER, gone).was_answered(), "the connection was lost");

        let killed = |at| if at == 1000 { DaemonKind::Missing } else { DaemonKind::Ours };
        let played = play(10_000, 4000, killed);
        assert_eq!(played.queries[2].0, ms(1000), "at once");
        assert_eq!((played.outcome.is_ok(), played.ended), (true, ms(4000)));
    }

    #[test]
    fn the_wait_adapts_to_the_level_of_a_new_daemon() {
        let downgraded = |at| if at < 1000 { DaemonKind::Ours } else { DaemonKind::Reference };
        let played = play(10_000, 3200, downgraded);
        assert_eq!((played.outcome.is_ok(), played.ended), (true, ms(3500)));
        let upgraded = |at| if at < 1000 { DaemonKind::Reference } else { DaemonKind::Ours };
        let played = play(10_000, 3200, upgraded);
        assert_eq!((played.outcome.is_ok(), played.ended), (true, ms(3200)));
    }

    #[test]
    fn the_wait_backs_off_from_a_daemon_that_parks_nothing() {
        let played = play(10_000, NEVER, |_| DaemonKind::NeverParks);
        assert!(played.queries.len() < 40, "{}", played.queries.len());
        assert!(played.was_answered());
    }

    #[test]
    fn the_wait_polls_a_daemon_that_refuses_to_park_at_each_interval() {
        let played = play(10_000, 1700, |_| DaemonKind::RefusesWait);
        assert_eq!((played.outcome.is_ok(), played.ended), (true, ms(2000)));
        assert_eq!(played.lookups(), [ms(0), ms(500), ms(1000), ms(1500), ms(2000)]);
    }

    #[test]
    fn the_wait_backs_off_when_connections_close_immediately() {
        let start = Instant::now();
        let mut now = start;
        let mut wait = Wait::start("/a", ms(10_000), ms(500), ms(2000), now);
        let mut queries = 0;
        while now - start < ms(9000) {
            match wait.next_action(now) {
                WaitAction::Send(query) if query.may_park => {
                    queries += 1;
                    wait.lost(now);
                }
                WaitAction::Send(_) => {
                    let absent = reply(DaemonKind::Ours, DiscoveryStatus::NotFound);
                    assert_eq!(wait.answered(absent, now), Ok(None));
                }
                WaitAction::Pause(pause) => now += pause,
                WaitAction::Expired => break,
            }
        }
        assert!((5..20).contains(&queries), "{queries}");
    }

    #[test]
    fn a_refusal_ends_the_wait() {
        for daemon in [DaemonKind::Ours, DaemonKind::Reference] {
            let mut wait = Wait::start("/a", ms(1000), ms(500), ms(2000), Instant::now());
            wait.next_action(Instant::now());
            let refused = wait.answered(reply(daemon, DiscoveryStatus::Error), Instant::now());
            assert_eq!(refused, Err(Error::Refused { message: "why".into() }), "{daemon:?}");
        }
    }

    #[test]
    fn a_wait_without_time_ends_at_once() {
        let played = play(0, 0, |_| DaemonKind::Ours);
        assert_eq!((played.queries.len(), played.was_answered()), (0, false));
    }

    #[test]
    fn milliseconds_are_rounded_up() {
        assert_eq!(whole_millis(Duration::ZERO), 1);
        assert_eq!(whole_millis(Duration::from_micros(1001)), 2);
        assert_eq!(whole_millis(ms(20_000)), 20_000);
        assert_eq!(whole_millis(Duration::MAX), u64::MAX);
    }
}
