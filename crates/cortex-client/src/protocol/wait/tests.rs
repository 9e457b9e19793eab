//! Waits against daemons of each kind, in virtual time.

use cortex_proto::{DiscoveryCommand, DiscoveryResponse, DiscoveryStatus, ResponseExt, TopicName};

use super::*;
use crate::protocol::request::OnLoss;

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

fn reply(
    daemon: DaemonKind,
    status: DiscoveryStatus,
    is_list: bool,
    sent_at: Instant,
    now: Instant,
) -> Outcome {
    let topic_info = (status == DiscoveryStatus::Ok).then(|| TopicInfo {
        name: TopicName::new("/a").unwrap(),
        address: String::new(),
        message_type: String::new(),
        fingerprint: 0,
        publisher_node: String::new(),
    });
    let ext = (daemon != DaemonKind::Reference).then(ResponseExt::default);
    let mut response =
        DiscoveryResponse { topic_info, ext, ..DiscoveryResponse::new(status, "why") };
    if is_list {
        response.status = DiscoveryStatus::Ok;
        response.topics.extend(response.topic_info.take());
    }
    Outcome::Reply(RawReply::for_test(&response, sent_at, now))
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
        let (query, may_park) = match wait.next_action(now) {
            Action::Send(query) => {
                let may_park = query.on_loss == OnLoss::ReportParked;
                (query, may_park)
            }
            Action::List { due, until } => {
                now = due.max(now);
                if until.is_some_and(|until| until <= now) {
                    now = until.unwrap();
                    continue;
                }
                (Query::immediate(&DiscoveryRequest::list(), ms(2000)), false)
            }
            Action::Wait(Some(until)) => {
                now = until;
                continue;
            }
            Action::Wait(None) => panic!("a wait always has an end"),
            Action::Finish => break Err(wait.failure("ipc://x", None)),
        };
        queries.push((now - start, may_park));
        let asked_daemon = daemon(at(now));
        let asked_at = now;
        let mut parked_for = 0;
        let request = DiscoveryRequest::from_bytes(&query.body).unwrap();
        if may_park && asked_daemon == DaemonKind::Ours {
            parked_for = request.ext.unwrap().wait_ms.unwrap();
        }
        let is_wait = request.command == DiscoveryCommand::WaitTopic.into();
        let is_list = request.command == DiscoveryCommand::ListTopics.into();
        assert_eq!(is_wait, may_park);
        // Steps through each millisecond until an event ends the query.
        let end = (now + query.policy.timeout).min(start + ms(timeout));
        let answer = loop {
            if daemon(at(now)) != asked_daemon {
                break None;
            }
            if is_wait && matches!(asked_daemon, DaemonKind::Reference | DaemonKind::RefusesWait) {
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
        let result = match answer {
            Some(status) => reply(asked_daemon, status, is_list, asked_at, now),
            None if may_park && now < end => Outcome::Lost,
            None if is_list && end == start + ms(timeout) => {
                now = end;
                continue;
            }
            None => {
                now = end;
                Outcome::NoAnswer { was_lost: false }
            }
        };
        match wait.outcome(result, now) {
            Ok(None) => {}
            Ok(Some(info)) => break Ok(info),
            Err(error) => break Err(error),
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
    let until = |end| move |at| if at < end { DaemonKind::Reference } else { DaemonKind::Missing };
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
fn a_refusal_ends_the_wait() {
    for daemon in [DaemonKind::Ours, DaemonKind::Reference] {
        let now = Instant::now();
        let mut wait = Wait::start("/a", ms(1000), ms(500), ms(2000), now);
        wait.next_action(now);
        let refused = wait.outcome(reply(daemon, DiscoveryStatus::Error, false, now, now), now);
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
